"""Runs one step on the ONNX graph: rows in, readings out. The CPU's counterpart of
`engine.model.runner`, with the same contract and without torch.

Integer products are exact, but the rounding of a float sum depends on the numbers of rows and keys.
Exact sequences are therefore computed in tiles with a fixed number of rows at absolute positions.
Each tile is a forward of its own whose shape depends on its position, so that a row's result does
not depend on the other rows of the step. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy
from numpy.typing import NDArray

from engine.api import Sampling
from engine.cache.arrays import ArrayCache
from engine.drafting import DraftHead
from engine.errors import MemoryExhausted
from engine.model.config import ModelConfig
from engine.model.onnx.inputs import HIDDEN, Rotation
from engine.model.onnx.sessions import is_out_of_memory
from engine.model.tiles import Tile, to_tiles
from engine.model.visibility import visibility
from engine.reading import Reading
from engine.sampling import to_readings
from engine.step import Step

Array = NDArray[numpy.float32]
# A step of 8 rows takes 1.1 (AMX) to 2 (AVX2) times as long as a single row.
TILE_ROWS = 8


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that is used."""

    def run(self, output_names: Sequence[str], input_feed: dict[str, Any], /) -> Sequence[Any]: ...


class Embedding(Protocol):
    """An embedding table of which single rows are read."""

    def rows(self, tokens: Sequence[int]) -> Array:
        """(len(tokens), hidden) fp32."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one forward.

    Attributes:
        mask: (R, P + R) bool, true where visible.
        read: the rows whose logits are needed.
        drafter: (R, 1) fp32, 1 for rows with the drafter LoRA.
    """

    token: Sequence[int]
    position: Sequence[int]
    mask: NDArray[numpy.bool_]
    read: Sequence[int]
    drafter: Array


