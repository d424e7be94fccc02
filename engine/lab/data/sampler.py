"""Turns scenes into token sequences with weights, and packs them into flat batches.

An example is a trunk, the text that its holes share, and a branch for each hole: the hole's own
part of the prompt, and the middle. A hole sees its branch and the trunk up to its cursor, so that
the trunk followed by the branch is exactly the prompt that serving lays out. No example and no hole
attends to another (`engine.lab.training.batch.rows` has the rule).

This module owns how often each budget is drawn. Draws depend on the caller's generator alone, so
that an interrupted run resumes with exactly the batches that it would have had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.lab.data.corpus import Source
from engine.lab.data.examples import Pieces, Scene, draw_scene
from engine.lab.data.languages import shares_of
from engine.model.tokenizer import Tokenizer
from engine.prompt import (
    END,
    FAR_TOKENS_MAX,
    NEAR_TOKENS_MAX,
    PREFIX_TOKENS_MAX,
    InfillFormat,
)

MIDDLE_TOKENS_MAX = 192
PLAIN_TOKENS_MAX = 768

# The budgets of a scene: the full ones, as in a long file; medium or small ones.
_BUDGET_SHARES = (0.2, 0.45, 0.35)
_PREFIX_BUDGETS = ((PREFIX_TOKENS_MAX, PREFIX_TOKENS_MAX), (128, 512), (8, 128))
_FAR_BUDGETS = ((0, FAR_TOKENS_MAX), (0, 192), (0, 48))
# The share of the scenes with the full prefix budget that also have the full far budget.
_FULL_FAR_SHARE = 0.5
# Characters taken for each token of a budget: for a prefix as many as Python has on average, so
# that few tries are needed; for a far suffix as many as the host takes.
_CHARS_PER_TOKEN = 4
_FAR_CHARS_PER_TOKEN = 12
_MIDDLE_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Mix:
    """What a stage's batches consist of.

    Attributes:
        plain_share: the share of examples that are ordinary text rather than holes.
        holes: holes drawn for one scene.
        context_weight: the weight of the context in the AR loss; middles weigh about 1.
        end_weight: the weight of end-of-middle relative to the other tokens of its middle.
    """

    plain_share: float
    holes: int
    context_weight: float
    end_weight: float = 1.0


# Stage 1 learns the language; stage 2 learns to fill holes.
LANGUAGE = Mix(plain_share=0.12, holes=3, context_weight=0.5)
HOLES = Mix(plain_share=0.03, holes=9, context_weight=0.5)


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch: B tokens that follow the trunk's first `seen`.

    Attributes:
        tokens: (B,) int64: the rest of the prefix if its last token is cut, the near suffix, the
            middle and end-of-middle, with the markers between them.
        weights: (B,) float32, the weights of predicting tokens[i] from what stands before it; 0 for
            the first token and for the prompt's markers.
        middle: the index of the first middle token.
    """

    seen: int
    tokens: np.ndarray
    weights: np.ndarray
    middle: int


@dataclass(frozen=True, slots=True)
class Example:
    """A trunk of T tokens with its holes; plain text has none.

    Attributes:
        tokens: (T,) int64.
        weights: (T,) float32, as in `Branch`.
    """

    tokens: np.ndarray
    weights: np.ndarray
    holes: tuple[Branch, ...] = ()

    @property
    def rows(self) -> int:
        """The number of clean rows of the whole example."""
        return len(self.tokens) + sum(len(hole.tokens) for hole in self.holes)


# Draws the examples of one forward, as a function of the generator alone.
Draw = Callable[[np.random.Generator], list[Example]]


