"""Computes readings from logits in torch: the counterpart of `engine.sampling` for cards.

No logits leave a card: eleven numbers per row are computed there, and one copy brings them to the
host. All operations work row by row, so that a row's reading does not depend on its neighbours.
Sampling uses the same random numbers as `engine.sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import engine.sampling
from engine.api import Sampling
from engine.drafting import DraftHead
from engine.reading import BEST_MAX, Reading
from engine.step import Step

# Quadratic speculation reads a thousand rows. Their probabilities at once would take as much memory
# as their logits, and the fp64 weights for sampling several times as much.
_ROWS_AT_ONCE = 128


def read(
    logits: Tensor,
    step: Step,
    sampling: Sampling,
    mask_id: int | None,
    drafts: DraftHead | None = None,
) -> tuple[Reading, ...]:
    """One reading per entry of `step.read`, in its order.

    On a CPU numpy computes the readings, in a third of torch's time.

    Args:
        logits: (len(step.read), V) fp32.
        drafts: reads the draft rows of a mask adapter, on the host: of each row, the logits of the
            draft vocabulary are copied there.
    """
    if step.follows:
        assert drafts is not None, "no mask adapter is loaded"
        plain, drafted = drafts.entries(step)
        places = [step.places[entry] for entry in plain]
        readings = _read(logits[plain], places, sampling, mask_id)
        ids = torch.from_numpy(drafts.ids).to(logits.device)
        return drafts.readings(step, readings, logits[drafted][:, ids].cpu().numpy())
    return _read(logits, step.places, sampling, mask_id)


def _read(
    logits: Tensor, places: Sequence[int], sampling: Sampling, mask_id: int | None
) -> tuple[Reading, ...]:
    if logits.device.type == "cpu":
        rows = logits.numpy()
        return engine.sampling.to_readings(rows, places, sampling, mask_id=mask_id)
    return to_readings(logits, places, sampling, mask_id=mask_id)


def to_readings(
    logits: Tensor, places: Sequence[int], sampling: Sampling, *, mask_id: int | None
) -> tuple[Reading, ...]:
    """One reading per row, the same as `engine.sampling.to_readings` except for rounding.

    Args:
        logits: (N, V) fp32, finite, on any device; left unchanged.
        places: the N positions of the chosen tokens (`Step.places`).
        mask_id: the token that is never chosen; None if the checkpoint fills no masks.
    """
    assert len(logits) == len(places)
    if not places:
        return ()
    parts = [
        _packed(
            logits[start : start + _ROWS_AT_ONCE],
            places[start : start + _ROWS_AT_ONCE],
            sampling,
            mask_id,
        )
        for start in range(0, len(places), _ROWS_AT_ONCE)
    ]
    return tuple(map(_reading, torch.cat(parts).tolist()))


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """(N, V) fp64: `engine.sampling.distribution` of each row of the (N, V) logits."""
    weights = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, order = weights.sort(dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
        weights = weights.scatter(1, order, ordered.masked_fill(outside, 0.0))
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights


def _packed(
    logits: Tensor, places: Sequence[int], sampling: Sampling, mask_id: int | None
) -> Tensor:
    """(N, 3 + 2 K) fp64: token, probability, log-sum-exp, K best tokens, their K logits.

    fp64 represents token ids and fp32 numbers exactly, so that one copy to the host is enough.
    """
    probabilities = torch.softmax(logits, dim=-1)
    allowed = logits.clone()
    if mask_id is not None:
        allowed[:, mask_id] = float("-inf")
    drawn = _draw(allowed, places, sampling) if sampling.temperature > 0 else None
    best: list[Tensor] = []
    for _ in range(min(BEST_MAX, logits.shape[1] - (mask_id is not None))):
        best.append(allowed.argmax(dim=-1, keepdim=True))  # the first of equal maxima
        allowed.scatter_(1, best[-1], float("-inf"))
    tokens = best[0] if drawn is None else drawn
    best_tokens = torch.cat(best, dim=-1)
    # Computed from the maximum and its probability: if threads share the work, the sum over a row
    # depends on the number of rows, but softmax does not.
    log_sum_exp = logits.amax(-1, keepdim=True).double()
    log_sum_exp -= probabilities.amax(-1, keepdim=True).double().log()
    return torch.cat(
        (
            tokens.double(),
            probabilities.gather(1, tokens).double(),
            log_sum_exp,
            best_tokens.double(),
            logits.gather(1, best_tokens).double(),
        ),
        dim=-1,
    )


def _reading(packed: list[float]) -> Reading:
    """The reading of one row of `_packed`."""
    token, probability, log_sum_exp, *rest = packed
    count = len(rest) // 2
    best = tuple(zip(map(int, rest[:count]), rest[count:], strict=True))
    return Reading(int(token), probability, best, log_sum_exp)


def _draw(logits: Tensor, places: Sequence[int], sampling: Sampling) -> Tensor:
    """(N, 1) tokens by inverse transform sampling: the first id at which the cumulated probability
    exceeds the place's random number."""
    cumulated = distribution(logits, sampling).cumsum(dim=-1)
    draws = torch.tensor(
        [engine.sampling.uniform(sampling.seed, place) for place in places],
        dtype=torch.float64,
        device=logits.device,
    )
    # Scaled by the last sum, because rounding may leave it slightly different from 1.
    targets = draws[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, targets, right=True)
