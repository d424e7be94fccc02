"""The command from sources to an adapter, cut off and continued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import BUNDLED_CHECKPOINT
from engine.lab.training.mask_adapter.__main__ import main
from engine.model.mask_adapter import read_mask_adapter
from engine.model.source import open_checkpoint

_SOURCE = '''def area{0}(width, height):
    """The area of a rectangle, in square metres."""
    if width < 0 or height < 0:
        raise ValueError("a side is negative")
    return width * height


class Box{0}:
    def __init__(self, width, height):
        self.width = width
        self.height = height

    def area(self):
        return area{0}(self.width, self.height)


'''


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for split in ("train", "held_out"):
        text = "".join(_SOURCE.format(index) for index in range(8))
        rows = [{"package": "p", "path": f"{i}.py", "text": text} for i in range(4)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, "utf-8")
    return folder


def test_a_run_that_is_cut_off_goes_on_and_ends_with_an_adapter(
    corpus: Path, tmp_path: Path
) -> None:
    options = ["--checkpoint", str(BUNDLED_CHECKPOINT), "--name", "nano", "--corpus", str(corpus)]
    options += ["--out", str(tmp_path), "--sequences", "4", "--tokens", "12", "--batch", "1"]
    options += ["--held-out", "4"]
    options += ["--rank", "2", "--draft-vocabulary", "512"]
    assert main([*options, "--rows", "512"]) == 0
    written = (tmp_path / "written.npz").stat().st_mtime_ns
    assert main([*options, "--rows", "1536"]) == 0
    assert (tmp_path / "written.npz").stat().st_mtime_ns == written
    lines = (tmp_path / "log.jsonl").read_text("utf-8").splitlines()
    measured = [row for row in map(json.loads, lines) if "held_out_drafts" in row]
    assert [row["tokens"] for row in measured] == [0, 512, 1536]
    source = open_checkpoint(BUNDLED_CHECKPOINT)
    adapter = read_mask_adapter(tmp_path / "adapter", source.config, source.weights)
    assert adapter.name == "nano"
    assert len(adapter.draft_ids) == 512
