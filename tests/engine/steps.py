"""Steps that no strategy makes: several sequences' steps in one, and random trees of rows."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from engine.step import CACHED, Step


@st.composite
def trees(
    draw: st.DrawFn,
    lengths: dict[int, int],
    *,
    rows_max: int = 24,
    groups: Sequence[int] = (0, 0, 0, 1, 2),
    drafters: Sequence[bool] = (False,),
    gaps: Sequence[int] = (0,),
) -> Step:
    """A step of several sequences with chains that branch, and groups anywhere.

    Args:
        lengths: the number of cached tokens by sequence.
        groups, drafters: the values to choose from for each row.
        gaps: the numbers of positions to choose from that a row may skip after its parent.
    """
    rows = draw(st.integers(1, rows_max))
    sequence: list[int] = []
    position: list[int] = []
    parent: list[int] = []
    for row in range(rows):
        sequence.append(draw(st.sampled_from(sorted(lengths))))
        mine = [earlier for earlier in range(row) if sequence[earlier] == sequence[row]]
        # Mostly after the row before, so that there are long paths and not only siblings.
        follow = draw(st.sampled_from(mine[-1:] * 8 + mine + [CACHED]))
        parent.append(follow)
        before = lengths[sequence[row]] - 1 if follow == CACHED else position[follow]
        position.append(before + 1 + draw(st.sampled_from(gaps)))
    return Step(
        token=tuple(draw(st.integers(0, 96)) for _ in range(rows)),
        sequence=tuple(sequence),
        position=tuple(position),
        parent=tuple(parent),
        group=tuple(draw(st.sampled_from(groups)) for _ in range(rows)),
        drafter=tuple(draw(st.sampled_from(drafters)) for _ in range(rows)),
        read=tuple(draw(st.lists(st.integers(0, rows - 1), max_size=8, unique=True))),
    )
