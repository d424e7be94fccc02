"""What a captured step reads: one block of integers, as the host lays them out for each step.

Dead rows are written as well, so that nothing depends on the steps before: they are token 0 at
position 0, have no slot and stand in no tile. Knows steps and pages, and neither networks nor
kernels' operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy
import torch

from engine.cache.pages import PAGE_TOKENS
from engine.kernels.attention_plan import AttentionPlan, in_tiles, tile_of
from engine.kernels.rotary_write import NO_SLOT
from engine.kernels.tile_plan import TilePlan
from engine.model.captured.block import Block
from engine.model.captured.buckets import Bucket
from engine.model.tiles import TILE_ROWS, Tile
from engine.step import PLAIN, Step, visible_rows

# The page numbers and the cached tokens of a sequence.
Cached = tuple[list[int], int]


class _Rows:
    """What every step has.

    Attributes:
        tokens, positions: (R,) int32.
        slots: (R,) int32, each row's number in its step, where its key and value belong among those
            of the step, or NO_SLOT for a dead row.
        flags: (R,) int32, 1 for rows that run with the adapter.
        reads: (N,) int32, the rows to be read; dead entries read row 0.
        follows: (N,) int32, as `Step.follows`, PLAIN for dead entries.
        block: all of these, and what the rows see.
    """

    def __init__(self, bucket: Bucket, device: torch.device, sizes: Mapping[str, int]) -> None:
        """
        Args:
            sizes: integers of the further arrays; those that are written in part stand last.
        """
        rows = dict.fromkeys(("tokens", "positions", "slots", "flags"), bucket.rows)
        reads = dict.fromkeys(("reads", "follows"), bucket.reads)
        self.block = block = Block({**rows, **reads, **sizes}, device)
        self.tokens, self.positions, self.slots, self.flags = (block[name] for name in rows)
        self.reads, self.follows = (block[name] for name in reads)


class Inputs(_Rows):
    """The integers of one bucket.

    Attributes:
        plan: what the rows see.
    """

    def __init__(
        self, bucket: Bucket, pages_max: int, *, heads_per_kv_head: int, device: torch.device
    ) -> None:
        """
        Args:
            pages_max: the most pages of a sequence.
        """
        rows, sequences = bucket.rows, bucket.sequences
        tile = tile_of(rows, heads_per_kv_head)
        self._rows_per_tile = tile // heads_per_kv_head
        # Each further sequence begins a tile of its own.
        tiles = min(rows, -(-rows // self._rows_per_tile) + sequences - 1)
        words = rows // 32 + (rows % 32 > 0)
        sizes = {"order": rows, "lengths": sequences, "tiles": tiles * 5, "visible": rows * words}
        super().__init__(bucket, device, {**sizes, "pages": sequences * pages_max})
        block = self.block
        self.plan = AttentionPlan(
            order=block["order"],
            tiles=block["tiles"].view(tiles, 5),
            pages=block["pages"].view(sequences, pages_max),
            lengths=block["lengths"],
            visible=block["visible"].view(rows, words),
            page_tokens=PAGE_TOKENS,
            tile=tile,
        )
        self._words = words
        self._pages_max = pages_max

    def load(self, step: Step, cached: Sequence[Cached]) -> None:
        """Lays a step out and begins its copy to the device, which the stream's work waits for.

        Args:
            cached: of each sequence, in the order of first rows.
        """
        block = self.block
        block.begin()
        numbers = {one: index for index, one in enumerate(dict.fromkeys(step.sequence))}
        order, tiles = in_tiles(
            [numbers[one] for one in step.sequence], len(numbers), self._rows_per_tile
        )
        block.write("tokens", step.token)
        block.write("positions", step.position)
        block.write("slots", range(step.rows), NO_SLOT)
        block.write("flags", step.drafter)
        block.write("order", order)
        block.write("tiles", tiles)
        block.write("lengths", [length for _, length in cached])
        if self.reads.numel():
            block.write("reads", step.read)
            block.write("follows", step.follows, PLAIN)
        bits = b"".join(mask.to_bytes(4 * self._words, "little") for mask in visible_rows(step))
        block.write("visible", numpy.frombuffer(bits, dtype=numpy.int32))
        end = block.write_at("pages", 0, [])
        for index, (pages, _) in enumerate(cached):
            end = block.write_at("pages", index * self._pages_max, pages)
        block.send(end)


class TileInputs(_Rows):
    """The integers of one tile of exact mode, where a row stands at its place in the tile, and all
    places are read.

    Attributes:
        plan: what the rows see.
    """

    def __init__(
        self, bucket: Bucket, pages_max: int, *, path_max: int, device: torch.device
    ) -> None:
        """
        Args:
            pages_max: the most pages of a sequence.
            path_max: the most rows of a path in a step.
        """
        sizes = {"rows": TILE_ROWS, "tile": 5, "length": 1, "path": path_max, "pages": pages_max}
        super().__init__(bucket, device, sizes)
        block = self.block
        self.plan = TilePlan(
            tiles=block["tile"].view(1, 5),
            positions=block["rows"],
            path=block["path"],
            pages=block["pages"].view(1, pages_max),
            lengths=block["length"],
            page_tokens=PAGE_TOKENS,
            places=TILE_ROWS,
            parts=bucket.parts,
        )

    def load(self, step: Step, tile: Tile, cached: Cached) -> None:
        """As `Inputs.load`.

        Args:
            cached: of the tile's sequence.
        """
        block, (pages, length), count = self.block, cached, len(tile.rows)
        first = tile.start + tile.offset
        before = [0] * tile.offset
        block.begin()
        block.write("tokens", [*before, *(step.token[row] for row in tile.rows)])
        block.write("positions", range(tile.start, tile.start + TILE_ROWS))
        block.write("slots", [*(NO_SLOT for _ in before), *tile.rows], NO_SLOT)
        block.write("flags", ())
        block.write("rows", [*(-1 for _ in before), *range(first, first + count)], -1)
        block.write("tile", (0, first, count, tile.offset, 0))
        block.write("length", (length,))
        block.write("path", [*tile.before, *tile.rows])
        if self.reads.numel():
            block.write("reads", range(TILE_ROWS))
            block.write("follows", (), PLAIN)
        block.send(block.write_at("pages", 0, pages))
