"""The K/V store in numpy against a plain model: in any order of opens, keeps and closes a workspace
holds exactly what was computed for its tokens."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from numpy import ndarray

from engine.cache.arrays import ArrayCache
from engine.cache.pages import PAGE_TOKENS, CacheFull
from engine.cache.shape import CacheShape
from engine.model.config import RopeConfig
from engine.step import CACHED, Step, chain, group, joined

SHAPE = CacheShape(layers=2, kv_heads=3, head_dim=4)
SIZE = (SHAPE.layers, 2, SHAPE.kv_heads, SHAPE.head_dim)
NUM_PAGES = 12


def computed(path: tuple[int, ...], *, exact: bool) -> ndarray:
    """(layers, 2, Hkv, D): keys and values for the last token of a path. They are exact in fp16 and
    differ between paths and between the two ways of computing them."""
    seed = hashlib.sha256(repr((path, exact)).encode()).digest()
    generator = numpy.random.default_rng(list(seed[:8]))
    return generator.integers(-2000, 2000, SIZE).astype(numpy.float32)


def new_of(paths: list[tuple[int, ...]], *, exact: bool) -> ndarray:
    """(layers, 2, Hkv, R, D): keys and values for the rows of a step."""
    return numpy.stack([computed(path, exact=exact) for path in paths], axis=3)


def held(cache: ArrayCache, sequence: int) -> ndarray:
    """(n, layers, 2, Hkv, D): a sequence's cached tokens, read as the graph reads them."""
    space = cache.workspace(sequence)
    whole = numpy.empty((space.length, *SIZE), numpy.float32)
    for layer in range(SHAPE.layers):
        for part in range(2):
            for head in range(SHAPE.kv_heads):
                whole[:, layer, part, head] = space.cached(layer, part, head)
    return whole


class ArrayCacheLaws(RuleBasedStateMachine):
    """Exact and fast sequences are opened, computed with some rows kept, and closed."""

    sequences = Bundle("sequences")
    half = False

    def __init__(self) -> None:
        super().__init__()
        self.cache = ArrayCache(SHAPE, NUM_PAGES * PAGE_TOKENS, half=self.half)
        self.tokens: dict[int, list[int]] = {}
        self.limits: dict[int, int] = {}
        self.exact: dict[int, bool] = {}

    @rule(
        target=sequences,
        pages=st.lists(st.integers(0, 1), max_size=4),
        rest=st.lists(st.integers(0, 2), min_size=1, max_size=PAGE_TOKENS),
        extra=st.integers(0, 40),
        exact=st.booleans(),
    )
    def open(self, pages: list[int], rest: list[int], extra: int, exact: bool) -> int:
        # Few distinct tokens, so that prompts often share beginnings.
        prompt = (*(token for page in pages for token in [page] * PAGE_TOKENS), *rest)
        try:
            sequence, cached = self.cache.open(prompt, len(prompt) + extra, exact=exact)
        except CacheFull:
            return -1
        self.tokens[sequence] = list(prompt[:cached])
        self.limits[sequence] = len(prompt) + extra
        self.exact[sequence] = exact
        self.keep_some(sequence, list(prompt[cached:]), len(prompt) - cached, 0)
        return sequence

    @rule(
        sequence=sequences,
        tokens=st.lists(st.integers(0, 2), min_size=1, max_size=20),
        kept=st.integers(0, 20),
        masks=st.integers(0, 3),
    )
    def step(self, sequence: int, tokens: list[int], kept: int, masks: int) -> None:
        if sequence in self.tokens:
            room = self.limits[sequence] - len(self.tokens[sequence])
            self.keep_some(sequence, tokens, min(kept, room, len(tokens)), masks)

    def keep_some(self, sequence: int, tokens: list[int], kept: int, masks: int) -> None:
        """One step of a chain with a group of masks on it, of which the first rows are kept."""
        known, exact = self.tokens[sequence], self.exact[sequence]
        start = len(known)
        fed = chain(tuple(tokens), start, sequence=sequence)
        steps = [fed]
        if masks:
            hung = group((9,) * masks, start, read=(), sequence=sequence)
            steps.append(hung)
        step = joined(steps)
        paths = [(*known, *tokens[: index + 1]) for index in range(len(tokens))]
        paths += [(*known, 9)] * masks
        self.cache.computed(new_of(paths, exact=exact))
        self.cache.keep(step, tuple(range(kept)))
        known += tokens[:kept]

    @rule(sequence=sequences, reach=st.integers(1, 20))
    def scribble(self, sequence: int, reach: int) -> None:
        """What an exact tile does: the places after the cached tokens are scratch memory."""
        if sequence in self.tokens:
            space = self.cache.workspace(sequence)
            space.array[:, :, :, space.length : space.length + reach] = 7777.0

    @rule(sequence=consumes(sequences))
    def close(self, sequence: int) -> None:
        if self.tokens.pop(sequence, None) is not None:
            self.cache.close(sequence)

    @invariant()
    def every_workspace_holds_what_was_computed_for_its_tokens(self) -> None:
        for sequence, tokens in self.tokens.items():
            assert self.cache.workspace(sequence).tokens == tokens
            assert self.cache.workspace(sequence).is_exact == self.exact[sequence]
            found = held(self.cache, sequence)
            for place in range(len(tokens)):
                path = tuple(tokens[: place + 1])
                assert numpy.array_equal(found[place], computed(path, exact=self.exact[sequence]))

    @invariant()
    def nothing_leaks(self) -> None:
        counts = self.cache.counts()
        assert counts.free + counts.cached + counts.in_use == counts.total
        if not self.tokens:
            assert counts.in_use == counts.reserved == 0
        assert len(self.cache._closed) <= 2

    def teardown(self) -> None:
        for sequence in self.tokens:
            self.cache.close(sequence)
        assert self.cache.counts().in_use == self.cache.counts().reserved == 0


