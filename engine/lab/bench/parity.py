"""How often speculative modes emit other tokens than "ar", and whether rounding explains it.

The last bits of a row's logits depend on how many rows are computed with it, so that a mode may
decide a near-tie differently; `engine.lab.verify.modes` judges that. With `Request.exact` the noise
is 0 and no token may differ. All requests are greedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.api import Request
from engine.lab.verify.modes import LOSSLESS, Difference, Runner, first_difference
from engine.model.runner import ModelRunner


@dataclass(frozen=True, slots=True)
class Parity:
    """One mode against "ar" over all requests.

    Attributes:
        noise: the largest difference of a logit in steps of one row and of 32 rows.
        differences: one for each request whose tokens differ, judged by that noise.
    """

    mode: str
    requests: int
    noise: float
    differences: tuple[Difference, ...]

    @property
    def share(self) -> float:
        """The share of the requests whose tokens differ."""
        return len(self.differences) / max(1, self.requests)

    @property
    def is_rounding(self) -> bool:
        """Whether every difference is at a near-tie."""
        return all(difference.is_near_tie for difference in self.differences)


def compare(
    model: ModelRunner, requests: Sequence[Request], modes: Sequence[str] = LOSSLESS
) -> list[Parity]:
    """Decodes every request up to its limit, without its stops, in "ar" and in each mode.

    Args:
        requests: greedy requests, whose own mode does not matter.
    """
    assert all(request.sampling.temperature == 0 for request in requests)
    runner = Runner(model)
    found: dict[str, list[Difference]] = {mode: [] for mode in modes}
    noise = 0.0
    for request in requests:
        free = replace(request, stop=(), stop_token_ids=())
        reference = runner.reference(free)
        noise = max(noise, reference.noise)
        for mode in modes:
            tokens = runner.decode(replace(free, mode=mode)).tokens
            difference = first_difference(tokens, reference)
            if difference is not None:
                found[mode].append(difference)
    return [
        Parity(
            mode, len(requests), noise, tuple(replace(each, noise=noise) for each in found[mode])
        )
        for mode in modes
    ]
