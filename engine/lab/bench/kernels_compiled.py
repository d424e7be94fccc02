"""Compiles the kernels ahead of time, without a card, and writes what each takes of a processor.

Needs the `ptxas` and `cuobjdump` that Triton's wheel brings. It is a process of its own: where
Triton interprets (TRITON_INTERPRET), it cannot compile. Knows nothing of speed.

    python -m engine.lab.bench.kernels_compiled --out benchmarks
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

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


def report(architectures: tuple[int, ...] = ARCHITECTURES) -> str:
    """The page `benchmarks/kernels.md`."""
    lines = [
        "# Kernels, compiled ahead of time",
        "",
        "Written by `python -m engine.lab.bench.kernels_compiled --out benchmarks`, without a",
        f"card: Triton {version('triton')} with its own `ptxas` and `cuobjdump`. No figure here is",
        "a time, and no kernel has run on a card yet. What a thread's 255 registers cannot hold is",
        "spilled to local memory; nothing here may be.",
    ]
    for architecture in architectures:
        rows = [
            (
                each.name,
                each.warps,
                each.registers,
                f"{each.shared / 1024:.1f}",
                each.stack,
                each.products,
            )
            for each in measure(architecture)
        ]
        limit = SHARED_KIB_MAX[architecture]
        lines += ["", f"## sm_{architecture} ({limit} KiB of shared memory per program)", ""]
        names = ("kernel", "warps", "registers", "shared KiB", "spilled bytes", "products")
        lines += to_table(names, rows)
    return "\n".join(lines) + "\n"


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
    """Compiles every operation, or those named, and writes the page or prints it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the folder of kernels.md; printed without it")
    parser.add_argument("--architecture", type=int, choices=ARCHITECTURES, action="append")
    arguments = parser.parse_args(argv)
    page = report(tuple(arguments.architecture or ARCHITECTURES))
    if arguments.out is None:
        sys.stdout.write(page)
    else:
        (arguments.out / "kernels.md").write_text(page, "utf-8")


if __name__ == "__main__":
    main()
