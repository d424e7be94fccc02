"""Runs a scripted engine host that answers every request with one text, until its stdin ends.

Prints its URL. A test whose editor is driven without an event loop starts it as a process. With
`--drafts` after the text the answer comes word by word, the next one undecided; a given text is
scored then: a word that stands nowhere above it is improbable.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator

from engine.api import MASKED
from tests.dlm_lsp.scripted_host import ScriptedHost, scripted_host

DRAFT_SECONDS = 0.05


async def main(text: str, with_drafts: bool) -> None:
    async with scripted_host() as host:
        host.script = [] if with_drafts else [text] * 1000
        print(host.url, flush=True)
        drafting = asyncio.create_task(draft(host, text))
        await asyncio.to_thread(sys.stdin.read)
        drafting.cancel()


async def draft(host: ScriptedHost, text: str) -> None:
    """Answers each request that the script does not answer, word by word."""
    words = re.findall(r"\s*\S+\s*?", text)
    while True:
        job = await host.job(seconds=None)
        job.start()
        if job.body.given:
            job.score(*scores(job.body.prefix, job.body.given))
            continue
        for number, word in enumerate(words):
            job.draft("".join(words[:number]), word[:-1] + MASKED)
            await asyncio.sleep(DRAFT_SECONDS)
        job.finish(text)


def scores(above: str, given: str) -> Iterator[tuple[int, float]]:
    """Yields where each word of a text ends, and its log probability below another text."""
    for found in re.finditer(r"\w+|\W+", given):
        before = above + given[: found.start()]
        is_known = not found[0].isidentifier() or re.search(rf"\b{found[0]}\b", before)
        yield found.end(), -0.1 if is_known else -5.0


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1].encode().decode("unicode_escape"), "--drafts" in sys.argv[2:]))
