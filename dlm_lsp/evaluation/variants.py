"""The ways of decoding that an evaluation compares: a mode, a block length and a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlm_lsp.client.messages import BlockBody
from dlm_lsp.evaluation.options import ModeOption
from engine.api import AskedMode


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of decoding.

    Attributes:
        threshold: the confidence threshold of "block"; other modes have none.
        length: the block length in tokens; None means the run's.
    """

    mode: AskedMode
    threshold: float | None = None
    length: int | None = None

    @property
    def label(self) -> str:
        """The variant's name in tables and records."""
        length = "" if self.length is None else f", blocks of {self.length}"
        threshold = "" if self.threshold is None else f" at {self.threshold:g}"
        return self.mode + length + threshold

    def block(self, run: BlockBody) -> BlockBody:
        """Returns the block diffusion options of a request, given the run's."""
        own = {"length": self.length, "threshold": self.threshold}
        return run.model_copy(
            update={name: value for name, value in own.items() if value is not None}
        )


def to_variants(modes: Sequence[ModeOption], thresholds: Sequence[float]) -> list[Variant]:
    """Returns every mode once, or "block" once for each threshold if there are thresholds."""
    variants: list[Variant] = []
    for asked in dict.fromkeys(modes):
        own = sorted(set(thresholds)) if asked.mode == "block" else []
        variants += [Variant(asked.mode, value, asked.length) for value in own or [None]]
    return variants
