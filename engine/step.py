"""A step is the flat list of rows that one forward computes; every decoding mode consists of steps.

Plain tuples without torch. What a row sees follows from the arrays only:

    visible(q, k) = same sequence and (k is cached, or k is q, or k is an ancestor of q,
                                       or q and k share a group other than 0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CACHED = -1  # as a parent: this row follows its sequence's last cached token


@dataclass(frozen=True, slots=True)
class Step:
    """Arrays over R rows; all have length R except `read`.

    Attributes:
        token: the token ids.
        sequence: the cache sequence to which each row belongs.
        position: the 0-based positions in the sequence; siblings may share one.
        parent: the index of the row that this row follows, smaller than its own, or CACHED.
        group: 0, or the number of a set of rows that see each other in both directions.
        drafter: whether the row runs with the drafter LoRA.
        read: the rows of which the strategy gets a reading, in this order; other rows have no
            logits. (The output head over a 131,072-entry vocabulary costs as much as several
            layers, and a prefill needs it for one row only.)
        follows: aligned with `read`, or empty. For a draft row of a mask adapter, the entry of
            `read` whose token stands right before the token that the row predicts; else -1.
    """

    token: tuple[int, ...]
    sequence: tuple[int, ...]
    position: tuple[int, ...]
    parent: tuple[int, ...]
    group: tuple[int, ...]
    drafter: tuple[bool, ...]
    read: tuple[int, ...]
    follows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rows = len(self.token)
        assert rows > 0
        for name in ("sequence", "position", "parent", "group", "drafter"):
            assert len(getattr(self, name)) == rows, name
        for row, parent in enumerate(self.parent):
            assert CACHED <= parent < row
            assert parent == CACHED or self.sequence[parent] == self.sequence[row]
        assert all(0 <= row < rows for row in self.read)
        assert len(self.follows) in (0, len(self.read))
        assert all(-1 <= entry < index for index, entry in enumerate(self.follows))

    @property
    def rows(self) -> int:
        """R, the number of rows."""
        return len(self.token)

    @property
    def places(self) -> tuple[int, ...]:
        """For each row in `read`, the position of the token that the row's reading decides.

        A causal row (outside every group) decides the place after its own, and so does a draft row
        that follows another row's token. Any other row of a group, which sees its neighbours on
        both sides, decides its own place.
        """
        follows = self.follows or (-1,) * len(self.read)
        return tuple(
            self.position[row] + (not self.group[row] or entry >= 0)
            for row, entry in zip(self.read, follows, strict=True)
        )


def chain(
    tokens: tuple[int, ...], position: int, *, read: tuple[int, ...] = (), sequence: int = 0
) -> Step:
    """A causal chain after the cached tokens: for AR, prefill, verification and commit passes.

    Args:
        tokens: at least one token.
        position: the position of the first token.
        read: the rows whose readings are needed.
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
    """One bidirectional block after the cached tokens; its rows are never cached."""
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
    """The rows of the same step that each row sees, as a bit mask (bit k for row k).

    Together with the cached length of each sequence, this determines attention.
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
    """Asserts that rows may be cached: they are a path of one sequence that begins after the cached
    tokens, each row's parent is the row before it, and all are causal and without the drafter."""
    for row, parent in zip(rows, (CACHED, *rows), strict=False):
        assert step.parent[row] == parent
        assert step.sequence[row] == step.sequence[rows[0]]
        assert step.group[row] == 0
        assert not step.drafter[row]
