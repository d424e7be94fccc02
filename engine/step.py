"""A step is the flat list of rows that one forward computes; every decoding mode consists of steps.

Plain tuples without torch. What a row sees follows from the arrays only:

    visible(q, k) = same sequence and (k is cached, or k is q, or k is an ancestor of q,
                                       or q and k share a group other than 0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CACHED = -1  # as a parent: this row follows its sequence's last cached token
PLAIN = -1  # in `Step.follows`: no draft row


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
        follows: aligned with `read`, or empty. For a draft row of a mask adapter, which predicts
            the token after its place: the entry of `read` whose token stands at its place. PLAIN
            for any other row.
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
        assert all(PLAIN <= entry < index for index, entry in enumerate(self.follows))

    @property
    def rows(self) -> int:
        """R, the number of rows."""
        return len(self.token)

    @property
    def places(self) -> tuple[int, ...]:
        """For each row in `read`, the position of the token that the row's reading decides.

        A causal row (outside every group) decides the place after its own, and so does a draft row
        of a mask adapter. Any other row of a group, which sees its neighbours on both sides,
        decides its own place.
        """
        follows = self.follows or (PLAIN,) * len(self.read)
        return tuple(
            self.position[row] + (not self.group[row] or entry != PLAIN)
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


def chain_with_groups(
    tokens: tuple[int, ...],
    position: int,
    groups: Sequence[tuple[int, tuple[int, ...]]],
    *,
    shifts: bool,
    sequence: int = 0,
    drafter: bool = False,
) -> Step:
    """A causal chain after the cached tokens, and groups that hang on rows of it.

    All rows of the chain are read, and then those rows of the groups that decide a place after the
    one that the row they hang on decides: without token shift, all but the first of each group.

    Args:
        groups: the row of the chain that each group hangs on, and its rows' tokens. The groups' row
            j, from 1 on, stands j places after that row.
        shifts: whether a group's rows predict the token after their place, as those of a mask
            adapter do, or fill their own place.
        drafter: whether the groups' rows run with an adapter.
    """
    length = len(tokens)
    read, follows = list(range(length)), [PLAIN] * length
    hung: list[tuple[int, int]] = []
    for anchor, members in groups:
        for offset in range(1, len(members) + 1):
            if shifts or offset > 1:
                follows.append(PLAIN if not shifts else anchor if offset == 1 else len(read) - 1)
                read.append(length + len(hung))
            hung.append((anchor, offset))
    numbers = [number for number, (_, members) in enumerate(groups, 1) for _ in members]
    return Step(
        token=tokens + tuple(token for _, members in groups for token in members),
        sequence=(sequence,) * (length + len(hung)),
        position=(
            *range(position, position + length),
            *(position + anchor + offset for anchor, offset in hung),
        ),
        parent=(*range(-1, length - 1), *(anchor for anchor, _ in hung)),
        group=(0,) * length + tuple(numbers),
        drafter=(False,) * length + (drafter,) * len(hung),
        read=tuple(read),
        follows=tuple(follows) if shifts and hung else (),
    )


def joined(steps: Sequence[Step]) -> Step:
    """One step of the rows of several, in order. Groups are told apart by sequence and number.

    Args:
        steps: at least one.
    """
    if len(steps) == 1:
        return steps[0]
    token, sequence, position, parent, group_, drafter = (list[int]() for _ in range(6))
    read, follows = list[int](), list[int]()
    for step in steps:
        first, entry = len(token), len(read)
        token += step.token
        sequence += step.sequence
        position += step.position
        parent += [row if row == CACHED else row + first for row in step.parent]
        group_ += step.group
        drafter += step.drafter
        read += [row + first for row in step.read]
        hung = step.follows or (PLAIN,) * len(step.read)
        follows += [one if one == PLAIN else one + entry for one in hung]
    return Step(
        token=tuple(token),
        sequence=tuple(sequence),
        position=tuple(position),
        parent=tuple(parent),
        group=tuple(group_),
        drafter=tuple(map(bool, drafter)),
        read=tuple(read),
        follows=tuple(follows) if any(step.follows for step in steps) else (),
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
