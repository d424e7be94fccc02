"""Measures next edits: `python -m dlm_lsp.evaluation.next_edit FOLDER ... --checkpoint MODEL`.

Cases are made of functions in the folders' Python files whose code is right as it is:

* first: a local name has another name in one of its lines; the user has just typed it there.
* last: it has it in all lines but one; the user has just typed it in the nearest one.
* all: it has it in all lines. Nothing is left to do.
* other: a line uses another of the function's variables. Nothing else is to be done.
* comment: the code is as it was, and the user has typed a comment. Nothing is to be done.
* argument: a parameter and the argument for it were missing, and the user has typed the parameter.

An offer is right if it makes one of the lines what it is to become, and wrong otherwise. Prints the
answer to each case, with the counts so far and the median time of a run.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import to_host_settings
from dlm_lsp.postprocess.syntax import gate_for
from dlm_lsp.session.document import Change, Document, Encoding
from dlm_lsp.session.next_edit import LINES_MAX, Asked, next_edit
from dlm_lsp.session.pipeline import to_body
from dlm_lsp.session.recent import RecentChanges
from dlm_lsp.session.refine import Refining
from dlm_lsp.settings.schema import load_settings

LINES_MIN, FUNCTION_LINES_MAX = 3, 60
# What a name becomes; a name that has its new one already, or is in none of these, is left out.
NAMES = {
    "result": "outcome",
    "value": "item",
    "name": "label",
    "path": "location",
    "data": "payload",
    "line": "row",
    "text": "content",
    "args": "arguments",
    "size": "length",
    "count": "total",
    "msg": "message",
    "key": "identifier",
    "fp": "stream",
    "f": "handle",
    "s": "string",
    "x": "number",
    "n": "amount",
    "i": "index",
    "res": "answer",
    "ret": "returned",
    "filename": "file_name",
    "parts": "pieces",
    "lines": "rows",
    "obj": "target",
    "items": "entries",
}


@dataclass(frozen=True, slots=True)
class Edit:
    """The user puts `text` in the place of a document's text[start:end]."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """What the user has typed, and what the lines may become.

    Attributes:
        document: the text before.
        edits: what was typed, in this order; each counts in the text that the one before left.
        wanted: the texts that the document may have after a right offer; none if nothing is right.
    """

    kind: str
    document: Document
    edits: tuple[Edit, ...]
    wanted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a file, and its line numbers, from 0."""

    document: Document
    node: ast.FunctionDef | ast.AsyncFunctionDef
    tree: ast.Module

    @property
    def lines(self) -> range:
        return range(self.node.lineno - 1, self.node.end_lineno or self.node.lineno)


