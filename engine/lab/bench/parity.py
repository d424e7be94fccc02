"""How often a mode's tokens leave those of "ar" although it should emit the same, and whether
rounding explains it.

A row's logits depend in their last bits on how many rows were computed with it, so a speculative
mode may decide a near-tie otherwise than "ar" does; `engine.lab.verify.modes` judges. With
`Request.exact` the noise is 0 and no token may differ. Greedy; knows neither files nor holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.api import EXACT_MODES, Request
from engine.lab.verify.modes import Difference, Runner, first_difference
from engine.model.runner import ModelRunner

SPECULATIVE = EXACT_MODES[1:]


@dataclass(frozen=True, slots=True)
class Parity:
    """One mode against "ar" over all requests.

    Attributes:
        noise: most that a one-row and a 32-row logit of the same place differed by, anywhere.
        differences: one for each request whose tokens differ, judged by that noise.
    """

    mode: str
    requests: int
    noise: float
    differences: tuple[Difference, ...]

    @property
    def share(self) -> float:
        """Of the requests whose tokens differ."""
        return len(self.differences) / max(1, self.requests)

    @property
    def is_rounding(self) -> bool:
        """Whether every difference is at a near-tie."""
        return all(difference.is_near_tie for difference in self.differences)


def compare(
    model: ModelRunner, requests: Sequence[Request], modes: Sequence[str] = SPECULATIVE
) -> list[Parity]:
    """Decodes every request in "ar" and in each mode, up to its limit (stops are left out).

    Args:
        requests: greedy ones; their own mode does not matter.
        modes: of EXACT_MODES.
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
