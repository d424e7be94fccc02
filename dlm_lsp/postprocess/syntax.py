"""The syntax gate: says whether a text at a cursor would break a file that parses around it.

Parses with tree-sitter, whose trees name what does not parse and go on behind it. The verdict is a
comparison, because a file is nearly always broken at the cursor: first some text must be found that
parses there (a filler), and only then is a text refused that brings errors, with and without
fillers behind it, which stand for what the user will type next. Where no filler parses, or without
a grammar, the gate lets everything pass. Grammars with known gaps are left out, since a gap would
refuse right text. What Python's grammar leaves open, its indentation, `offside.py` judges. Knows
text alone; `gated.py` decides what is then shown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING

from dlm_lsp.postprocess.indentation import indentation
from dlm_lsp.postprocess.languages import language_named
from dlm_lsp.postprocess.offside import OffsideRule
from dlm_lsp.postprocess.scanner import scan

if TYPE_CHECKING:
    from tree_sitter import Node, Parser, Tree

# The text around the cursor that is parsed; longer files are cut where a statement begins.
ABOVE_CHARS, BELOW_CHARS = 30_000, 30_000
# The processor time for all verdicts at one cursor; the gate lets everything pass afterwards.
SECONDS_MAX = 0.1
ERRORS_MAX = 100  # A file with more errors is of a dialect that the grammar does not know.
CHUNK_BYTES = 65_536

_STATEMENT = re.compile(r"^\w", re.MULTILINE)
_LINE_START = re.compile(r"(?<=[\r\n])")


@dataclass(frozen=True, slots=True)
class Fillers:
    """Texts that finish what is begun: one of `inner`, the open brackets' closers, one of `outer`.

    "{}" in a filler stands for the indentation of the last line.
    """

    inner: tuple[str, ...]
    outer: tuple[str, ...]

    def texts(self, closers: str, indent: str) -> Iterator[str]:
        """Yields all fillers, the shortest kinds first."""
        for outer, inner in product(self.outer, self.inner):
            yield (inner + closers + outer).replace("{i}", indent)


_BRACES = Fillers(("", " x", " x; x", " x x"), ("", ";", " {}", " x;", " : x;", " => x,"))
_PYTHON = Fillers(("", " x", " x: x"), ("", ":", " in x:", " import x", "\n{i}def x(): pass"))
_RUBY = Fillers(("", " x"), ("", "\nend", "\nend\nend", "\nend\nend\nend"))
_LUA = Fillers(("", " x"), ("", " end", " then end", " do end", "=x", " end end", " end end end"))
_SHELL = Fillers(("", " x"), ("", "\nfi", "\ndone", "; then x\nfi", "; do x\ndone", ";;\nesac"))
_DATA = Fillers(("", " 1", ": 1", '"x": 1'), ("",))
_STYLES = Fillers(("", " x", ": x;", " {}"), ("",))

# The grammar and the fillers of a language, by LSP's identifiers.
_GRAMMARS: Mapping[str, tuple[str, Fillers]] = {
    "python": ("python", _PYTHON),
    "javascript": ("javascript", _BRACES),
    "javascriptreact": ("javascript", _BRACES),
    "jsx": ("javascript", _BRACES),
    "typescript": ("typescript", _BRACES),
    "typescriptreact": ("tsx", _BRACES),
    "tsx": ("tsx", _BRACES),
    "c": ("c", _BRACES),
    "cpp": ("cpp", _BRACES),
    "rust": ("rust", _BRACES),
    "go": ("go", _BRACES),
    "java": ("java", _BRACES),
    "csharp": ("csharp", _BRACES),
    "php": ("php", _BRACES),
    "ruby": ("ruby", _RUBY),
    "lua": ("lua", _LUA),
    "shellscript": ("bash", _SHELL),
    "json": ("json", _DATA),
    "css": ("css", _STYLES),
}


# The grammars whose package or function has another name, and these names.
_PACKAGES = {
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "php": ("tree_sitter_php", "language_php"),
    "csharp": ("tree_sitter_c_sharp", "language"),
}


class _TooLong(Exception):
    """The time for verdicts is used up."""


@dataclass(frozen=True, slots=True)
class _Span:
    """An error's extent in the text with the hole left empty; inside the hole it is a point."""

    start: int
    end: int

    def touches(self, start: int, end: int) -> bool:
        return self.start <= end and start <= self.end


