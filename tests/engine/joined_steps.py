"""Steps of several sequences in one: no scheduler makes them yet, but the network computes them."""

from __future__ import annotations

from engine.step import CACHED, Step


def concatenate(steps: list[Step]) -> Step:
    """One step of several sequences' steps: parents shift, groups stay apart by sequence."""
    columns: dict[str, list] = {name: [] for name in Step.__dataclass_fields__}
    for step in steps:
        base = len(columns["token"])
        for name in ("token", "sequence", "position", "group", "drafter"):
            columns[name] += getattr(step, name)
        columns["parent"] += [p if p == CACHED else p + base for p in step.parent]
        columns["read"] += [row + base for row in step.read]
    return Step(**{name: tuple(column) for name, column in columns.items()})
