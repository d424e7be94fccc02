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

from engine.kernels.blocks import TYPES

ROOT = Path(__file__).parents[3]
ARCHITECTURES = {80: 163, 90: 227, 120: 99}  # and the KiB of shared memory that a program may use


VERSIONS = ("3.6.0", "3.7.1")  # the oldest and the newest Triton that the project allows


def rows_of(page: str, architecture: int) -> dict[str, list[list[str]]]:
    """The cells of one architecture's table by the kernel's name, each as the figures of all
    versions."""
    (section,) = re.findall(rf"^## sm_{architecture} .*?(?=^## |\Z)", page, re.M | re.S)
    cells = [[each.strip() for each in line.split("|")[1:-1]] for line in section.splitlines()]
    return {
        row[0]: [cell.split(" / ") for cell in row[1:]]
        for row in cells
        if len(row) == 6 and row[1].isdigit()
    }


@pytest.fixture(scope="module")
def committed() -> str:
    return (ROOT / "benchmarks" / "kernels.md").read_text("utf-8")


def test_the_committed_page_is_of_both_versions(committed: str) -> None:
    assert f"Triton {' and '.join(VERSIONS)}" in committed
    assert f"a cell has the figure of each: {' / '.join(VERSIONS)}." in committed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_committed_table_has_no_spills(architecture: int, committed: str) -> None:
    rows = rows_of(committed, architecture)
    assert len(rows) > 80
    for name, (_, registers, shared, spilled, _) in rows.items():
        assert all(int(each) <= 255 for each in registers), name
        assert all(float(each) <= ARCHITECTURES[architecture] for each in shared), name
        assert spilled == ["0"], name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_type_of_blocks_is_in_the_table_and_multiplied_by_tensor_cores(
    architecture: int, committed: str
) -> None:
    rows = rows_of(committed, architecture)
    for kind in TYPES:
        for count in (16, 32, 64, 128):
            products = rows[f"block gemm {kind} bf16, {count} rows"][-1]
            is_wide = architecture == 90 and count >= 64
            assert products == ["wgmma" if is_wide else "mma"]


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
    assert all(spilled == ["0"] for *_, spilled, _ in rows.values())
    assert rows["row attention 8B bf16, tile of 128"][-1] == ["wgmma"]
