"""The reading of a row: the few numbers that a strategy gets, computed where the row's logits are.

A model returns readings instead of logits, so that a vocabulary's worth of numbers neither leaves
the device nor reaches the code that decides. Readings are plain frozen values. `engine.sampling`
computes them in numpy and `engine.model.readout` in torch, with the same meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

BEST_MAX = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """What decoding needs of one row's logits.

    A draft row of a mask adapter is read otherwise (`engine.drafting`): its token is the likeliest
    of the draft vocabulary, and its probability one over that vocabulary.

    Attributes:
        token: the token that the request's sampling chooses for the row's place (`Step.places`).
            Greedy sampling takes the argmax of the fp32 logits, and the lowest id on ties. The mask
            token is never chosen.
        probability: the token's softmax probability at temperature 1 over the whole vocabulary,
            including the mask token. It serves as the confidence, whatever the sampling.
        best: (token, logit) of the BEST_MAX highest logits without the mask token's, highest first,
            the lowest id first on ties; fewer if the vocabulary is smaller.
        log_sum_exp: the log-sum-exp of all logits including the mask token's, in nats:
            `logit - log_sum_exp` is a token's log probability at temperature 1.
    """

    token: int
    probability: float
    best: tuple[tuple[int, float], ...]
    log_sum_exp: float

    def log_probability(self, token: int) -> float:
        """The natural logarithm of a token's probability at temperature 1, or an upper bound of it
        for a token that is not among the best."""
        logit = next((logit for one, logit in self.best if one == token), self.best[-1][1])
        return logit - self.log_sum_exp