class OnnxModel:
    """A loaded graph as a function of steps. Only the engine thread calls it."""

    def __init__(
        self,
        session: Session,
        embedding: Embedding,
        config: ModelConfig,
        *,
        has_drafter: bool,
        drafts: DraftHead | None = None,
    ) -> None:
        """
        Args:
            drafts: reads the draft rows, where the graph has a mask adapter.
        """
        self.config = config
        self.has_drafter = has_drafter
        self._drafts = drafts
        self._session = session
        self._embedding = embedding
        self._rotation = Rotation(config)
        heads = [(layer, head) for layer in range(config.layers) for head in range(config.kv_heads)]
        self._inputs = [
            (f"{name}.{layer}.{head}", layer, part, head)
            for layer, head in heads
            for part, name in enumerate(("key", "value"))
        ]

    def __call__(self, step: Step, cache: ArrayCache, sampling: Sampling) -> tuple[Reading, ...]:
        """One reading per entry of `step.read`.

        Raises:
            MemoryExhausted: the step does not fit.
        """
        return self.readings(self.logits(step, cache), step, sampling)

    def readings(self, logits: Array, step: Step, sampling: Sampling) -> tuple[Reading, ...]:
        """One reading per entry of `step.read`, of its logits (len(step.read), V) fp32."""
        if not step.follows:
            return to_readings(logits, step.places, sampling, mask_id=self.config.mask_id)
        assert self._drafts is not None, "no mask adapter is loaded"
        plain, drafted = self._drafts.entries(step)
        places = [step.places[entry] for entry in plain]
        read = to_readings(logits[plain], places, sampling, mask_id=self.config.mask_id)
        return self._drafts.readings(
            step, read, logits[numpy.array(drafted)[:, None], self._drafts.ids]
        )

    def logits(self, step: Step, cache: ArrayCache) -> Array:
        """(len(step.read), V) fp32 logits. Raises as `__call__` does."""
        assert self.has_drafter or not any(step.drafter), "no drafter adapter is loaded"
        try:
            exact = cache.exact_sequences(step)
            return self._exact(step, cache, exact) if exact else self._fast(step, cache)
        except Exception as error:  # the library's exceptions have no useful common class
            if not is_out_of_memory(error):
                raise
            raise _exhausted(step) from None

    def _fast(self, step: Step, cache: ArrayCache) -> Array:
        lengths = cache.lengths(step)
        rows = Rows(
            step.token, step.position, visibility(step, lengths), step.read, _drafter(step.drafter)
        )
        past = self._past(cache, lengths)
        logits, new = self._forward(rows, past)
        cache.computed(new)
        return logits

    def _past(self, cache: ArrayCache, lengths: Sequence[tuple[int, int]]) -> dict[str, Array]:
        """The graph's inputs for these sequences' cached tokens, not copied for a single one."""
        spaces = [(cache.workspace(number), length) for number, length in lengths]
        past: dict[str, Array] = {}
        for name, layer, part, head in self._inputs:
            arrays = [space.cached(layer, part, head, length) for space, length in spaces]
            past[name] = arrays[0] if len(arrays) == 1 else numpy.concatenate(arrays)
        return past

    def _forward(self, rows: Rows, past: dict[str, Array]) -> tuple[Array, Array]:
        """Logits (len(read), V), and the rows' keys and values (layers, 2, Hkv, R, D)."""
        inputs = {
            "x": self._embedding.rows(rows.token),
            **self._rotation(rows.position),
            "mask": numpy.where(rows.mask, numpy.float32(0), numpy.float32(HIDDEN)),
            "read": numpy.asarray(rows.read, dtype=numpy.int64),
            **past,
        }
        if self.has_drafter:
            inputs["drafter"] = rows.drafter
        logits, new = self._session.run(["logits", "new"], inputs)
        return logits, new

    def _exact(self, step: Step, cache: ArrayCache, exact: frozenset[int]) -> Array:
        """As `_fast`: first the causal rows of exact sequences by tiles, then all other rows."""
        config = self.config
        tiles, rest = to_tiles(step, exact, TILE_ROWS)
        size = (config.layers, 2, config.kv_heads, step.rows, config.head_dim)
        new = numpy.zeros(size, numpy.float32)
        read = frozenset(step.read)
        logits: dict[int, Array] = {}
        for tile in tiles:
            places = self._tile(step, tile, cache, new)
            logits.update(
                (row, places[tile.offset + index])
                for index, row in enumerate(tile.rows)
                if row in read
            )
        if rest:
            wanted = [index for index, row in enumerate(rest) if row in read]
            others = self._rest(step, rest, wanted, cache, new)
            logits.update((rest[index], others[i]) for i, index in enumerate(wanted))
        cache.computed(new)
        if not step.read:
            return numpy.zeros((0, config.vocabulary), numpy.float32)
        return numpy.stack([logits[row] for row in step.read])

    def _tile(self, step: Step, tile: Tile, cache: ArrayCache, new: Array) -> Array:
        """Logits (TILE_ROWS, V) of a tile's places; writes its rows' keys and values to `new`.

        The tile is computed from its first place on, including cached tokens, so that its shape and
        its number of keys depend on its position only.
        """
        space = cache.workspace(tile.sequence)
        path = [*space.tokens, *(step.token[row] for row in (*tile.before, *tile.rows))]
        tokens = path[tile.start : tile.start + TILE_ROWS]
        tokens += [0] * (TILE_ROWS - len(tokens))
        for row in tile.before:  # ancestors before the tile go to the scratch memory
            if step.position[row] < tile.start:
                space.array[:, :, :, step.position[row]] = new[:, :, :, row]
        seen = numpy.tri(TILE_ROWS, tile.start + TILE_ROWS, tile.start, dtype=bool)
        rows = Rows(
            tokens,
            range(tile.start, tile.start + TILE_ROWS),
            seen,
            range(TILE_ROWS),  # of the whole tile, since the head is a product too
            numpy.zeros((TILE_ROWS, 1), numpy.float32),
        )
        logits, computed = self._forward(rows, self._past(cache, [(tile.sequence, tile.start)]))
        end = tile.offset + len(tile.rows)
        new[:, :, :, list(tile.rows)] = computed[:, :, :, tile.offset : end]
        return logits

    def _rest(
        self,
        step: Step,
        rest: Sequence[int],
        wanted: Sequence[int],
        cache: ArrayCache,
        new: Array,
    ) -> Array:
        """Logits of the `wanted` rows among the rows outside the tiles, after the tiles' rows."""
        lengths = cache.lengths(step)
        cached = sum(length for _, length in lengths)
        tiled = [row for row in range(step.rows) if row not in frozenset(rest)]
        seen = visibility(step, lengths)[list(rest)]
        columns = [*range(cached), *(cached + row for row in (*tiled, *rest))]
        past = self._past(cache, lengths)
        if tiled:
            past = {
                name: numpy.concatenate((past[name], new[layer, part, head][tiled]))
                for name, layer, part, head in self._inputs
            }
        rows = Rows(
            [step.token[row] for row in rest],
            [step.position[row] for row in rest],
            seen[:, columns],
            wanted,
            _drafter([step.drafter[row] for row in rest]),
        )
        logits, computed = self._forward(rows, past)
        new[:, :, :, list(rest)] = computed
        return logits


def _drafter(flags: Sequence[bool]) -> Array:
    return numpy.array(flags, numpy.float32)[:, None]


def _exhausted(step: Step) -> MemoryExhausted:
    return MemoryExhausted(
        f"A step of {step.rows} rows does not fit into memory.",
        remedy="Shorten the prompt or use a smaller checkpoint.",
        param="prompt",
    )
