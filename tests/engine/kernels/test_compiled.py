"""The kernels compile for a card without spilling, and the committed table says the same.

In a process of its own, since one that interprets kernels cannot compile them. Needs no card.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ARCHITECTURES = {80: 163, 90: 227, 120: 99}  # and the KiB of shared memory that a program may use


def rows_of(page: str, architecture: int) -> dict[str, list[str]]:
    """The cells of one architecture's table, by the kernel's name."""
    (section,) = re.findall(rf"^## sm_{architecture} .*?(?=^## |\Z)", page, re.M | re.S)
    cells = [[each.strip() for each in line.split("|")[1:-1]] for line in section.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) == 6 and row[1].isdigit()}


@pytest.fixture(scope="module")
def committed() -> str:
    return (ROOT / "benchmarks" / "kernels.md").read_text("utf-8")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_committed_table_has_no_spills(architecture: int, committed: str) -> None:
    rows = rows_of(committed, architecture)
    assert len(rows) > 20
    for name, (_, registers, shared, spilled, _) in rows.items():
        assert int(registers) <= 255, name
        assert float(shared) <= ARCHITECTURES[architecture], name
        assert spilled == "0", name


@pytest.mark.slow
def test_compiling_again_spills_nothing_and_gives_the_table(committed: str) -> None:
    """For Hopper. Registers may differ by version, so only their names and spills are compared."""
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "engine.lab.bench.kernels_compiled", "--architecture", "90"]
    done = subprocess.run(
        command,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    rows = rows_of(done.stdout, 90)
    assert rows.keys() == rows_of(committed, 90).keys()
    assert {spilled for *_, spilled, _ in rows.values()} == {"0"}
    products = {name: cells[-1] for name, cells in rows.items()}
    assert products["row attention 8B bf16, tile of 128"] == "wgmma"
