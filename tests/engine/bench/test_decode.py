"""The decoding benchmark: what its figures mean, and a whole small run of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.bench import decode
from engine.bench.decode import Condition, Timed, Variant, held_out_holes, measure
from engine.bench.decode_report import Report, to_table, write
from engine.training.corpus import build_corpus
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
    variants = (Variant("ar"), Variant("copy_spec", 8), Variant("block", 8, 0.5))
    holes = held_out_holes(corpus, 2)
    rows = measure(checkpoint, holes, Condition(1, is_busy=True), 0.0, variants)

    assert [row.variant for row in rows] == ["ar", "copy_spec 8", "block 8 at 0.5", decode.PEER]
    assert {row.holes for row in rows} == {2}, "out of time, yet two holes are always decoded"
    reference = rows[0]
    assert reference.against_ar == 1.0
    assert reference.against_ar_range == (1.0, 1.0)
    assert reference.tokens_per_forward == 1.0
    assert all(row.tokens_per_second > 0 for row in rows)
    assert rows[1].forwards <= reference.forwards

    write(tmp_path / "out", Report({"cpu": "any"}, rows))
    stored = json.loads((tmp_path / "out" / "decode.json").read_text("utf-8"))
    assert [row["variant"] for row in stored["rows"]] == [row.variant for row in rows]
    table = (tmp_path / "out" / "decode.md").read_text("utf-8")
    assert all(line in table for line in to_table(rows))
    assert (tmp_path / "out" / "decode.svg").read_text("utf-8").lstrip().startswith("<?xml")


def test_holes_come_with_their_kinds_in_turn(corpus: Path):
    kinds = [hole.kind for hole in held_out_holes(corpus, 2)]
    assert len(kinds) % 2 == 0
    assert kinds[: len(kinds) // 2] == kinds[len(kinds) // 2 :]
    assert len(set(kinds)) == len(kinds) // 2


def test_figures_count_what_lies_behind_the_first_token():
    reference = [Timed(tokens=9, cycles=9, forwards=8, seconds=2.0, text="a")] * 4
    twice = [Timed(tokens=9, cycles=3, forwards=4, seconds=1.0, text="a")] * 3
    other = Timed(tokens=9, cycles=3, forwards=4, seconds=1.0, text="b")
    row = decode._row(Condition(1, is_busy=False), "spec", [*twice, other], reference)
    assert row.tokens_per_second == 8.0
    assert row.against_ar == 2.0
    assert row.against_ar_range == (2.0, 2.0)
    assert row.tokens_per_forward == 2.0
    assert row.accepted_per_cycle == 4.0
    assert row.same_as_ar == 0.75
