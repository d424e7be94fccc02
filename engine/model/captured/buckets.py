"""The buckets of captured steps: a step is computed in the smallest one that holds it.

A bucket fixes every shape of its function. Knows steps and tiles, and neither tensors nor networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.kernels.tile_plan import PART
from engine.model.tiles import TILE_ROWS, Tile
from engine.step import PLAIN, Step

ROWS = (16, 32, 64, 128)  # a kernel's smallest tile has 16 rows
SEQUENCES = (1, 8)  # one request, or as many as the scheduler has in progress
READS_MIN = 16
DRAFT_DEPTHS = (8, 32)  # drafts in a row that follow from each other
# Of a step with exact sequences, for which there is room from the first one on: as many as a
# prompt's steps have, and more than usual drafts.
EXACT_ROWS = 256


@dataclass(frozen=True, slots=True)
class Bucket:
    """The shapes of a captured step.

    Attributes:
        rows: R, dead rows included.
        sequences: S, the most sequences.
        reads: N, the rows that are read, dead entries included; 0 leaves the output head out.
        is_adapted: whether some rows run with the adapter.
        draft_depth: how many drafts in a row may follow from each other; 0 if no draft row of a
            mask adapter is read.
        parts: for a tile of exact mode, whose places the rows are: of how many parts its text's
            sums have room. 0 for other steps.
    """

    rows: int
    sequences: int
    reads: int = 0
    is_adapted: bool = False
    draft_depth: int = 0
    parts: int = 0


def bucket_of(step: Step, *, reads: bool) -> Bucket | None:
    """The smallest bucket that holds a step; None if it is too large for all.

    Args:
        reads: whether the bucket reads the rows, or leaves their hidden states alone.
    """
    rows = _least(ROWS, step.rows)
    sequences = _least(SEQUENCES, len(set(step.sequence)))
    reads = reads and bool(step.read)
    depth = _depth(step) if reads else 0
    drafts = _least(DRAFT_DEPTHS, depth) if depth else 0
    if rows is None or sequences is None or drafts is None or len(step.read) > rows:
        return None
    count = (READS_MIN if len(step.read) <= READS_MIN else rows) if reads else 0
    return Bucket(rows, sequences, count, any(step.drafter), drafts)


def bucket_of_tile(tile: Tile, *, reads: bool) -> Bucket:
    """The bucket of a tile of exact mode. All have the same rows; the parts, of which it takes the
    fewest, change no bit.

    Args:
        reads: as in `bucket_of`.
    """
    parts = 1
    while parts * PART < tile.start + TILE_ROWS:
        parts *= 4
    return Bucket(TILE_ROWS, 1, TILE_ROWS if reads else 0, parts=parts)


def usual_buckets(*, has_adapter: bool, has_draft_rows: bool) -> Iterator[Bucket]:
    """Those that requests by themselves need, the most usual first.

    Args:
        has_adapter: whether rows may run with an adapter.
        has_draft_rows: whether these are read as drafts of a mask adapter.
    """
    for is_adapted in (False, True) if has_adapter else (False,):
        depth = DRAFT_DEPTHS[0] if is_adapted and has_draft_rows else 0
        for rows in ROWS:
            for reads in sorted({READS_MIN, rows}):
                yield Bucket(rows, 1, reads, is_adapted, depth)
            if not is_adapted:
                yield Bucket(rows, 1)


def _depth(step: Step) -> int:
    """The most drafts in a row that follow from each other."""
    depths: list[int] = []
    for entry in step.follows:
        depths.append(0 if entry == PLAIN else depths[entry] + 1)
    return max(depths, default=0)


def _least(sizes: tuple[int, ...], count: int) -> int | None:
    return next((size for size in sizes if size >= count), None)
