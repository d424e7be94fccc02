"""Int8 weights with one scale per output, and what they mean in torch. Imports no Triton."""

from __future__ import annotations

import torch
from torch import Tensor


def int8_gemm_torch(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """The meaning of `int8_gemm`: the product with the weights multiplied out, in fp32 (or fp64 if
    that is what it is given), rounded once."""
    wide = torch.promote_types(x.dtype, torch.float32)
    out = x.to(wide) @ (weight.to(wide) * scale.to(wide)[:, None]).T
    return (out if bias is None else out + bias.to(wide)).to(x.dtype)
