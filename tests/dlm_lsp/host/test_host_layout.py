"""Laws of the layout: pieces stay in place while the user types, and never exceed the budget."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dlm_lsp.host.layout import (
    NAMED_CHARS,
    Layout,
    PromptBudget,
    TextPieces,
    budget_for,
    lay_out,
)
from engine.errors import RequestError
from engine.model.gguf_tokenizer import tokenizer_from_gguf
from engine.model.tokenizer import Tokenizer
from engine.prompt import MARKERS_MAX, SENTINEL_NAMES, SPECIAL_TOKENS
from tests.tiny import byte_tokenizer
from tests.vocabularies import byte_level_metadata

TOKENIZER = byte_tokenizer()
INFILL = TOKENIZER.infill
assert INFILL is not None
MARKERS = {INFILL.begin, INFILL.far, INFILL.prefix, INFILL.near, INFILL.middle}

# Words of at most 12 characters, so that one more changes few tokens; all kinds of line ends.
words = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=0, max_size=12
) | st.sampled_from(["[MASK]", "</s>", "<s>", "[MIDDLE]", "    ", "\t", "return", "def", "é", "😀"])
lines = st.builds(
    lambda parts, end: " ".join(parts) + end,
    st.lists(words, max_size=6),
    st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"]),
)
texts = st.lists(lines, max_size=40).map("".join)
budgets = st.builds(PromptBudget, st.integers(16, 120), st.integers(0, 60))


def pieces_of(tokens: tuple[int, ...]) -> tuple[list[int], list[int], list[int]]:
    """Splits an infilling prompt into far suffix, prefix and near suffix."""
    assert INFILL is not None
    assert tokens[:2] == (INFILL.begin, INFILL.far)
    assert tokens[-1] == INFILL.middle
    prefix, near = tokens.index(INFILL.prefix), tokens.index(INFILL.near)
    return list(tokens[2:prefix]), list(tokens[prefix + 1 : near]), list(tokens[near + 1 : -1])


def again(layout: Layout, prefix: str, suffix: str, budget: PromptBudget) -> Layout:
    """Returns the layout of a later text with the marks of an earlier layout."""
    pieces = TextPieces(prefix, suffix, layout.prefix_start, layout.far_suffix_start)
    return lay_out(pieces, TOKENIZER, budget)


@given(texts, texts, budgets)
def test_layout_any_text_fits_the_budget_and_has_markers_only_where_they_belong(
    prefix: str, suffix: str, budget: PromptBudget
) -> None:
    layout = lay_out(TextPieces(prefix, suffix), TOKENIZER, budget)
    far, before, near = pieces_of(layout.prompt)
    assert len(before) <= budget.prefix
    assert len(far) + len(near) <= budget.suffix
    special = range(len(SPECIAL_TOKENS))
    assert not any(token in special for token in (*far, *before, *near))
    assert sorted(token for token in layout.prompt if token in special) == sorted(MARKERS)


@given(texts, texts, budgets)
def test_layout_pieces_are_text_around_the_cursor(
    prefix: str, suffix: str, budget: PromptBudget
) -> None:
    layout = lay_out(TextPieces(prefix, suffix), TOKENIZER, budget)
    far, before, near = (TOKENIZER.to_bytes(piece) for piece in pieces_of(layout.prompt))
    assert prefix[layout.prefix_start :].encode().endswith(before)
    assert suffix[: layout.far_suffix_start].encode().startswith(near)
    assert suffix[layout.far_suffix_start :].encode().startswith(far)


@given(texts, texts, budgets)
def test_layout_same_input_same_prompt(prefix: str, suffix: str, budget: PromptBudget) -> None:
    pieces = TextPieces(prefix, suffix)
    assert lay_out(pieces, TOKENIZER, budget) == lay_out(pieces, TOKENIZER, budget)


@given(texts, texts, budgets)
def test_layout_own_marks_sent_back_change_nothing(
    prefix: str, suffix: str, budget: PromptBudget
) -> None:
    layout = lay_out(TextPieces(prefix, suffix), TOKENIZER, budget)
    assert again(layout, prefix, suffix, budget) == layout


@settings(max_examples=200)
@given(texts, texts, budgets, st.characters(codec="utf-8"))
def test_layout_one_more_character_changes_only_the_end_of_the_prefix(
    prefix: str, suffix: str, budget: PromptBudget, typed: str
) -> None:
    first = lay_out(TextPieces(prefix, suffix), TOKENIZER, budget)
    second = again(first, prefix + typed, suffix, budget)
    assume(second.prefix_start == first.prefix_start)  # Otherwise the oldest quarter was cut.
    far, before, near = pieces_of(first.prompt)
    far_after, before_after, near_after = pieces_of(second.prompt)
    assert (far, near) == (far_after, near_after)
    # Only the last word, of at most 12 characters, and the space before it are merged anew.
    ids, starts = TOKENIZER.encode_with_offsets(prefix[first.prefix_start :])
    assume(before == ids)  # Otherwise a cut inside a character cost a token.
    unchanged = sum(start < len(prefix) - first.prefix_start - 16 for start in starts)
    assert before_after[:unchanged] == before[:unchanged]


@given(texts, budgets)
def test_layout_typing_on_drops_a_quarter_at_a_time(prefix: str, budget: PromptBudget) -> None:
    """After the prefix start had to move, at least an eighth of the budget can be typed before it
    moves again (an eighth, not a quarter: a line's start may be late, a cut may cost tokens)."""
    layout = lay_out(TextPieces(prefix, ""), TOKENIZER, budget)
    moves = []
    for count in range(1, budget.prefix * 2):
        text = prefix + "z" * count
        after = again(layout, text, "", budget)
        if after.prefix_start != layout.prefix_start:
            moves.append(count)
        layout = after
    assert moves
    assert all(b - a >= budget.prefix // 8 for a, b in pairwise(moves))


def test_layout_prefix_over_budget_starts_at_a_line() -> None:
    prefix = "".join(f"line number {number}\n" for number in range(200)) + "here"
    layout = lay_out(TextPieces(prefix, ""), TOKENIZER, PromptBudget(120, 0))
    assert layout.prefix_start > 0
    assert prefix[layout.prefix_start - 1] == "\n"
    _, before, _ = pieces_of(layout.prompt)
    assert 60 <= len(before) <= 90  # half to three quarters of the budget


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_layout_prefix_start_is_behind_the_whole_line_end(end: str) -> None:
    prefix = f"some words here{end}" * 100
    layout = lay_out(TextPieces(prefix, ""), TOKENIZER, PromptBudget(120, 0))
    assert layout.prefix_start % len(f"some words here{end}") == 0


def test_layout_giant_line_is_cut_between_characters() -> None:
    prefix = "é" * 5000
    layout = lay_out(TextPieces(prefix, ""), TOKENIZER, PromptBudget(100, 0))
    _, before, _ = pieces_of(layout.prompt)
    assert TOKENIZER.decode(before) == prefix[layout.prefix_start :]
    assert 75 <= len(before) <= 100


def test_layout_giant_line_above_a_short_one_is_kept_in_part() -> None:
    layout = lay_out(TextPieces("x" * 5000 + "\nshort", ""), TOKENIZER, PromptBudget(100, 0))
    _, before, _ = pieces_of(layout.prompt)
    assert len(before) >= 50


def test_layout_line_that_starts_where_three_quarters_do_is_kept() -> None:
    layout = lay_out(TextPieces("ab\n" * 100, ""), TOKENIZER, PromptBudget(16, 0))
    _, before, _ = pieces_of(layout.prompt)
    assert TOKENIZER.decode(before) == "ab\n" * 4


class Coarse:
    """An encoder with tokens of fifty characters, as for runs of spaces."""

    infill = INFILL

    def id_of(self, token: str) -> int | None:
        return TOKENIZER.id_of(token)

    def encode(self, text: str) -> list[int]:
        return [20 + len(text[start : start + 50]) for start in range(0, len(text), 50)]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
        return self.encode(text), list(range(0, len(text), 50))


def test_layout_start_of_text_with_few_tokens_stays_while_typing() -> None:
    text, budget = " " * 10_000, PromptBudget(100, 0)
    layout = lay_out(TextPieces(text, ""), Coarse(), budget)
    moves = 0
    for count in range(1, 200):
        pieces = TextPieces(text + " " * count, "", layout.prefix_start)
        after = lay_out(pieces, Coarse(), budget)
        moves += after.prefix_start != layout.prefix_start
        layout = after
    assert layout.prefix_start > 0
    assert moves <= 1


def test_layout_long_text_is_read_only_as_far_as_the_budget_reaches() -> None:
    read = 0

    class Counting:
        infill = INFILL

        def id_of(self, token: str) -> int | None:
            return TOKENIZER.id_of(token)

        def encode(self, text: str) -> list[int]:
            nonlocal read
            read += len(text)
            return TOKENIZER.encode(text)

        def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
            nonlocal read
            read += len(text)
            return TOKENIZER.encode_with_offsets(text)

    lay_out(TextPieces("x = 1\n" * 30_000, "y = 2\n" * 15_000), Counting(), PromptBudget(448, 192))
    assert read < 20_000


def test_layout_far_suffix_starts_two_lines_below_the_cursor() -> None:
    suffix = ")\nsecond\nthird\nfourth\n"
    layout = lay_out(TextPieces("f(", suffix), TOKENIZER, PromptBudget(64, 192))
    far, _, near = pieces_of(layout.prompt)
    assert layout.far_suffix_start == suffix.index("third")
    assert (TOKENIZER.decode(near), TOKENIZER.decode(far)) == (")\nsecond\n", "third\nfourth\n")


def test_layout_far_suffix_mark_stays_while_the_text_up_to_it_fits() -> None:
    suffix = "".join(f"y = {number}\n" for number in range(20))
    mark = suffix.index("y = 5")
    layout = lay_out(TextPieces("f(", suffix, None, mark), TOKENIZER, PromptBudget(64, 192))
    _, _, near = pieces_of(layout.prompt)
    assert layout.far_suffix_start == mark
    assert TOKENIZER.decode(near) == suffix[:mark]


def test_layout_far_suffix_mark_too_far_below_is_set_anew() -> None:
    suffix = "".join(f"a line of some words, number {number}\n" for number in range(20))
    mark = suffix.index("a line of some words, number 9")
    layout = lay_out(TextPieces("", suffix, None, mark), TOKENIZER, PromptBudget(64, 192))
    assert layout.far_suffix_start == suffix.index("a line of some words, number 2")


def test_layout_without_markers_is_the_prefix_alone() -> None:
    tokenizer = byte_tokenizer(infilling=False)
    layout = lay_out(TextPieces("return", "never seen"), tokenizer, PromptBudget(64, 64))
    assert layout.prompt == (tokenizer.id_of("<s>"), *tokenizer.encode("return"))


@pytest.mark.parametrize(
    ("pieces", "param"),
    [
        (TextPieces("abc", "", 4), "marks.prefixStart"),
        (TextPieces("abc", "de", None, 3), "marks.farSuffixStart"),
    ],
)
def test_layout_mark_outside_its_text_is_named(pieces: TextPieces, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        lay_out(pieces, TOKENIZER, PromptBudget(64, 64))
    assert caught.value.param == param


@given(st.integers(16, 4096), st.integers(0, 4096), st.integers(16, 10**6), st.integers(0, 10**6))
def test_budget_always_leaves_room_for_the_completion(
    context_max: int, tokens_max: int, prefix: int, suffix: int
) -> None:
    assume(context_max - tokens_max > 5)
    budget = budget_for(context_max, tokens_max, prefix=prefix, suffix=suffix)
    assert 1 <= budget.prefix <= prefix
    assert 0 <= budget.suffix <= suffix
    assert budget.prefix + budget.suffix + 5 + tokens_max <= context_max


def test_budget_completion_without_room_for_a_prompt_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        budget_for(2048, 2043)
    assert caught.value.param == "limits.tokensMax"
    assert "2042" in caught.value.remedy


def test_budget_default_is_what_the_bundled_model_was_trained_with() -> None:
    assert budget_for(2048, 128) == PromptBudget(832, 288)
    assert budget_for(2048, 128, related=None) == PromptBudget(832, 288, 478)


def named_tokenizer() -> Tokenizer:
    """A tokenizer with Qwen2.5-Coder's sentinels, which names files."""
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>")
    return tokenizer_from_gguf(byte_level_metadata(markers=dict.fromkeys(names, 3)), "test")


@pytest.mark.parametrize("name", ["main.go", "a b.rs", "<|fim_middle|>.py", "ünï.rb"])
def test_layout_a_short_text_is_preceded_by_the_name_of_its_file(name: str) -> None:
    """Without it nothing tells the language of a file in which little is written yet."""
    tokenizer = named_tokenizer()
    budget = PromptBudget(400, 60)
    plain = lay_out(TextPieces("x", "y\n"), tokenizer, budget).prompt
    named = lay_out(TextPieces("x", "y\n", name=name), tokenizer, budget).prompt
    assert named[len(named) - len(plain) :] == plain
    head = named[: len(named) - len(plain)]
    assert head[0] == tokenizer.id_of("<|file_sep|>")
    assert tokenizer.decode(head[1:]) == f"{name}\n"
    middle = tokenizer.id_of("<|fim_middle|>")
    assert named.count(middle) == 1  # A name is no marker either.


@given(texts, texts, st.text(max_size=60))
def test_layout_a_name_never_exceeds_the_budget_and_ends_with_short_texts(
    prefix: str, suffix: str, name: str
) -> None:
    tokenizer, budget = named_tokenizer(), PromptBudget(40, 30)
    assume("\ud800" not in name)
    plain = lay_out(TextPieces(prefix, suffix), tokenizer, budget)
    named = lay_out(TextPieces(prefix, suffix, name=name), tokenizer, budget)
    assert len(named.prompt) <= budget.prefix + budget.suffix + MARKERS_MAX
    if len(prefix) + len(suffix) >= NAMED_CHARS:
        assert named == plain


def test_layout_models_that_know_no_names_are_not_told_one() -> None:
    budget = PromptBudget(400, 60)
    pieces = TextPieces("x", "y\n", name="a.py")
    assert lay_out(pieces, TOKENIZER, budget) == lay_out(TextPieces("x", "y\n"), TOKENIZER, budget)


RELATED = (("far.py", "x = 1\n" * 3), ("near.py", "def f():\n    return 1"))


def repository_tokenizer(family: str = "qwen") -> Tokenizer:
    """A tokenizer with the sentinels of a family that was trained on whole repositories."""
    names = {
        "qwen": (
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
            "<|file_sep|>",
            "<|repo_name|>",
        ),
        "starcoder2": ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<repo_name>"),
    }[family]
    return tokenizer_from_gguf(byte_level_metadata(markers=dict.fromkeys(names, 3)), "test")


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (
            "qwen",
            "<|repo_name|>shop\n<|file_sep|>far.py\nx = 1\nx = 1\nx = 1\n"
            "<|file_sep|>near.py\ndef f():\n    return 1\n"
            "<|file_sep|>app.py\n<|fim_prefix|>f(<|fim_suffix|>)\n<|fim_middle|>",
        ),
        (
            "starcoder2",
            "<repo_name>shop\n<file_sep>far.py\nx = 1\nx = 1\nx = 1\n"
            "<file_sep>near.py\ndef f():\n    return 1\n"
            "<file_sep><fim_prefix>app.py\nf(<fim_suffix>)\n<fim_middle>",
        ),
    ],
)
def test_layout_other_files_stand_before_the_hole_as_the_family_was_trained(
    family: str, expected: str
) -> None:
    """Qwen2.5-Coder: arXiv 2409.12186, 3.2; StarCoder2: arXiv 2402.19173, 5.2."""
    tokenizer = repository_tokenizer(family)
    pieces = TextPieces("f(", ")\n", name="app.py", related=RELATED, repository="shop")
    layout = lay_out(pieces, tokenizer, PromptBudget(400, 60, 400))
    names = {tokenizer.id_of(name): name for name in SENTINEL_NAMES}
    assert "".join(names.get(one) or tokenizer.decode([one]) for one in layout.prompt) == expected
    start, end = layout.suffix
    assert tokenizer.decode(layout.prompt[start:end]) == ")\n"


@given(texts, texts, st.lists(st.tuples(st.just("a.py"), st.text(max_size=400)), max_size=4))
def test_layout_other_files_never_exceed_the_budget_and_the_last_ones_stay(
    prefix: str, suffix: str, related: list[tuple[str, str]]
) -> None:
    tokenizer, budget = repository_tokenizer(), PromptBudget(60, 30, 120)
    files = tuple((name, text.replace("\ud800", "")) for name, text in related)
    alone = lay_out(TextPieces(prefix, suffix, name="b.py"), tokenizer, PromptBudget(60, 30))
    layout = lay_out(TextPieces(prefix, suffix, name="b.py", related=files), tokenizer, budget)
    assert len(layout.prompt) <= budget.prefix + budget.suffix + budget.related + MARKERS_MAX
    start, end = layout.suffix
    assert layout.prompt[start:end] == alone.prompt[alone.suffix[0] : alone.suffix[1]]
    separator = tokenizer.id_of("<|file_sep|>")
    assert layout.prompt.count(separator) <= len(files) + 1
    if files and len(files[-1][1].encode()) < 60:  # A token is a byte here.
        near = tokenizer.encode(files[-1][1])
        held = "".join(map(chr, layout.prompt))
        assert "".join(map(chr, near)) in held


def test_layout_models_that_know_no_files_get_none() -> None:
    pieces = TextPieces("f(", ")\n")
    related = replace(pieces, related=RELATED, name="app.py", repository="shop")
    budget = PromptBudget(400, 60, 400)
    assert lay_out(related, TOKENIZER, budget) == lay_out(pieces, TOKENIZER, budget)
