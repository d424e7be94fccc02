"""The layout of infilling prompts, shared by training and serving.

This project's own checkpoints are trained with

    <s> [FAR] far suffix [PREFIX] prefix [NEAR] near suffix [MIDDLE] → middle [EOM]

The far suffix comes first because it changes least while the user types; the near suffix is cut
anew for each request and comes last. Pieces are tokenised separately, so that training and serving
treat a cut inside a word in the same way and no token healing is needed. Checkpoints that were
trained with other sentinels get those. Torch-free; handles tokens, not text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

BEGIN, END, MASK = "<s>", "</s>", "[MASK]"
FAR, PREFIX, NEAR, MIDDLE, END_OF_MIDDLE = "[FAR]", "[PREFIX]", "[NEAR]", "[MIDDLE]", "[EOM]"
# The order fixes the ids in tokenizers that are trained here: id 0 is padding.
SPECIAL_TOKENS = ("<pad>", BEGIN, END, MASK, FAR, PREFIX, NEAR, MIDDLE, END_OF_MIDDLE)

# The most tokens of each piece in training. Serving uses no more unless a setting says so.
PREFIX_TOKENS_MAX = 832
FAR_TOKENS_MAX = 256
NEAR_TOKENS_MAX = 128
NEAR_LINES = 2  # lines after the cursor; by default the far suffix starts after them


@dataclass(frozen=True, slots=True)
class InfillFormat:
    """The token ids of the layout above, for a checkpoint that was trained with it."""

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
        """Texts that end a middle: none, since these checkpoints have learnt to end it."""
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

    def suffix(
        self, far: Sequence[int], prefix: Sequence[int], near: Sequence[int]
    ) -> tuple[int, int]:
        """The place of the near suffix in the prompt, as the index of its first token and of the
        token after it; (0, 0) if it is empty.

        The sentinel before it does not belong to it: it is where the model looks up how the prefix
        ends, and with an earlier one it goes on from there (benchmarks/reuse.md).
        """
        start = len(far) + len(prefix) + 4
        return (start, start + len(near)) if near else (0, 0)


# The places of the texts before and after a hole in an order of sentinels; no token id is negative.
BEFORE, AFTER = -1, -2
# Models that were tuned to chat write this after a middle instead of an end token: the closing
# fence of a Markdown block, and then prose about the code. Base models hardly ever write it, and
# what they write after a fence is not part of the middle either.
_ANSWER_ENDS = ("\n```",)


@dataclass(frozen=True, slots=True)
class SentinelFormat:
    """The text before and after the hole, each preceded by a sentinel token as in `SENTINELS`.

        <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> → middle

    (Bavarian et al., arXiv 2207.14255.) The near and the far suffix are one text here. These models
    were trained on whole tokens, so they do less well inside a word than at its end.

    Attributes:
        order: the prompt's sentinel ids, with `BEFORE` and `AFTER` in the places of the texts.
        end_ids: tokens that end a middle.
        end_texts: texts that end a middle; decoding stops before the first of them.
        file: the token that the name of a file follows; None if the models know no such token.
        repository: the token that the name of a repository follows; None likewise.
        is_name_inside: whether the name of the hole's file follows the first sentinel.
    """

    order: tuple[int, ...]
    end_ids: tuple[int, ...]
    end_texts: tuple[str, ...] = _ANSWER_ENDS
    file: int | None = None
    repository: int | None = None
    is_name_inside: bool = False

    def prompt(
        self, far: Sequence[int], prefix: Sequence[int], near: Sequence[int]
    ) -> tuple[int, ...]:
        """As `InfillFormat.prompt`."""
        texts = {BEFORE: prefix, AFTER: (*near, *far)}
        return tuple(token for entry in self.order for token in texts.get(entry, (entry,)))

    def suffix(
        self, far: Sequence[int], prefix: Sequence[int], near: Sequence[int]
    ) -> tuple[int, int]:
        """As `InfillFormat.suffix`. (0, 0) also where the text after the hole comes first."""
        before, after = self.order.index(BEFORE), self.order.index(AFTER)
        if after < before or after == len(self.order) - 1 or not (near or far):
            return (0, 0)
        start = len(prefix) + after - 1
        return (start, start + len(near) + len(far))

    def in_repository(
        self,
        prompt: Sequence[int],
        name: Sequence[int],
        files: Sequence[Sequence[int]] = (),
        repository: Sequence[int] = (),
    ) -> tuple[int, ...]:
        """The prompt with its file's name and with other files of its repository before it.

            <|repo_name|> repository <|file_sep|> file … <|file_sep|> name <|fim_prefix|> …

        The name alone tells a model the language of a file in which little is written yet. Without
        a token for files, the prompt as it is.

        Args:
            name: the name of the prompt's file and a line end.
            files: name and text of each other file, the most useful one last.
            repository: the name of the repository and a line end.
        """
        if self.file is None:
            return tuple(prompt)
        head = [self.repository, *repository] if files and self.repository is not None else []
        for file in files:
            head += [self.file, *file]
        if self.is_name_inside:
            return (*head, self.file, prompt[0], *name, *prompt[1:])
        return (*head, self.file, *name, *prompt)


Infill = InfillFormat | SentinelFormat
MARKERS_MAX = 5  # the most tokens that any format adds to the pieces of a prompt


def prompt_of(
    infill: Infill | None,
    begin: int | None,
    *,
    far: Sequence[int] = (),
    prefix: Sequence[int],
    near: Sequence[int] = (),
) -> tuple[int, ...]:
    """The prompt whose continuation is the middle between these pieces.

    A checkpoint without infilling markers gets its begin token and the prefix only, because it
    could not distinguish a suffix from the text that it is to continue.

    Args:
        infill: None if the checkpoint has no markers or they are not to be used.
        begin: None if the tokenizer has no begin token; an empty prefix is then an empty prompt.
    """
    if infill is not None:
        return infill.prompt(far, prefix, near)
    return (*(() if begin is None else (begin,)), *prefix)


@dataclass(frozen=True, slots=True)
class SentinelFamily:
    """The infilling order of released models that share a tokenizer.

    Attributes:
        models: the models that use this order, and the source for it.
        order: the sentinels' names, with `BEFORE` and `AFTER` in the places of the texts. A
            tokenizer belongs to the family if it has all of these names.
        file: the name of the token that a file's name follows.
        repository: the name of the token that a repository's name follows.
        is_name_inside: as in `SentinelFormat`.
        sentencepiece_only: the names alone do not identify the family; the tokenizer must also be
            a SentencePiece one.
    """

    models: str
    order: tuple[str | int, ...]
    file: str | None = None
    repository: str | None = None
    is_name_inside: bool = False
    sentencepiece_only: bool = False


# The first family whose names a tokenizer has is used. CodeGemma comes before Qwen because it has
# Qwen's names and one more.
SENTINELS = (
    SentinelFamily(
        "CodeGemma (arXiv 2406.11409)",
        ("<bos>", "<|fim_prefix|>", BEFORE, "<|fim_suffix|>", AFTER, "<|fim_middle|>"),
    ),
    SentinelFamily(
        "Qwen2.5-Coder (arXiv 2409.12186)",
        ("<|fim_prefix|>", BEFORE, "<|fim_suffix|>", AFTER, "<|fim_middle|>"),
        file="<|file_sep|>",
        repository="<|repo_name|>",
    ),
    # Its order within a repository is `<file_sep> <fim_prefix> name prefix …` (2402.19173, 5.2).
    SentinelFamily(
        "StarCoder2 (arXiv 2402.19173)",
        ("<fim_prefix>", BEFORE, "<fim_suffix>", AFTER, "<fim_middle>"),
        file="<file_sep>",
        repository="<repo_name>",
        is_name_inside=True,
    ),
    SentinelFamily(
        "StarCoder (arXiv 2305.06161), Granite Code (2405.04324)",
        ("<fim_prefix>", BEFORE, "<fim_suffix>", AFTER, "<fim_middle>"),
    ),
    # The token called "end" comes before the middle, not after it.
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
    # The suffix comes first, and there is no third sentinel. Mistral's later tokenizers (Tekken)
    # have the same names, but their models are not known to have been trained with them.
    SentinelFamily(
        "Codestral (mistral-common, encode_fim)",
        ("<s>", "[SUFFIX]", AFTER, "[PREFIX]", BEFORE),
        sentencepiece_only=True,
    ),
)

# Tokens besides the sentinels that these models write after a middle: the end of a text or turn,
# padding, and the header of another file or repository that they go on to invent.
SENTINEL_ENDS = (
    # Qwen2.5-Coder; StarCoder 2 and Granite use some of them too
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

# Every name above. They are never ordinary text, even if a tokenizer's file says so.
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
        id_of: returns the id of a token by its exact name.
        is_sentencepiece: whether the tokenizer is a SentencePiece one.
    """
    for family in SENTINELS:
        if family.sentencepiece_only and not is_sentencepiece:
            continue
        order = [id_of(entry) if isinstance(entry, str) else entry for entry in family.order]
        known = tuple(entry for entry in order if entry is not None)
        if len(known) == len(order):
            ends = [id_of(name) for name in SENTINEL_ENDS]
            ends += [entry for entry in known if entry >= 0]
            ids = tuple(end for end in ends if end is not None)
            names = (family.file, family.repository)
            file, repository = (id_of(name) if name is not None else None for name in names)
            if family.is_name_inside and file is None:  # A relative with the same sentinels.
                continue
            return SentinelFormat(
                known,
                ids,
                file=file,
                repository=repository,
                is_name_inside=family.is_name_inside,
            )
    return None
