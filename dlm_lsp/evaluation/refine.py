"""Measures refining: `python -m dlm_lsp.evaluation.refine FOLDER ... --checkpoint MODEL`.

Selections are bodies of Python functions in the folders' files. Each is refined twice: as it is,
where every change is counted as harm, and with one fault put in (an operator, a constant or a
comparison changed, or a letter of a name left out), where the text before the fault is wanted.
Prints counts after each selection, and the median time of a run.
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
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import to_host_settings
from dlm_lsp.postprocess.syntax import gate_for
from dlm_lsp.session.document import Document
from dlm_lsp.session.pipeline import to_body
from dlm_lsp.session.refine import THRESHOLD, Refining, refine
from dlm_lsp.settings.schema import load_settings

LINES_MIN, LINES_MAX = 2, 12
# Each fault replaces one text by another; the last one leaves out a letter of a name.
SWAPS = (
    *(("==", "!="), ("!=", "=="), (" < ", " > "), (" > ", " < "), ("<=", ">="), (">=", "<=")),
    *((" + ", " - "), (" - ", " + "), ("+=", "-="), (" and ", " or "), (" or ", " and ")),
    *((" not ", " "), ("True", "False"), ("False", "True"), (" is None", " is not None")),
    *((" in ", " not in "), ("[0]", "[1]"), (" + 1", " + 2"), (" - 1", " - 2"), ("min(", "max(")),
)
_NAME = re.compile(r"\b[a-z]{5,}(?=\()")


def bodies_in(path: Path) -> Iterator[tuple[Document, int, int]]:
    """Yields a file as a document with the start and end of each function's body in it."""
    try:
        text = path.read_text("utf-8")
        tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError):
        return
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    document = Document(path.absolute().as_uri(), "python", 1, text)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        if not body or body[0].lineno == node.lineno:
            continue
        last = body[-1].end_lineno or body[-1].lineno
        if LINES_MIN <= last - body[0].lineno + 1 <= LINES_MAX:
            yield document, starts[body[0].lineno - 1], starts[last] - 1


def with_fault(text: str, draw: random.Random) -> str | None:
    """Returns the text with one fault, or None if it has no place for one."""
    faults = [
        text[:at] + wrong + text[at + len(right) :]
        for right, wrong in SWAPS
        for at in (found.start() for found in re.finditer(re.escape(right), text))
    ]
    for name in _NAME.finditer(text):
        at = draw.randrange(name.start() + 1, name.end())
        faults.append(text[:at] + text[at + 1 :])
    return draw.choice(faults) if faults else None


async def _measure(
    bodies: list[tuple[Document, int, int]], checkpoint: str, threshold: float, draw: random.Random
) -> None:
    settings = load_settings({"engine": {"checkpoint": checkpoint, "threads": 1}}).settings
    client = HostClient(to_host_settings(settings))
    body = to_body(settings, automatic=False, client="eval")
    counts: Counter[str] = Counter()
    times: list[float] = []

    async def refined(document: Document, start: int, end: int) -> str:
        make_gate = partial(gate_for, document.language_id)
        began, text = time.monotonic(), ""
        async for state in refine(
            document, start, end, Refining(client, body, make_gate, threshold)
        ):
            text = state.text
        times.append(time.monotonic() - began)
        return text

    try:
        await client.ensure()
        for document, start, end in bodies:
            right = document.text[start:end]
            wrong = with_fault(right, draw)
            if wrong is None or wrong == right:
                continue
            counts["selections"] += 1
            counts["right, changed"] += await refined(document, start, end) != right
            faulty = replace(document, text=document.text[:start] + wrong + document.text[end:])
            answer = await refined(faulty, start, start + len(wrong))
            counts["fault repaired, nothing else changed"] += answer == right
            counts["fault left, nothing changed"] += answer == wrong
            print(dict(counts), f"median {statistics.median(times):.1f} s", flush=True)
    finally:
        await client.close()


def main() -> None:
    """Measures and prints after each selection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--selections", type=int, default=100)
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    files = [path for folder in options.folders for path in sorted(folder.rglob("*.py"))]
    bodies = [body for path in files for body in bodies_in(path)]
    draw.shuffle(bodies)
    asyncio.run(_measure(bodies[: options.selections], options.checkpoint, options.threshold, draw))


if __name__ == "__main__":
    main()