class SyntaxGate:
    """The verdicts at one cursor; `gate_for` makes it.

    Args:
        prefix, suffix: the text before and after the cursor.
        seconds_max: the processor time for all verdicts.
    """

    def __init__(
        self, language_id: str, prefix: str, suffix: str, seconds_max: float = SECONDS_MAX
    ) -> None:
        grammar, self._fillers = _GRAMMARS[language_id]
        parser = parser_of(grammar)
        assert parser is not None
        self._parser = parser
        self._chunk = _chunk_of(grammar)
        self._language = language_named(language_id)
        self._offside = OffsideRule(prefix, suffix) if grammar == "python" else None
        prefix, self._suffix = _window(prefix, suffix)
        self._line_before = _LINE_START.split(prefix)[-1]
        self._head, self._tail = _bytes(prefix), _bytes(self._suffix)
        line_after = re.split(r"[\r\n]", self._suffix, maxsplit=1)[0]
        cursor = len(self._head)
        self._line = (cursor - len(_bytes(self._line_before)), cursor + len(_bytes(line_after)))
        self._seconds_left = seconds_max
        self._empty: Tree | None = None
        self._known: list[_Span] | None = None
        self._has_witness: bool | None = None
        self._verdicts: dict[tuple[str, int], bool] = {}

    def passes(self, text: str, replaced: int = 0) -> bool:
        """Returns whether the text at the cursor leaves a file that parses around it unbroken.

        Also true where that cannot be known. Never raises.

        Args:
            replaced: the number of characters after the cursor that the text replaces.
        """
        key = (text, replaced)
        if key not in self._verdicts:
            try:
                self._verdicts[key] = not text or self._judge(text, replaced)
            except (_TooLong, ValueError, RecursionError):
                self._verdicts[key] = True
            if self._offside is not None and self._offside.breaks(text, replaced):
                self._verdicts[key] = False
        return self._verdicts[key]

    def fits(self, text: str, replaced: int = 0) -> bool:
        """Returns whether the line below the text can stand there, where a line has to be added so
        that it can; true everywhere else."""
        return self._offside is None or self._offside.fits(text, replaced)

    def errors(self, text: str, replaced: int = 0) -> int:
        """Returns the number of errors of the file with the text at the cursor.

        Raises: ValueError if the file cannot be parsed in time.
        """
        try:
            return len(self._errors(text, replaced))
        except _TooLong as error:
            raise ValueError("The file takes too long to parse.") from error

    def _judge(self, text: str, replaced: int) -> bool:
        found = self._errors(text, replaced)
        if not found:
            return True
        if len(found) > ERRORS_MAX:
            return True
        known = self._known_errors()
        if known is None or not _new(found, known):
            return True
        return any(
            not _new(self._errors(text + filler, replaced), known)
            for filler in self.fillers(text)
            if filler
        )

    def _known_errors(self) -> list[_Span] | None:
        """Returns the errors elsewhere while the cursor's line parses, or None if it never does."""
        if self._has_witness is None:
            best: list[_Span] | None = None
            for filler in dict.fromkeys(["", *self.fillers("")]):
                spans = self._errors(filler, 0)
                is_clean = len(spans) <= ERRORS_MAX and not any(
                    span.touches(*self._line) for span in spans
                )
                if is_clean and (best is None or len(spans) < len(best)):
                    best = spans
                if best is not None and not best:
                    break
            self._known, self._has_witness = best, best is not None
        return self._known

    def fillers(self, text: str) -> Iterator[str]:
        """Yields the fillers behind a text, with and without closers for the cursor's line."""
        whole = self._line_before + text
        indent = indentation(re.split(r"[\r\n]", whole)[-1])
        for closers in dict.fromkeys((self._closers(text), self._closers(whole))):
            yield from self._fillers.texts(closers, indent)

    def _closers(self, text: str) -> str:
        frames = scan(self._language, text, 0, len(text), is_draft=True).frames
        return "".join(frame.closer for frame in reversed(frames) if frame.closer != "\n")

    def _errors(self, text: str, replaced: int) -> list[_Span]:
        """Returns the extents of what does not parse with the text at the cursor."""
        cursor, inserted = len(self._head), _bytes(text)
        removed = len(_bytes(self._suffix[:replaced]))
        if self._empty is None:
            self._empty = self._parsed(self._head + self._tail, None)
        tree = self._empty
        if inserted or removed:
            tree = _edited(tree, self._head, inserted, removed, self._tail)
            tree = self._parsed(self._head + inserted + self._tail[removed:], tree)
        end, shift = cursor + len(inserted), removed - len(inserted)

        def place(at: int) -> int:
            return at if at <= cursor else max(at + shift, cursor) if at >= end else cursor

        spans = (_Span(place(node.start_byte), place(node.end_byte)) for node in _broken(tree))
        return list(spans)

    def _parsed(self, source: bytes, old: Tree | None) -> Tree:
        """Parses; raises _TooLong when no time is left."""
        end = time.thread_time() + self._seconds_left
        chunk = self._chunk

        def is_late(offset: int, has_error: bool) -> bool:
            del offset, has_error
            return time.thread_time() > end

        def read(at: int, point: object) -> bytearray:
            # The tree keeps this function, so that it must not know the gate, which keeps the tree.
            del point
            chunk[:] = source[at : at + CHUNK_BYTES]
            return chunk

        self._parser.reset()  # It would go on with a parse that was given up.
        try:
            if old is None:
                return self._parser.parse(read, progress_callback=is_late)
            return self._parser.parse(read, old, progress_callback=is_late)
        except ValueError as error:
            raise _TooLong from error
        finally:
            chunk.clear()
            self._seconds_left = max(end - time.thread_time(), 0.0)


