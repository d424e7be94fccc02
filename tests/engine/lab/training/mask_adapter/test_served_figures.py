"""Figures through the engine: masks alone, and nothing but the exact tokens without an adapter."""

from __future__ import annotations

from engine.api import Limits, Request
from engine.auto.step_times import StepTimes
from engine.decoders.pruned_spec import PrunedSpec, PrunedState
from engine.decoders.strategy import Task, Traits
from engine.lab.training.mask_adapter.served import MasksAlone, Served
from engine.reading import Reading
from engine.step import Step

_REPEATING = (5, 6, 7, 8, 9) * 4
# Rows cost almost nothing, so that a copy is tried wherever one may be taken.
_FREE = StepTimes((1, 64), (1.0, 1.01))


def _copied(strategy: PrunedSpec, forwards: int = 12) -> int:
    """Forwards that verify a copy, on a text that goes on to repeat itself."""
    request = Request(_REPEATING, "pruned_spec", Limits(tokens_max=64))
    masks = tuple(range(100, 108))
    state = strategy.start(Task(request, 0, 0, Traits(None, True, masks, _FREE)))
    copied = 0
    for _ in range(forwards):
        step = strategy.plan(state)
        state, _kept = strategy.resolve(state, step, _readings(step))
        copied += state.is_copied
    return copied


def _readings(step: Step) -> list[Reading]:
    """Causal rows go on with the repetition; masks draft another token, and know it."""
    readings: list[Reading] = []
    for index, row in enumerate(step.read):
        drafts = step.follows and step.follows[index] >= 0
        token = 50 if drafts else _REPEATING[(step.position[row] + 1) % 5]
        readings.append(Reading(token, 0.01 if drafts else 0.9, ((token, 1.0),), 1.0))
    return readings


def test_copies_are_taken_by_the_mode_and_never_where_masks_stand_alone() -> None:
    assert _copied(PrunedSpec()) > 3
    assert _copied(MasksAlone()) == 0


def test_tokens_per_forward_of_nothing_is_no_division_by_zero() -> None:
    assert Served(0, 0).per_forward == 0
    assert Served(12, 4).per_forward == 3


def test_a_state_begins_without_copies() -> None:
    request = Request(_REPEATING, "pruned_spec")
    state = MasksAlone().start(Task(request, 0, 0, Traits(None, True, (100,), _FREE)))
    assert isinstance(state, PrunedState)
    assert state.copies.chance(8) < 1e-6
