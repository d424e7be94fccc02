"""A seeded typist who puts missing parts back into a file, key by key, in an editor like any other.

The editor closes brackets and quotes by itself, types over what it closed, keeps the indentation
at Enter and drops it again on a line left blank. The typist makes typos and takes them back, walks
over closers on a line below, and leaves one part for another. Owns the keys and what each does to
the text; knows neither requests nor what was suggested. Random only by the generator given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from dlm_lsp.session.document import Document

PAIRS = {"(": ")", "[": "]", "{": "}", '"': '"', "'": "'"}
QUOTES = "\"'"
TYPO_SHARE = 0.02  # of letters
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PARTS, PART_LINES = 3, (3, 10)
_OPENERS = (":", "(", "[", "{")
_PARTS_TRIES = 200


@dataclass(frozen=True, slots=True)
class Splice:
    """What a key did: `removed` characters after `start` of the document gave way to `text`."""

    start: int
    removed: int
    text: str


@dataclass(slots=True)
class Part:
    """A missing part of a file, on its way back.

    Attributes:
        target: what is to stand there.
        done: how much of it does.
        surplus: what stands after that and has to go again: a typo, or too much indentation.
        pending: what the editor put right of the cursor, and where it keeps it.
    """

    target: str
    done: int = 0
    surplus: str = ""
    pending: str = ""

    @property
    def rest(self) -> str:
        """What is still to be typed."""
        return self.target[self.done :]

    @property
    def before(self) -> str:
        """What stands left of the cursor."""
        return self.target[: self.done] + self.surplus

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.rest or self.surplus or self.pending)


@dataclass(slots=True)
class Manuscript:
    """A file with parts missing: fixed[0], parts[0], fixed[1], ...

    Attributes:
        indent: the file's unit of indentation.
        at: which part the cursor is in.
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
        """The document as it is."""
        pieces = [self.fixed[0]]
        for part, fixed in zip(self.parts, self.fixed[1:], strict=True):
            pieces += (part.before, part.pending, fixed)
        return "".join(pieces)

    @property
    def final_text(self) -> str:
        """The document once everything is typed."""
        pieces = [self.fixed[0]]
        for part, fixed in zip(self.parts, self.fixed[1:], strict=True):
            pieces += (part.target, fixed)
        return "".join(pieces)

    @property
    def cursor(self) -> int:
        """Its offset in the document."""
        before = [*self.fixed[: self.at + 1]]
        before += [part.before + part.pending for part in self.parts[: self.at]]
        return sum(map(len, before)) + len(self.part.before)

    @property
    def line_before(self) -> str:
        """What stands left of the cursor on its line."""
        return (self.fixed[self.at] + self.part.before).rpartition("\n")[2]

    @property
    def character_after(self) -> str:
        """The one right of the cursor; empty at the document's end."""
        return (self.part.pending + self.fixed[self.at + 1])[:1]


def open_manuscript(text: str, rng: np.random.Generator) -> Manuscript | None:
    """A file with some runs of lines missing, each with the line break before it; None where the
    file is too short for them."""
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
    """One act of the typist's on the part at the cursor, which is not complete.

    Args:
        rng: draws typos; None makes none.

    Returns:
        How many keys it took, and what it did to the text; None where only the cursor moved.
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
        # Down, and End: the closers wait on the line below.
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
    """Inserts a suggestion at the cursor that continues the part, over `replaced` characters."""
    part = manuscript.part
    assert continues(part, text, replaced)
    splice = Splice(manuscript.cursor, replaced, text)
    part.done, part.pending = part.done + len(text), part.pending[replaced:]
    return splice


def continues(part: Part, text: str, replaced: int) -> bool:
    """Whether a suggestion leads to the target: it is what comes next, and what stays of the
    closers right of it comes later."""
    if part.surplus or not part.rest.startswith(text) or replaced > len(part.pending):
        return False
    later = iter(part.rest[len(text) :])
    return all(one in later for one in part.pending[replaced:])


def keys_to(manuscript: Manuscript, done: int) -> int:
    """Keys that it takes without typos until so much of the part at the cursor is done."""
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
    """A new line, indented as the one before or a step further; surplus of the old one goes."""
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
        behind = "\n" + margin  # the closer goes to a line of its own
    if wanted[0].startswith(space):
        part.done += 1 + len(space)
    elif space.startswith(wanted[0]):
        part.done += 1 + len(wanted[0])
        part.surplus = space[len(wanted[0]) :]
    else:  # tabs where spaces are wanted, or the other way round
        part.done, space = part.done + 1, ""
    part.pending = behind + part.pending
    return 1, Splice(start, removed, "\n" + space + behind)


def _closed_below(part: Part) -> str:
    """What of the pending text is a line break, indentation and a closer, and comes next."""
    found = re.match(r"\n[ \t]*[)\]}]", part.pending)
    return found[0] if found and not part.surplus and part.rest.startswith(found[0]) else ""


def _closes_itself(manuscript: Manuscript, character: str) -> bool:
    """Whether the editor closes this one: space or a closer follows; a quote ends no word."""
    follower = manuscript.character_after
    if character not in PAIRS or (follower.strip() and follower not in ")]}"):
        return False
    before = manuscript.line_before[-1:]
    return character not in QUOTES or not (before.isalnum() or before in (character, "_"))


def _indent_unit(lines: Document) -> str:
    """A tab or the narrowest indentation in use; four spaces where there is none."""
    contents = [_line(lines, line) for line in range(lines.line_count)]
    leads = [line[: len(line) - len(line.lstrip())] for line in contents if line.strip()]
    if any(lead.startswith("\t") for lead in leads):
        return "\t"
    return " " * min((len(lead) for lead in leads if len(lead) > 1), default=4)


def _line(lines: Document, line: int) -> str:
    return lines.text[lines.line_start(line) : lines.line_end(line)]
