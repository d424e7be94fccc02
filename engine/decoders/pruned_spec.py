"""Pruned self-speculation: verify and draft in one forward, with masks only where they may pay.

As quadratic self-speculation (arXiv 2607.05722), a cycle is one forward: a causal chain of the
bonus token and its drafts is verified, and groups of masks hang on rows of the chain, so that the
group on the row where acceptance ends already holds the next draft. There every row has a group;
here rows are added by what they are expected to be worth. Acceptance ends at a row with a
probability that follows from the drafts' confidences, corrected by how often drafts of such a
confidence were right in this request; a row costs what the machine's step-time curve says. Where
nothing pays, a cycle is the single row of "ar".

Two conventions of masks are served. A mask adapter's rows predict the token after their place
(token shift), so that a group of k masks gives k drafts after the exact token of the row it hangs
on. In Nemotron-Labs-Diffusion's own checkpoints a mask predicts its own place: a group of k + 1
masks gives k drafts, and the first one, which stands where the exact token goes, is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from engine.auto.step_times import StepTimes
from engine.decoders.strategy import (
    DraftPlace,
    PendingTokens,
    Progress,
    Task,
    advance_prefill,
    before_stop,
    room_left,
    verify,
)
from engine.reading import Reading
from engine.step import Step

DRAFTS_MAX = 8
# That the first j drafts of a group are all right, before a request has a record of its own:
# Qwen2.5-Coder-0.5B with its adapter at held-out holes. Counts as so many cycles.
SURVIVAL = (0.83, 0.69, 0.56, 0.44, 0.33, 0.24, 0.17, 0.11)
_SURVIVAL_WEIGHT = 6.0
# A draft's confidence counts as so many drafts of its kind; kinds are tenths of confidence.
_CONFIDENCE_WEIGHT, _KINDS = 8.0, 10


@dataclass(frozen=True, slots=True)
class DraftRecord:
    """How a request's drafts did so far.

    Attributes:
        right, tried: by tenths of confidence, drafts that were looked at because all before them
            were right.
        reached: by offset, cycles whose drafts up to there were all right.
        cycles: cycles that had drafts to verify.
    """

    right: tuple[float, ...] = (0.0,) * _KINDS
    tried: tuple[float, ...] = (0.0,) * _KINDS
    reached: tuple[float, ...] = (0.0,) * DRAFTS_MAX
    cycles: float = 0.0

    def chance(self, confidence: float) -> float:
        """That a draft of this confidence is right, where all before it are."""
        kind = _kind(confidence)
        right = self.right[kind] + confidence * _CONFIDENCE_WEIGHT
        return right / (self.tried[kind] + _CONFIDENCE_WEIGHT)

    def survival(self) -> tuple[float, ...]:
        """By offset, that a new group's drafts up to there are all right."""
        total = self.cycles + _SURVIVAL_WEIGHT
        return tuple(
            (own + prior * _SURVIVAL_WEIGHT) / total
            for own, prior in zip(self.reached, SURVIVAL, strict=True)
        )

    def after(self, drafts: Sequence[DraftPlace], accepted: int) -> DraftRecord:
        """The record once so many of a chain's drafts were accepted."""
        right, tried = list(self.right), list(self.tried)
        for index, draft in enumerate(drafts[: accepted + 1]):
            kind = _kind(draft.confidence)
            tried[kind] += 1
            right[kind] += index < accepted
        reached = tuple(count + (offset < accepted) for offset, count in enumerate(self.reached))
        return DraftRecord(tuple(right), tuple(tried), reached, self.cycles + 1)


@dataclass(frozen=True, slots=True)
class CyclePlan:
    """What one forward has.

    Attributes:
        drafts: of the chain, verified in it.
        anchors: rows of the chain on which a group of masks hangs, ascending.
        masks: drafts that each group is to give; 0 where there is no group.
    """

    drafts: int
    anchors: tuple[int, ...] = ()
    masks: int = 0


@dataclass(frozen=True, slots=True)
class PrunedState:
    """Feeding the prompt, then one forward per cycle.

    Attributes:
        pending: the prompt's rest; afterwards its `cached` ends before the chain.
        drafts: what is to be verified after the bonus token, the token committed last.
        cycle: what the next forward has.
    """

    task: Task
    pending: PendingTokens
    progress: Progress
    drafts: tuple[DraftPlace, ...] = ()
    cycle: CyclePlan = CyclePlan(0)
    record: DraftRecord = field(default_factory=DraftRecord)


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
        return _step(chain, state)

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
        record = state.record
        if cycle.drafts:
            record = record.after(state.drafts[: cycle.drafts], emitted - 1)
        following = PrunedState(
            task,
            PendingTokens(state.pending.cached + emitted),
            progress,
            record=record,
        )
        if progress.finished is None:
            following = _with_cycle(_with_drafts(following, cycle, emitted - 1, readings))
        return following, tuple(range(emitted))


