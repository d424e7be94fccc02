"""Exact sequences in captured steps: all tiles have one size, and a row's bits depend on its text
alone, in bf16 too and where the kernels themselves compute (interpreted, or on a card).

`tests/engine/test_exact.py` has the laws of exact mode, which hold for captured steps too.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import engine.kernels.dispatch
from engine.api import Sampling
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.kernels.dispatch import forced
from engine.kernels.tile_plan import PART
from engine.model.captured.buckets import EXACT_ROWS, Bucket, bucket_of_tile
from engine.model.captured.runner import CapturedRunner
from engine.model.runner import ModelRunner
from engine.model.tiles import TILE_ROWS, Tile
from engine.reading import Reading
from engine.step import Step, chain, joined
from tests.engine.model.captured.test_equal import assert_alike
from tests.engine.model.captured.test_padding import spoil
from tests.engine.seeded import DEVICE, prompt_of
from tests.engine.subjects import subject
from tests.engine.test_exact import with_rows
from tests.engine.test_laws import ROUNDING

TOKENS = prompt_of(3 * TILE_ROWS + 5)
GREEDY, DRAWN = Sampling(), Sampling(0.8, seed=3)


def captured_of(name: str, dtype: str = "float32") -> CapturedRunner:
    """As the subject's, in another dtype too."""
    model = subject(name, dtype).model
    assert isinstance(model, ModelRunner)
    return CapturedRunner(model.network, device=DEVICE, adapter=model.adapter, drafts=model.drafts)


def store_of(model: CapturedRunner, tokens: int = 512) -> KVCache:
    dtype = next(model.network.parameters()).dtype
    return KVCache(CacheShape.of(model.network.config), tokens, device=DEVICE, dtype=dtype)


def fed(model: CapturedRunner, cuts: list[int], tokens: tuple[int, ...] = TOKENS) -> Tensor:
    """(len(tokens), V): the logits of all rows, fed in chunks that end at the cuts."""
    cache = store_of(model)
    sequence, _ = cache.open(tokens, len(tokens), exact=True)
    logits: list[Tensor] = []
    for start, end in itertools.pairwise([0, *cuts, len(tokens)]):
        read = tuple(range(end - start))
        step = chain(tokens[start:end], start, read=read, sequence=sequence)
        logits.append(model.logits(step, cache))
        cache.keep(step, read)
    return torch.cat(logits)


def opened(model: CapturedRunner, cached: int) -> KVCache:
    """A cache whose exact sequence 0 has so many tokens, and whose sequence 1 has three."""
    cache = store_of(model)
    for number, (count, exact) in enumerate([(cached, True), (3, False)]):
        assert cache.open(TOKENS, 200, exact=exact) == (number, 0)
        step = chain(TOKENS[:count], 0, sequence=number)
        model(step, cache, GREEDY)
        cache.keep(step, tuple(range(count)))
    return cache


@pytest.mark.parametrize("name", ["tiny", "bundled", "adapted"])
@given(cuts=st.lists(st.integers(1, len(TOKENS) - 1), unique=True).map(sorted))
@settings(max_examples=8, deadline=None)
def test_in_bf16_a_row_does_not_depend_on_the_chunks(name: str, cuts: list[int]) -> None:
    model = captured_of(name, "bfloat16")
    assert torch.equal(fed(model, cuts), fed(model, []))


def test_the_kernels_keep_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: set[str] = set()

    def announce(operation: str, path: str, why: str) -> None:
        if path == "triton":
            launched.add(operation)

    monkeypatch.setattr(engine.kernels.dispatch, "_announce", announce)
    model, tokens = captured_of("small"), TOKENS[: TILE_ROWS + 8]
    with forced("triton"):
        at_once = fed(model, [], tokens)
        assert torch.equal(fed(model, [5, 6, TILE_ROWS - 1, TILE_ROWS + 1], tokens), at_once)
    assert {"tile_attention", "skinny_gemm"} <= launched
    assert "row_attention" not in launched
    torch.testing.assert_close(fed(model, [], tokens), at_once, **ROUNDING)


