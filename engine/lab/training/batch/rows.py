"""Lays examples out as flat rows with columns that say what each row predicts and what it sees.

Rows come example by example: the trunk, then for each hole its branch and the branch's noisy rows.
A trunk, or a branch with its noisy rows, is a segment. The columns say what a row sees:

    clean rows of its own segment at places below its `reach`, the first `seen` rows of its trunk,
    and the noisy rows of its own block.

This module owns that rule. It is plain numpy, so that other processes can lay batches out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.lab.data.sampler import Example
from engine.lab.training.batch.masking import Noise

NONE = -1  # in `block` of clean rows, in `Segment.trunk` of trunks


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of a trunk or a branch, which follow the rows of the previous segment.

    Attributes:
        trunk: the number of the segment whose first `seen` rows are visible too, or NONE.
    """

    rows: int
    trunk: int
    seen: int


@dataclass(frozen=True, slots=True)
class Rows:
    """R flat rows.

    Attributes:
        tokens, positions: (R,) int64.
        labels: (R,) int64, the token that a row predicts: the next one, or its own where noisy.
        ar_weights, diffusion_weights: (R,) float32; at most one of them is above 0.
        segment: (R,) int32, the number of the row's segment.
        place: (R,) int32, the row's index in its segment.
        reach: (R,) int32; the row sees its segment's clean rows at places below this.
        block: (R,) int32, the number that noisy rows which see each other share; NONE if clean.
        diffusion_total: the expected sum of diffusion_weights, whatever was masked.
        padding: how many of the last rows only pad R to a multiple.
    """

    tokens: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    ar_weights: np.ndarray
    diffusion_weights: np.ndarray
    segment: np.ndarray
    place: np.ndarray
    reach: np.ndarray
    block: np.ndarray
    segments: tuple[Segment, ...]
    diffusion_total: float
    padding: int = 0


def lay_out(
    examples: Sequence[Example], noises: Sequence[Sequence[Noise]], *, multiple_of: int = 1
) -> Rows:
    """One batch; an example has a noise for each of its holes, or none.

    Args:
        multiple_of: R is padded to a multiple of this, by a segment that predicts nothing and that
            no other row sees.
    """
    columns = _Columns()
    expected = 0.0
    for example, added in zip(examples, noises, strict=True):
        trunk = len(columns.segments)
        columns.begin(NONE, 0)
        columns.clean(example.tokens, 0, example.weights)
        for hole, noise in zip(example.holes, added or [None] * len(example.holes), strict=True):
            columns.begin(trunk, hole.seen)
            columns.clean(hole.tokens, hole.seen, hole.weights)
            if noise is not None:
                columns.noisy(noise, hole.seen)
                expected += float(noise.shares.sum())
    missing = -columns.count % multiple_of
    if missing:
        columns.begin(NONE, 0)
        columns.clean(np.zeros(missing, dtype=np.int64), 0, np.zeros(missing, dtype=np.float32))
    return replace(columns.rows(expected), padding=missing)


def own_sees(rows: Rows, part: slice) -> np.ndarray:
    """(n, n) bool: what the rows of `part`, of one segment, see of each other."""
    block, place, reach = rows.block[part], rows.place[part], rows.reach[part]
    clean = (block[None, :] == NONE) & (place[None, :] < reach[:, None])
    return clean | ((block[None, :] != NONE) & (block[None, :] == block[:, None]))


class _Columns:
    """Collects the columns of `Rows`, segment after segment."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.count = 0
        self._parts: list[dict[str, np.ndarray]] = []
        self._blocks = 0

    def begin(self, trunk: int, seen: int) -> None:
        """Begins another segment."""
        self.segments.append(Segment(0, trunk, seen))

    def clean(self, tokens: np.ndarray, first: int, weights: np.ndarray) -> None:
        """Adds rows at positions from `first` on that predict their next token."""
        places = np.arange(len(tokens))
        self._add(
            tokens=tokens,
            positions=first + places,
            labels=np.roll(tokens, -1),
            ar_weights=np.append(weights[1:], np.float32(0)),
            diffusion_weights=np.zeros(len(tokens), dtype=np.float32),
            reach=places + 1,
            block=np.full(len(tokens), NONE),
        )

    def noisy(self, noise: Noise, first: int) -> None:
        """Adds rows of a hole at position `first` that predict their own token."""
        blocks = noise.blocks + self._blocks
        self._blocks = int(blocks[-1]) + 1
        self._add(
            tokens=noise.tokens,
            positions=first + noise.positions,
            labels=noise.labels,
            ar_weights=np.zeros(len(noise.tokens), dtype=np.float32),
            diffusion_weights=noise.weights,
            reach=noise.starts,
            block=blocks,
        )

    def rows(self, expected: float) -> Rows:
        """The finished rows."""
        columns = {
            name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]
        }
        narrow = {
            name: columns[name].astype(np.int32) for name in ("segment", "place", "reach", "block")
        }
        return Rows(
            **{**columns, **narrow}, segments=tuple(self.segments), diffusion_total=expected
        )

    def _add(self, **columns: np.ndarray) -> None:
        """Adds rows to the last segment, by the names of `Rows`."""
        number, last = len(self.segments) - 1, self.segments[-1]
        count = len(columns["tokens"])
        places = np.arange(last.rows, last.rows + count)
        self._parts.append({**columns, "segment": np.full(count, number), "place": places})
        self.segments[-1] = Segment(last.rows + count, last.trunk, last.seen)
        self.count += count
