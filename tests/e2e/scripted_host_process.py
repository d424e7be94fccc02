"""Runs a scripted engine host that answers every request with one text, until its stdin ends.

Prints its URL. A test whose editor is driven without an event loop starts it as a process.
"""

from __future__ import annotations

import asyncio
import sys

from tests.dlm_lsp.scripted_host import scripted_host


async def main(text: str) -> None:
    async with scripted_host() as host:
        host.script = [text] * 1000
        print(host.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1].encode().decode("unicode_escape")))
