"""Pruned self-speculation: verify and draft in one forward, with masks only where they may pay.

As quadratic self-speculation (arXiv 2607.05722), a cycle is one forward: a causal chain of the
bonus token and its drafts is verified, and groups of masks hang on rows of the chain, so that the
group on the row where acceptance ends already holds the next draft. There every row has a group;
here rows are added by what they are expected to be worth. Acceptance ends at a row with a
probability that follows from the drafts' confidences, corrected by how often drafts of such a
confidence were right in this request; a row costs what the machine's step-time curve says. Where
nothing pays, a cycle is the single row of "ar". What is verified is the group's draft or, where
that promises more, what followed the last tokens when they stood in the text before (`copying`).

Two conventions of masks are served. A mask adapter's rows predict the token after their place
(token shift), so that a group of k masks gives k drafts after the exact token of the row it hangs
on. In Nemotron-Labs-Diffusion's own checkpoints a mask predicts its own place: a group of k + 1
masks gives k drafts, and the first one, which stands where the exact token goes, is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

from engine.auto.step_times import StepTimes
from engine.decoders.copying import Copy, CopyRecord, find_copy
from engine.decoders.draft_worth import gains, rate
from engine.decoders.strategy import (
    DraftPlace,
    PendingTokens,
    Progress,
    Task,
    advance_prefill,
    before_stop,
    hang_masks,
    room_left,
    verify,
)
from engine.reading import Reading
from engine.step import Step

DRAFTS_MAX, COPIED_MAX = 8, 15
# That the first j drafts of a group are all right, before a request has a record of its own:
# Qwen2.5-Coder-0.5B with its adapter at held-out holes. Counts as so many cycles.
SURVIVAL = (0.83, 0.69, 0.56, 0.44, 0.33, 0.24, 0.17, 0.11)
_CHANCES = tuple(now / before for before, now in pairwise((1.0, *SURVIVAL)))
_SURVIVAL_WEIGHT, _SURVIVAL_STEPS = 6.0, 20
_USUAL_ROWS = 13  # of a cycle
_PRICED_CYCLES = 8  # until prices are worked out again
# A draft's confidence counts as so many drafts of its kind; kinds are tenths of confidence.
_CONFIDENCE_WEIGHT, _KINDS = 8.0, 10


@dataclass(frozen=True, slots=True)
class DraftRecord:
    """How a request's drafts did so far.

    Attributes:
        right, tried: by tenths of confidence, drafts that were looked at because all before them
            were right.
        reached, looked: by offset, cycles whose drafts up to there were all right, and those in
            which a draft stood there and all before it were right.
        cycles: cycles that had drafts to verify.
        emitted, spent: tokens, and their forwards' milliseconds by the step-time curve.
    """

    right: tuple[float, ...] = (0.0,) * _KINDS
    tried: tuple[float, ...] = (0.0,) * _KINDS
    reached: tuple[float, ...] = (0.0,) * DRAFTS_MAX
    looked: tuple[float, ...] = (0.0,) * DRAFTS_MAX
    cycles: float = 0.0
    emitted: float = 0.0
    spent: float = 0.0

    def chance(self, confidence: float) -> float:
        """That a draft of this confidence is right, where all before it are."""
        kind = _kind(confidence)
        right = self.right[kind] + confidence * _CONFIDENCE_WEIGHT
        return right / (self.tried[kind] + _CONFIDENCE_WEIGHT)

    def survival(self) -> tuple[float, ...]:
        """By offset, that a new group's drafts up to there are all right; in steps of a twentieth,
        so that what follows from it is often known already."""
        survival: list[float] = []
        alive = 1.0
        for right, tried, chance in zip(self.reached, self.looked, _CHANCES, strict=True):
            alive *= (right + chance * _SURVIVAL_WEIGHT) / (tried + _SURVIVAL_WEIGHT)
            survival.append(round(alive * _SURVIVAL_STEPS) / _SURVIVAL_STEPS)
        return tuple(survival)

    def after(self, drafts: Sequence[DraftPlace], accepted: int) -> DraftRecord:
        """The record once so many of a chain's drafts were accepted."""
        right, tried = list(self.right), list(self.tried)
        for index, draft in enumerate(drafts[: accepted + 1]):
            kind = _kind(draft.confidence)
            tried[kind] += 1
            right[kind] += index < accepted
        # An offset at which no draft was verified says nothing.
        looked = min(len(drafts), accepted + 1)
        return replace(
            self,
            right=tuple(right),
            tried=tuple(tried),
            reached=tuple(each + (at < accepted) for at, each in enumerate(self.reached)),
            looked=tuple(each + (at < looked) for at, each in enumerate(self.looked)),
            cycles=self.cycles + 1,
        )

    def worth_of_time(self, costs: StepTimes) -> float:
        """Tokens per millisecond that this request comes to, and never less than drafts do alone.

        Copies make it more than that.
        """
        drafting = rate(self.survival(), costs)
        weight = _SURVIVAL_WEIGHT * costs.at(_USUAL_ROWS, masks=True)
        return max(drafting, (self.emitted + drafting * weight) / (self.spent + weight))


