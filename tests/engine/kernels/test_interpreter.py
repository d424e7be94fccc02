"""Triton's interpreter, mended: without the mending its results in bf16 say nothing of a card's."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from tests.engine.seeded import DEVICE

pytestmark = pytest.mark.skipif(DEVICE.type != "cpu", reason="about the interpreter")


@triton.jit
def _product_kernel(left, right, out, SIZE: tl.constexpr):
    row, column = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    cell = row * SIZE + column
    product = tl.dot(tl.load(left + cell), tl.load(right + cell))
    tl.store(out + cell, product.to(out.dtype.element_ty))


def product(out_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn((2, 16, 16), generator=generator).bfloat16().unbind()
    out = torch.empty((16, 16), dtype=out_dtype)
    _product_kernel[(1,)](left, right, out, SIZE=16)
    return out, left.float() @ right.float()


def test_products_of_bf16_are_products() -> None:
    torch.testing.assert_close(*product(torch.float32))


def test_bf16_is_rounded_to_the_nearest() -> None:
    ours, exact = product(torch.bfloat16)
    assert (ours == exact.bfloat16()).float().mean() > 0.95  # the sums' order differs
    assert (ours.float() - exact).abs().mean() < 1.1 * (exact.bfloat16() - exact).abs().mean()


def test_without_the_mending_both_are_wrong(mended_interpreter: pytest.MonkeyPatch) -> None:
    """When this fails, Triton has repaired them, and the mending can go."""
    mended_interpreter.undo()
    ours, exact = product(torch.float32)
    assert not torch.allclose(ours, exact, atol=1.0)
    values = torch.full((16, 16), 1 + 0.75 * 2**-7)  # nearer to 1 + 2^-7 than to 1
    out = torch.empty((16, 16), dtype=torch.bfloat16)
    _product_kernel[(1,)](values, torch.eye(16), out, SIZE=16)
    assert (out == 1.0).all()
