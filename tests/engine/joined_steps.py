"""Steps of several sequences in one: no scheduler makes them yet, but the network computes them."""

from __future__ import annotations

from engine.step import CACHED, Step


def concatenate(steps: list[Step]) -> Step:
    """One step of several sequences' steps: parents shift, groups stay apart by sequence."""
    assert steps
    token: list[int] = []
    sequence: list[int] = []
    position: list[int] = []
    parent: list[int] = []
    group_of: list[int] = []
    drafter: list[bool] = []
    read: list[int] = []
    for step in steps:
        base = len(token)
        token += step.token
        sequence += step.sequence
        position += step.position
        parent += [p if p == CACHED else p + base for p in step.parent]
        group_of += step.group
        drafter += step.drafter
        read += [row + base for row in step.read]
    return Step(
        tuple(token),
        tuple(sequence),
        tuple(position),
        tuple(parent),
        tuple(group_of),
        tuple(drafter),
        tuple(read),
    )
