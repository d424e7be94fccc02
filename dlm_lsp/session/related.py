"""Texts of other open documents that may help at a cursor, such as what it calls.

For each document a few windows of lines of the others are chosen: those that share the most telling
identifiers with the text around the cursor, above all those that define what it uses. The choice
stays while the user types, because each change of it changes the prompt from its beginning; it is
made anew when the cursor rests. Owns the choices. Whatever the gate keeps back is not read, and
what was chosen is asked about again at each request.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dlm_lsp.client.messages import NAME_CHARS_MAX, RELATED_CHARS_MAX, RelatedFile
from dlm_lsp.session.context import Context, encodable
from dlm_lsp.session.document import Document
from dlm_lsp.session.documents import Documents
from dlm_lsp.session.uris import shared_folder

WINDOW_LINES, STRIDE_LINES = 24, 12
WINDOWS_MAX = 4  # In a prompt.
DOCUMENTS_MAX, READ_CHARS_MAX = 12, 40_000  # The documents that are looked at, and of each.
_LINES_ABOVE, _LINES_BELOW = 30, 10  # Around the cursor.
# How much an identifier counts on the cursor's line, near it, and further away.
_HERE, _NEAR, _FAR = 4.0, 2.0, 1.0
_LINES_NEAR = 4
# The cursor has to be so many lines away from where a choice was made before another one is.
_LINES_MOVED_MAX = 40
_SCORE_MIN = 2.0
_DEFINED_WEIGHT = 2.0  # Of a definition, compared with any other use.
_SPREAD = 20  # So many windows more are assumed, so that a few small documents tell something.
_CACHED_MAX = 64  # Documents whose windows are kept.

_NAME = re.compile(r"[A-Za-z_]\w{2,}")
_DEFINED = re.compile(
    r"\b(?:def|class|func|fn|fun|function|struct|enum|trait|impl|interface|type|module|mod|const|"
    r"let|var|val|macro|sub|proc)\s+\*?([A-Za-z_]\w{2,})|^([A-Z][A-Z0-9_]{2,})\s*[:=]",
    re.MULTILINE,
)
_FAMILIES = (
    ("c", "cpp", "objective-c", "objective-cpp"),
    ("javascript", "javascriptreact", "jsx", "typescript", "typescriptreact", "tsx", "vue"),
)


@dataclass(frozen=True, slots=True)
class Window:
    """Some lines of a document, with the identifiers in them and those that they define."""

    start: int
    text: str
    names: frozenset[str]
    defined: frozenset[str]


@dataclass(frozen=True, slots=True)
class Snippet:
    """A chosen text of an open document."""

    uri: str
    text: str


@dataclass(frozen=True, slots=True)
class _Choice:
    """What was chosen for a document, the line that it was chosen for, and the versions of the
    other documents at that time."""

    line: int
    versions: tuple[tuple[str, int], ...]
    snippets: tuple[Snippet, ...]


@dataclass(frozen=True, slots=True)
class Related:
    """Texts of other files with their names, and the name of the folder that holds them all."""

    repository: str = ""
    name: str = ""
    files: tuple[RelatedFile, ...] = ()


class RelatedDocuments:
    """The choices for one session's documents.

    Args:
        is_allowed: whether a document may reach the engine.
    """

    def __init__(self, documents: Documents, is_allowed: Callable[[Document], bool]) -> None:
        self._documents = documents
        self._is_allowed = is_allowed
        self._choices: dict[str, _Choice] = {}
        self._windows: dict[str, tuple[int, tuple[Window, ...]]] = {}

    async def choose(self, document: Document, offset: int, *, by_hand: bool = False) -> None:
        """Chooses for a place of a document, unless the last choice still holds there.

        It holds near the place that it was made for. By hand it does not if another text fits best
        by now, since that is worth the time of a new prompt.

        Documents that are new or changed are read in a thread, since a dozen of them take a tenth
        of a second.
        """
        others = [
            other
            for other in self._documents.others(document.uri)
            if _is_kin(other.language_id, document.language_id) and self._is_allowed(other)
        ][:DOCUMENTS_MAX]
        versions = tuple((other.uri, other.version) for other in others)
        line = document.line_of(offset)
        last = self._choices.get(document.uri)
        is_near = (
            last is not None
            and last.versions == versions
            and abs(last.line - line) <= _LINES_MOVED_MAX
        )
        if is_near and not by_hand:
            return
        windows = await self._read(others)
        snippets = best_windows(_around(document, offset), windows, document.text)
        if is_near and last is not None and snippets[-1:] == last.snippets[-1:]:
            return
        self._choices[document.uri] = _Choice(line, versions, snippets)

    def of(self, document: Document) -> Related:
        """Returns what was chosen for a document and may still reach the engine."""
        choice = self._choices.get(document.uri)
        snippets: list[Snippet] = []
        for snippet in choice.snippets if choice is not None else ():
            other = self._documents.get(snippet.uri)
            if other is not None and self._is_allowed(other):
                snippets.append(snippet)
        return _named(document.uri, snippets)

    def forget(self, uri: str) -> None:
        """Drops what is known of a document that was closed."""
        self._choices.pop(uri, None)
        self._windows.pop(uri, None)

    async def _read(self, documents: Sequence[Document]) -> dict[str, tuple[Window, ...]]:
        """Returns the windows of these documents, by URI."""
        known = {
            one.uri: self._windows[one.uri]
            for one in documents
            if self._windows.get(one.uri, (None,))[0] == one.version
        }
        unread = [one for one in documents if one.uri not in known]
        if unread:
            known |= await asyncio.to_thread(_windows_of, unread)
        for (
            uri,
            read,
        ) in known.items():  # What is not needed for longest comes first, and goes first.
            self._windows.pop(uri, None)
            self._windows[uri] = read
        while len(self._windows) > _CACHED_MAX:
            del self._windows[next(iter(self._windows))]
        return {uri: windows for uri, (_, windows) in known.items()}


def _windows_of(documents: Sequence[Document]) -> dict[str, tuple[int, tuple[Window, ...]]]:
    return {one.uri: (one.version, tuple(windows_in(one.text))) for one in documents}


def related_to(document: Document, offset: int, others: Sequence[Document]) -> Related:
    """Returns the texts of these documents that may help at an offset."""
    windows = {other.uri: tuple(windows_in(other.text)) for other in others}
    return _named(document.uri, best_windows(_around(document, offset), windows, document.text))


def with_related(context: Context, related: Related) -> Context:
    """Returns the context with texts of other files; without any, the context as it is."""
    if not related.files:
        return context
    return replace(context, related=related.files, repository=related.repository, name=related.name)


def _named(uri: str, snippets: Sequence[Snippet]) -> Related:
    """Returns snippets with the names of their files for the prompt of a document."""
    if not snippets:
        return Related()
    folder, names = shared_folder([uri, *(one.uri for one in snippets)])
    return Related(
        repository=encodable(folder)[-NAME_CHARS_MAX:],
        name=encodable(names[0])[-NAME_CHARS_MAX:],
        files=tuple(
            RelatedFile(
                name=encodable(name)[-NAME_CHARS_MAX:],
                text=encodable(snippet.text)[:RELATED_CHARS_MAX],
            )
            for name, snippet in zip(names[1:], snippets, strict=True)
        ),
    )


def windows_in(text: str) -> Iterator[Window]:
    """Yields the overlapping windows of the beginning of a text."""
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text[:READ_CHARS_MAX])
    for start in range(0, max(len(lines) - STRIDE_LINES, 1), STRIDE_LINES):
        part = "".join(lines[start : start + WINDOW_LINES])
        names = frozenset(_NAME.findall(part))
        if names:
            defined = frozenset(one[1] or one[2] for one in _DEFINED.finditer(part))
            yield Window(start, part, names, defined)


def best_windows(
    around: Mapping[str, float], windows: Mapping[str, tuple[Window, ...]], own_text: str
) -> tuple[Snippet, ...]:
    """Returns the windows that fit best to identifiers around a cursor, the best one last.

    Overlapping windows of a document become one text. Identifiers that many windows have tell
    little; one that a window defines counts by itself, others by how many the window has. The
    result does not depend on the documents' order.

    Args:
        around: the identifiers around the cursor, and how much each counts.
        windows: the windows of each document, by its URI.
        own_text: the cursor's document; what stands there already is left out.
    """
    spread = Counter(name for some in windows.values() for one in some for name in one.names)
    total = sum(len(some) for some in windows.values())

    def worth(names: Iterable[str]) -> float:
        return sum(
            around[name] * math.log((total + _SPREAD) / (spread[name] + 0.5)) for name in names
        )

    scored: list[tuple[float, str, Window]] = []
    for uri, some in windows.items():
        for window in some:
            score = worth(around.keys() & window.names) / (1 + math.log(len(window.names)))
            score += _DEFINED_WEIGHT * worth(around.keys() & window.defined)
            if score >= _SCORE_MIN and window.text.strip() not in own_text:
                scored.append((score, uri, window))
    scored.sort(key=lambda one: (-one[0], one[1], one[2].start))
    return tuple(_joined(scored[:WINDOWS_MAX]))


def _joined(scored: Sequence[tuple[float, str, Window]]) -> Iterator[Snippet]:
    """Yields the texts of scored windows, the best document last; windows of one document stand in
    its order, and lines that two of them have stand once."""
    uris = dict.fromkeys(uri for _, uri, _ in scored)
    for uri in reversed(uris):
        text, end = "", -1
        for start, window in sorted((one.start, one.text) for _, at, one in scored if at == uri):
            lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", window)
            text += "".join(lines[max(end - start, 0) :]) if end >= 0 else window
            end = start + len(lines)
        yield Snippet(uri, text)


def _around(document: Document, offset: int) -> dict[str, float]:
    """Returns the identifiers around an offset, and how much each counts."""
    here = document.line_of(offset)
    found: dict[str, float] = {}
    for line in range(max(here - _LINES_ABOVE, 0), here + _LINES_BELOW):
        text = document.text[document.line_start(line) : document.line_start(line + 1)]
        weight = _HERE if line == here else _NEAR if abs(line - here) <= _LINES_NEAR else _FAR
        for name in _NAME.findall(text):
            found[name] = max(weight, found.get(name, 0.0))
    return found


def _is_kin(language: str, other: str) -> bool:
    """Returns whether files of two languages use each other's names."""
    return language == other or any(language in some and other in some for some in _FAMILIES)
