"""The records of the rows that are read, on the device: a few numbers each, in one block.

A record is what a reading holds (`engine.reading`): token, probability, log-sum-exp, best tokens,
their logits; in fp64, which represents token ids and fp32 numbers exactly. Draft rows of a mask
adapter are read as `engine.drafting` reads them. Greedy sampling only: what is drawn needs whole
distributions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.kernels.head_reading import NO_TOKEN, head_reading, logits_reading
from engine.model.captured.weights import DraftWeights, Weights, dense
from engine.reading import BEST_MAX, Reading
from engine.step import PLAIN


def columns_of(weights: Weights) -> int:
    """The numbers of a record: 3 + 2 K."""
    return 3 + 2 * _best(weights)


def records_of(hidden: Tensor, weights: Weights, follows: Tensor, depth: int) -> Tensor:
    """(N, 3 + 2 K) fp64.

    Args:
        hidden: (N, hidden), of the rows that are read.
        follows: (N,) int32, as `Step.follows`; read only if there are draft rows.
        depth: as `Bucket.draft_depth`.
    """
    mask_id = NO_TOKEN if weights.config.mask_id is None else weights.config.mask_id
    nothing, best, logits = torch.full_like(follows, NO_TOKEN), _best(weights), None
    if isinstance(weights.head, Tensor):
        found = head_reading(hidden, weights.head, nothing, mask_id=mask_id, best=best)
    else:
        logits = weights.head(hidden)
        found = logits_reading(logits, nothing, mask_id, best)
    plain = _record(found.tokens, found.logits.double(), found.log_sum_exp.double())
    if not depth:
        return plain
    assert weights.drafts is not None, "no mask adapter is loaded"
    if weights.drafts.head is not None:
        scores = dense(weights.drafts.head, None)(hidden)
    else:
        assert logits is not None
        scores = logits.index_select(1, weights.drafts.ids)
    first = found.tokens[:, 0].long()
    drafted = _drafted(scores.float(), weights.drafts, first, follows, depth)
    width = plain.shape[1]
    return torch.where((follows != PLAIN)[:, None], _widened(drafted, width), plain)


def to_readings(records: Tensor) -> tuple[Reading, ...]:
    """The readings of records (N, 3 + 2 K) on the host."""
    return tuple(map(_reading, records.tolist()))


def _best(weights: Weights) -> int:
    return min(BEST_MAX, weights.config.vocabulary - (weights.config.mask_id is not None))


def _record(tokens: Tensor, logits: Tensor, log_sum_exp: Tensor) -> Tensor:
    """(N, 3 + 2 K) of the best tokens (N, K), their logits and the log-sum-exps (N,) in fp64."""
    first = logits[:, :1] - log_sum_exp[:, None]
    return torch.cat(
        (tokens[:, :1].double(), first.exp(), log_sum_exp[:, None], tokens.double(), logits), dim=1
    )


def _drafted(
    logits: Tensor, weights: DraftWeights, tokens: Tensor, follows: Tensor, depth: int
) -> Tensor:
    """(N, 3 + 2 K) fp64, of which the rows that draft are meant.

    The token before a draft may be a draft itself, so that the first ones are known after one
    round, and those that follow from them after another.

    Args:
        logits: (N, D) fp32, over the draft vocabulary.
        tokens: (N,) int64, the tokens of the rows that do not draft.
    """
    is_draft, before = follows != PLAIN, follows.clamp(min=0)
    scores = logits
    for _ in range(depth):
        previous = tokens.index_select(0, before)
        bias = weights.before.index_select(0, weights.place[previous]) @ weights.after
        scores = logits + bias
        tokens = torch.where(is_draft, weights.ids[scores.argmax(dim=-1)], tokens)
    log_sum_exp = scores.logsumexp(dim=-1).double()
    places: list[Tensor] = []
    values: list[Tensor] = []
    for _ in range(min(BEST_MAX, len(weights.ids))):
        places.append(scores.argmax(dim=-1, keepdim=True))  # the first of equal maxima
        values.append(scores.gather(1, places[-1]))
        scores = scores.scatter(1, places[-1], -math.inf)
    best = weights.ids[torch.cat(places, dim=1)]
    return _record(best, torch.cat(values, dim=1).double(), log_sum_exp)


def _widened(record: Tensor, width: int) -> Tensor:
    """The record with as many best tokens as the others have; those that it lacks have a logit of
    minus infinity."""
    count, wanted = (record.shape[1] - 3) // 2, (width - 3) // 2
    if count >= wanted:
        tokens, logits = record[:, 3 : 3 + wanted], record[:, 3 + count : 3 + count + wanted]
        return torch.cat((record[:, :3], tokens, logits), dim=1)
    lacking = record.new_zeros((len(record), wanted - count))
    parts = (record[:, : 3 + count], lacking, record[:, 3 + count :], lacking - math.inf)
    return torch.cat(parts, dim=1)


def _reading(record: list[float]) -> Reading:
    token, probability, log_sum_exp, *rest = record
    count = len(rest) // 2
    pairs = zip(map(int, rest[:count]), rest[count:], strict=True)
    best = tuple((one, logit) for one, logit in pairs if logit != -math.inf)
    return Reading(int(token), probability, best, log_sum_exp)
