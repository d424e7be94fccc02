"""The card's benchmark, tried on the CPU at tiny shapes: every part runs and is kept at once."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import MemoryExhausted
from engine.lab.bench.decode_rows import Condition, Timed, to_row
from engine.lab.bench.gpu import __main__ as command
from engine.lab.bench.gpu import report
from engine.lab.bench.gpu.__main__ import TINY, main
from engine.lab.bench.gpu.cards import CARDS, card_state
from engine.lab.bench.gpu.checks import run_checks
from engine.lab.bench.gpu.networks import PEER_ROWS, Shape, Weights, on, runners, time_steps
from engine.lab.bench.gpu.quantized import random_quantized
from engine.lab.bench.gpu.roofline import floor_of, step_cost
from engine.lab.bench.gpu.sections import OutOfTime, Sections
from engine.lab.bench.gpu.stored import block_type, matrices, vector_bytes
from engine.lab.bench.shapes import SHAPES
from engine.lab.rates import Rates
from engine.model.config import ModelConfig
from engine.model.quantized_linear import QuantizedLinear
from tests.engine.seeded import CPU

CHECKS = """
def test_good() -> None: ...
def test_bad() -> None: assert False
"""
MODES = ["ar", "block", "linear_spec", "quadratic_spec", "pruned_spec", "copy_spec"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The whole command, and what it wrote; torch.compile without its compiler, which takes a
    minute."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "test_two.py").write_text(CHECKS, "utf-8")
    plain = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda f, **_: plain(f, backend="eager"))
        status = main(
            ["--device", "cpu", "--shapes", "tiny", "--seconds", "400", "--out", str(folder),
             "--check", str(folder / "test_two.py")]
        )  # fmt: skip
    return status, folder


@pytest.fixture(scope="module")
def content(run: tuple[int, Path]) -> dict[str, Any]:
    return json.loads((run[1] / "gpu.json").read_text("utf-8"))


def entries(content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    (found,) = (each["entries"] for each in content["sections"] if each["name"] == name)
    return found


def test_every_section_runs_to_its_end(content: dict[str, Any]) -> None:
    states = {each["name"]: (each["state"], each["why"]) for each in content["sections"]}
    assert set(states.values()) == {("done", "")}, states
    parts = ("weights", "weights for peers of", "peers")
    shaped = {f"{part} {shape}" for part in parts for shape in TINY}
    parts = ("steps", "cycles", "profile")
    run = {f"{part} {shape}, {how}" for part in parts for shape in TINY for how in runners()}
    stored = {f"{shape}, {storage}" for shape in TINY for storage in ("int8", "Q4_K_M")}
    stored = {f"weights {each}" for each in stored} | {
        f"{part} {each}, {how}" for part in parts for each in stored for how in runners()
    }
    assert states.keys() == {"checks", "rates", "kernels", "tuning", *shaped, *run, *stored}


def test_a_failed_check_is_named_and_fails_the_run(
    run: tuple[int, Path], content: dict[str, Any]
) -> None:
    assert run[0] == 1
    (found,) = entries(content, "checks")
    assert (found["passed"], found["failed"], found["is_whole"]) == (1, 1, True)
    assert found["failures"][0].endswith("test_two.py::test_bad")


def test_steps_and_cycles_of_every_shape_have_times(content: dict[str, Any]) -> None:
    ways = [f"{stored}{how}" for stored in ("", "int8, ", "Q4_K_M, ") for how in runners()]
    for label in (f"{shape}, {how}" for shape in TINY for how in ways):
        steps = entries(content, f"steps {label}")
        assert [(step["rows"], step["context"]) for step in steps] == [
            (1, 24), (8, 24), (1, 48), (8, 48),
        ]  # fmt: skip
        copy = entries(content, "rates")[0]["copy"]
        for step in steps:
            rate = step["bytes"] / step["milliseconds"] * 1000
            assert step["of_copy"] == pytest.approx(rate / copy)
            assert step["of_datasheet"] is step["floor_ms"] is None
        cycles = entries(content, f"cycles {label}")
        assert [cycle["mode"] for cycle in cycles] == MODES
        assert all(cycle["cycles_per_second"] > 0 for cycle in cycles)


def test_peers_of_every_shape_have_times(content: dict[str, Any]) -> None:
    for shape in TINY:
        peers = entries(content, f"peers {shape}")
        assert len(peers) == len(PEER_ROWS) + 1
        assert all(peer["ms"] > 0 for peer in peers)


def test_the_page_says_that_no_card_was_there(run: tuple[int, Path]) -> None:
    page = (run[1] / "gpu.md").read_text("utf-8")
    assert "**No figure of a card**" in page
    for title in ("Whole steps", "Cycles", "Peers", "Kernels"):
        assert f"## {title}" in page
    for name in (*TINY, *MODES, "skinny_gemm", "row_attention"):
        assert name in page
    plot = (run[1] / "gpu.svg").read_text("utf-8")
    assert "no figure of a card" in plot
    assert "tiny qwen" in plot


def test_the_report_is_written_again_of_the_figures(run: tuple[int, Path]) -> None:
    before = (run[1] / "gpu.md").read_text("utf-8"), (run[1] / "gpu.svg").read_text("utf-8")
    (run[1] / "gpu.md").unlink()
    assert main(["--report", "--out", str(run[1])]) == 0
    after = (run[1] / "gpu.md").read_text("utf-8"), (run[1] / "gpu.svg").read_text("utf-8")
    assert after == before


def test_figures_that_are_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--report", "--out", str(tmp_path)]) == 1
    assert "gpu.json" in capsys.readouterr().err


def test_figures_of_a_processor_never_go_into_benchmarks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(command.__file__).parents[4] / "benchmarks"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(["--device", "cpu", "--shapes", "tiny", "--out", str(folder)]) == 1
    assert "benchmarks/" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_without_a_card_there_is_the_roofline_and_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path)]) == 0
    assert "No CUDA card was found" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"roofline.md", "roofline.json"}
    assert main(["--out", str(tmp_path), "--check", "tests/engine/kernels"]) == 1


@pytest.mark.parametrize("seconds", [0.01, 60])
def test_checks_that_cannot_run_or_end_are_no_success(tmp_path: Path, seconds: float) -> None:
    (tmp_path / "test_broken.py").write_text("import nothing_of_this_name\n", "utf-8")
    (found,) = run_checks([str(tmp_path / "test_broken.py")], "cpu", seconds)
    assert found["passed"] == 0
    assert found["is_whole"] == (seconds == 60)
    assert found["failed"] == int(seconds == 60)


def test_a_known_card_gives_steps_a_floor_and_a_share_of_the_datasheet() -> None:
    config = TINY["tiny NLD"]
    shape = Shape(name="tiny", config=config, rows=(4,), contexts=(16,), card=CARDS[0])
    rates = Rates(copy=1e9, matrix=1e12, dtype="bfloat16")
    weights = Weights(config, CPU, torch.bfloat16)
    (step,) = on(weights, "clear", partial(time_steps, rates=rates), shape)
    cost = step_cost(config, "bf16", 4, 16)
    assert step["bytes"] == cost.bytes_on(CARDS[0])
    assert step["floor_ms"] == floor_of(cost, CARDS[0]).milliseconds
    seconds = step["milliseconds"] / 1000
    assert step["of_datasheet"] == pytest.approx(cost.bytes_on(CARDS[0]) / seconds / 3.35e12)


@pytest.mark.parametrize("storage", ["int8", "Q4_K_M"])
@pytest.mark.parametrize("shape", TINY)
def test_quantised_networks_take_the_bytes_that_are_counted(shape: str, storage: str) -> None:
    """All but the vectors, whose dtype is the network's; and planes have bytes where a file's
    blocks have six bits (the scales of Q4_K)."""
    config = TINY[shape]
    network = random_quantized(config, storage, device=CPU, dtype=torch.bfloat16)
    taken = sum(
        each.matrix.nbytes
        for name, each in network.named_modules()
        if isinstance(each, QuantizedLinear) and "embed" not in name
    )
    kinds = [block_type(each, config.layers) for each in matrices(config)]
    assert {"Q4_K", "Q6_K", "Q5_0", "Q8_0"} == set(kinds)
    cost = step_cost(config, storage, 1, 0)
    counted = cost.layers + cost.head - vector_bytes(config, storage)
    if storage == "Q4_K_M":
        inside = [each for each in matrices(config) if block_type(each, config.layers) == "Q4_K"]
        counted += sum(each.weights // 256 * 4 for each in inside)
    assert taken == counted
    logits = network.logits(network(*three_rows(config)))
    assert torch.isfinite(logits).all()


def three_rows(config: ModelConfig) -> tuple[Any, ...]:
    """Tokens, positions, and attention that mixes nothing."""
    shared = config.heads // config.kv_heads

    def attend(_layer: int, _query: Any, _key: Any, value: torch.Tensor) -> torch.Tensor:
        return value.repeat_interleave(shared, dim=1)

    return torch.arange(3), torch.arange(3), attend


def written(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text("utf-8"))["sections"]


def test_a_section_that_takes_too_long_leaves_what_it_has(tmp_path: Path) -> None:
    sections = Sections(tmp_path / "gpu.json", {}, 60)
    swallowed: list[str] = []

    def slow() -> Iterator[dict[str, int]]:
        yield {"value": 1}
        try:
            time.sleep(30)
        except Exception:  # as compilers do
            swallowed.append("an alarm")
        yield {"value": 2}

    sections.measure("slow", slow, share=0.005)
    sections.measure("next", lambda: [{"value": 3}])
    first, second = written(tmp_path / "gpu.json")
    assert first["state"] == "cut short"
    assert first["entries"] == [{"value": 1}]
    assert second["state"] == "done"
    assert not swallowed


def test_a_section_that_fails_costs_no_other_its_figures(tmp_path: Path) -> None:
    sections = Sections(tmp_path / "gpu.json", {}, 60)

    def bad() -> Iterator[dict[str, int]]:
        yield {"value": 1}
        assert written(tmp_path / "gpu.json")[0]["entries"] == [{"value": 1}]  # at once
        raise RuntimeError("a kernel")

    sections.measure("bad", bad)
    sections.measure("next", lambda: [{"value": 3}])
    first, second = written(tmp_path / "gpu.json")
    assert (first["state"], first["why"]) == ("failed", "RuntimeError: a kernel")
    assert second["entries"] == [{"value": 3}]


def test_no_section_begins_when_the_time_is_up(tmp_path: Path) -> None:
    sections = Sections(tmp_path / "gpu.json", {}, 0)
    sections.measure("late", lambda: pytest.fail("it began"))
    assert written(tmp_path / "gpu.json")[0]["state"] == "cut short"
    assert not issubclass(OutOfTime, Exception)


def on_a_card(*sections: dict[str, Any]) -> dict[str, Any]:
    conditions = {"kind": "cuda", "device": "NVIDIA H200", "shapes": "8B"}
    common = {"state": "done", "why": "", "seconds": 1.0}
    return {"format": 1, "conditions": conditions, "sections": [common | s for s in sections]}


def test_replays_are_the_published_yields_of_the_mode_times_its_forwards() -> None:
    cycles = [
        {"mode": "linear_spec", "length": 32, "cycles_per_second": 50, "forwards_per_second": 100},
        {"mode": "quadratic_spec", "length": 16, "cycles_per_second": 9, "forwards_per_second": 10},
        {"mode": "copy_spec", "length": 16, "cycles_per_second": 9, "forwards_per_second": 10},
    ]
    page = "\n".join(report.to_markdown(on_a_card({"name": "cycles 8B, clear", "entries": cycles})))
    assert "| 50.0 | 100.0 | 273 to 616 |" in page
    assert "| 9.0 | 10.0 | 64 |" in page
    assert "| `copy_spec` | 16 | 9.0 | 10.0 |  |" in page
    assert "**No figure of a card**" not in page
    assert "**published yields, replayed**" in " ".join(page.split())


def test_a_kernel_that_failed_and_one_that_was_tuned_are_told() -> None:
    timed = {"operation": "swiglu", "case": "8B", "path": "triton", "cold": 0.5, "warm": 0.25,
             "gb_per_s": 3000.0, "of_copy": 0.75, "of_datasheet": 0.625,
             "peer_cold": 1.0}  # fmt: skip
    failed = {"operation": "row_lora", "case": "8B", "path": "triton", "error": "no memory"}
    tuned = {"operation": "swiglu", "case": "8B", "start": {}, "start_ms": 0.5,
             "best": {"block": 2048}, "best_ms": 0.4, "tried": [{}, {}]}  # fmt: skip
    page = "\n".join(
        report.to_markdown(
            on_a_card(
                {"name": "kernels", "entries": [timed, failed]},
                {"name": "tuning", "entries": [tuned]},
            )
        )
    )
    assert "| swiglu | 8B | triton | 0.5000 | 0.2500 | 3,000 | 75% | 62% | 1.0000 |" in page
    assert "no memory" in page
    assert "| swiglu | 8B | as it is | 0.5000 | block 2048 | 0.4000 | 2 |" in page


def test_the_plot_has_the_floor_of_a_known_card(tmp_path: Path) -> None:
    steps = [
        {"rows": rows, "context": 304, "milliseconds": 4.0, "of_copy": 0.8, "floor_ms": 3.3}
        for rows in (1, 8)
    ]
    content = on_a_card({"name": "steps 8B", "entries": steps})
    report.plot(tmp_path / "gpu.svg", content)
    with_floor = (tmp_path / "gpu.svg").read_text("utf-8")
    for step in steps:
        step["floor_ms"] = None
    report.plot(tmp_path / "gpu.svg", content)
    assert len(with_floor) > len((tmp_path / "gpu.svg").read_text("utf-8"))
    assert "no figure of a card" not in with_floor


def test_real_shapes_are_asked_for_in_the_order_of_their_worth() -> None:
    options = command._parser().parse_args(["--out", "x"])
    assert options.shapes == [*SHAPES]
    assert options.seconds < 600


@pytest.fixture
def feigned_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that says it is an H200, with small networks in place of two real shapes."""
    bundled = to_row(Condition(1, is_busy=False), "ar", [TIMED], [TIMED])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(command, "device_of", lambda _: CPU)
    monkeypatch.setattr(command, "card_state", lambda: {"driver_version": "1.2"})
    monkeypatch.setattr(command, "SHAPES", dict(zip(NAMES, TINY.values(), strict=True)))
    monkeypatch.setattr(command, "ROWS", (1,))
    monkeypatch.setattr(command, "CONTEXTS", (24,))
    monkeypatch.setattr(command, "Shape", partial(Shape, tokens=6))
    monkeypatch.setattr(command, "held_out_holes", lambda corpus, count: [])
    monkeypatch.setattr(command, "measure", lambda *_: ([bundled], None))
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **_: plain(f, backend="eager"))


