"""The mode "auto" on a host: figures of the checkpoint, the machine and past requests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlm_lsp.client.paths import times_file
from dlm_lsp.host.modes import ModeRecords, choose_mode, usual_choice
from engine.api import EXACT_MODES, MODES, EngineInfo, Limits, Usage
from engine.auto.checkpoint_stats import CheckpointStats, ModeFigures
from engine.auto.step_times import StepTimes
from engine.config import EngineSettings
from tests.toy_backend import ToyHost

CPU = StepTimes((1, 2, 8, 32, 128), (4.0, 4.4, 5.1, 8.0, 16.0), 256)
FAST_BLOCKS = CheckpointStats({"block": ModeFigures(4.0, 32.0)}, block_is_on_par=True)
INFO = EngineInfo("/toy", "cpu", "float32", 1, 1, 1024, 256)


def choose(info: EngineInfo, **options: Any) -> str:
    return choose_mode(info, {}, Limits(128), block_length=32, **options).mode


def test_the_measured_curve_and_the_checkpoints_figures_decide() -> None:
    assert choose(INFO) == "copy_spec"
    info = replace(INFO, step_times=CPU, stats=FAST_BLOCKS)
    assert choose(info) == "block"
    assert choose(info, exact=True) in EXACT_MODES
    assert choose(replace(info, step_times=StepTimes((1, 32), (1.0, 32.0)))) == "ar"
    assert choose(replace(info, modes=("ar", "copy_spec"))) == "copy_spec"


def test_a_single_line_does_not_pay_for_a_slow_whole_block() -> None:
    slow = CheckpointStats({"block": ModeFigures(32.0, 32.0)}, block_is_on_par=True)
    times = StepTimes((1, 4, 32), (1.0, 1.01, 14.0))
    info = replace(INFO, step_times=times, stats=slow)
    assert choose(info) == "block"
    assert choose(info, stop=("\n",)) == "copy_spec"


def test_finished_requests_are_counted_by_mode() -> None:
    records = ModeRecords()
    records.count("ar", Usage(tokens=11, forwards=10, rows=10), "length")
    records.count("copy_spec", Usage(tokens=20, forwards=10, rows=30), "end")
    assert records.by_mode["ar"].tokens == 10
    assert records.by_mode["copy_spec"].tokens == 20
    assert records.by_mode["copy_spec"].rows == 30
    records.count("copy_spec", Usage(tokens=1, forwards=0, rows=0), "length")
    assert records.by_mode["copy_spec"].forwards == 10


async def health(host: ToyHost) -> dict[str, Any]:
    async with host.session.get("http://host/health") as response:
        return await response.json()


async def test_health_shows_the_curve_and_the_choice(host: ToyHost) -> None:
    before = await health(host)
    host.backend.info = replace(host.backend.info, step_times=CPU)
    after = await health(host)
    assert before["stepTimes"] is None
    assert "not measured" in before["auto"]["why"]
    assert after["stepTimes"] == {
        "rows": [1, 2, 8, 32, 128],
        "milliseconds": [4.0, 4.4, 5.1, 8.0, 16.0],
        "withMasks": [],
        "context": 256,
    }
    assert after["auto"]["mode"] == usual_choice(replace(INFO, step_times=CPU), {}, 16).mode
    assert "ar 4 " in after["auto"]["why"]


async def test_a_host_learns_from_what_finished(host: ToyHost) -> None:
    for mode, tokens_max in (("block", 5), ("ar", 0)):
        body = {"prefix": "x = ", "mode": mode, "limits": {"tokensMax": tokens_max}}
        async with await host.post(body) as response:
            await response.read()
    records = host.host.records.by_mode
    assert set(records) == {"block"}
    assert records["block"].forwards > 0
    assert set(MODES) > set(records)


@pytest.mark.usefixtures("private_runtime")
def test_each_checkpoint_has_its_own_file_in_the_users_cache(
    private_runtime: Path, tiny_checkpoint: Path
) -> None:
    bundled, tiny = times_file(EngineSettings()), times_file(EngineSettings(tiny_checkpoint))
    assert bundled.path != tiny.path
    assert bundled.checkpoint != tiny.checkpoint
    assert private_runtime / "cache" in bundled.path.parents
    assert not bundled.path.exists()
