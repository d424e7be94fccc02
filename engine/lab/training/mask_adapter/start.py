"""An adapter to begin with: a fresh one, or a trained one, optionally at lower ranks.

A lower rank keeps the best approximation of each product of two factors, by its singular values
(Eckart and Young 1936), and shares each singular value equally between both factors, so that both
are trained alike.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import ConfigError
from engine.lab.training.jobs.lora import linears
from engine.lab.training.mask_adapter.adapter import AdapterOptions, MaskAdapter
from engine.model.mask_adapter import MaskAdapterWeights
from engine.model.network import Network

Matrix = NDArray[np.float32]


def trained_adapter(
    network: Network,
    weights: MaskAdapterWeights,
    rank: int | None = None,
    markov_rank: int | None = None,
) -> MaskAdapter:
    """An adapter with the numbers and the draft vocabulary of a trained one.

    Args:
        weights: of an adapter that belongs to the network, as `read_mask_adapter` gives them.
        rank, markov_rank: at most those of the trained adapter; None for the same.

    Raises:
        ConfigError: a rank is larger than that of the trained adapter.
    """
    products = {
        name.replace(".", "/"): weights.factors(f"encoder.layers.{name}")
        for name in linears(network)
    }
    has = len(next(iter(products.values())).down)
    rank = _allowed("rank", rank, has)
    markov_rank = _allowed("markov-rank", markov_rank, weights.before.shape[1])
    options = AdapterOptions(rank, float(rank), len(weights.mask_vectors), markov_rank)
    adapter = MaskAdapter(network, options, weights.draft_ids)
    before, after = lower_rank(weights.before, weights.after, markov_rank)
    copies = [
        (adapter.mask_vectors, weights.mask_vectors),
        (adapter.before, before),
        (adapter.after, after),
    ]
    for key, factors in products.items():
        up, down = lower_rank(factors.up, factors.down, rank)
        copies += [(adapter.lowrank.up[key], up), (adapter.lowrank.down[key], down)]
    with torch.no_grad():
        for parameter, values in copies:
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))
    return adapter


def lower_rank(left: Matrix, right: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """(M, rank) and (rank, N), whose product is the best approximation of left @ right.

    Factors that have this rank already are given back as they are.

    Args:
        left, right: (M, R) and (R, N); R is at least `rank`.
    """
    if right.shape[0] == rank:
        return left, right
    # The product is never formed: with a Markov head it would have 600 million numbers.
    left_basis, left_core = np.linalg.qr(left.astype(np.float64))
    right_basis, right_core = np.linalg.qr(right.T.astype(np.float64))
    columns, values, rows = np.linalg.svd(left_core @ right_core.T, full_matrices=False)
    root = np.sqrt(values[:rank])
    new_left = np.zeros((len(left), rank), np.float32)
    new_right = np.zeros((rank, right.shape[1]), np.float32)
    new_left[:, : len(root)] = left_basis @ (columns[:, :rank] * root)
    new_right[: len(root)] = (root[:, None] * rows[:rank]) @ right_basis.T
    return new_left, new_right


def _allowed(option: str, asked: int | None, has: int) -> int:
    if asked is None or asked <= has:
        return has if asked is None else asked
    raise ConfigError(
        f"--{option} is {asked}, but the adapter of --start-from has {has}.",
        remedy=f"Give {has} or less, or leave --{option} out.",
        param=option,
    )
