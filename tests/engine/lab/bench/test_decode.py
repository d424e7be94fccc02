"""The decoding benchmark: what its figures mean, and a whole small run of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.auto.checkpoint_stats import read_stats
from engine.config import EngineSettings
from engine.lab.bench import decode
from engine.lab.bench.decode import Variant, held_out_holes, measure, near_ties, stats_of
from engine.lab.bench.decode_report import DecodeReport, rows_table, write
from engine.lab.bench.decode_rows import Condition, Timed, VariantRow, to_row
from engine.lab.data.corpus import build_corpus
from tests.tiny import write_tiny_checkpoint

CODE = """class Store:
    def __init__(self, path):
        self.path = path
        self.values = {}

    def put(self, name, value):
        self.values[name] = value
        self.values[name] = value
        return value
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    roots = []
    for name in ("click", "shelf"):
        root = tmp_path_factory.mktemp(name)
        text = CODE.replace("Store", name.title()).replace("values", f"{name}_values")
        (root / "a.py").write_text(text * 3, encoding="utf-8")
        project = f'[project]\nname = "{name}"\nlicense = "MIT"\n'
        (root / "pyproject.toml").write_text(project, encoding="utf-8")
        roots.append(root)
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(roots, folder)
    return folder


def test_a_run_measures_every_variant_on_the_same_holes_and_writes_it(corpus: Path, tmp_path: Path):
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint")
    variants = (Variant("ar"), Variant("copy_spec", 8), Variant("block", 8, 0.5), Variant("auto"))
    holes = held_out_holes(corpus, 2)
    rows, curve = measure(checkpoint, holes, Condition(1, is_busy=True), 0.0, variants)

    assert [row.variant for row in rows] == [*(one.label for one in variants), decode.PEER]
    assert {row.holes for row in rows} == {2}, "out of time, yet two holes are always decoded"
    reference = rows[0]
    assert reference.against_ar == 1.0
    assert reference.against_ar_range == (1.0, 1.0)
    assert reference.tokens_per_forward == 1.0
    assert reference.rows_per_forward == 1.0
    assert all(row.tokens_per_second > 0 for row in rows)
    assert rows[1].forwards <= reference.forwards
    assert sum(rows[3].modes.values()) == 2

    parity = near_ties(EngineSettings(checkpoint, device="cpu", threads=1), holes[:1])
    write(tmp_path / "out", DecodeReport({"cpu": "any"}, rows, {"any": curve}, parity))
    stored = json.loads((tmp_path / "out" / "decode.json").read_text("utf-8"))
    assert [row["variant"] for row in stored["rows"]] == [row.variant for row in rows]
    assert stored["step_times"]["any"]["milliseconds"] == list(curve.milliseconds)
    table = (tmp_path / "out" / "decode.md").read_text("utf-8")
    assert all(line in table for line in rows_table(rows))
    for name in ("decode.svg", "steps.svg"):
        assert (tmp_path / "out" / name).read_text("utf-8").lstrip().startswith("<?xml")


def test_the_command_advises_auto_by_what_it_measured(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decode, "VARIANTS", (Variant("ar"), Variant("linear_spec", 32)))
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint")
    out = tmp_path / "out"
    given = ["--checkpoint", checkpoint, "--corpus", corpus, "--out", out, "--advise"]
    given += ["--holes", 1, "--seconds", 0, "--threads", 1]
    assert decode.main([str(one) for one in given]) == 0
    stored = json.loads((out / "decode.json").read_text("utf-8"))
    row = stored["rows"][1]
    stats = read_stats(checkpoint, is_released=False, has_drafter=False)
    assert stats is not None
    assert stats.modes["linear_spec"].tokens_per_forward == pytest.approx(row["tokens_per_forward"])
    assert not stats.block_is_on_par, "nobody measured it"


def test_holes_come_with_their_kinds_in_turn(corpus: Path):
    kinds = [hole.kind for hole in held_out_holes(corpus, 2)]
    assert len(kinds) % 2 == 0
    assert kinds[: len(kinds) // 2] == kinds[len(kinds) // 2 :]
    assert len(set(kinds)) == len(kinds) // 2


def timed(text: str = "a", *, forwards: int, seconds: float, is_exact: bool = False) -> Timed:
    """Nine tokens, of which the prompt brought the first and a forward the end."""
    return Timed("any", 9, 9, forwards + 1, forwards, 3 * forwards, seconds, text, is_exact)


def test_figures_count_what_the_forwards_after_the_prompt_decided():
    reference = [timed(forwards=9, seconds=2.0)] * 4
    spec = [timed(forwards=3, seconds=1.0)] * 3 + [timed("b", forwards=3, seconds=1.0)]
    row = to_row(Condition(1, is_busy=False), "spec", spec, reference)
    assert row.tokens_per_second == 9.0
    assert row.against_ar == 2.0
    assert row.against_ar_range == (2.0, 2.0)
    assert row.tokens_per_forward == 3.0
    assert row.accepted_per_cycle == 3.0
    assert row.rows_per_forward == 3.0
    assert row.same_as_ar == 0.75


@pytest.mark.parametrize(
    ("holes", "exact", "is_on_par"),
    [(200, 100, True), (200, 99, True), (200, 97, False), (50, 25, False)],
)
def test_block_is_on_par_within_a_point_on_enough_holes(holes: int, exact: int, is_on_par: bool):
    def row(name: str, count: int) -> VariantRow:
        done = [timed(forwards=3, seconds=1.0, is_exact=index < count) for index in range(holes)]
        return to_row(Condition(1, is_busy=False), name, done, done)

    assert (
        stats_of([row("ar", holes // 2), row(Variant("block").label, exact)]).block_is_on_par
        is is_on_par
    )
