"""How much of the text a prompt holds, by what the engine has already and how soon it is wanted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlm_lsp.host.fitting import COLD_MS, MISSING_MAX, Haste, fitting_layout, short_budget
from dlm_lsp.host.layout import Layout, PromptBudget, TextPieces, lay_out
from engine.auto.step_times import CPU_TIMES, StepTimes
from engine.model.gguf_tokenizer import tokenizer_from_gguf
from tests.toy_backend import ToyBackend
from tests.vocabularies import byte_level_metadata

# 4 ms for each token of a prompt, so that 250 are computed in a second.
SLOW = StepTimes((1, 16, 32), (50.0, 64.0, 128.0))
BUDGET = PromptBudget(800, 280)
LINES = "".join(f"line number {number}\n" for number in range(100))
PIECES = TextPieces(LINES, LINES)


class Warm(ToyBackend):
    """A backend that has some prompts and suffixes, and measured step times."""

    def __init__(self, times: StepTimes | None = SLOW) -> None:
        super().__init__()
        names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>")
        self.tokenizer = tokenizer_from_gguf(
            byte_level_metadata(markers=dict.fromkeys(names, 3)), "test"
        )
        self.info = replace(self.info, step_times=times)
        self.prefixes: list[tuple[int, ...]] = []
        self.suffixes: list[tuple[int, ...]] = []

    def have(self, layout: Layout) -> None:
        """Keeps what a request with this layout leaves in the cache."""
        start, end = layout.suffix
        self.prefixes.append(layout.prompt[:start])
        self.suffixes.append(layout.prompt[start:end])

    def uncached(self, prompt: tuple[int, ...], suffix: tuple[int, int]) -> int:
        def common(one: tuple[int, ...]) -> int:
            pairs = zip(one, prompt, strict=False)
            return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(prompt)))

        held = max((common(one) for one in self.prefixes), default=0)
        start, end = suffix
        return len(prompt) - held - (end - start) * (prompt[start:end] in self.suffixes)


def test_a_new_place_gets_a_prompt_that_is_computed_within_its_time() -> None:
    layout = fitting_layout(PIECES, BUDGET, Warm(), Haste.SOON)
    assert len(layout.prompt) * 4 <= COLD_MS * 1.05
    assert layout.prompt[-1] == lay_out(PIECES, Warm().tokenizer, BUDGET).prompt[-1]


@pytest.mark.parametrize("haste", [Haste.NONE, Haste.IDLE])
def test_the_whole_context_is_taken_where_nobody_waits(haste: Haste) -> None:
    backend = Warm()
    whole = lay_out(PIECES, backend.tokenizer, BUDGET)
    assert fitting_layout(PIECES, BUDGET, backend, haste) == whole


def test_the_whole_context_is_taken_once_it_is_cached() -> None:
    backend = Warm()
    whole = fitting_layout(PIECES, BUDGET, backend, Haste.IDLE)
    backend.have(whole)
    pieces = TextPieces(LINES + "typed", LINES, whole.prefix_start, whole.far_suffix_start)
    layout = fitting_layout(pieces, BUDGET, backend, Haste.SOON)
    assert layout.prefix_start == whole.prefix_start
    assert backend.uncached(layout.prompt, layout.suffix) <= MISSING_MAX


def test_the_next_key_goes_on_with_the_short_prompt() -> None:
    backend = Warm()
    short = fitting_layout(PIECES, BUDGET, backend, Haste.SOON)
    backend.have(short)
    pieces = TextPieces(LINES + "t", LINES, short.prefix_start, short.far_suffix_start)
    layout = fitting_layout(pieces, BUDGET, backend, Haste.SOON)
    assert backend.uncached(layout.prompt, layout.suffix) <= MISSING_MAX
    assert layout.prefix_start == short.prefix_start
    # While idle, it grows to the whole context, which then stays where it is.
    grown = fitting_layout(pieces, BUDGET, backend, Haste.IDLE)
    assert grown.prefix_start < short.prefix_start
    pieces = replace(pieces, prefix_start=grown.prefix_start)
    assert fitting_layout(pieces, BUDGET, backend, Haste.IDLE).prefix_start == grown.prefix_start


def test_a_cursor_that_moved_keeps_the_prefix_and_shortens_the_suffix() -> None:
    backend = Warm()
    whole = fitting_layout(PIECES, BUDGET, backend, Haste.IDLE)
    backend.have(whole)
    moved = LINES.split("\n", 2)
    pieces = TextPieces(LINES + moved[0] + "\n", moved[1] + "\n" + moved[2], whole.prefix_start)
    layout = fitting_layout(pieces, BUDGET, backend, Haste.SOON)
    assert layout.prefix_start == whole.prefix_start
    assert layout.suffix[1] - layout.suffix[0] < whole.suffix[1] - whole.suffix[0]


def test_a_machine_that_is_fast_or_not_measured_shortens_nothing() -> None:
    fast = StepTimes((1, 16, 32), (1.0, 2.0, 3.0))
    assert short_budget(fast, BUDGET) == BUDGET
    assert short_budget(CPU_TIMES, BUDGET) == BUDGET
    for times in (fast, None):
        backend = Warm(times)
        whole = lay_out(PIECES, backend.tokenizer, BUDGET)
        assert fitting_layout(PIECES, BUDGET, backend, Haste.SOON) == whole


def test_other_files_wait_for_idle_time_and_are_then_part_of_every_prompt() -> None:
    backend, budget = Warm(), replace(BUDGET, related=200)
    pieces = replace(PIECES, related=(("other.py", "y = 2\n" * 40),), name="a.py")
    alone = fitting_layout(PIECES, BUDGET, Warm(), Haste.SOON)
    assert fitting_layout(pieces, budget, backend, Haste.SOON) == alone
    whole = fitting_layout(pieces, budget, backend, Haste.IDLE)
    assert len(whole.prompt) > len(fitting_layout(PIECES, BUDGET, backend, Haste.IDLE).prompt)
    backend.have(whole)
    assert fitting_layout(pieces, budget, backend, Haste.SOON) == whole
    typed = replace(
        pieces,
        prefix=pieces.prefix + "t",
        prefix_start=whole.prefix_start,
        far_suffix_start=whole.far_suffix_start,
    )
    layout = fitting_layout(typed, budget, backend, Haste.SOON)
    assert backend.uncached(layout.prompt, layout.suffix) <= MISSING_MAX


def test_other_files_take_no_more_than_the_machine_computes_in_the_time_of_a_new_place() -> None:
    """A request by hand has the same prompt as idle time, which it would otherwise wait for."""
    budget = replace(BUDGET, related=5_000)
    pieces = replace(PIECES, related=(("other.py", "y = 2\n" * 4_000),))
    invoked = fitting_layout(pieces, budget, Warm(), Haste.NONE)
    alone = fitting_layout(PIECES, BUDGET, Warm(), Haste.NONE)
    assert (len(invoked.prompt) - len(alone.prompt)) * 4 <= COLD_MS
    assert fitting_layout(pieces, budget, Warm(), Haste.IDLE) == invoked


def test_a_curve_that_ends_early_promises_nothing_of_longer_prompts() -> None:
    """As one measured on a busy machine: two rows took as long as one, and no more were tried."""
    ends_early = StepTimes((1, 2), (400.0, 400.0))
    least = short_budget(StepTimes((1, 16, 32), (400.0, 6400.0, 12800.0)), BUDGET)
    assert short_budget(ends_early, BUDGET) == least
    assert least.prefix + least.suffix < 200