@dataclass(frozen=True, slots=True)
class Prices:
    """What time and drafts are worth, in tokens.

    Attributes:
        worth: of a millisecond.
        gains: of a group's drafts to the next forward, by its masks, 1 first.
        cycles: of the record when this was worked out.
    """

    worth: float
    gains: tuple[float, ...]
    cycles: float

    @classmethod
    def of(cls, record: DraftRecord, costs: StepTimes) -> Prices:
        """The prices by a request's record."""
        worth = record.worth_of_time(costs)
        rounded = float(f"{worth:.2g}")  # so that gains are often known already
        return cls(worth, gains(record.survival(), costs, rounded), record.cycles)


@dataclass(frozen=True, slots=True)
class CyclePlan:
    """What one forward has.

    Attributes:
        drafts: of the chain, verified in it.
        anchors: rows of the chain on which a group of masks hangs, ascending.
        masks: drafts that each group is to give; 0 where there is no group.
        value: the expected tokens, less what the forward's time is worth in tokens.
    """

    drafts: int
    anchors: tuple[int, ...] = ()
    masks: int = 0
    value: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class PrunedState:
    """Feeding the prompt, then one forward per cycle.

    Attributes:
        pending: the prompt's rest; afterwards its `cached` ends before the chain.
        drafts: what is to be verified after the bonus token, the token committed last.
        cycle: what the next forward has.
        is_copied: whether `drafts` are copied, and not from a group of masks.
        copy: what could be copied after the bonus token.
        record, copies: how the groups' drafts and the copied ones did so far.
        prices: by which rows are chosen; of a while ago, since working them out takes milliseconds.
    """

    task: Task
    pending: PendingTokens
    progress: Progress
    drafts: tuple[DraftPlace, ...] = ()
    cycle: CyclePlan = CyclePlan(0)
    is_copied: bool = False
    copy: Copy = field(default_factory=Copy)
    record: DraftRecord = field(default_factory=DraftRecord)
    copies: CopyRecord = field(default_factory=CopyRecord)
    prices: Prices | None = None


class PrunedSpec:
    """Strategy "pruned_spec"."""

    def start(self, task: Task) -> PrunedState:
        pending = PendingTokens(task.cached, task.request.prompt[task.cached :])
        return PrunedState(task, pending, Progress())

    def plan(self, state: PrunedState) -> Step:
        if state.pending.tokens:
            return state.pending.plan(state.task)
        tokens = [place.token for place in state.drafts[: state.cycle.drafts]]
        chain = (state.progress.committed[-1], *(token for token in tokens if token is not None))
        return hang_masks(
            chain, state.pending.cached, state.cycle.anchors, state.cycle.masks, state.task
        )

    def resolve(
        self, state: PrunedState, step: Step, readings: Sequence[Reading]
    ) -> tuple[PrunedState, tuple[int, ...]]:
        task = state.task
        if state.pending.tokens:
            pending, progress = advance_prefill(state.pending, state.progress, step, readings, task)
            following = replace(state, pending=pending, progress=progress)
            return _with_cycle(following), tuple(range(step.rows))
        cycle = state.cycle
        progress, tokens = verify(state.progress, step, cycle.drafts + 1, readings, task)
        emitted = len(tokens)
        spent = task.traits.costs.at(step.rows, masks=bool(cycle.anchors))
        record = replace(
            state.record,
            emitted=state.record.emitted + emitted,
            spent=state.record.spent + spent,
        )
        if cycle.drafts and not state.is_copied:
            record = record.after(state.drafts[: cycle.drafts], emitted - 1)
        following = PrunedState(
            task,
            PendingTokens(state.pending.cached + emitted),
            progress,
            record=record,
            copies=state.copies.after(state.copy, tokens),
            prices=state.prices,
        )
        if progress.finished is None:
            following = _with_cycle(_with_drafts(following, cycle, emitted - 1, readings))
        return following, tuple(range(emitted))