class HalfArrayCacheLaws(ArrayCacheLaws):
    """The same laws for pages in fp16."""

    half = True


_BRIEF = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestWhole, TestHalf = ArrayCacheLaws.TestCase, HalfArrayCacheLaws.TestCase
TestWhole.settings = TestHalf.settings = _BRIEF


def fed(cache: ArrayCache, tokens: tuple[int, ...], room: int, *, exact: bool = False) -> int:
    """Opens a sequence and caches the tokens."""
    sequence, cached = cache.open(tokens, room, exact=exact)
    step = chain(tokens[cached:], cached, sequence=sequence)
    paths = [tokens[: place + 1] for place in range(cached, len(tokens))]
    cache.computed(new_of(paths, exact=exact))
    cache.keep(step, tuple(range(step.rows)))
    return sequence


@pytest.mark.parametrize("half", [False, True])
def test_what_the_graph_reads_is_no_copy_and_lies_in_one_piece(half: bool) -> None:
    cache = ArrayCache(SHAPE, 64, half=half)
    space = cache.workspace(fed(cache, (1, 2, 3), 20))
    keys = space.cached(1, 0, 2)
    assert keys.shape == (3, SHAPE.head_dim)
    assert keys.dtype == numpy.float32
    assert keys.flags.c_contiguous
    assert numpy.shares_memory(keys, space.array)
    assert cache._store.dtype == (numpy.float16 if half else numpy.float32)


def test_a_closed_sequences_workspace_serves_the_next_one_of_its_kind() -> None:
    cache = ArrayCache(SHAPE, 1024, half=False)
    sequence = fed(cache, tuple(range(40)), 100)
    array = cache.workspace(sequence).array
    cache.close(sequence)
    exact = fed(cache, tuple(range(40)), 100, exact=True)
    assert cache.workspace(exact).array is not array
    again = fed(cache, tuple(range(30)), 100)
    assert cache.workspace(again).array is array


def test_a_workspace_that_is_too_small_is_not_taken() -> None:
    cache = ArrayCache(SHAPE, 4096, half=False)
    sequence = fed(cache, (1, 2), 100)
    array = cache.workspace(sequence).array
    cache.close(sequence)
    larger = fed(cache, (1, 2), array.shape[3] + 1)
    assert cache.workspace(larger).array is not array
    assert cache.workspace(larger).array.shape[3] > array.shape[3]


