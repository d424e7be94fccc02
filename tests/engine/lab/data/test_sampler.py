"""Holes and prompts: the pieces joined are the text, budgets hold, draws repeat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.host.layout import PromptBudget as HostBudget
from dlm_lsp.host.layout import TextPieces as HostPieces
from dlm_lsp.host.layout import lay_out
from engine.lab.data.corpus import Source
from engine.lab.data.examples import (
    CURSORS,
    ENDS,
    LineIndex,
    Pieces,
    Scene,
    draw_scene,
    place_cursor,
    place_end,
)
from engine.lab.data.languages import SHARES
from engine.lab.data.sampler import (
    HOLES,
    LANGUAGE,
    MIDDLE_TOKENS_MAX,
    Example,
    ExampleSampler,
    Mix,
    draw_budgets,
    file_weights,
    middle_weights,
    prefix_start,
    prefix_tokens,
    prompt_tokens,
)
from engine.lab.data.vocabulary import train_tokenizer
from engine.model.tokenizer import Tokenizer
from engine.prompt import FAR_TOKENS_MAX, NEAR_TOKENS_MAX, PREFIX_TOKENS_MAX, InfillFormat

CODE = '''class Counter:
    """Counts what it is given."""

    def __init__(self, start=0):
        self.values = {"start": [start]}

    def add(self, name, value=1):
        if name not in self.values:
            self.values[name] = []
        self.values[name].append(value)
        return sum(self.values[name])
'''
texts = st.text(alphabet="ab_1 (\n\t)[]\"'.:é", max_size=200) | st.just(CODE)
seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([CODE], 400)


@pytest.fixture(scope="module")
def infill(tokenizer: Tokenizer) -> InfillFormat:
    found = tokenizer.infill
    assert isinstance(found, InfillFormat)
    return found


def scene_of(text: str, seed: int, holes: int = 6) -> Scene:
    return draw_scene(Source("p", "f.py", text), np.random.default_rng(seed), holes)


@settings(max_examples=200, deadline=None)
@given(texts, seeds)
def test_pieces_joined_are_the_text(text: str, seed: int):
    scene = scene_of(text, seed)
    assert scene.text == text
    assert 1 <= len(scene.holes) == len(set(scene.holes))
    assert list(scene.holes) == sorted(scene.holes)
    for hole in scene.holes:
        pieces = scene.pieces(hole)
        joined = pieces.prefix + pieces.middle + pieces.near + pieces.far
        assert joined == (text if scene.far_start is not None else text[: hole[1]])


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_scenes_of_a_long_file_are_whole_lines(seed: int):
    text = "".join(f"line_{i} = {i}\n" for i in range(3000))
    scene = scene_of(text, seed)
    assert scene.text in text
    assert text.startswith(scene.text[:10]) or "\n" + scene.text[:10] in text
    assert len(scene.text) < len(text)


@settings(max_examples=200, deadline=None)
@given(texts, seeds)
def test_the_far_suffix_starts_at_a_line_one_to_eight_below_each_hole(text: str, seed: int):
    scene = scene_of(text, seed)
    for hole in scene.holes:
        pieces = scene.pieces(hole)
        if pieces.far:
            assert pieces.near.endswith("\n")
            assert 1 <= pieces.near.count("\n") <= 8


@settings(max_examples=200, deadline=None)
@given(texts, st.sampled_from(CURSORS), st.sampled_from(ENDS), seeds)
def test_cursors_and_ends_lie_in_order_inside_the_text(text: str, cursor: str, end: str, seed: int):
    rng = np.random.default_rng(seed)
    lines = LineIndex(text)
    line = int(rng.integers(len(lines)))
    start = place_cursor(lines, line, cursor, rng)
    stop = place_end(lines, start, end, rng)
    assert lines.line_of(start) == line
    assert 0 <= start <= stop <= len(text)
    if end in ("line", "scope"):
        assert stop == len(text) or text[stop] == "\n"


def test_a_hole_before_closers_leaves_them_in_the_near_suffix():
    lines = LineIndex("print(names[index])\n")
    assert place_end(lines, 12, "closer", np.random.default_rng(0)) == len("print(names[index")


def test_every_kind_of_cursor_occurs_where_it_should():
    lines = LineIndex(CODE)
    rng = np.random.default_rng(0)
    for _ in range(50):
        line = int(rng.choice([0, 1, 3, 4, 6, 7, 8, 9, 10]))
        column_zero = place_cursor(lines, line, "column_zero", rng)
        assert column_zero == 0 or CODE[column_zero - 1] == "\n"
        first = place_cursor(lines, line, "line_start", rng)
        assert not CODE[lines.start(lines.line_of(first)) : first].strip()
        assert not CODE[first].isspace()
        assert CODE[place_cursor(lines, line, "line_end", rng)] == "\n"
        word = place_cursor(lines, line, "word", rng)
        assert CODE[word - 1 : word + 1].isidentifier()


@settings(max_examples=150, deadline=None)
@given(text=texts | st.just(CODE * 9), seed=seeds)
def test_an_examples_prompts_are_the_hosts(
    tokenizer: Tokenizer, infill: InfillFormat, text: str, seed: int
):
    """Trunk and branch are what the host lays out for the same text, cursor, marks and budgets,
    and the middle is what stood there, tokenised alone, and its end."""
    scene = scene_of(text, seed)
    sampler = ExampleSampler([Source("p", "f.py", CODE)], tokenizer)
    example = sampler.infilling(scene, np.random.default_rng(seed))
    if example is None:
        return
    budgets = draw_budgets(np.random.default_rng(seed))
    trunk = example.tokens.tolist()
    far = trunk[2 : trunk.index(infill.prefix)]
    assert len(far) <= budgets[1]
    made = [[*trunk[: hole.seen], *hole.tokens.tolist()] for hole in example.holes]
    found = 0
    for hole in scene.holes:
        pieces = scene.pieces(hole)
        start = prefix_start(scene.text[: scene.holes[-1][0]], tokenizer, budgets[0])
        if hole[0] < start:
            continue
        near = tokenizer.encode(pieces.near)
        layout = lay_out(
            HostPieces(pieces.prefix, pieces.near + pieces.far, start, len(pieces.near)),
            tokenizer,
            # The host gives the near suffix a third; the far one's cut is what was drawn.
            HostBudget(PREFIX_TOKENS_MAX, NEAR_TOKENS_MAX + FAR_TOKENS_MAX),
        )
        middle = [*tokenizer.encode(pieces.middle), infill.end_of_middle]
        if len(near) > NEAR_TOKENS_MAX or len(middle) > MIDDLE_TOKENS_MAX:
            continue
        expected = list(layout.prompt)
        end_of_far = expected.index(infill.prefix)
        expected[2:end_of_far] = expected[2 : min(end_of_far, 2 + budgets[1])]
        assert [*expected, *middle] in made
        found += 1
    assert found == len(made)


@settings(max_examples=60, deadline=None)
@given(text=texts, seed=seeds)
def test_only_what_has_to_be_predicted_is_weighted(
    tokenizer: Tokenizer, infill: InfillFormat, text: str, seed: int
):
    sampler = ExampleSampler([Source("p", "f.py", CODE)], tokenizer)
    example = sampler.infilling(scene_of(text, seed), np.random.default_rng(seed))
    if example is None:
        return
    brought = [infill.begin, infill.far, infill.prefix, infill.near, infill.middle]
    assert (example.weights[np.isin(example.tokens, brought)] == 0).all()
    for hole in example.holes:
        assert (hole.weights[np.isin(hole.tokens, brought)] == 0).all()
        assert hole.weights[0] == 0
        assert (hole.weights[hole.middle :] > 0).all()
        assert hole.weights[-1] == hole.weights[hole.middle :].max()


def test_short_middles_count_for_more_per_token_and_less_in_all():
    short, long = middle_weights(4, 1.0), middle_weights(64, 1.0)
    assert short[0] > long[0]
    assert short.sum() < long.sum()
    assert middle_weights(4, 2.0)[-1] == 2 * short[-1]


@settings(max_examples=100, deadline=None)
@given(text=texts, budget=st.integers(1, 40))
def test_a_prefix_keeps_its_end_within_the_budget(tokenizer: Tokenizer, text: str, budget: int):
    ids = prefix_tokens(text, tokenizer, budget)
    assert len(ids) <= budget
    assert text.encode().endswith(tokenizer.to_bytes(ids))


def test_a_prefix_over_budget_starts_at_a_line(tokenizer: Tokenizer):
    text = CODE * 4
    kept = tokenizer.decode(prefix_tokens(text, tokenizer, 80))
    assert kept
    assert text[: len(text) - len(kept)].endswith("\n")


def test_a_prompt_of_empty_pieces_is_the_markers_alone(tokenizer: Tokenizer, infill: InfillFormat):
    markers = (infill.begin, infill.far, infill.prefix, infill.near, infill.middle)
    assert prompt_tokens(Pieces("", "", "", ""), tokenizer, 10, 10) == markers


def test_batches_repeat_with_their_seed_and_keep_their_size(tokenizer: Tokenizer):
    sampler = ExampleSampler([Source("p", "f.py", CODE * 3)], tokenizer)
    first, again, other = (
        sampler.batch(np.random.default_rng(seed), 2000) for seed in ([1, 5], [1, 5], [1, 6])
    )

    def tokens(examples: list[Example]) -> list[list[int]]:
        return [e.tokens.tolist() + [t for h in e.holes for t in h.tokens] for e in examples]

    assert tokens(first) == tokens(again)
    assert tokens(first) != tokens(other)
    assert sum(example.rows for example in first) <= 2000


def test_the_second_stages_batches_are_mostly_holes(tokenizer: Tokenizer):
    sampler = ExampleSampler([Source("p", "f.py", CODE * 20)], tokenizer)

    def middle_share(mix: Mix) -> float:
        rng = np.random.default_rng(0)
        examples = [example for _ in range(20) for example in sampler.batch(rng, 4000, mix)]
        assert {bool(example.holes) for example in examples} == {True, False}
        middles = sum(len(h.tokens) - h.middle for e in examples for h in e.holes)
        return middles / sum(example.rows for example in examples)

    assert middle_share(HOLES) > 1.5 * middle_share(LANGUAGE)


def test_plain_text_ends_with_end_of_text_only_at_the_end_of_the_file(tokenizer: Tokenizer):
    sampler = ExampleSampler([Source("p", "f.py", CODE)], tokenizer)
    end = tokenizer.id_of("</s>")
    ended = set()
    for seed in range(20):
        example = sampler.plain(Source("p", "f.py", CODE), np.random.default_rng(seed))
        text = tokenizer.decode(example.tokens.tolist())
        assert text in CODE
        assert not example.holes
        assert (end in example.tokens) == (example.tokens[-1] == end) == CODE.endswith(text)
        ended.add(bool(example.tokens[-1] == end))
    assert any(ended)


def test_small_packages_count_for_more_than_their_size():
    sources = [
        Source("large", "a.py", "x" * 6000),
        Source("large", "b.py", "x" * 2000),
        Source("small", "c.py", "x" * 100),
    ]
    weights = file_weights(sources)
    assert weights[0] == pytest.approx(3 * weights[1])
    assert weights[2] / weights.sum() > 2 * 100 / 8100


def test_each_language_has_its_share_whatever_its_size():
    sources = [
        Source("a", "a.py", "x" * 9000),
        Source("b", "b.js", "x" * 300, "javascript"),
        Source("c", "c.js", "x" * 300, "javascript"),
    ]
    weights = file_weights(sources)
    assert weights[1:].sum() / weights[0] == pytest.approx(SHARES["javascript"] / SHARES["python"])
