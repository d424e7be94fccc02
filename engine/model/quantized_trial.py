"""Tries products with quantised matrices before any request meets them.

A driver, a card or a compiler that nobody has tried may multiply something else, or nothing. Then
the weights are loaded anew, multiplied out. What is looked for is plainly wrong: rounding is judged
by the kernels' tests.
"""

from __future__ import annotations

import torch

from engine.model.network import Network
from engine.model.quantized_linear import Matrix, QuantizedLinear

_ROWS = (1, 20, 40, 100)  # in tiles of each size, of which most are not full
_OUTPUTS_AT_ONCE = 4096  # that are multiplied out
# How far an entry may be off, by the norm of its output's weights and the bias, which is what such
# a product has on average: far more than bf16's rounding, far less than what wrong weights give.
_ERROR_MAX = 0.05


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
        try:
            error = _error(matrix, dtype, device)
        except Exception as found:  # The boundary: whatever fails, the others serve.
            return f"{name} ({matrix.kind}): {type(found).__name__}: {found}"
        if not error <= _ERROR_MAX:  # also where it is no number
            return f"{name} ({matrix.kind}) is off by {error:.2g} of what it multiplies"
    return None


def _error(matrix: Matrix, dtype: torch.dtype, device: torch.device) -> float:
    """The largest error of an entry, by the norm of its output's weights and its bias."""
    outputs, width = matrix.shape
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn((count, width), generator=generator).to(device, dtype) for count in _ROWS]
    bias = torch.randn(outputs, generator=generator).to(device, dtype)
    found = torch.cat([matrix.product(each, bias) for each in rows])
    states, worst = torch.cat(rows).float(), torch.zeros((), device=device)
    for start in range(0, outputs, _OUTPUTS_AT_ONCE):
        ids = torch.arange(start, min(start + _OUTPUTS_AT_ONCE, outputs), device=device)
        weights = matrix.rows(ids, torch.float32)
        added = bias[ids].float()
        apart = (states @ weights.T + added - found[:, ids].float()).abs()
        # A maximum passes NaN on.
        worst = torch.maximum(worst, (apart / (weights.norm(dim=1) + added.abs())).max())
    return float(worst)
