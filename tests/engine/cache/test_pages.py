"""Laws of the page table: no page leaks, only equals are shared, no request runs out of room."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from engine.cache.pages import PAGE_TOKENS, CacheFull, PageTable

NUM_PAGES = 12


class PageTableLaws(RuleBasedStateMachine):
    """Any order of opens, appends and closes, against a model that stores tokens by slot."""

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.table = PageTable(NUM_PAGES)
        self.stored: dict[int, int] = {}  # slot -> token last written there
        self.tokens: dict[int, list[int]] = {}
        self.prompts: dict[int, list[int]] = {}
        self.limits: dict[int, int] = {}

    # Few distinct tokens and lengths in pages, so that prompts often share beginnings.
    @rule(
        target=sequences,
        pages=st.lists(st.integers(0, 1), min_size=0, max_size=4),
        rest=st.lists(st.integers(0, 2), min_size=1, max_size=PAGE_TOKENS),
        extra=st.integers(0, 40),
    )
    def open(self, pages: list[int], rest: list[int], extra: int) -> int:
        prompt = [token for page in pages for token in [page] * PAGE_TOKENS] + rest
        try:
            sequence, cached = self.table.open(prompt, len(prompt) + extra)
        except CacheFull:
            assert self.table.counts().in_use + self.table.counts().reserved > 0 or (
                len(prompt) + extra > NUM_PAGES * PAGE_TOKENS
            )
            return -1
        assert cached < len(prompt)
        assert [self.stored[slot] for slot in self.table.slots(sequence)] == prompt[:cached]
        self.tokens[sequence] = prompt[:cached]
        self.prompts[sequence] = prompt
        self.limits[sequence] = len(prompt) + extra
        return sequence

    @rule(sequence=sequences, count=st.integers(1, 40), token=st.integers(0, 2))
    def append(self, sequence: int, count: int, token: int) -> None:
        if sequence not in self.tokens:
            return
        known = self.tokens[sequence]
        rest = self.prompts[sequence][len(known) :]
        fresh = (rest + [token] * count)[: min(count, self.limits[sequence] - len(known))]
        slots = self.table.append(sequence, fresh)
        for slot, value in zip(slots, fresh, strict=True):
            self.stored[slot] = value
        known += fresh

    @rule(sequence=consumes(sequences))
    def close(self, sequence: int) -> None:
        if sequence in self.tokens:
            self.table.close(sequence)
            del self.tokens[sequence]

    @invariant()
    def every_open_sequence_keeps_its_tokens(self) -> None:
        for sequence, tokens in self.tokens.items():
            slots = self.table.slots(sequence)
            assert self.table.length(sequence) == len(tokens)
            assert [self.stored[slot] for slot in slots] == tokens

    @invariant()
    def pages_add_up(self) -> None:
        counts = self.table.counts()
        assert counts.free + counts.cached + counts.in_use == counts.total == NUM_PAGES
        assert counts.reserved <= counts.free + counts.cached
        if not self.tokens:
            assert counts.in_use == counts.reserved == 0


TestPageTableLaws = PageTableLaws.TestCase


def fill(table: PageTable, prompt: list[int]) -> int:
    sequence, cached = table.open(prompt, len(prompt))
    table.append(sequence, prompt[cached:])
    return sequence


def test_a_closed_prompt_is_found_again_up_to_its_last_full_page() -> None:
    table = PageTable(8)
    prompt = list(range(3 * PAGE_TOKENS + 5))
    table.close(fill(table, prompt))
    _, cached = table.open(prompt, len(prompt))
    assert cached == 3 * PAGE_TOKENS


def test_the_last_prompt_token_is_always_computed() -> None:
    table = PageTable(8)
    prompt = list(range(2 * PAGE_TOKENS))
    table.close(fill(table, prompt))
    _, cached = table.open(prompt, len(prompt))
    assert cached == PAGE_TOKENS


def test_open_sequences_share_full_pages() -> None:
    table = PageTable(8)
    prompt = list(range(2 * PAGE_TOKENS + 1))
    fill(table, prompt)
    before = table.counts().in_use
    fill(table, prompt)
    assert table.counts().in_use == before + 1  # only the private tail


def test_the_beginning_of_a_chain_outlives_its_end() -> None:
    table = PageTable(4)
    prompt = list(range(3 * PAGE_TOKENS + 1))
    table.close(fill(table, prompt))
    table.close(fill(table, [900 + i for i in range(2 * PAGE_TOKENS)]))  # takes the oldest pages
    _, cached = table.open(prompt, len(prompt))
    assert cached == 2 * PAGE_TOKENS


def test_room_is_set_aside_at_opening() -> None:
    table = PageTable(4)
    table.open([1], 3 * PAGE_TOKENS)
    with pytest.raises(CacheFull):
        table.open([2], 2 * PAGE_TOKENS)
    table.open([2], PAGE_TOKENS)
