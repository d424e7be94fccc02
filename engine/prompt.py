"""How an infilling prompt is put together: the one place that training and serving share.

Checkpoints of ours are trained with

    <s> [FAR] far suffix [PREFIX] prefix [NEAR] near suffix [MIDDLE] → middle [EOM]

The far suffix comes first because it changes least while typing; the near suffix is cut anew at
each request and stands last. Pieces are tokenised separately, so that a cut inside a word is seen
in training exactly as in serving and needs no token healing. Checkpoints trained with ordinary
sentinels get those. Torch-free; knows no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

BEGIN, END, MASK = "<s>", "</s>", "[MASK]"
FAR, PREFIX, NEAR, MIDDLE, END_OF_MIDDLE = "[FAR]", "[PREFIX]", "[NEAR]", "[MIDDLE]", "[EOM]"
# The order fixes the ids in tokenizers that we train: id 0 is padding.
SPECIAL_TOKENS = ("<pad>", BEGIN, END, MASK, FAR, PREFIX, NEAR, MIDDLE, END_OF_MIDDLE)

# Most tokens of each piece in training; serving asks for no more unless it is told to.
PREFIX_TOKENS_MAX = 832
FAR_TOKENS_MAX = 256
NEAR_TOKENS_MAX = 128
NEAR_LINES = 2  # below the cursor, after which the far suffix starts where nothing else is asked


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

    @property
    def end_texts(self) -> tuple[str, ...]:
        """Texts that end a middle: none, since these checkpoints learnt where a middle ends."""
        return ()

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


# Where the texts of a hole stand in an order of sentinels; no token id is negative.
BEFORE, AFTER = -1, -2
# What models that were tuned to chat write behind a middle instead of a token that ends it: the
# closing fence of a Markdown block, and prose about the code. Base models hardly ever do, and what
# they write behind a fence is no middle either.
_ANSWER_ENDS = ("\n```",)


@dataclass(frozen=True, slots=True)
class SentinelFormat:
    """Text before and after the hole, each behind a sentinel token, as `SENTINELS` lists them.

        <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> → middle

    (Bavarian et al., arXiv 2207.14255.) The near and the far suffix are one text here. These models
    were trained on whole tokens: inside a word they do less well than at its end.

    Attributes:
        order: the prompt's sentinel ids, with `BEFORE` and `AFTER` where the texts stand.
        end_ids: tokens that end a middle.
        end_texts: texts that end a middle, before the first of which decoding stops.
    """

    order: tuple[int, ...]
    end_ids: tuple[int, ...]
    end_texts: tuple[str, ...] = _ANSWER_ENDS

    def prompt(
        self, far: Sequence[int], prefix: Sequence[int], near: Sequence[int]
    ) -> tuple[int, ...]:
        """As `InfillFormat.prompt`."""
        texts = {BEFORE: prefix, AFTER: (*near, *far)}
        return tuple(token for entry in self.order for token in texts.get(entry, (entry,)))


Infill = InfillFormat | SentinelFormat
MARKERS_MAX = 5  # tokens of a prompt besides its pieces, in any format


def prompt_of(
    infill: Infill | None,
    begin: int | None,
    *,
    far: Sequence[int] = (),
    prefix: Sequence[int],
    near: Sequence[int] = (),
) -> tuple[int, ...]:
    """The prompt whose continuation is the middle between these pieces.

    A checkpoint without infilling markers gets the prefix alone after its begin token: it could
    not tell a suffix from the text to be continued.

    Args:
        infill: None where there are no markers, or they are not to be used.
        begin: None where the tokenizer has no such token; an empty prefix then is an empty prompt.
    """
    if infill is not None:
        return infill.prompt(far, prefix, near)
    return (*(() if begin is None else (begin,)), *prefix)


@dataclass(frozen=True, slots=True)
class SentinelFamily:
    """How released models that share a tokenizer are asked for a middle.

    Attributes:
        models: whose order it is, and who says so.
        order: names of the sentinels, with `BEFORE` and `AFTER` where the texts stand. A tokenizer
            belongs to the family if it has all of these names.
        sentencepiece_only: the names alone prove nothing, the tokenizer's kind has to fit as well.
    """

    models: str
    order: tuple[str | int, ...]
    sentencepiece_only: bool = False


# The first one whose names a tokenizer has is taken: CodeGemma shares Qwen's names and begins with
# a token that Qwen's tokenizer lacks.
SENTINELS = (
    SentinelFamily(
        "CodeGemma (arXiv 2406.11409)",
        ("<bos>", "<|fim_prefix|>", BEFORE, "<|fim_suffix|>", AFTER, "<|fim_middle|>"),
    ),
    SentinelFamily(
        "Qwen2.5-Coder (arXiv 2409.12186)",
        ("<|fim_prefix|>", BEFORE, "<|fim_suffix|>", AFTER, "<|fim_middle|>"),
    ),
    SentinelFamily(
        "StarCoder (arXiv 2305.06161), StarCoder2 (2402.19173), Granite Code (2405.04324)",
        ("<fim_prefix>", BEFORE, "<fim_suffix>", AFTER, "<fim_middle>"),
    ),
    # The token called "end" stands before the middle, not behind it.
    SentinelFamily(
        "DeepSeek-Coder (arXiv 2401.14196)",
        (
            "<｜begin▁of▁sentence｜>",
            "<｜fim▁begin｜>",
            BEFORE,
            "<｜fim▁hole｜>",
            AFTER,
            "<｜fim▁end｜>",
        ),
    ),
    SentinelFamily(
        "Code Llama (arXiv 2308.12950; infilling_prompt_tokens of its code)",
        ("<s>", "▁<PRE>", BEFORE, "▁<SUF>", AFTER, "▁<MID>"),
    ),
    # Suffix first, no third sentinel. Mistral's later tokenizers (Tekken) keep the names for models
    # that are not known to have been trained with them.
    SentinelFamily(
        "Codestral (mistral-common, encode_fim)",
        ("<s>", "[SUFFIX]", AFTER, "[PREFIX]", BEFORE),
        sentencepiece_only=True,
    ),
)

# What these models write behind a middle, besides their sentinels: end of text or turn, padding,
# and the header of another file or repository that they go on to invent.
SENTINEL_ENDS = (
    # Qwen2.5-Coder, and what of it StarCoder 2 and Granite share
    "<|endoftext|>",
    "<|im_end|>",
    "<|im_start|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    # StarCoder, StarCoder2, Granite
    "<fim_pad>",
    "<file_sep>",
    "<repo_name>",
    "<filename>",
    "<reponame>",
    "<gh_stars>",
    "<|end_of_text|>",
    "<|filename|>",
    "<|reponame|>",
    "<|start_of_role|>",
    # DeepSeek-Coder
    "<｜end▁of▁sentence｜>",
    "<|EOT|>",
    # Code Llama, Codestral
    "</s>",
    "▁<EOT>",
    # CodeGemma
    "<eos>",
    "<|file_separator|>",
    "<end_of_turn>",
)

# Every name above. Some files list them as ordinary tokens; they never are.
SENTINEL_NAMES = frozenset(
    name
    for names in (SENTINEL_ENDS, *(family.order for family in SENTINELS))
    for name in names
    if isinstance(name, str)
)


def sentinel_format(
    id_of: Callable[[str], int | None], *, is_sentencepiece: bool
) -> SentinelFormat | None:
    """The format of the first family whose sentinels a tokenizer has, or None.

    Args:
        id_of: the id of a token by its exact name.
        is_sentencepiece: whether the tokenizer is of SentencePiece's kind.
    """
    for family in SENTINELS:
        if family.sentencepiece_only and not is_sentencepiece:
            continue
        order = [id_of(entry) if isinstance(entry, str) else entry for entry in family.order]
        known = tuple(entry for entry in order if entry is not None)
        if len(known) == len(order):
            ends = [id_of(name) for name in SENTINEL_ENDS]
            ends += [entry for entry in known if entry >= 0]
            return SentinelFormat(known, tuple(end for end in ends if end is not None))
    return None
