"""The whole command on a small source tree: every stage leaves its piece, and a second run none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import EngineSettings
from engine.engine import Engine
from engine.lab.training.__main__ import main
from engine.lab.training.recipe import PRESETS, Recipe, Shape
from engine.lab.verify.examination import examine

TINY = Recipe(
    Shape(hidden=64, intermediate=64, layers=1, heads=2, kv_heads=1, vocabulary=320),
    learning_rate=5e-3,
    batch_tokens=600,
    batches=1,
    minutes=1,
    warmup_steps=5,
)


def install(site: Path, name: str) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = [f"def {name}_{i}(value, other):\n    return value + other * {i}\n" for i in range(12)]
    (site / f"{name}.py").write_text("\n\n".join(lines))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nLicense: MIT\n")
    (info / "RECORD").write_text(f"{name}.py,,\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source tree; the runs only read it."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("alpha", "beta", "click"):
        install(folder, name)
    return folder


@pytest.fixture(autouse=True, scope="module")
def tiny_preset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINY)
        yield


@pytest.fixture(scope="module")
def finished_run(site: Path, tiny_preset: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has ended. Whoever writes there takes a copy."""
    folder = tmp_path_factory.mktemp("finished")
    assert command(site, folder) == 0
    return folder


def command(site: Path, out: Path, *more: str, holes: int = 0) -> int:
    fixed = ["--preset", "tiny", "--dtype", "float32", "--tokens", "9000", "--holes", str(holes)]
    return main([*fixed, "--corpus", str(site), "--out", str(out), *more])


@pytest.mark.parametrize("name", ["nano", "small"])
def test_one_command_makes_a_model_that_the_engine_loads(
    name: str, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shrunk = replace(PRESETS[name], shape=TINY.shape, batch_tokens=600, batches=1, warmup_steps=5)
    monkeypatch.setitem(PRESETS, "tiny", shrunk)
    out = tmp_path / "run"
    assert command(site, out, "--workers", "1" if name == "small" else "0", holes=1) == 0
    checkpoint = out / "checkpoint"
    engine = Engine.load(EngineSettings(checkpoint=checkpoint, device="cpu"))
    try:
        assert engine.tokenizer.infill is not None
        assert engine.info.vocabulary == engine.tokenizer.size
    finally:
        engine.close()
    record = json.loads((checkpoint / "config.json").read_text("utf-8"))["training"]
    assert record["tokens"] >= 9000
    assert 0 < record["joint_tokens"] < record["tokens"]
    card = (checkpoint / "README.md").read_text("utf-8")
    for fact in ("alpha", "click (MIT)", "whole line", "block", f"{record['held_out_ar']:.3f}"):
        assert fact in card
    assert str(tmp_path) not in card


def test_stages_stop_where_asked_and_finished_pieces_are_kept(site: Path, tmp_path: Path):
    out = tmp_path / "run"
    made = ["corpus/manifest.json", "tokenizer.json", "state.pt", "checkpoint/README.md"]
    expected = {"corpus": 1, "tokenizer": 2, "ar": 3, "joint": 3, "export": 4}
    before: dict[str, int] = {}
    for stage, count in expected.items():
        assert command(site, out, "--stage", stage) == 0
        stamps = {name: (out / name).stat().st_mtime_ns for name in made if (out / name).exists()}
        assert len(stamps) == count
        kept = [name for name in made[:2] if name in before]
        assert all(stamps[name] == before[name] for name in kept)
        before = stamps
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    ends = [row for row in rows if "held_out_ar" in row]
    # The ar stage ended before a joint row was trained; the joint stage went on from there.
    assert [row["joint_tokens"] for row in ends[:2]] == [0, 0]
    assert ends[-1]["joint_tokens"] > 0
    assert len(ends) == 3, "at the start, and at the end of each stage"


def test_a_run_goes_on_from_a_checkpoints_weights_and_tokenizer(
    site: Path, finished_run: Path, tmp_path: Path
):
    first, second = finished_run, tmp_path / "second"
    assert command(site, second, "--from", str(first / "checkpoint"), "--stage", "joint") == 0
    tokenizers = [(folder / "tokenizer.json").read_bytes() for folder in (first, second)]
    assert tokenizers[0] == tokenizers[1]

    def held_out(folder: Path) -> float:
        lines = (folder / "log.jsonl").read_text("utf-8").splitlines()
        return json.loads(lines[-1])["held_out_ar"]

    rows = [json.loads(line) for line in (second / "log.jsonl").read_text("utf-8").splitlines()]
    assert rows[-1]["joint_tokens"] > 0.8 * rows[-1]["tokens"]
    # As many tokens again from those weights on: from fresh ones it would end where the first did.
    assert held_out(second) < held_out(first)


def test_a_model_is_exported_as_int8_and_what_that_costs_is_stated(
    site: Path, finished_run: Path, tmp_path: Path
):
    out = Path(shutil.copytree(finished_run, tmp_path / "run"))
    checkpoint = out / "checkpoint"
    whole = (checkpoint / "model.safetensors").stat().st_size
    assert json.loads((checkpoint / "config.json").read_text("utf-8"))["training"]["stored"] is None
    assert "Weights are bf16." in (checkpoint / "README.md").read_text("utf-8")

    assert command(site, out, "--weights", "int8") == 0
    size = (checkpoint / "model.safetensors").stat().st_size
    assert 0.5 * whole < size < 0.6 * whole
    record = json.loads((checkpoint / "config.json").read_text("utf-8"))["training"]
    assert record["weights"] == "int8"
    bf16, int8 = record["stored"]["bf16"], record["stored"]["int8"]
    # Measured on what the log's last line is of, in fp32: rounding alone is between them.
    for kind, limit in (("bf16", 0.005), ("int8", 0.05)):
        for loss in ("ar", "diffusion"):
            stored = record["stored"][kind][loss]
            assert stored == pytest.approx(record[f"held_out_{loss}"], abs=limit)
    assert (bf16["ar"], bf16["diffusion"]) != (int8["ar"], int8["diffusion"])
    assert (bf16["bytes"], int8["bytes"]) == pytest.approx((whole, size), rel=0.01)
    card = (checkpoint / "README.md").read_text("utf-8")
    assert "stored as int8" in card
    assert f"| int8 | {int8['ar']:.4f} | {int8['diffusion']:.4f} |" in card

    sections = list(examine(EngineSettings(checkpoint, device="cpu", threads=1), 2))
    assert all(section.is_ok for section in sections)
    # And a run goes on from it.
    again = tmp_path / "again"
    assert command(site, again, "--from", str(checkpoint), "--stage", "joint") == 0


def test_a_wrong_source_tree_ends_with_its_name_and_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "nothing").mkdir()
    assert command(tmp_path / "nothing", tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "nothing is no source tree" in error
    assert "Give" in error
