"""Mode "auto" never picks a mode that is expected to be slower than "ar"."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api import CAUSAL_MODES, EXACT_MODES, MODES
from engine.auto.checkpoint_stats import CheckpointStats, ModeFigures, published_stats
from engine.auto.mode_selection import (
    FORWARDS_MAX,
    LINE_TOKENS,
    PRIOR_FORWARDS,
    ModeQuery,
    ModeRecord,
    decided_tokens,
    expected_span,
    explain,
    is_line_stop,
    quadratic_length,
    select_mode,
)
from engine.auto.step_times import CPU_TIMES, CUDA_TIMES, StepTimes
from tests.engine.auto.test_checkpoint_stats import stats_known
from tests.engine.decoders.test_copying import curves

# A small network on one core: 32 rows cost twice what one costs.
CPU = StepTimes((1, 2, 8, 32, 128), (4.0, 4.4, 5.1, 8.0, 16.0))
# A large one on a card: the weights are read once for any of these.
GPU = StepTimes((1, 64, 128, 2048), (5.0, 5.5, 9.5, 35.0))
STEEP = StepTimes((1, 2, 128), (1.0, 2.0, 128.0))
GOOD_BLOCK = CheckpointStats({"block": ModeFigures(4.0, 32.0)}, block_is_on_par=True)

finished = st.tuples(st.integers(1, 300), st.integers(1, 20_000), st.integers(1, 600))
records = st.dictionaries(
    st.sampled_from(MODES),
    st.lists(finished, max_size=12).map(lambda requests: record_of(*requests)),
)
queries = st.builds(
    ModeQuery, st.integers(0, 4000), st.integers(2, 256), st.sampled_from([MODES, CAUSAL_MODES])
)


def record_of(*requests: tuple[int, int, int]) -> ModeRecord:
    record = ModeRecord()
    for forwards, rows, tokens in requests:
        record = record.after(forwards=forwards, rows=rows, tokens=tokens)
    return record


def released(*, has_drafter: bool = True) -> CheckpointStats:
    return published_stats(has_drafter=has_drafter)


def mode_of(
    times: StepTimes,
    stats: CheckpointStats | None = None,
    span: int = 128,
    modes: tuple[str, ...] = MODES,
    **of: ModeRecord,
) -> str:
    return select_mode(ModeQuery(span, 32, modes), times, of, stats).mode


@given(queries, curves(), records, st.none() | stats_known)
def test_the_choice_is_never_expected_to_be_slower_than_ar(
    query: ModeQuery,
    times: StepTimes,
    records: dict[str, ModeRecord],
    stats: CheckpointStats | None,
) -> None:
    found = select_mode(query, times, records, stats)
    assert found.costs[found.mode] <= found.costs["ar"]
    assert found.mode == "ar" or found.mode in query.modes
    assert found.mode == "ar" or found.costs[found.mode] == min(found.costs.values())
    assert found.mode != "block" or (stats is not None and stats.block_is_on_par)
    assert all(cost > 0 for cost in found.costs.values())
    assert found == select_mode(query, times, dict(records), stats)


@given(curves(), records)
def test_of_an_unknown_checkpoint_only_copying_is_expected_of(
    times: StepTimes, records: dict[str, ModeRecord]
) -> None:
    seen = {mode: record for mode, record in records.items() if mode in CAUSAL_MODES}
    assert select_mode(ModeQuery(128, 32, MODES), times, seen, None).mode in CAUSAL_MODES


@pytest.mark.parametrize(
    ("times", "expected"), [(CPU, "copy_spec"), (GPU, "copy_spec"), (STEEP, "ar")]
)
def test_copying_is_taken_where_rows_are_cheap(times: StepTimes, expected: str) -> None:
    assert mode_of(times) == expected


@pytest.mark.parametrize("times", [CPU_TIMES, CUDA_TIMES])
def test_until_the_curve_is_measured_an_unknown_checkpoint_copies(times: StepTimes) -> None:
    assert mode_of(times) == "copy_spec"


def test_a_released_checkpoint_speculates_on_a_card() -> None:
    assert mode_of(GPU, released()) == "linear_spec"
    assert mode_of(CUDA_TIMES, released(has_drafter=False)) == "linear_spec"


def test_a_block_is_worth_it_on_a_card_and_for_more_than_a_few_tokens() -> None:
    weak = CheckpointStats({"block": ModeFigures(1.8, 32.0)}, block_is_on_par=True)
    assert mode_of(GPU, GOOD_BLOCK) == "block"
    assert mode_of(GPU, weak) == "block"
    assert mode_of(CPU, weak) == "copy_spec"  # 32 rows cost twice one, for 1.8 tokens
    assert mode_of(CPU, GOOD_BLOCK) == "block"
    assert mode_of(CPU, GOOD_BLOCK, span=2) != "block"  # one more token does not pay for a block


def test_a_block_that_is_not_on_par_is_never_taken() -> None:
    fast = CheckpointStats({"block": ModeFigures(30.0, 32.0)}, block_is_on_par=False)
    assert mode_of(GPU, fast) == "copy_spec"


@given(curves(), st.integers(2, 256))
def test_a_quadratic_cycle_costs_no_more_than_two_forwards_unless_it_is_the_least(
    times: StepTimes, longest: int
) -> None:
    length = quadratic_length(times, longest)
    assert length & (length - 1) == 0
    assert 2 <= length <= longest
    assert length == 2 or times.at(length * (length + 1)) <= 2 * times.at(1)
    longer = 2 * length
    assert longer > longest or times.at(longer * (longer + 1)) > 2 * times.at(1)


def test_quadratic_blocks_are_short_on_a_processor_and_longer_on_a_card() -> None:
    assert quadratic_length(CPU_TIMES, 32) == 2
    assert quadratic_length(CPU, 32) == 4
    assert quadratic_length(CUDA_TIMES, 32) > 4


def test_exactness_leaves_the_modes_that_can_be_exact() -> None:
    assert mode_of(GPU, GOOD_BLOCK, modes=EXACT_MODES) == "copy_spec"


def test_the_hosts_own_record_overrules_what_was_expected() -> None:
    poor = record_of(*[(100, 3200, 105)] * 8)
    assert mode_of(GPU, released(), linear_spec=poor) != "linear_spec"
    assert mode_of(CPU, copy_spec=record_of(*[(100, 190, 101)] * 8)) == "ar"
    good = record_of(*[(20, 160, 60)] * 8)  # a mode that the checkpoint's figures do not name
    assert mode_of(CPU, linear_spec=good) == "linear_spec"


def test_a_few_requests_overrule_nothing() -> None:
    assert mode_of(GPU, released(), linear_spec=record_of((4, 128, 4))) == "linear_spec"
    assert mode_of(CPU, linear_spec=record_of((4, 32, 40))) == "copy_spec"


@given(st.lists(finished, min_size=1, max_size=60))
def test_a_record_keeps_to_its_requests_means_and_fades(
    requests: list[tuple[int, int, int]],
) -> None:
    record = record_of(*requests)
    assert record.forwards <= FORWARDS_MAX + 1e-6
    rates = [tokens / forwards for forwards, _, tokens in requests]
    mean = record.tokens / record.forwards
    assert min(rates) * (1 - 1e-9) <= mean <= max(rates) * (1 + 1e-9)
    prior = ModeFigures(1.0, 1.0)
    weighted = record.figures(prior).tokens_per_forward
    assert min(mean, 1.0) * (1 - 1e-9) <= weighted <= max(mean, 1.0) * (1 + 1e-9)
    assert PRIOR_FORWARDS < FORWARDS_MAX / 2  # else the prior would always outweigh a record


def test_requests_without_a_forward_teach_nothing() -> None:
    assert record_of((10, 10, 10)).after(forwards=0, rows=0, tokens=1) == record_of((10, 10, 10))


def test_a_line_is_short() -> None:
    assert expected_span(128, is_line=is_line_stop(("\n",))) == LINE_TOKENS
    assert expected_span(5, is_line=True) == 5
    assert expected_span(128, is_line=is_line_stop(("\n\n",))) == 128


def test_the_first_token_comes_with_the_prompt_and_a_stop_token_costs_a_forward() -> None:
    assert [decided_tokens(10, "length"), decided_tokens(10, "end"), decided_tokens(0, "end")] == [
        9,
        10,
        1,
    ]


def test_the_figures_are_told_cheapest_first() -> None:
    found = select_mode(ModeQuery(128, 32, MODES), CPU, {}, GOOD_BLOCK)
    text = explain(found)
    assert text.startswith("per token block 2, copy_spec 3.")
    assert text.endswith("ar 4 ms")
    assert "not measured" in explain(select_mode(ModeQuery(128, 32, MODES), CPU_TIMES, {}, None))
