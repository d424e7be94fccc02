"""Ways of decoding that an evaluation sets side by side: a mode, for "block" with its threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlm_lsp.messages import BlockBody
from engine.api import AskedMode


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of decoding; `threshold` is for "block" alone."""

    mode: AskedMode
    threshold: float | None = None

    @property
    def label(self) -> str:
        """Its name in tables and records."""
        return self.mode if self.threshold is None else f"{self.mode} at {self.threshold:g}"

    def block(self, length: int | None) -> BlockBody:
        """The knobs of block diffusion for a request."""
        if self.threshold is None:
            return BlockBody(length=length)
        return BlockBody(length=length, threshold=self.threshold)


def to_variants(modes: Sequence[AskedMode], thresholds: Sequence[float]) -> list[Variant]:
    """Every mode once; "block" once for each threshold, where there are any."""
    variants: list[Variant] = []
    for mode in dict.fromkeys(modes):
        if mode == "block" and thresholds:
            variants += [Variant(mode, value) for value in sorted(set(thresholds))]
        else:
            variants.append(Variant(mode))
    return variants
