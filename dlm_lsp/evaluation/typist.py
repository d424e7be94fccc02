"""A simulated typist who restores missing parts of a file, key by key, in a simulated editor.

The editor inserts closing brackets and quotes, types over them, keeps the indentation at Enter and
removes it from a blank line. The typist makes and corrects typos, moves over closers on a line
below, and switches between parts. Owns the keys and their effects on the text; knows neither
requests nor suggestions. All randomness comes from the given generator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from dlm_lsp.session.document import Document

PAIRS = {"(": ")", "[": "]", "{": "}", '"': '"', "'": "'"}
QUOTES = "\"'"
TYPO_SHARE = 0.02  # The share of letters that are mistyped.
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PARTS, PART_LINES = 3, (3, 10)
_OPENERS = (":", "(", "[", "{")
_PARTS_TRIES = 200


@dataclass(frozen=True, slots=True)
class Splice:
    """The effect of a key: `text` replaces `removed` characters at `start` of the document."""

    start: int
    removed: int
    text: str


@dataclass(slots=True)
class Part:
    """A missing part of a file that is being restored.

    Attributes:
        target: the text to restore.
        done: the number of characters of `target` that are restored.
        surplus: text after these that must be removed: a typo, or too much indentation.
        pending: the text that the editor has inserted right of the cursor.
    """

    target: str
    done: int = 0
    surplus: str = ""
    pending: str = ""

    @property
    def rest(self) -> str:
        """The text that is still to be typed."""
        return self.target[self.done :]

    @property
    def before(self) -> str:
        """The part's text left of the cursor."""
        return self.target[: self.done] + self.surplus

    @property
    def is_complete(self) -> bool:
        """Whether the part is restored."""
        return not (self.rest or self.surplus or self.pending)


@dataclass(slots=True)
class Manuscript:
    """A file with missing parts: fixed[0], parts[0], fixed[1], ...

    Attributes:
        indent: the file's unit of indentation.
        at: the index of the part that contains the cursor.
    """

    fixed: tuple[str, ...]
    parts: list[Part]
    indent: str
    at: int = 0

    @property
    def part(self) -> Part:
        """The part being typed."""
        return self.parts[self.at]

    @property
    def text(self) -> str:
        """The current document."""
        pieces = [self.fixed[0]]
        for part, fixed in zip(self.parts, self.fixed[1:], strict=True):
            pieces += (part.before, part.pending, fixed)
        return "".join(pieces)

    @property
    def final_text(self) -> str:
        """The complete document."""
        pieces = [self.fixed[0]]
        for part, fixed in zip(self.parts, self.fixed[1:], strict=True):
            pieces += (part.target, fixed)
        return "".join(pieces)

    @property
    def cursor(self) -> int:
        """The cursor's offset in the document."""
        before = [*self.fixed[: self.at + 1]]
        before += [part.before + part.pending for part in self.parts[: self.at]]
        return sum(map(len, before)) + len(self.part.before)

    @property
    def line_before(self) -> str:
        """The text left of the cursor on its line."""
        return (self.fixed[self.at] + self.part.before).rpartition("\n")[2]

    @property
    def character_after(self) -> str:
        """The character right of the cursor; empty at the document's end."""
        return (self.part.pending + self.fixed[self.at + 1])[:1]


def open_manuscript(text: str, rng: np.random.Generator) -> Manuscript | None:
    """Removes runs of lines, each with the line break before it; None for a file too short."""
    lines = Document("", "", 0, text)
    low, high = PART_LINES
    if lines.line_count < PARTS * (high + 2) + 2:
        return None
    spans: list[tuple[int, int]] = []
    for _ in range(_PARTS_TRIES):
        first = int(rng.integers(1, lines.line_count - low))
        last = min(first + int(rng.integers(low, high + 1)), lines.line_count - 1) - 1
        if not (_line(lines, first).strip() and _line(lines, last).strip()):
            continue
        if all(
            last + 1 < other_first or other_last + 1 < first for other_first, other_last in spans
        ):
            spans.append((first, last))
        if len(spans) == PARTS:
            break
    else:
        return None
    fixed, parts, end = list[str](), list[Part](), 0
    for first, last in sorted(spans):
        start = lines.line_end(first - 1)
        fixed.append(text[end:start])
        end = lines.line_end(last)
        parts.append(Part(text[start:end]))
    return Manuscript((*fixed, text[end:]), parts, _indent_unit(lines))