def functions_in(path: Path) -> Iterator[Function]:
    """Yields the functions of a file that are neither tiny nor long."""
    try:
        text = path.read_text("utf-8")
        tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError):
        return
    if re.search(r"\r|\f", text):  # The lines of Python and of LSP differ there.
        return
    document = Document(path.absolute().as_uri(), "python", 1, text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found = Function(document, node, tree)
            if LINES_MIN <= len(found.lines) <= FUNCTION_LINES_MAX:
                yield found


def renaming_cases(function: Function, draw: random.Random) -> Iterator[Case]:
    """Yields the cases of a name that is replaced by another; none if no name of NAMES is used in
    enough lines."""
    local = _locals(function.node)
    names = [name for name in NAMES if name in local and not _is_used(function, NAMES[name])]
    draw.shuffle(names)
    for name in names:
        rows = sorted({function.document.line_of(at) for at in _places(function, name)})
        if len(rows) < LINES_MIN:
            continue
        edits = {row: _renaming(function, row, name, NAMES[name]) for row in rows}
        typed = draw.choice(rows)
        others = [row for row in rows if row != typed]
        document = function.document
        done = _applied(document.text, [edits[typed]])
        wanted = frozenset(_applied(document.text, [edits[typed], edits[row]]) for row in others)
        yield Case("first", document, (edits[typed],), wanted)
        left = draw.choice(rows)
        near = sorted((row for row in rows if row != left), key=lambda row: -abs(row - left))
        whole = _applied(document.text, [edits[row] for row in rows])
        yield Case("last", document, _in_order([edits[row] for row in near]), frozenset({whole}))
        assert done != whole
        yield Case("all", document, _in_order([edits[row] for row in [*near, left]]))
        return


def other_case(function: Function, draw: random.Random) -> Case | None:
    """Returns a case in which the user has put another variable in the place of one in a line."""
    names = sorted(_locals(function.node) - {"self", "cls"})
    rows_of = {
        name: {function.document.line_of(at) for at in _places(function, name)} for name in names
    }
    pairs = [
        (old, new)
        for old in names
        for new in names
        if old != new and len(rows_of[old]) >= LINES_MIN and rows_of[new]
    ]
    if not pairs:
        return None
    old, new = draw.choice(pairs)
    row = draw.choice(sorted(rows_of[old])[1:])  # The first one is where it is bound.
    return Case("other", function.document, (_renaming(function, row, old, new),))


def comment_case(function: Function, draw: random.Random) -> Case | None:
    """Returns a case in which the user has typed a comment into a function."""
    body = [one for one in function.node.body if one.lineno > function.node.lineno]
    if not body:
        return None
    statement = draw.choice(body)
    at = function.document.line_start(statement.lineno - 1)
    text = " " * statement.col_offset + "# Checked together with the others.\n"
    return Case("comment", function.document, (Edit(at, at, text),))


def argument_case(function: Function) -> Case | None:
    """Returns a case in which the user has typed a parameter that its one call lacks."""
    arguments, document = function.node.args, function.document
    parameters = arguments.args
    if len(parameters) < 2 or arguments.defaults or arguments.kwonlyargs or arguments.vararg:
        return None
    is_method = parameters[0].arg in ("self", "cls")
    calls = [call for call in ast.walk(function.tree) if _is_call(call, function.node.name)]
    if len(calls) != 1 or len(parameters) - is_method < 2 or arguments.posonlyargs:
        return None
    call = calls[0]
    assert isinstance(call, ast.Call)
    is_far = abs(call.lineno - function.node.lineno) > LINES_MAX
    if call.keywords or call.lineno != call.end_lineno or is_far:
        return None
    if len(call.args) != len(parameters) - is_method or any(
        isinstance(one, ast.Starred) for one in call.args
    ):
        return None
    gaps = [_gap(document, parameters[-2], parameters[-1]), _gap(document, *call.args[-2:])]
    if any("\n" in document.text[start:end] for start, end in gaps):
        return None
    (start, end), (call_start, call_end) = gaps
    before = _applied(document.text, [Edit(start, end, ""), Edit(call_start, call_end, "")])
    at = start - (call_end - call_start if call_start < start else 0)
    typed = Edit(at, at, document.text[start:end])
    lacking = Document(document.uri, document.language_id, 1, before)
    return Case("argument", lacking, (typed,), frozenset({document.text}))


def typed(case: Case) -> tuple[Document, RecentChanges, int]:
    """Returns the document after a case's edits, what is known of them, and the cursor's offset."""
    document, recent, cursor = case.document, RecentChanges(), 0
    for edit in case.edits:
        start, end = (document.position_at(at, Encoding.UTF32) for at in (edit.start, edit.end))
        change = Change(start, end, edit.text)
        after, edits = document.apply([change], document.version + 1, Encoding.UTF32)
        recent.edited(document, [change], edits)
        document, cursor = after, edit.start + len(edit.text)
    return document, recent, cursor


def _locals(node: ast.AST) -> set[str]:
    """Returns the names that a function binds itself."""
    bound = {one.arg for one in ast.walk(node) if isinstance(one, ast.arg)}
    for one in ast.walk(node):
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
            bound.add(one.id)
        if isinstance(one, ast.Global | ast.Nonlocal):
            bound -= set(one.names)
    return bound


def _is_used(function: Function, name: str) -> bool:
    document, lines = function.document, function.lines
    text = document.text[document.line_start(lines.start) : document.line_start(lines.stop)]
    return re.search(rf"\b{name}\b", text) is not None


def _places(function: Function, name: str) -> list[int]:
    """Returns the offsets of a variable in a function; none if the word stands for more there."""
    document, lines = function.document, function.lines
    found: list[int] = []
    for node in ast.walk(function.node):
        is_keyword = isinstance(node, ast.keyword) and node.arg == name
        if is_keyword or (isinstance(node, ast.Attribute) and node.attr == name):
            return []
        if isinstance(node, ast.Name | ast.arg):
            word = node.id if isinstance(node, ast.Name) else node.arg
            if word == name:
                row = document.text[document.line_start(node.lineno - 1) :].partition("\n")[0]
                column = len(row.encode()[: node.col_offset].decode())
                found.append(document.line_start(node.lineno - 1) + column)
    text = document.text[document.line_start(lines.start) : document.line_start(lines.stop)]
    return found if len(re.findall(rf"\b{name}\b", text)) == len(found) else []


def _renaming(function: Function, row: int, name: str, new: str) -> Edit:
    """Returns the edit of a line that puts another name in the place of one."""
    document = function.document
    here = sorted(at for at in _places(function, name) if document.line_of(at) == row)
    start, end = here[0], here[-1] + len(name)
    return Edit(start, end, re.sub(rf"\b{name}\b", new, document.text[start:end]))


def _applied(text: str, edits: Sequence[Edit]) -> str:
    """Returns the text after disjoint edits, all of which count in it."""
    for edit in sorted(edits, key=lambda edit: -edit.start):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _in_order(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Returns disjoint edits of one text as edits of the text that the one before leaves."""
    moved: list[Edit] = []
    for index, edit in enumerate(edits):
        shift = sum(
            len(one.text) - (one.end - one.start) for one in edits[:index] if one.start < edit.start
        )
        moved.append(Edit(edit.start + shift, edit.end + shift, edit.text))
    return tuple(moved)


def _is_call(node: ast.AST, name: str) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    return name == (
        called.id
        if isinstance(called, ast.Name)
        else called.attr
        if isinstance(called, ast.Attribute)
        else None
    )


def _gap(
    document: Document, before: ast.expr | ast.arg, last: ast.expr | ast.arg
) -> tuple[int, int]:
    """Returns where the text of a last argument begins and ends, with the comma before it."""
    ends: list[int] = []
    for node in (before, last):
        row = document.line_start((node.end_lineno or node.lineno) - 1)
        line = document.text[row:].partition("\n")[0]
        ends.append(row + len(line.encode()[: node.end_col_offset].decode()))
    return ends[0], ends[1]


def _cases(function: Function, draw: random.Random) -> list[Case]:
    found = list(renaming_cases(function, draw))
    others = [other_case(function, draw), argument_case(function)]
    if found:
        others.append(comment_case(function, draw))
    return [*found, *(case for case in others if case is not None)]


async def _measure(cases: Sequence[Case], checkpoint: str) -> None:
    settings = load_settings({"engine": {"checkpoint": checkpoint, "threads": 1}}).settings
    client = HostClient(to_host_settings(settings))
    body = to_body(settings, automatic=False, client="eval")
    counts: Counter[str] = Counter()
    times: list[float] = []
    try:
        await client.ensure()
        for case in cases:
            document, recent, cursor = typed(case)
            with_ = Refining(client, body, partial(gate_for, document.language_id))
            began = time.monotonic()
            found = await next_edit(Asked(document, recent.of(document.uri), cursor), with_)
            times.append(time.monotonic() - began)
            answer = "nothing"
            if found is not None:
                after = document.text[: found.start] + found.text + document.text[found.end :]
                answer = "right" if after in case.wanted else "wrong"
            counts[f"{case.kind}: {answer}"] += 1
            row = document.line_of(cursor if found is None else found.start) + 1
            print(f"{case.kind}: {answer}, {document.uri}:{row}", found.text if found else "")
            median = statistics.median(times)
            print("   ", dict(sorted(counts.items())), f"median {median:.1f} s", flush=True)
    finally:
        await client.close()


def main() -> None:
    """Measures and prints after each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--cases", type=int, default=20, help="of each kind, at most")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    files = [path for folder in options.folders for path in sorted(folder.rglob("*.py"))]
    functions = [function for path in files for function in functions_in(path)]
    draw.shuffle(functions)
    chosen: dict[str, list[Case]] = {}
    for function in functions:
        for case in _cases(function, draw):
            chosen.setdefault(case.kind, []).append(case)
    # In turns, so that the counts tell something before the end.
    turns = zip_longest(*(cases[: options.cases] for cases in chosen.values()))
    cases = [case for turn in turns for case in turn if case is not None]
    asyncio.run(_measure(cases, options.checkpoint))


if __name__ == "__main__":
    main()
