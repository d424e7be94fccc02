"""Compiles the kernels ahead of time, without a card, and writes what each takes of a processor.

Needs the `ptxas` and `cuobjdump` that Triton's wheel brings. It is a process of its own: where
Triton interprets (TRITON_INTERPRET), it cannot compile. Knows nothing of speed.

    python -m engine.lab.bench.kernels_compiled --out benchmarks

Kernels have to compile with each Triton that the project allows. Another one than the installed is
put into a folder of its own, and compiles in a process of its own:

    pip install --no-deps --target FOLDER 'triton==3.6.0'
    python -m engine.lab.bench.kernels_compiled --triton FOLDER --out benchmarks
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.kernels.variants import Variant
from engine.lab.tables import to_table

OPERATIONS = (
    "row_attention",
    "head_reading",
    "rms_norm",
    "rotary_write",
    "swiglu",
    "skinny_gemm",
    "int8_gemm",
    "block_gemm",
    "row_lora",
    "tile_attention",
)
ARCHITECTURES = (80, 90, 120)
# Shared memory that a program may use, in KiB (CUDA C++ Programming Guide, compute capabilities).
SHARED_KIB_MAX = {80: 163, 90: 227, 120: 99}


@dataclass(frozen=True, slots=True)
class Resources:
    """What one compiled kernel takes.

    Attributes:
        registers: per thread.
        shared: bytes per program.
        stack: bytes per thread in local memory: what is spilled.
        products: the instructions that multiply matrices, "wgmma" or "mma", or none.
    """

    name: str
    registers: int
    shared: int
    stack: int
    warps: int
    products: str


def compile_variant(variant: Variant, architecture: int) -> Resources:
    """Compiles one variant for one architecture, and reads what `cuobjdump` says of it."""
    names = variant.kernel.arg_names
    assert {*variant.types, *variant.constants} == {*names}, variant.name
    signature = {name: variant.types.get(name, "constexpr") for name in names}
    aligned = [
        index
        for index, name in enumerate(names)
        if signature[name].startswith("*")
        or (signature[name].startswith("i") and name not in variant.unaligned)
    ]
    source = ASTSource(
        fn=variant.kernel,
        signature=signature,
        constexprs=dict(variant.constants),
        attrs={(index,): [["tt.divisibility", 16]] for index in aligned},
    )
    target = GPUTarget("cuda", architecture, 32)
    options = {"num_warps": variant.warps, "num_stages": variant.stages}
    compiled = triton.compile(source, target=target, options=options)
    ptx = str(compiled.asm["ptx"])
    products = "wgmma" if "wgmma" in ptx else "mma" if "mma.sync" in ptx else "none"
    usage = _usage(bytes(compiled.asm["cubin"]))
    shared = max(usage["SHARED"], int(compiled.metadata.shared))
    stack = usage["STACK"] + usage["LOCAL"]
    return Resources(variant.name, usage["REG"], shared, stack, variant.warps, products)


def measure(architecture: int, operations: tuple[str, ...] = OPERATIONS) -> list[Resources]:
    """Every variant of these operations, compiled for one architecture."""
    modules = (import_module(f"engine.kernels.{name}") for name in operations)
    return [
        compile_variant(variant, architecture)
        for module in modules
        for variant in module.variants(architecture)
    ]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What one Triton made of every variant, by architecture."""

    version: str
    resources: dict[int, list[Resources]]

    @classmethod
    def here(cls, architectures: Sequence[int]) -> Compiled:
        """By the Triton of this process."""
        return cls(version("triton"), {each: measure(each) for each in architectures})

    @classmethod
    def by(cls, folder: Path, architectures: Sequence[int]) -> Compiled:
        """By the Triton in a folder, in a process that finds it before the installed one."""
        wanted = [part for each in architectures for part in ("--architecture", str(each))]
        command = [sys.executable, "-m", "engine.lab.bench.kernels_compiled", "--json", *wanted]
        paths = [str(folder.resolve()), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
        return cls.of(json.loads(told))

    @classmethod
    def of(cls, told: dict[str, Any]) -> Compiled:
        """From what `told` gives."""
        resources = {
            int(architecture): [Resources(**each) for each in found]
            for architecture, found in told["resources"].items()
        }
        return cls(told["version"], resources)

    def told(self) -> dict[str, Any]:
        """As JSON's values."""
        return asdict(self)


def page(compiled: Sequence[Compiled]) -> str:
    """The page `benchmarks/kernels.md`. Where versions differ, a cell has the figure of each."""
    versions = " and ".join(each.version for each in compiled)
    lines = [
        "# Kernels, compiled ahead of time",
        "",
        "Written by `python -m engine.lab.bench.kernels_compiled --out benchmarks`, without a",
        f"card: Triton {versions}, each with its own `ptxas` and `cuobjdump`. No figure here is",
        "a time, and no kernel has run on a card yet. What a thread's 255 registers cannot hold is",
        "spilled to local memory; nothing here may be.",
    ]
    if len(compiled) > 1:
        order = " / ".join(each.version for each in compiled)
        lines += ["", f"Where the versions differ, a cell has the figure of each: {order}."]
    for architecture in compiled[0].resources:
        rows = [
            (kernels[0].name, *map(_cell, zip(*map(_figures, kernels), strict=True)))
            for kernels in zip(*(each.resources[architecture] for each in compiled), strict=True)
        ]
        limit = SHARED_KIB_MAX[architecture]
        lines += ["", f"## sm_{architecture} ({limit} KiB of shared memory per program)", ""]
        names = ("kernel", "warps", "registers", "shared KiB", "spilled bytes", "products")
        lines += to_table(names, rows)
    return "\n".join(lines) + "\n"


def _figures(found: Resources) -> tuple[str, ...]:
    shared = f"{found.shared / 1024:.1f}"
    return str(found.warps), str(found.registers), shared, str(found.stack), found.products


def _cell(figures: tuple[str, ...]) -> str:
    """The figures of all versions, once if they are the same."""
    return figures[0] if len(set(figures)) == 1 else " / ".join(figures)


def _usage(cubin: bytes) -> dict[str, int]:
    """REG, STACK, SHARED, LOCAL and so on of the one kernel in a cubin."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", told)}


def main(argv: list[str] | None = None) -> None:
    """Compiles every operation, and writes the page or prints it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the folder of kernels.md; printed without it")
    parser.add_argument("--architecture", type=int, choices=ARCHITECTURES, action="append")
    parser.add_argument(
        "--triton", type=Path, action="append", default=[], metavar="FOLDER",
        help="another Triton that compiles too, as pip installs it with --target",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args(argv)
    architectures = arguments.architecture or ARCHITECTURES
    compiled = Compiled.here(architectures)
    if arguments.json:
        json.dump(compiled.told(), sys.stdout)
        return
    others = [Compiled.by(folder, architectures) for folder in arguments.triton]
    text = page([*others, compiled])
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        (arguments.out / "kernels.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