@pytest.mark.parametrize("name", ["small", "adapted"])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_step_with_others_is_read_as_a_clear_one(name: str, sampling: Sampling) -> None:
    """Masks on an exact row, a second path, and a sequence that is not exact."""
    clear, model = subject(name, "float32").model, captured_of(name)
    assert isinstance(clear, ModelRunner)
    cache = opened(model, 40)
    exact = chain(TOKENS[40:49], 40, read=tuple(range(9)))
    masks = 0 if name == "adapted" else 4  # the adapter has masks of its own
    beside = chain((5, 6), 3, read=(1,), sequence=1)
    step = joined([with_rows(exact, masks, 6), beside])
    ours, theirs = model(step, cache, sampling), clear(step, cache, sampling)
    assert_alike(ours, theirs)
    torch.testing.assert_close(model.logits(step, cache), clear.logits(step, cache), **ROUNDING)
    assert ours[:9] == model(exact, cache, sampling)


def test_what_others_computed_can_be_kept() -> None:
    """The keys and values of rows in no tile come from the forward of the whole step."""
    model = captured_of("small")
    beside = chain((5, 6), 3, read=(1,), sequence=1)
    following = chain((8,), 5, read=(0,), sequence=1)
    readings = []
    for with_exact in (False, True):
        cache = opened(model, 40)
        step, kept = beside, (0, 1)
        if with_exact:
            step = joined([chain(TOKENS[40:49], 40), beside])
            kept = (9, 10)
        model(step, cache, GREEDY)
        cache.keep(step, kept)
        readings.append(model(following, cache, GREEDY))
    assert_alike(*readings)


def test_stale_content_changes_no_bit() -> None:
    model = captured_of("small")
    cache = opened(model, 40)
    step = chain(TOKENS[40:75], 40, read=(0, 20, 34))
    expected = model(step, cache, GREEDY)
    spoil(model.steps_of(cache), cache, {0: 40})
    assert model(step, cache, GREEDY) == expected


def test_all_tiles_have_one_size_and_room_for_their_text() -> None:
    near = Tile(0, 0, 3, (0,), ())
    assert bucket_of_tile(near, reads=True) == Bucket(TILE_ROWS, 1, TILE_ROWS, parts=1)
    for start in (PART - TILE_ROWS, PART, 4 * PART, 65 * PART):
        bucket = bucket_of_tile(Tile(0, start, 0, (0,), ()), reads=False)
        assert (bucket.rows, bucket.reads) == (TILE_ROWS, 0)
        assert bucket.parts * PART >= start + TILE_ROWS
        assert bucket.parts <= 4 * (start // PART + 1)


def test_there_is_room_for_a_step_of_any_size() -> None:
    """Most have fewer rows than there is room for from the start."""
    model = captured_of("small")
    tokens = prompt_of(EXACT_ROWS + 1)
    cache = store_of(model, 2 * EXACT_ROWS)
    sequence, _ = cache.open(tokens, EXACT_ROWS + 8, exact=True)
    found: list[Reading] = []
    for rows in (1, EXACT_ROWS, EXACT_ROWS + 1, 1):
        step = chain(tokens[:rows], 0, read=(rows - 1,), sequence=sequence)
        found += model(step, cache, GREEDY)
        assert_alike(found[-1:], ModelRunner.__call__(model, step, cache, GREEDY))
    assert found[0] == found[3]


def test_a_step_that_reads_nothing_gives_nothing() -> None:
    model = captured_of("small")
    cache = opened(model, 4)
    step: Step = chain(TOKENS[4:9], 4)
    assert model(step, cache, GREEDY) == ()
    assert model.logits(step, cache).shape == (0, model.network.config.vocabulary)
