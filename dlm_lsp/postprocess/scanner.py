"""Reads brackets, strings and comments from left to right, by the forms of a language.

Owns the stack of what is open. Brackets inside strings and comments are read too, since editors
close those as well, but they end with their string. Two rules make it tolerant of broken text: a
string that ends with its line opens only if its line closes it, and a round or square bracket never
closes a brace. Knows neither cursors nor completions.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

from dlm_lsp.postprocess.languages import Language, StringForm

_SIGNS = string.punctuation + "\r\n"
_CLOSER_OF = {"(": ")", "[": "]", "{": "}"}
# A text between a line with `<<EOF` and one with that word alone, which is the closer of its frame.
HEREDOC = StringForm("", "", escapes=False, is_line_bound=False)


class Kind(Enum):
    """What a frame is: a bracket in code, one in a string or comment, or one of these."""

    BRACKET = auto()
    SOFT = auto()  # A bracket in a string or comment.
    CODE = auto()  # Code in a string, such as `${…}`.
    STRING = auto()
    COMMENT = auto()


@dataclass(frozen=True, slots=True)
class Frame:
    """Something open: opened at text[start:], closed by `closer` ("" closes with the line)."""

    kind: Kind
    closer: str
    start: int
    form: StringForm | None = None

    @property
    def ends_with_line(self) -> bool:
        """Whether the end of the line closes it at the latest."""
        return not self.closer or (self.form is not None and self.form.is_line_bound)

    @property
    def is_text(self) -> bool:
        return self.kind in (Kind.STRING, Kind.COMMENT)


class What(Enum):
    """What an event says of the text at its place."""

    OPEN = auto()
    CLOSE = auto()
    STRAY = auto()  # A closer of nothing that is open.


@dataclass(frozen=True, slots=True)
class Event:
    """Something is opened or closed by text[start:end]; `depth` frames are open afterwards.

    Attributes:
        lowest: the smallest depth at this event; a frame below a closed one ends with it.
    """

    what: What
    start: int
    end: int
    frame: Frame | None
    depth: int


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of reading text[start:end]: what happened, and what is open at the end."""

    events: tuple[Event, ...]
    frames: tuple[Frame, ...]


def scan(
    language: Language,
    text: str,
    start: int,
    end: int,
    frames: tuple[Frame, ...] = (),
    open_line: int | None = None,
    is_draft: bool = False,
) -> Scan:
    """Reads text[start:end] with these frames open before it.

    Args:
        open_line: from this index on, what opens a string does so although nothing closes it; None
            means nowhere.
        is_draft: whether the text may go on, so that a string of several lines need not be closed.
    """
    reader = _Reader(language, text, open_line, is_draft)
    reader.frames += frames
    reader.read(start, end)
    return Scan(tuple(reader.events), tuple(reader.frames))


