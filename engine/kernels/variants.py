"""A kernel with everything that the ahead-of-time compiler has to know. Knows no operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Variant:
    """One compilation of a kernel.

    Attributes:
        name: the operation, the shape and the dtype, for tables.
        kernel: a function that `triton.jit` decorated.
        types: Triton's type of each argument that is no constant, such as "*bf16", "i32", "fp32".
        constants: the values of the kernel's constexpr arguments.
        warps: of 32 threads each, per program.
        stages: iterations of a loop whose loads are in flight at once.
        unaligned: integer arguments that are no multiples of 16. Pointers always are.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, object]
    warps: int
    stages: int
    unaligned: tuple[str, ...] = ()
