"""Holes and prompts: the pieces joined are the text, budgets hold, draws repeat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.tokenizer import Tokenizer
from engine.prompt import InfillFormat
from engine.training.corpus import Source
from engine.training.examples import CURSORS, ENDS, LineIndex, Pieces, cut, place_cursor, place_end
from engine.training.packing import (
    EXAMPLE_TOKENS_MAX,
    FAR_TOKENS_MAX,
    HOLES,
    LANGUAGE,
    NEAR_TOKENS_MAX,
    PREFIX_TOKENS_MAX,
    Mix,
    Packer,
    file_weights,
    prefix_tokens,
    prompt_tokens,
)
from engine.training.vocabulary import train_tokenizer

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
    assert found is not None
    return found


@settings(max_examples=200, deadline=None)
@given(texts, seeds)
def test_pieces_joined_are_the_text(text: str, seed: int):
    pieces = cut(Source("p", "f.py", text), np.random.default_rng(seed))
    joined = pieces.prefix + pieces.middle + pieces.near + pieces.far
    assert joined == text if pieces.near or pieces.far else text.startswith(joined)


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_pieces_of_a_long_file_are_contiguous_and_whole_lines(seed: int):
    text = "".join(f"line_{i} = {i}\n" for i in range(3000))
    pieces = cut(Source("p", "f.py", text), np.random.default_rng(seed))
    joined = pieces.prefix + pieces.middle + pieces.near + pieces.far
    assert joined in text
    assert text.startswith(joined[:10]) or "\n" + joined[:10] in text
    assert len(joined) < len(text)


@settings(max_examples=200, deadline=None)
@given(texts, seeds)
def test_the_far_suffix_starts_at_a_line_one_to_eight_below_the_hole(text: str, seed: int):
    pieces = cut(Source("p", "f.py", text), np.random.default_rng(seed))
    if pieces.far:
        assert pieces.near.endswith("\n")
        assert 1 <= pieces.near.count("\n") <= 8


@settings(max_examples=200, deadline=None)
@given(texts, st.sampled_from(CURSORS), st.sampled_from(ENDS), seeds)
def test_cursors_and_ends_lie_in_order_inside_the_text(text: str, cursor: str, end: str, seed: int):
    rng = np.random.default_rng(seed)
    lines = LineIndex(text)
    start = place_cursor(lines, cursor, rng)
    stop = place_end(lines, start, end, rng)
    assert 0 <= start <= stop <= len(text)
    if end in ("line", "lines", "scope"):
        assert stop == len(text) or text[stop] == "\n"


def test_a_hole_before_closers_leaves_them_in_the_near_suffix():
    lines = LineIndex("print(names[index])\n")
    assert place_end(lines, 12, "closer", np.random.default_rng(0)) == len("print(names[index")


def test_every_kind_of_cursor_occurs_where_it_should():
    lines = LineIndex(CODE)
    rng = np.random.default_rng(0)
    for _ in range(50):
        column_zero = place_cursor(lines, "column_zero", rng)
        assert column_zero == 0 or CODE[column_zero - 1] == "\n"
        first = place_cursor(lines, "line_start", rng)
        assert not CODE[lines.start(lines.line_of(first)) : first].strip()
        assert not CODE[first].isspace()
        assert CODE[place_cursor(lines, "line_end", rng)] == "\n"
        word = place_cursor(lines, "word", rng)
        assert CODE[word - 1 : word + 1].isidentifier()


@settings(max_examples=100, deadline=None)
@given(text=texts, seed=seeds)
def test_an_example_is_the_pieces_tokenised_apart_and_ends_its_middle(
    tokenizer: Tokenizer, infill: InfillFormat, text: str, seed: int
):
    rng = np.random.default_rng(seed)
    pieces = cut(Source("p", "f.py", text), rng)
    example = Packer([Source("p", "f.py", CODE)], tokenizer).infilling(pieces, rng)
    if example is None:
        return
    tokens = example.tokens.tolist()
    far, prefix, near, middle = (
        tokens.index(marker) for marker in (infill.far, infill.prefix, infill.near, infill.middle)
    )
    assert tokens[0] == infill.begin
    assert example.middle == middle + 1
    assert tokens[middle + 1 :] == [*tokenizer.encode(pieces.middle), infill.end_of_middle]
    assert tokens[near + 1 : middle] == tokenizer.encode(pieces.near)
    assert pieces.prefix.endswith(tokenizer.decode(tokens[prefix + 1 : near]))
    assert pieces.far.startswith(tokenizer.decode(tokens[far + 1 : prefix], final=False))
    assert near - prefix - 1 <= PREFIX_TOKENS_MAX
    assert prefix - far - 1 <= FAR_TOKENS_MAX
    assert middle - near - 1 <= NEAR_TOKENS_MAX
    assert len(tokens) <= EXAMPLE_TOKENS_MAX
    # Only what has to be predicted is weighted: never a marker that the prompt brings.
    assert example.weights[[0, far, prefix, near, middle]].tolist() == [0.0] * 5
    assert (example.weights[middle + 1 :] == 1.0).all()


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
    packer = Packer([Source("p", "f.py", CODE * 3)], tokenizer)
    first, again, other = (
        packer.batch(np.random.default_rng(seed), 1000) for seed in ([1, 5], [1, 5], [1, 6])
    )
    assert [e.tokens.tolist() for e in first] == [e.tokens.tolist() for e in again]
    assert [e.tokens.tolist() for e in first] != [e.tokens.tolist() for e in other]
    assert sum(len(example.tokens) for example in first) <= 1000


def test_the_second_stages_batches_are_mostly_holes(tokenizer: Tokenizer):
    packer = Packer([Source("p", "f.py", CODE * 20)], tokenizer)

    def middle_share(mix: Mix) -> float:
        rng = np.random.default_rng(0)
        examples = [example for _ in range(20) for example in packer.batch(rng, 4000, mix)]
        assert {example.middle is None for example in examples} == {True, False}
        middles = sum(len(e.tokens) - e.middle for e in examples if e.middle is not None)
        return middles / sum(len(example.tokens) for example in examples)

    assert middle_share(HOLES) > 1.5 * middle_share(LANGUAGE)


def test_plain_text_ends_with_end_of_text_only_at_the_end_of_the_file(tokenizer: Tokenizer):
    packer = Packer([Source("p", "f.py", CODE)], tokenizer)
    end = tokenizer.id_of("</s>")
    ended = set()
    for seed in range(20):
        example = packer.plain(Source("p", "f.py", CODE), np.random.default_rng(seed))
        text = tokenizer.decode(example.tokens.tolist())
        assert text in CODE
        assert example.middle is None
        assert (end in example.tokens) == (example.tokens[-1] == end) == CODE.endswith(text)
        ended.add(bool(example.tokens[-1] == end))
    assert True in ended


def test_small_packages_count_for_more_than_their_size():
    sources = [
        Source("large", "a.py", "x" * 6000),
        Source("large", "b.py", "x" * 2000),
        Source("small", "c.py", "x" * 100),
    ]
    weights = file_weights(sources)
    assert weights[0] == pytest.approx(3 * weights[1])
    assert weights[2] / weights.sum() > 2 * 100 / 8100
