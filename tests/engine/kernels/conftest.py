"""What the kernels' tests share: Triton's interpreter, mended, or the card where there is one.

On Linux x86-64 the development extra brings Triton. Elsewhere these tests are left out; `make gpu`
fails without it. Triton 3.6's interpreter, not its compiler, needs numpy below 2.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from tests.engine.seeded import DEVICE

if DEVICE.type == "cuda" or find_spec("triton") is not None:
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle
else:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def mended_interpreter() -> Iterator[pytest.MonkeyPatch]:
    """Makes the interpreter compute in bf16 as a card does (`mend`); `undo` takes that back."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            mend(patch)
        yield patch


def mend(patch: pytest.MonkeyPatch) -> None:
    """Mends two faults of Triton's interpreter, which knows bf16 as raw 16-bit integers: products
    multiply these integers (here the operands are widened to fp32, which is exact), and fp32 is cut
    off to bf16 instead of being rounded to the nearest (here torch rounds)."""
    product, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = (
            self.cast_impl(each, tl.float32) if each.dtype.scalar == tl.bfloat16 else each
            for each in (a, b)
        )
        return product(self, *wide, *rest)

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar != tl.float32 or target.scalar != tl.bfloat16:
            return cast(self, source, target)
        rounded = torch.tensor(source.data, dtype=torch.float32).bfloat16().view(torch.int16)
        return TensorHandle(rounded.numpy().view("uint16"), tl.bfloat16)

    patch.setattr(InterpreterBuilder, "create_dot", create_dot)
    patch.setattr(InterpreterBuilder, "cast_impl", cast_impl)
