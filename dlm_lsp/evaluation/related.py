"""Measures texts of other files in prompts: `python -m dlm_lsp.evaluation.related FOLDER ...`.

Each FOLDER is a Python package. Holes are tails of lines that use a name that the file imports from
another module of the package; the modules that it imports from are the other open documents. Each
hole is asked with them and without, by hand and greedily. Prints right lines, and the prompt tokens
of both.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import random
import re
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import to_host_settings
from dlm_lsp.client.messages import GenerateBody, LimitsBody
from dlm_lsp.postprocess.shaping import rules_for
from dlm_lsp.session.context import gather
from dlm_lsp.session.document import Document
from dlm_lsp.session.pipeline import Suggestion, complete
from dlm_lsp.session.related import Related, related_to, with_related
from dlm_lsp.settings.schema import load_settings

TOKENS_MAX = 48
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Hole:
    """The tail of a line of a file, and the modules that the file imports from."""

    document: Document
    offset: int
    tail: str
    others: tuple[Document, ...]


def holes_in(package: Path) -> Iterator[Hole]:
    """Yields the holes of a package: what follows a name that comes from another module of it."""
    for path in sorted(package.rglob("*.py")):
        try:
            text = path.read_text("utf-8")
            tree = ast.parse(text)
        except (OSError, ValueError, SyntaxError):
            continue
        imported: dict[str, Path] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = _module_of(node, path, package)
                if module is not None:
                    imported |= {alias.asname or alias.name: module for alias in node.names}
        modules = sorted(set(imported.values()))
        others = tuple(_document(one, one.read_text("utf-8", "replace")) for one in modules)
        start = 0
        for line in text.splitlines(keepends=True):
            body = line.rstrip()
            for found in _NAME.finditer(body):
                tail = body[found.end() :]
                is_use = found[0] in imported and not line.lstrip().startswith(("from ", "import "))
                if is_use and len(tail) >= 4 and tail[0] in "(.":
                    document = _document(path, text[: start + found.end() + 1] + line[len(body) :])
                    rest = text[start + len(line) :]
                    whole = _document(path, document.text + rest)
                    yield Hole(whole, start + found.end() + 1, tail[1:], others)
                    break
            start += len(line)


def _module_of(node: ast.ImportFrom, path: Path, package: Path) -> Path | None:
    """Returns the file of the package that an import means, or None."""
    if node.level:
        folder = path.parents[node.level - 1]
    elif (node.module or "").split(".")[0] == package.name:
        folder = package.parent
    else:
        return None
    base = folder.joinpath(*(node.module or "").split("."))
    found = next((one for one in (base.with_suffix(".py"), base / "__init__.py")), None)
    return found if found is not None and found.is_file() and found != path else None


def _document(path: Path, text: str) -> Document:
    return Document(path.absolute().as_uri(), "python", 1, text)


async def _asked(client: HostClient, hole: Hole, related: Related) -> Suggestion:
    """Returns the answer to a hole, as a request by hand shows it."""
    context = with_related(gather(hole.document, hole.offset, None), related)
    rules = rules_for(context.prefix, context.suffix, False, "python", 1)
    limits = LimitsBody(tokens_max=TOKENS_MAX)
    body = GenerateBody(client="eval", prefix="", mode="ar", limits=limits)
    async with aclosing(complete(context, rules, body, client)) as suggestions:
        return [suggestion async for suggestion in suggestions][-1]


async def _measure(holes: list[Hole], checkpoint: str) -> None:
    client = HostClient(
        to_host_settings(
            load_settings({"engine": {"checkpoint": checkpoint, "threads": 1}}).settings
        )
    )
    right, tokens, done, shown = [0, 0], [0, 0], 0, 0
    gained = lost = 0
    try:
        await client.ensure()
        for hole in holes:
            related = related_to(hole.document, hole.offset, hole.others)
            if not related.files:
                continue
            verdicts: list[bool] = []
            for index, one in enumerate((Related(), related)):
                answer = await _asked(client, hole, one)
                verdicts.append(answer.committed.split("\n")[0].strip() == hole.tail.strip())
                tokens[index] += answer.usage.prompt_tokens
                right[index] += verdicts[-1]
                shown += bool(answer.committed)
            gained += verdicts == [False, True]
            lost += verdicts == [True, False]
            done += 1
            print(
                f"{done} holes: right alone {right[0]}, with other files {right[1]} "
                f"(+{gained} -{lost}); prompt tokens {tokens[0] // done} and {tokens[1] // done}",
                flush=True,
            )
    finally:
        await client.close()


def main() -> None:
    """Measures and prints after each hole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--holes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    found = [hole for package in options.packages for hole in holes_in(package)]
    random.Random(options.seed).shuffle(found)
    asyncio.run(_measure(found[: options.holes], options.checkpoint))


if __name__ == "__main__":
    main()