def press(manuscript: Manuscript, rng: np.random.Generator | None) -> tuple[int, Splice | None]:
    """Makes the typist's next action on the part at the cursor, which must be incomplete.

    Args:
        rng: draws typos; None means no typos.

    Returns:
        The number of keys, and their effect on the text; None if only the cursor moved.
    """
    part = manuscript.part
    assert not part.is_complete
    if part.surplus and not part.rest.startswith("\n"):
        return _backspace(manuscript)
    if not part.rest:
        removed, part.pending = part.pending, ""
        return len(removed), Splice(manuscript.cursor, len(removed), "")
    closed = _closed_below(part)
    if closed:
        # The keys Down and End move past the closers on the line below.
        part.done, part.pending = part.done + len(closed), part.pending[len(closed) :]
        return 2, None
    character = part.rest[0]
    if character == "\n":
        return _enter(manuscript)
    if part.pending.startswith(character):
        part.done, part.pending = part.done + 1, part.pending[1:]
        return 1, None
    start = manuscript.cursor
    if rng is not None and character.isalpha() and rng.random() < TYPO_SHARE:
        wrong = LETTERS[rng.integers(len(LETTERS))]
        if wrong != character:
            part.surplus = wrong
            return 1, Splice(start, 0, wrong)
    closer = PAIRS.get(character, "") if _closes_itself(manuscript, character) else ""
    part.done, part.pending = part.done + 1, closer + part.pending
    return 1, Splice(start, 0, character + closer)


def accept(manuscript: Manuscript, text: str, replaced: int) -> Splice:
    """Inserts a fitting suggestion at the cursor, replacing `replaced` characters after it."""
    part = manuscript.part
    assert continues(part, text, replaced)
    splice = Splice(manuscript.cursor, replaced, text)
    part.done, part.pending = part.done + len(text), part.pending[replaced:]
    return splice


def continues(part: Part, text: str, replaced: int) -> bool:
    """Returns whether a suggestion comes next in the target, and the remaining closers later."""
    if part.surplus or not part.rest.startswith(text) or replaced > len(part.pending):
        return False
    later = iter(part.rest[len(text) :])
    return all(one in later for one in part.pending[replaced:])


def keys_to(manuscript: Manuscript, done: int) -> int:
    """Returns the number of keys, without typos, until `done` characters of the part are done."""
    part = manuscript.part
    copy = Part(part.target, part.done, part.surplus, part.pending)
    alone = Manuscript(
        (manuscript.fixed[manuscript.at], manuscript.fixed[manuscript.at + 1]),
        [copy],
        manuscript.indent,
    )
    keys = 0
    while copy.done < done and not copy.is_complete:
        keys += press(alone, None)[0]
    return keys


def _backspace(manuscript: Manuscript) -> tuple[int, Splice]:
    part, unit = manuscript.part, manuscript.indent
    count = len(unit) if unit and part.surplus.endswith(unit) else 1
    part.surplus = part.surplus[:-count]
    return 1, Splice(manuscript.cursor, count, "")


def _enter(manuscript: Manuscript) -> tuple[int, Splice]:
    """Starts a line with the same or deeper indentation; removes the old line's surplus."""
    part = manuscript.part
    removed = len(part.surplus)
    start = manuscript.cursor - removed
    line = manuscript.line_before
    part.surplus = ""
    margin = line[: len(line) - len(line.lstrip())]
    is_opened = line.rstrip().endswith(_OPENERS)
    space = margin + (manuscript.indent if is_opened else "")
    wanted = re.match(r"[ \t]*", part.rest[1:])
    assert wanted is not None
    behind = ""
    last = line.rstrip()[-1:]
    if part.pending and PAIRS.get(last, "") == part.pending[0] and last not in QUOTES:
        behind = "\n" + margin  # The closer moves to its own line.
    if wanted[0].startswith(space):
        part.done += 1 + len(space)
    elif space.startswith(wanted[0]):
        part.done += 1 + len(wanted[0])
        part.surplus = space[len(wanted[0]) :]
    else:  # Tabs instead of spaces, or spaces instead of tabs.
        part.done, space = part.done + 1, ""
    part.pending = behind + part.pending
    return 1, Splice(start, removed, "\n" + space + behind)


def _closed_below(part: Part) -> str:
    """Returns the line break, indentation and closer of the pending text, if they come next."""
    found = re.match(r"\n[ \t]*[)\]}]", part.pending)
    return found[0] if found and not part.surplus and part.rest.startswith(found[0]) else ""


def _closes_itself(manuscript: Manuscript, character: str) -> bool:
    """Returns whether the editor closes a bracket or quote: before space or a closer, and not for
    a quote after a word."""
    follower = manuscript.character_after
    if character not in PAIRS or (follower.strip() and follower not in ")]}"):
        return False
    before = manuscript.line_before[-1:]
    return character not in QUOTES or not (before.isalnum() or before in (character, "_"))


def _indent_unit(lines: Document) -> str:
    """Returns a tab or the narrowest indentation in use, or four spaces without indentation."""
    contents = [_line(lines, line) for line in range(lines.line_count)]
    leads = [line[: len(line) - len(line.lstrip())] for line in contents if line.strip()]
    if any(lead.startswith("\t") for lead in leads):
        return "\t"
    return " " * min((len(lead) for lead in leads if len(lead) > 1), default=4)


def _line(lines: Document, line: int) -> str:
    return lines.text[lines.line_start(line) : lines.line_end(line)]