class _Reader:
    """One pass over a text."""

    def __init__(
        self, language: Language, text: str, open_line: int | None, is_draft: bool
    ) -> None:
        self.frames: list[Frame] = []
        self.events: list[Event] = []
        self._language = language
        self._code = _code_pattern(language)
        self._text = text
        self._open_line = len(text) + 1 if open_line is None else open_line
        self._is_draft = is_draft
        nests = language.nests_comments
        # The openers of comments in comments, by their closers.
        self._nested = {end: opener for opener, end in language.block_comments} if nests else {}

    def read(self, start: int, end: int) -> None:
        """Reads text[start:end]. What begins before the end counts, even if it goes on after it."""
        at = start
        while at < end:
            context = self._context()
            if context is None:
                pattern = self._code
            else:
                nested = self._nested.get(context.closer) if context.form is None else None
                pattern = _text_pattern(context, nested or "")
            found = pattern.match(self._text, at)
            if found is None or found.start(found.lastgroup or 0) >= end:
                return
            at = self._take(found)

    def _context(self) -> Frame | None:
        """Returns the string or comment that contains the next character; None in code."""
        for frame in reversed(self.frames):
            if frame.kind is not Kind.SOFT:
                return frame if frame.is_text else None
        return None

    def _take(self, found: re.Match[str]) -> int:
        """Handles one token; returns where the next one is searched."""
        name = found.lastgroup or ""
        token, start = found.group(name), found.start(name)
        if name == "skip":
            return found.end()
        if name == "line":
            if self._context() is not None:
                self._end_line(start)
            if token == "\n" and self._language.heredoc and self._context() is None:
                self._begin_heredocs(start)
                if self._context() is not None:
                    return start  # Its first line may end it, which this line end begins.
        elif name == "bracket":
            self._bracket(token, start)
        elif name == "closer":
            self._close_text(start, found.end())
        elif name == "code":
            closer = ")" if token.endswith("(") else "}"
            self._open(Frame(Kind.CODE, closer, start), found.end())
        elif name == "comment":
            self._open(Frame(Kind.COMMENT, "", start), found.end())
        elif name == "block":
            closer = dict(self._language.block_comments)[token]
            self._open(Frame(Kind.COMMENT, closer, start), found.end())
        elif not self._open_string(found, start, int(name.removeprefix("string"))):
            return start + 1
        return found.end()

    def _open(self, frame: Frame, end: int) -> None:
        self.frames.append(frame)
        self.events.append(Event(What.OPEN, frame.start, end, frame, len(self.frames)))

    def _open_string(self, found: re.Match[str], start: int, number: int) -> bool:
        """Opens a string, unless its line would have to close it and does not."""
        form = self._language.strings[number]
        groups = [group for group in found.groups()[found.lastindex or 0 :] if group is not None]
        closer = form.closer.replace("{}", groups[0] if groups else "")
        may_be_open = self._is_draft and not form.is_line_bound
        may_be_open = may_be_open or start >= self._open_line
        if not may_be_open and not _body(closer, form.escapes, form.is_line_bound).match(
            self._text, found.end()
        ):
            return False
        self._open(Frame(Kind.STRING, closer, start, form), found.end())
        return True

    def _bracket(self, token: str, at: int) -> None:
        if token in _CLOSER_OF:
            kind = Kind.BRACKET if self._context() is None else Kind.SOFT
            self._open(Frame(kind, _CLOSER_OF[token], at), at + 1)
            return
        for depth in range(len(self.frames) - 1, -1, -1):
            frame = self.frames[depth]
            if frame.is_text:
                break
            if frame.closer == token:
                self._close(depth, at, at + 1)
                return
            if frame.kind is Kind.CODE or (frame.closer == "}" and token != "}"):
                break
        self.events.append(Event(What.STRAY, at, at + 1, None, len(self.frames)))

    def _close_text(self, start: int, end: int) -> None:
        """Closes the innermost string or comment, and the brackets in it."""
        depth = len(self.frames) - 1
        while not self.frames[depth].is_text:
            depth -= 1
        self._close(depth, start, end)

    def _close(self, depth: int, start: int, end: int) -> None:
        frame = self.frames[depth]
        del self.frames[depth:]
        self.events.append(Event(What.CLOSE, start, end, frame, depth))

    def _begin_heredocs(self, at: int) -> None:
        """Opens the texts that the line has announced which ends here, the first one innermost."""
        line = self._text.rfind("\n", 0, at) + 1
        for found in reversed(list(re.finditer(self._language.heredoc, self._text[line:at]))):
            latest = next(
                (e for e in reversed(self.events) if e.start <= line + found.start()), None
            )
            is_text = latest is not None and latest.what is What.OPEN and latest.start >= line
            if not (is_text and latest is not None and latest.frame and latest.frame.is_text):
                self._open(Frame(Kind.STRING, found.groups()[-1], at, HEREDOC), at)

    def _end_line(self, at: int) -> None:
        """Closes a string or comment that ends with its line."""
        depth = len(self.frames) - 1
        while depth >= 0 and self.frames[depth].kind is Kind.SOFT:
            depth -= 1
        if depth >= 0 and self.frames[depth].is_text and self.frames[depth].ends_with_line:
            self._close(depth, at, at)


@lru_cache(maxsize=64)
def _code_pattern(language: Language) -> re.Pattern[str]:
    """Returns the next token of code and all that precedes it; its named group tells its kind."""
    parts = [f"(?P<skip>{'|'.join(language.skipped)})"] if language.skipped else []
    if language.block_comments:
        openers = "|".join(re.escape(opener) for opener, _ in language.block_comments)
        parts.append(f"(?P<block>{openers})")
    if language.line_comments:
        parts.append(f"(?P<comment>{'|'.join(language.line_comments)})")
    parts += [f"(?P<string{at}>{form.opener})" for at, form in enumerate(language.strings)]
    parts += [r"(?P<line>\n)"] if language.heredoc else []
    return _next_token(parts, "()[]{}\n" if language.heredoc else "()[]{}")


