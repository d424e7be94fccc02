"""The ways of decoding that an evaluation compares: a mode, a block length and a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dlm_lsp.client.messages import BlockBody
from dlm_lsp.evaluation.options import ModeOption
from engine.api import AskedMode


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of decoding.

    Attributes:
        threshold: the confidence threshold of "block"; other modes have none.
        length: the block length in tokens; None means the run's.
        confidence: the setting `silence.confidence` of a replay; None means the default.
    """

    mode: AskedMode
    threshold: float | None = None
    length: int | None = None
    confidence: float | None = None

    @property
    def label(self) -> str:
        """The variant's name in tables and records."""
        length = "" if self.length is None else f", blocks of {self.length}"
        threshold = "" if self.threshold is None else f" at {self.threshold:g}"
        sure = "" if self.confidence is None else f", sure to {self.confidence:g}"
        return self.mode + length + threshold + sure

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


def with_confidences(variants: Sequence[Variant], confidences: Sequence[float]) -> list[Variant]:
    """Returns every variant once for each confidence, or unchanged if there are none."""
    if not confidences:
        return list(variants)
    values = sorted(set(confidences))
    return [replace(variant, confidence=value) for variant in variants for value in values]
