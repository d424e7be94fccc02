"""Tries products with quantised matrices before any request meets them.

A driver, a card or a compiler that nobody has tried may multiply something else, or nothing. Then
the weights are loaded anew, multiplied out. What is looked for is plainly wrong: rounding is judged
by the kernels' tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.model.network import Network
from engine.model.quantized_linear import Matrix, QuantizedLinear

_ROWS = (1, 32)  # a decoding step and a block
_OUTPUTS_MAX = 256  # compared, spread over all
_ERROR_MAX = 0.05  # of the norm: far more than bf16's rounding, far less than a wrong block does


@torch.inference_mode()
def fault(network: Network, dtype: torch.dtype, device: torch.device) -> str | None:
    """What is wrong with products of the network's quantised matrices; None if one of each type and
    shape agrees with the matrix multiplied out.

    Args:
        dtype: of the rows.
    """
    tried: set[tuple[str, tuple[int, int]]] = set()
    for name, module in network.named_modules():
        if not isinstance(module, QuantizedLinear):
            continue
        matrix = module.matrix
        if (matrix.kind, matrix.shape) in tried:
            continue
        tried.add((matrix.kind, matrix.shape))
        for rows in _ROWS:
            try:
                error = _error(matrix, rows, dtype, device)
            except Exception as found:  # The boundary: whatever fails, the others serve.
                return f"{name} ({matrix.kind}): {type(found).__name__}: {found}"
            if not error <= _ERROR_MAX:  # also where it is no number
                return f"{name} ({matrix.kind}) is off by {error:.2g} of its product's norm"
    return None


def _error(matrix: Matrix, rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """The distance from the product with the matrix multiplied out, over that product's norm."""
    outputs, width = matrix.shape
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn((rows, width), generator=generator).to(device, dtype)
    step = -(-outputs // _OUTPUTS_MAX)
    ids = torch.arange(0, outputs, step, device=device)
    found = matrix.product(x, None)[:, ids].float()
    wanted: Tensor = x.float() @ matrix.rows(ids, torch.float32).T
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))
