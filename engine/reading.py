"""What a strategy reads of a row: a few numbers, computed where the row's logits are.

A model hands these out instead of logits, so that a vocabulary's worth of numbers neither leaves
the device nor reaches the code that decides. Plain frozen values; `engine.sampling` computes them
in numpy, `engine.model.readout` in torch, and both mean the same.
"""

from __future__ import annotations

from dataclasses import dataclass

BEST_MAX = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """One row's logits as far as decoding needs them.

    Attributes:
        token: chosen for the row's place (`Step.places`) by the request's sampling. Greedy: the
            argmax of the fp32 logits, the lowest id on ties. Never the mask token.
        probability: the token's softmax probability at temperature 1 over the whole vocabulary; the
            mask token stays in the denominator. It is the confidence, whatever the sampling.
        best: the BEST_MAX tokens of the highest logits and these logits, highest first, lowest id
            first on ties, the mask token left out; fewer where the vocabulary has fewer.
        log_sum_exp: of all logits, the mask token's included, in nats: `logit - log_sum_exp` is a
            token's log probability at temperature 1.
    """

    token: int
    probability: float
    best: tuple[tuple[int, float], ...]
    log_sum_exp: float