def gate_for(language_id: str, prefix: str, suffix: str) -> SyntaxGate | None:
    """Returns the gate at a cursor; None without a grammar of the language.

    Args:
        language_id: LSP's identifier of the document's language.
    """
    found = _GRAMMARS.get(language_id)
    if found is None or parser_of(found[0]) is None:
        return None
    return SyntaxGate(language_id, prefix, suffix)


def installed_languages() -> tuple[str, ...]:
    """Returns the identifiers of the languages whose grammars are installed, sorted."""
    return tuple(sorted(name for name, (it, _) in _GRAMMARS.items() if parser_of(it) is not None))


@lru_cache
def parser_of(grammar: str) -> Parser | None:
    """Returns a parser of a grammar, or None if it is not installed.

    The packages are imported here, so that nothing waits for them before the first verdict.
    """
    package, function = _PACKAGES.get(grammar, (f"tree_sitter_{grammar}", "language"))
    try:
        core = import_module("tree_sitter")
        return core.Parser(core.Language(getattr(import_module(package), function)()))
    except (ImportError, AttributeError, OSError, ValueError):  # ValueError: of another version
        return None


@lru_cache
def _chunk_of(grammar: str) -> bytearray:
    """Returns the one object in which a grammar's parser is given texts.

    tree-sitter's binding (0.25 and 0.26) never gives back its reference to what it has read, so
    that each text would stay in memory.
    """
    del grammar
    return bytearray()


def _new(spans: list[_Span], known: list[_Span]) -> bool:
    """Returns whether there are more errors, one of them where none is known.

    An error that has only moved counts as known: what the hole lacks is missed here or there.
    """
    return len(spans) > len(known) and any(
        not any(one.touches(span.start, span.end) for one in known) for span in spans
    )


def _broken(tree: Tree) -> Iterator[Node]:
    """Yields the outermost nodes that do not parse or were added by the parser."""
    nodes = [tree.root_node]
    while nodes:
        node = nodes.pop()
        if node.is_error or node.is_missing:
            yield node
        elif node.has_error:
            nodes.extend(child for child in node.children if child.has_error)


def _edited(tree: Tree, head: bytes, inserted: bytes, removed: int, tail: bytes) -> Tree:
    """Returns a copy of the tree that knows where the text differs."""
    cursor = len(head)
    tree = tree.copy()
    tree.edit(
        cursor,
        cursor + removed,
        cursor + len(inserted),
        _point(head),
        _point(head + tail[:removed]),
        _point(head + inserted),
    )
    return tree


def _point(text: bytes) -> tuple[int, int]:
    return text.count(b"\n"), len(text) - text.rfind(b"\n") - 1


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _window(prefix: str, suffix: str) -> tuple[str, str]:
    """Returns the text near the cursor, from and to where a statement begins, if one does."""
    if len(prefix) > ABOVE_CHARS:
        prefix = prefix[-ABOVE_CHARS:]
        begun = _STATEMENT.search(prefix, 1)
        prefix = prefix[begun.start() :] if begun else prefix
    if len(suffix) > BELOW_CHARS:
        ends = [match.start() for match in _STATEMENT.finditer(suffix[:BELOW_CHARS], 1)]
        suffix = suffix[: ends[-1] if ends else BELOW_CHARS]
    return prefix, suffix
