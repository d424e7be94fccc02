"""A step: the flat list of rows that one forward computes. Every decoding mode is made of these.

Plain tuples without torch. What a row sees follows from the arrays alone:

    visible(q, k) = same sequence and (k is cached, or k is q, or k is an ancestor of q,
                                       or q and k share a group other than 0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CACHED = -1  # as a parent: this row follows its sequence's last cached token


@dataclass(frozen=True, slots=True)
class Step:
    """Arrays over R rows, all of length R but `read`.

    Attributes:
        token: token ids.
        sequence: which cache sequence each row belongs to.
        position: 0-based positions in the sequence; siblings may share one.
        parent: index of the row this row follows, always smaller than its own, or CACHED.
        group: 0, or the number of a set of rows that see each other in both directions.
        drafter: whether the row runs with the drafter LoRA.
        read: rows of which the strategy gets a reading, in this order; the others have no logits.
            (The output head over a 131,072-entry vocabulary costs as much as several layers, and a
            prefill needs one row of it.)
    """

    token: tuple[int, ...]
    sequence: tuple[int, ...]
    position: tuple[int, ...]
    parent: tuple[int, ...]
    group: tuple[int, ...]
    drafter: tuple[bool, ...]
    read: tuple[int, ...]

    def __post_init__(self) -> None:
        rows = len(self.token)
        assert rows > 0
        for name in ("sequence", "position", "parent", "group", "drafter"):
            assert len(getattr(self, name)) == rows, name
        for row, parent in enumerate(self.parent):
            assert CACHED <= parent < row
            assert parent == CACHED or self.sequence[parent] == self.sequence[row]
        assert all(0 <= row < rows for row in self.read)

    @property
    def rows(self) -> int:
        """R, the number of rows."""
        return len(self.token)

    @property
    def places(self) -> tuple[int, ...]:
        """The position that the token read of each row of `read` takes, aligned with it.

        A causal row (outside every group) says what comes behind it; a row of a group, which sees
        its neighbours on both sides, says what belongs in its own place.
        """
        return tuple(self.position[row] + (not self.group[row]) for row in self.read)


def chain(
    tokens: tuple[int, ...], position: int, *, read: tuple[int, ...] = (), sequence: int = 0
) -> Step:
    """A causal chain that follows the cache: AR, prefill, verification, commit passes.

    Args:
        tokens: at least one.
        position: of the first token.
        read: rows of which readings are wanted.
    """
    rows = len(tokens)
    return Step(
        token=tokens,
        sequence=(sequence,) * rows,
        position=tuple(range(position, position + rows)),
        parent=tuple(range(-1, rows - 1)),
        group=(0,) * rows,
        drafter=(False,) * rows,
        read=read,
    )


def group(
    tokens: tuple[int, ...],
    position: int,
    *,
    read: tuple[int, ...],
    sequence: int = 0,
    drafter: bool = False,
) -> Step:
    """One bidirectional block that follows the cache; its rows are never cached."""
    rows = len(tokens)
    return Step(
        token=tokens,
        sequence=(sequence,) * rows,
        position=tuple(range(position, position + rows)),
        parent=(CACHED,) * rows,
        group=(1,) * rows,
        drafter=(drafter,) * rows,
        read=read,
    )


def visible_rows(step: Step) -> tuple[int, ...]:
    """For each row the rows of the same step that it sees, as a bit mask (bit k: row k).

    Together with the length of each sequence's cache this is all that attention needs to know.
    """
    ancestors: list[int] = []
    members: dict[tuple[int, int], int] = {}
    for row, parent in enumerate(step.parent):
        bit = 1 << row
        ancestors.append(bit if parent == CACHED else bit | ancestors[parent])
        if step.group[row]:
            key = (step.sequence[row], step.group[row])
            members[key] = members.get(key, 0) | bit
    return tuple(
        ancestors[row] | members.get((step.sequence[row], step.group[row]), 0)
        for row in range(step.rows)
    )


def check_path(step: Step, rows: Sequence[int]) -> None:
    """Asserts that rows may be cached: a path from the root, each row's parent the row before it,
    in one sequence; group 0 and drafter off, since nothing bidirectional or drafted ever is."""
    for row, parent in zip(rows, (CACHED, *rows), strict=False):
        assert step.parent[row] == parent
        assert step.sequence[row] == step.sequence[rows[0]]
        assert step.group[row] == 0
        assert not step.drafter[row]