def choose_cycle(
    chances: Sequence[float],
    prices: Prices,
    costs: StepTimes,
    *,
    room: int,
    unread: int = 0,
) -> CyclePlan:
    """The forward with the most expected tokens, less what its time is worth.

    Args:
        chances: of each draft at hand, that it is right where all before it are.
        room: tokens that may still be emitted.
        unread: masks of a group that give no draft: one, where masks fill their own place.
    """
    worth = prices.worth
    reach = [1.0]  # that acceptance comes as far as this row
    for chance in chances[: max(room - 1, 0)]:
        reach.append(reach[-1] * chance)
    sizes = list(enumerate(prices.gains[: max(room - 2, 0)], 1))
    best = CyclePlan(0, value=1.0 - worth * costs.at(1))
    for drafts in range(len(reach)):
        emitted = sum(reach[: drafts + 1])
        ends = [reach[row] - (reach[row + 1] if row < drafts else 0.0) for row in range(drafts + 1)]
        order = sorted(range(drafts + 1), key=lambda row: (-ends[row], row))
        plans = [CyclePlan(drafts, value=emitted - worth * costs.at(drafts + 1))]
        for masks, gain in sizes:
            likely = 0.0
            for groups in range(1, drafts + 2):
                likely += ends[order[groups - 1]]
                rows = drafts + 1 + groups * (masks + unread)
                value = emitted + likely * gain - worth * costs.at(rows, masks=True)
                if value > best.value:
                    plans.append(CyclePlan(drafts, tuple(sorted(order[:groups])), masks, value))
        best = max(best, *plans, key=lambda plan: plan.value)
    return best


def _with_drafts(
    state: PrunedState, cycle: CyclePlan, row: int, readings: Sequence[Reading]
) -> PrunedState:
    """The state with what the group on this row drafted, if it has one."""
    task = state.task
    count = min(cycle.masks, room_left(state.progress, task) - 1)
    if row not in cycle.anchors or count <= 0:
        return state
    first = cycle.drafts + 1 + cycle.anchors.index(row) * cycle.masks
    drafts = tuple(
        DraftPlace(reading.token, reading.probability)
        for reading in readings[first : first + count]
    )
    progress = replace(state.progress, draft=before_stop(drafts, task))
    return replace(state, progress=progress, drafts=drafts)


def _with_cycle(state: PrunedState) -> PrunedState:
    """The state with the next forward chosen, whose chain are the drafts at hand or a copy."""
    if state.pending.tokens or state.progress.finished is not None:
        return state
    task, record = state.task, state.record
    room = min(room_left(state.progress, task), task.request.block.length)
    costs, prices = task.traits.costs, state.prices
    if prices is None or record.cycles >= prices.cycles + _PRICED_CYCLES:
        prices = Prices.of(record, costs)
        state = replace(state, prices=prices)
    unread = int(not task.traits.shifts)
    choose = partial(choose_cycle, prices=prices, costs=costs, room=room, unread=unread)
    own = replace(state, cycle=choose([record.chance(each.confidence) for each in state.drafts]))
    copy = find_copy(state.progress, task)
    if not copy.tokens:
        return own
    chance = state.copies.chance(copy.match)
    copied = copy.tokens[:COPIED_MAX]
    cycle = choose([chance] * len(copied))
    if not cycle.drafts or cycle.value <= own.cycle.value:
        return replace(own, copy=copy)
    drafts = tuple(DraftPlace(token, chance) for token in copied)
    progress = replace(state.progress, draft=before_stop(drafts[: cycle.drafts], task))
    return replace(state, progress=progress, drafts=drafts, cycle=cycle, is_copied=True, copy=copy)


def _kind(confidence: float) -> int:
    return min(int(confidence * _KINDS), _KINDS - 1)