NAMES = ("8B", "qwen 0.5B")  # real ones, of small networks
TIMED = Timed(mode="ar", tokens=9, decided=8, cycles=9, forwards=8, rows=8, seconds=2.0, text="",
              is_exact=True)  # fmt: skip


@pytest.mark.usefixtures("feigned_card")
def test_a_run_on_a_card_takes_the_same_way(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--operations", "rms_norm", "--seconds", "300"]) == 0
    assert (tmp_path / "roofline.md").is_file()
    content = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    states = {each["name"]: (each["state"], each["why"]) for each in content["sections"]}
    assert set(states.values()) == {("done", "")}, states
    assert {"bundled", "peers qwen 0.5B", "cycles 8B, clear"} <= states.keys()
    kernels = entries(content, "kernels")
    assert {each["case"] for each in kernels} == {"8B, a block", "8B, prefill"}
    assert all(each["of_datasheet"] > 0 for each in kernels)
    (step,) = entries(content, "steps 8B, clear")
    assert step["floor_ms"] > 0
    page = (tmp_path / "gpu.md").read_text("utf-8")
    assert "device NVIDIA H200" in page
    assert "driver_version 1.2" in page
    assert "**No figure of a card**" not in page
    assert "| ar | 4 | 1.00 | 1.00 | 100% |" in page
    assert "published, replayed" in page


@pytest.mark.usefixtures("feigned_card")
def test_a_shape_that_does_not_fit_costs_no_other_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = command.Weights

    def weights(config: ModelConfig, *rest: Any) -> Weights:
        if config.mask_id is not None:
            raise MemoryExhausted("too large", param="sizes")
        return plain(config, *rest)

    monkeypatch.setattr(command, "Weights", weights)
    for part in ("time_cycles", "profile", "time_peers"):
        monkeypatch.setattr(command.networks, part, lambda *_: iter(()))
    assert main(["--out", str(tmp_path), "--operations", "rms_norm", "--seconds", "200"]) == 0
    states = {each["name"]: each["state"] for each in written(tmp_path / "gpu.json")}
    assert states["weights 8B"] == "failed"
    assert "steps 8B, clear" not in states
    assert states["steps qwen 0.5B, clear"] == states["peers qwen 0.5B"] == "done"


def test_nvidia_smi_tells_the_cards_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[0] == "nvidia-smi"
        said = "580.1, 700.00 W, 1980 MHz, 3201 MHz, 41\n"
        return subprocess.CompletedProcess(command, 0, stdout=said)

    monkeypatch.setattr(subprocess, "run", run)
    found = card_state()
    assert found["driver_version"] == "580.1"
    assert found["power.limit"] == "700.00 W"

    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert card_state() == {}
