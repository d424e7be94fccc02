"""Plays whole campaigns over LSP, each in folders of its own."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from dlm_lsp.client import starter
from tests.dlm_lsp.campaign.over_lsp import LspCampaign
from tests.dlm_lsp.campaign.played import Played
from tests.dlm_lsp.campaign.random_host import RandomHost
from tests.dlm_lsp.campaign.real_engine import RealCampaign
from tests.dlm_lsp.campaign.wires import InProcess, OwnProcess
from tests.dlm_lsp.scripted_host import scripted_host


@contextmanager
def own_folders() -> Iterator[tuple[Path, dict[str, str]]]:
    """A workspace, and an environment in which nothing of the user's is found."""
    with tempfile.TemporaryDirectory(prefix="dlm-") as name:
        folder = Path(name)
        (folder / "work").mkdir()
        (folder / "run").mkdir(mode=0o700)
        named = {f"XDG_{one}_HOME": str(folder / one) for one in ("CONFIG", "STATE", "CACHE")}
        models = {"DLM_LSP_MODELS": str(folder / "models"), "OMP_NUM_THREADS": "1"}
        yield folder, {**named, **models, "XDG_RUNTIME_DIR": str(folder / "run")}


async def play_in_process(events: int, seed: int) -> Played:
    """The real server behind the real framing, in this process, and a scripted host over HTTP."""
    with own_folders() as (folder, environment), mock.patch.dict(os.environ, environment):
        campaign = LspCampaign(InProcess(random.Random(seed)), folder / "work", seed)
        # Hosts that break off are asked again at once, so that the campaign is not mostly pauses.
        with mock.patch.object(starter, "_PAUSE_SECONDS_MAX", 0.01):
            return await _played(campaign, events, seed)


async def play_process(events: int, seed: int) -> Played:
    """A server process, and a scripted host over HTTP."""
    with own_folders() as (folder, environment):
        wire = await OwnProcess.start(folder, environment)
        return await _played(LspCampaign(wire, folder / "work", seed), events, seed)


async def _played(campaign: LspCampaign, events: int, seed: int) -> Played:
    began = time.monotonic()
    async with scripted_host(RandomHost(random.Random(seed + 1), campaign.look)) as host:
        assert isinstance(host, RandomHost)
        await campaign.start(host.url)
        await campaign.run(events)
        counts = campaign.counts + host.counts
    return Played(events, time.monotonic() - began, counts, campaign.resident_bytes)


async def play_real(events: int, seed: int) -> Played:
    """A server process that starts a real engine host, which is killed five times."""
    with own_folders() as (folder, environment):
        wire = await OwnProcess.start(folder, environment)
        campaign = RealCampaign(wire, folder / "work", seed, folder / "run", events)
        began = time.monotonic()
        try:
            await campaign.start()
            await campaign.run(events)
        finally:
            await campaign.end_host()
    seconds = time.monotonic() - began
    return Played(events, seconds, campaign.counts, campaign.resident_bytes, campaign.notes())