def test_the_workspace_that_holds_most_of_a_prompt_is_taken() -> None:
    cache = ArrayCache(SHAPE, 1024, half=False)
    one, other = tuple(range(60)), tuple(range(100, 160))
    first, second = fed(cache, one, 100), fed(cache, other, 100)
    arrays = [cache.workspace(sequence).array for sequence in (first, second)]
    cache.close(first)
    cache.close(second)
    sequence, cached = cache.open((*one[:50], 7), 100)
    assert cached == 50, "two tokens more than the full pages"
    assert cache.workspace(sequence).array is arrays[0]


def test_a_taken_suffix_is_moved_and_shared_with_nobody() -> None:
    shape = replace(SHAPE, rope=RopeConfig(1e4, False, 1.0, 64, 32.0, 1.0, 1.0, 0.0))
    cache = ArrayCache(shape, 1024, half=False)
    before, suffix = tuple(range(20)), tuple(range(100, 140))
    first = fed(cache, (*before, *suffix, 7), 100)
    cache.hold_suffix(first, (*before, *suffix), (20, 60))
    kept = cache.workspace(first).array[:, :, :, 20:60].copy()
    cache.close(first)
    moved = (*before, 50, *suffix, 7)
    held = cache.find_suffix(moved, (21, 61))
    assert held is not None
    second, cached = cache.open(moved, 100)
    assert cached == 20, "the workspace has the tokens before the first difference"
    cache.computed(new_of([moved[:21]], exact=False))
    cache.keep(chain((50,), 20, sequence=second), (0,))
    cache.take_suffix(second, held)
    space = cache.workspace(second)
    assert space.tokens == list(moved[:61])
    found = space.array[:, :, :, 21:61]
    assert numpy.array_equal(found[:, 1], kept[:, 1]), "values have no positions"
    (cos, sin), half = shape.turn(1), SHAPE.head_dim // 2
    complex_keys = (kept[:, 0, ..., :half] + 1j * kept[:, 0, ..., half:]) * (cos + 1j * sin)
    both = numpy.concatenate((complex_keys.real, complex_keys.imag), axis=-1)
    assert numpy.allclose(found[:, 0], both, rtol=1e-5, atol=1e-2)
    cache.close(second)
    # Neither pages nor the workspace give the same prompt what was taken.
    assert cache.open(moved, 100)[1] == 21


@pytest.mark.parametrize(
    "rows",
    [(1,), (0, 2), (3,), (4,), (5,)],
    ids=["no root", "a gap", "a group", "a drafter", "another position"],
)
def test_only_causal_paths_from_the_cache_are_kept(rows: tuple[int, ...]) -> None:
    cache = ArrayCache(SHAPE, 64, half=False)
    sequence, _ = cache.open((1, 2), 40)
    step = Step(
        token=(1, 2, 3, 4, 5, 6),
        sequence=(sequence,) * 6,
        position=(0, 1, 2, 0, 0, 3),
        parent=(CACHED, 0, 1, CACHED, CACHED, CACHED),
        group=(0, 0, 0, 1, 0, 0),
        drafter=(False, False, False, False, True, False),
        read=(),
    )
    cache.computed(numpy.zeros((SHAPE.layers, 2, SHAPE.kv_heads, 6, SHAPE.head_dim), "f4"))
    with pytest.raises(AssertionError):
        cache.keep(step, rows)
    assert cache.workspace(sequence).length == 0


def test_without_memory_for_a_workspace_a_sequence_waits_and_keeps_no_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = ArrayCache(SHAPE, NUM_PAGES * PAGE_TOKENS, half=False)

    def refuse(*_: object) -> ndarray:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(numpy, "empty", refuse)
        with pytest.raises(CacheFull):
            cache.open((1, 2, 3), 2 * PAGE_TOKENS)
    counts = cache.counts()
    assert (counts.in_use, counts.reserved) == (0, 0)
    cache.open((1, 2, 3), 2 * PAGE_TOKENS)
