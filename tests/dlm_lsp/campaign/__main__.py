"""`make soak`: the campaigns at full length, one after another, with their figures.

Of the events, two fifths go to a session, two fifths over LSP's bytes to a server in this process
(as nine different clients), some to a server process, and a few to one with a real engine host.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections import Counter

from tests.dlm_lsp.campaign.in_session import play as play_session
from tests.dlm_lsp.campaign.play import play_in_process, play_process, play_real
from tests.dlm_lsp.campaign.played import Played

CLIENTS = 9


def told(name: str, played: Played, is_judged: bool = True) -> None:
    """Prints a campaign's figures. Raises AssertionError if its memory grew.

    Args:
        is_judged: whether memory counts; several servers in one process share it with the editor.
    """
    print(played.report(name), flush=True)
    if is_judged:
        played.check_memory()


def together(parts: list[Played]) -> Played:
    """The figures of several campaigns in one process as those of one."""
    return Played(
        sum(part.events for part in parts),
        sum(part.seconds for part in parts),
        sum((part.counts for part in parts), Counter[str]()),
        [value for part in parts for value in part.resident_bytes],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # Every hostile message is logged.
    events, seed = options.events, options.seed
    told("session", asyncio.run(play_session(events * 2 // 5, seed)))
    each = events * 2 // 5 // CLIENTS
    parts = [asyncio.run(play_in_process(each, seed + at)) for at in range(CLIENTS)]
    told(f"LSP in one process, {CLIENTS} clients", together(parts), False)
    told("LSP, a server process", asyncio.run(play_process(events * 18 // 100, seed)))
    told("LSP, a real engine host", asyncio.run(play_real(events * 2 // 100, seed)))
    print("all checks passed")


if __name__ == "__main__":
    main()