class Files:
    """Draws files by their weights. Immutable; every draw takes its own generator."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._cumulative = np.cumsum(file_weights(sources))

    def draw(self, rng: np.random.Generator) -> Source:
        """One file."""
        place = rng.random() * self._cumulative[-1]
        return self._sources[int(np.searchsorted(self._cumulative, place, side="right"))]


def take_tokens(examples: Iterable[Example], tokens: int) -> list[Example]:
    """The first examples of an endless stream, with at most this many tokens or a single one."""
    chosen: list[Example] = []
    total = 0
    for example in examples:
        if chosen and total + example.rows > tokens:
            break
        chosen.append(example)
        total += example.rows
    return chosen


class ExampleSampler:
    """Draws examples from a set of files. Immutable; every draw takes its own generator."""

    def __init__(self, sources: Sequence[Source], tokenizer: Tokenizer) -> None:
        """Raises ValueError if the tokenizer lacks the infilling markers."""
        infill = tokenizer.infill
        end = tokenizer.id_of(END)
        if not isinstance(infill, InfillFormat) or end is None:
            raise ValueError("the tokenizer has no infilling markers")
        self._files = Files(sources)
        self._tokenizer = tokenizer
        self._infill: InfillFormat = infill
        self._end = end

    def batch(self, rng: np.random.Generator, tokens: int, mix: Mix = LANGUAGE) -> list[Example]:
        """As `take_tokens`."""
        return take_tokens(self._draw(rng, mix), tokens)

    def infilling(
        self, scene: Scene, rng: np.random.Generator, mix: Mix = LANGUAGE
    ) -> Example | None:
        """The example of this scene with random budgets; None if no hole fits into them."""
        prefix_budget, far_budget = draw_budgets(rng)
        infill = self._infill
        far = self._tokenizer.encode(scene.far[: far_budget * _FAR_CHARS_PER_TOKEN])[:far_budget]
        head = [infill.begin, infill.far, *far, infill.prefix]
        last = scene.holes[-1][0]
        text = scene.text[:last]
        start = prefix_start(text, self._tokenizer, prefix_budget)
        shared = self._tokenizer.encode(text[start:])
        if len(shared) > prefix_budget:
            return None  # a line longer than the budget
        branches = _Branches(self._tokenizer, infill, scene, start, len(head), shared)
        holes = [branches.hole(hole, mix) for hole in scene.holes if hole[0] >= start]
        kept = tuple(hole for hole in holes if hole is not None)
        if not kept:
            return None
        tokens = np.array([*head, *shared], dtype=np.int64)
        weights = np.full(len(tokens), mix.context_weight, dtype=np.float32)
        weights[[0, 1, len(head) - 1]] = 0.0
        return Example(tokens, weights, kept)

    def plain(self, source: Source, rng: np.random.Generator, mix: Mix = LANGUAGE) -> Example:
        """Ordinary text from a line's start; it ends with end-of-text only where the file ends."""
        start = int(rng.integers(len(source.text)))
        start = source.text.rfind("\n", 0, start) + 1 if rng.random() < 0.7 else 0
        budget = int(rng.integers(64, PLAIN_TOKENS_MAX))
        text = source.text[start : start + budget * _CHARS_PER_TOKEN]
        ids = self._tokenizer.encode(text)
        if start + len(text) == len(source.text):
            ids.append(self._end)
        tokens = np.array([self._infill.begin, *ids[: budget - 1]], dtype=np.int64)
        weights = np.full(len(tokens), mix.context_weight, dtype=np.float32)
        weights[0] = 0.0
        return Example(tokens, weights)

    def _draw(self, rng: np.random.Generator, mix: Mix) -> Iterator[Example]:
        while True:
            source = self._files.draw(rng)
            if rng.random() < mix.plain_share:
                yield self.plain(source, rng, mix)
            else:
                example = self.infilling(draw_scene(source, rng, mix.holes), rng, mix)
                if example is not None:
                    yield example


@dataclass(frozen=True, slots=True)
class _Branches:
    """Makes the branches of one scene whose prefix starts at `start`; its tokens `shared` follow
    the first `head` tokens of the trunk."""

    tokenizer: Tokenizer
    infill: InfillFormat
    scene: Scene
    start: int
    head: int
    shared: Sequence[int]

    def hole(self, hole: tuple[int, int], mix: Mix) -> Branch | None:
        """None if the near suffix or the middle is too long."""
        pieces = self.scene.pieces(hole)
        near = self.tokenizer.encode(pieces.near)
        middle = [*self.tokenizer.encode(pieces.middle), self.infill.end_of_middle]
        if len(near) > NEAR_TOKENS_MAX or len(middle) > MIDDLE_TOKENS_MAX:
            return None
        prefix = self.tokenizer.encode(pieces.prefix[self.start :])
        common = _common_length(prefix, self.shared)
        rest = prefix[common:]
        own = [*rest, self.infill.near, *near, self.infill.middle]
        weights = np.full(len(own) + len(middle), mix.context_weight, dtype=np.float32)
        weights[[0, len(rest), len(own) - 1]] = 0.0
        weights[len(own) :] = middle_weights(len(middle), mix.end_weight)
        tokens = np.array([*own, *middle], dtype=np.int64)
        return Branch(self.head + common, tokens, weights, len(own))