def _next_token(parts: list[str], brackets: str) -> re.Pattern[str]:
    """Returns a pattern that skips what can begin no token at once, which is most of a text."""
    source = "".join(parts)
    signs = "".join(re.escape(sign) for sign in _SIGNS if sign in source or sign in brackets)
    parts = [*parts, r"(?P<bracket>[\(\)\[\]{}])"]
    unnamed = re.sub(r"\(\?P<\w+>|(?<!\\)\((?!\?)", "(?:", "|".join(parts))
    return re.compile(rf"(?:[^{signs}]|(?!{unnamed})[{signs}])*+(?:{'|'.join(parts)})")


def _text_pattern(frame: Frame, nested: str) -> re.Pattern[str]:
    form = frame.form
    if form is None:
        return _inside(frame.closer, False, "", "", not frame.closer, nested)
    if form is HEREDOC:
        mark = re.escape(frame.closer)
        return _next_token([rf"\n[ \t]*(?P<closer>{mark})"], "()[]{}\n")
    return _inside(frame.closer, form.escapes, form.code, form.literal, form.is_line_bound)


@lru_cache(maxsize=256)
def _inside(
    closer: str, escapes: bool, code: str, literal: str, is_line_bound: bool, nested: str = ""
) -> re.Pattern[str]:
    """Returns the tokens inside a string or comment with these marks.

    Args:
        nested: what opens another comment in this one.
    """
    skipped = [r"\\(?:\r\n|[\s\S])"] if escapes and code != "\\(" else []
    skipped += [r"\\(?!\()[\s\S]"] if escapes and code == "\\(" else []
    skipped += [re.escape(literal)] if literal else []
    parts = [f"(?P<skip>{'|'.join(skipped)})"] if skipped else []
    parts += [f"(?P<closer>{re.escape(closer)})"] if closer else []
    parts += [f"(?P<code>{re.escape(code)})"] if code else []
    parts += [f"(?P<block>{re.escape(nested)})"] if nested else []
    parts += [r"(?P<line>[\r\n])"] if is_line_bound else []
    return _next_token(parts, "()[]{}\r\n")


@lru_cache(maxsize=256)
def _body(closer: str, escapes: bool, is_line_bound: bool) -> re.Pattern[str]:
    """Returns what follows an opener that its line, or the text, closes."""
    end = r"\r\n" if is_line_bound else ""
    plain = rf"[^\\{end}]" if escapes else (rf"[^{end}]" if end else r"[\s\S]")
    escape = r"\\(?:\r\n|[\s\S])|" if escapes else ""
    return re.compile(f"(?:{escape}(?!{re.escape(closer)}){plain})*+{re.escape(closer)}")


def undecided(
    language: Language, text: str, frames: tuple[Frame, ...], events: Sequence[Event]
) -> int:
    """Returns how many characters at the end of a draft may be the beginning of a longer token.

    Args:
        frames: what is open at the end.
        events: what was read in `text`.
    """
    context = next((frame for frame in reversed(frames) if frame.kind is not Kind.SOFT), None)
    is_text = context is not None and context.is_text
    marks = _marks_inside(context) if is_text and context is not None else ()
    if is_text and context is not None and context.form is None and language.nests_comments:
        marks += tuple(opener for opener, _ in language.block_comments)
    if not is_text or (events and events[-1].end == len(text)):  # The last token may go on.
        marks += _marks(language)
    longest = 0
    for mark in marks:
        for length in range(min(len(mark) - 1, len(text)), longest, -1):
            if text.endswith(mark[:length]):
                longest = length
                break
    if language.unfinished:
        line = text.rfind("\n") + 1
        found = re.search(language.unfinished, text[line:])
        longest = max(longest, len(text) - line - found.start() if found else 0)
    return longest


def _marks_inside(frame: Frame) -> tuple[str, ...]:
    """Returns the texts that end a string or comment, or open code in it, and escapes."""
    form = frame.form
    return (frame.closer,) if form is None else (frame.closer, form.code, form.literal, "\\ ")


@lru_cache(maxsize=64)
def _marks(language: Language) -> tuple[str, ...]:
    """Returns the texts of several characters that open or close something in code."""
    marks = [mark for pair in language.block_comments for mark in pair]
    marks += [mark for mark in ("//", "--") if mark in language.line_comments]
    marks += [form.closer for form in language.strings] + ["[[", "\\ "]
    return tuple(mark for mark in marks if len(mark) > 1)