def choose_cycle(
    chances: Sequence[float], survival: Sequence[float], costs: StepTimes, room: int
) -> CyclePlan:
    """The forward with the most expected tokens for its time.

    Args:
        chances: of each draft at hand, that it is right where all before it are.
        survival: by offset, that a new group's drafts up to there will all be right.
        room: drafts after the bonus token that could still be emitted.

    Time is worth what it earns otherwise: the tokens per millisecond of "ar", or of a cycle of its
    own with one group, whichever is more.
    """
    worth = _worth_of_time(survival, costs)
    reach = [1.0]  # that acceptance comes as far as this row
    for chance in chances[: max(room, 0)]:
        reach.append(reach[-1] * chance)
    best, most = CyclePlan(0), 1.0 - worth * costs.at(1)
    for drafts in range(len(reach)):
        emitted = sum(reach[: drafts + 1])
        ends = [reach[row] - (reach[row + 1] if row < drafts else 0.0) for row in range(drafts + 1)]
        order = sorted(range(drafts + 1), key=lambda row: (-ends[row], row))
        for masks in range(1, min(len(survival), room - 1) + 1):
            gained = sum(survival[:masks])
            likely = 0.0
            for groups in range(drafts + 2):
                likely += ends[order[groups - 1]] if groups else 0.0
                rows = drafts + 1 + groups * masks
                value = emitted + likely * gained - worth * costs.at(rows)
                if value > most + 1e-9:
                    anchors = tuple(sorted(order[:groups]))
                    best, most = CyclePlan(drafts, anchors, masks if groups else 0), value
        if room <= 1:
            value = emitted - worth * costs.at(drafts + 1)
            if value > most + 1e-9:
                best, most = CyclePlan(drafts), value
    return best


def _worth_of_time(survival: Sequence[float], costs: StepTimes) -> float:
    """Tokens per millisecond of "ar", or of verifying k drafts with one group of k masks on the row
    where acceptance ends, as if that were known; with the k of the most."""
    rates = [1 / costs.at(1)]
    for masks in range(1, len(survival) + 1):
        rates.append((1 + sum(survival[:masks])) / costs.at(2 * masks + 1))
    # Nobody knows where acceptance ends: what is reached lies between.
    return rates[0] + 0.7 * (max(rates) - rates[0])


def _step(chain: tuple[int, ...], state: PrunedState) -> Step:
    """The chain's rows, then the groups of masks."""
    task, cycle, start = state.task, state.cycle, state.pending.cached
    length, shifts = len(chain), bool(task.traits.draft_masks)
    size = cycle.masks + (not shifts)
    of_masks = [(row, offset) for row in cycle.anchors for offset in range(1, size + 1)]
    rows = length + len(of_masks)
    read, follows = list(range(length)), [-1] * length
    for index, (row, offset) in enumerate(of_masks):
        if shifts or offset > 1:
            follows.append(-1 if not shifts else row if offset == 1 else len(read) - 1)
            read.append(length + index)
    return Step(
        token=chain + task.masks_at([offset for _, offset in of_masks]),
        sequence=(task.sequence,) * rows,
        position=(
            *range(start, start + length),
            *(start + row + offset for row, offset in of_masks),
        ),
        parent=(*range(-1, length - 1), *(row for row, _ in of_masks)),
        group=(0,) * length + tuple(row + 1 for row, _ in of_masks),
        drafter=(False,) * length + (task.traits.has_drafter,) * len(of_masks),
        read=tuple(read),
        follows=tuple(follows) if shifts and of_masks else (),
    )


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
    """The state with the next forward chosen."""
    if state.pending.tokens or state.progress.finished is not None:
        return state
    task, record = state.task, state.record
    chances = [record.chance(draft.confidence) for draft in state.drafts]
    limit = task.request.block.length
    room = min(room_left(state.progress, task), limit)
    cycle = choose_cycle(chances, record.survival()[:limit], task.traits.costs, room)
    return replace(state, cycle=cycle)


def _kind(confidence: float) -> int:
    return min(int(confidence * _KINDS), _KINDS - 1)