def middle_weights(tokens: int, end_weight: float) -> np.ndarray:
    """(tokens,) float32 weights of a middle, whose last token is its end.

    A middle weighs as the root of its length, a compromise between a weight for each token and one
    for each middle: long middles must not outweigh the short ones, which are more frequent.
    """
    each = np.float32(min(2.0, (_MIDDLE_LENGTH / tokens) ** 0.5))
    weights = np.full(tokens, each, dtype=np.float32)
    weights[-1] = each * end_weight
    return weights


def draw_budgets(rng: np.random.Generator) -> tuple[int, int]:
    """The most tokens of prefix and far suffix of one scene."""
    kind = int(rng.choice(len(_BUDGET_SHARES), p=_BUDGET_SHARES))
    prefix = int(rng.integers(*_PREFIX_BUDGETS[kind], endpoint=True))
    if kind == 0 and rng.random() < _FULL_FAR_SHARE:
        return prefix, FAR_TOKENS_MAX
    return prefix, int(rng.integers(*_FAR_BUDGETS[kind], endpoint=True))


def prompt_tokens(
    pieces: Pieces, tokenizer: Tokenizer, prefix_budget: int, far_budget: int
) -> tuple[int, ...]:
    """The prompt of these pieces, with prefix and far suffix cut to their budgets.

    Raises:
        ValueError: The tokenizer lacks the infilling markers.
    """
    infill = tokenizer.infill
    if infill is None:
        raise ValueError("the tokenizer has no infilling markers")
    far = tokenizer.encode(pieces.far[: far_budget * _FAR_CHARS_PER_TOKEN])[:far_budget]
    prefix = prefix_tokens(pieces.prefix, tokenizer, prefix_budget)
    return infill.prompt(far, prefix, tokenizer.encode(pieces.near))


def prefix_tokens(text: str, tokenizer: Tokenizer, budget: int) -> list[int]:
    """The end of `text` in at most `budget` tokens; it begins at a line, unless the last line alone
    is too long."""
    ids = tokenizer.encode(text[prefix_start(text, tokenizer, budget) :])
    return ids[max(0, len(ids) - budget) :]


def prefix_start(text: str, tokenizer: Tokenizer, budget: int) -> int:
    """The start of a line from which `text` has at most `budget` tokens.

    While the text is too long, its oldest quarter is dropped, at a line; a single line stays.
    """
    start = _next_line(text, len(text) - budget * _CHARS_PER_TOKEN)
    while len(tokenizer.encode(text[start:])) > budget:
        later = _next_line(text, start + (len(text) - start) // 4)
        if later in (start, len(text)):
            return start
        start = later
    return start


def file_weights(sources: Sequence[Source]) -> np.ndarray:
    """(files,) float64 probability of each file, not normalised.

    Each language has its share. Within a language a package counts with the 0.6th power of its
    size, so that a few large ones do not outweigh the many small ones; within a package files count
    by size.
    """
    keys = [(source.language, source.package) for source in sources]
    sizes = np.array([len(source.text) for source in sources], dtype=np.float64)
    totals: dict[tuple[str, str], float] = {}
    for key, size in zip(keys, sizes, strict=True):
        totals[key] = totals.get(key, 0.0) + float(size)
    languages: dict[str, float] = {}
    for (language, _), total in totals.items():
        languages[language] = languages.get(language, 0.0) + total**0.6
    shares = shares_of(list(languages))
    scales = {
        key: total**-0.4 * shares[key[0]] / languages[key[0]] for key, total in totals.items()
    }
    return sizes * np.array([scales[key] for key in keys])


def _common_length(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _next_line(text: str, start: int) -> int:
    """The first start of a line at or after `start`, or else the start of the last line."""
    if start <= 0:
        return 0
    found = text.find("\n", start - 1)
    return found + 1 if found >= 0 else text.rfind("\n") + 1
