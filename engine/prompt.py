"""How an infilling prompt is put together: the one place that training and serving share.

Checkpoints of ours are trained with

    <s> [FAR] far suffix [PREFIX] prefix [NEAR] near suffix [MIDDLE] → middle [EOM]

The far suffix comes first because it changes least while typing; the near suffix is cut anew at
each request and stands last. Pieces are tokenised separately, so that a cut inside a word is seen
in training exactly as in serving and needs no token healing. Checkpoints trained with ordinary
sentinels get those. Torch-free; knows no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BEGIN, END, MASK = "<s>", "</s>", "[MASK]"
FAR, PREFIX, NEAR, MIDDLE, END_OF_MIDDLE = "[FAR]", "[PREFIX]", "[NEAR]", "[MIDDLE]", "[EOM]"
# The order fixes the ids in tokenizers that we train: id 0 is padding.
SPECIAL_TOKENS = ("<pad>", BEGIN, END, MASK, FAR, PREFIX, NEAR, MIDDLE, END_OF_MIDDLE)

# Most tokens of each piece in training; serving asks for no more unless it is told to.
PREFIX_TOKENS_MAX = 832
FAR_TOKENS_MAX = 256
NEAR_TOKENS_MAX = 128


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
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a middle."""
        return (self.end_of_middle,)

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


@dataclass(frozen=True, slots=True)
class SentinelFormat:
    """Prefix, suffix, middle, each behind a sentinel token: Qwen2.5-Coder, StarCoder, Granite.

        <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> → middle

    (Bavarian et al., arXiv 2207.14255.) The near and the far suffix are one text here. These models
    were trained on whole tokens: inside a word they do less well than at its end.
    """

    prefix: int
    suffix: int
    middle: int
    end_ids: tuple[int, ...]

    def prompt(
        self, far: Sequence[int], prefix: Sequence[int], near: Sequence[int]
    ) -> tuple[int, ...]:
        """As `InfillFormat.prompt`."""
        return (self.prefix, *prefix, self.suffix, *near, *far, self.middle)


Infill = InfillFormat | SentinelFormat
MARKERS_MAX = 5  # tokens of a prompt besides its pieces, in any format

# (prefix, suffix, middle) sentinels of released tokenizers, and what they write behind a middle.
SENTINELS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
)
SENTINEL_ENDS = (
    "<|endoftext|>",
    "<|fim_pad|>",
    "<|file_sep|>",
    "<|repo_name|>",
    "<file_sep>",
    "<fim_pad>",
)
