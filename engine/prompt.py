"""How an infilling prompt is put together: the one place that training and serving share.

    <s> [FAR] far suffix [PREFIX] prefix [NEAR] near suffix [MIDDLE] → middle [EOM]

The far suffix comes first because it changes least while typing; the near suffix is cut anew at
each request and stands last. Pieces are tokenised separately, so that a cut inside a word is seen
in training exactly as in serving and needs no token healing. Torch-free; knows no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BEGIN, END, MASK = "<s>", "</s>", "[MASK]"
FAR, PREFIX, NEAR, MIDDLE, END_OF_MIDDLE = "[FAR]", "[PREFIX]", "[NEAR]", "[MIDDLE]", "[EOM]"
# The order fixes the ids in tokenizers that we train: id 0 is padding.
SPECIAL_TOKENS = ("<pad>", BEGIN, END, MASK, FAR, PREFIX, NEAR, MIDDLE, END_OF_MIDDLE)


@dataclass(frozen=True, slots=True)
class InfillFormat:
    """Token ids of the layout above, for a checkpoint trained with it."""

    begin: int
    far: int
    prefix: int
    near: int
    middle: int
    end_of_middle: int

    @property
    def overhead(self) -> int:
        """Marker tokens in a prompt besides its three pieces."""
        return 5

    def prompt(
        self, far: Sequence[int], prefix: Sequence[int], near: Sequence[int]
    ) -> tuple[int, ...]:
        """The prompt whose continuation is the middle; any piece may be empty."""
        return (
            self.begin,
            self.far,
            *far,
            self.prefix,
            *prefix,
            self.near,
            *near,
            self.middle,
        )
