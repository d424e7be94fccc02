"""The K/V store: tensors behind the page table, and the K/V of the step that is being computed.

Rows of a step enter the store only through `keep`; whatever is not kept is gone with the next step,
so that rolling back a draft is simply not keeping it. Knows nothing of decoding or attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.cache.pages import PAGE_TOKENS, PageCounts, PageTable
from engine.cache.shape import CacheShape
from engine.errors import MemoryExhausted
from engine.step import Step, check_path

# K/V of exact sequences were computed in tiles and differ from others' in the last bits.
_EXACT_SALT = b"exact"


class KVCache:
    """K/V of all sequences. Owned and called by the engine thread alone."""

    def __init__(
        self, shape: CacheShape, num_tokens: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Raises MemoryExhausted when the store does not fit."""
        self._pages = PageTable(max(1, num_tokens // PAGE_TOKENS))
        slots = self._pages.counts().total * PAGE_TOKENS
        size = (shape.layers, slots, 2, shape.kv_heads, shape.head_dim)
        try:
            # (L, slots, 2, Hkv, D): a token's key and value together, since they are read together.
            self._store = torch.zeros(size, device=device, dtype=dtype)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            raise MemoryExhausted(
                f"A K/V cache of {num_tokens} tokens does not fit on {device}: {error}.",
                remedy="Lower engine.cache_tokens.",
                param="engine.cache_tokens",
            ) from None
        self._new: list[Tensor] = []  # of each layer, (R, 2, Hkv, D)
        self._exact: set[int] = set()

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        return self._pages.counts().total * PAGE_TOKENS

    def open(
        self, prompt: Sequence[int], tokens_max: int, *, exact: bool = False
    ) -> tuple[int, int]:
        """As `PageTable.open`: the sequence's number and its cached prompt tokens.

        Args:
            exact: its causal rows are to be computed with row invariance; it shares pages with
                exact sequences alone.
        """
        salt = _EXACT_SALT if exact else b""
        sequence, cached = self._pages.open(prompt, tokens_max, salt)
        if exact:
            self._exact.add(sequence)
        return sequence, cached

    def close(self, sequence: int) -> None:
        """As `PageTable.close`."""
        self._exact.discard(sequence)
        self._pages.close(sequence)

    def counts(self) -> PageCounts:
        """As `PageTable.counts`."""
        return self._pages.counts()

    def lengths(self, step: Step) -> list[tuple[int, int]]:
        """(sequence, cached tokens) for each sequence of the step, in order of first row: the
        order in which `view` lays their cached keys out."""
        return [(number, self._pages.length(number)) for number in dict.fromkeys(step.sequence)]

    def exact_sequences(self, step: Step) -> frozenset[int]:
        """Those of the step's sequences that were opened as exact."""
        return frozenset(self._exact.intersection(step.sequence))

    def view(self, step: Step) -> StepView:
        """Opens the step: its attention reads through the returned view, valid until the next."""
        self._new = []
        slots = self._slots(dict.fromkeys(step.sequence))
        # Any slot where the step's own rows will be written over it.
        return StepView(self, functional.pad(slots, (0, step.rows)), len(slots))

    def begin_parts(self, step: Step) -> None:
        """Opens a step whose rows are computed by several forwards, through a `part_view` each."""
        size = (len(self._store), step.rows, *self._store.shape[2:])
        self._new = list(self._store.new_zeros(size))

    def part_view(
        self, sequences: Iterable[int], rows: Sequence[int], seen: Sequence[int]
    ) -> PartView:
        """What one forward of a step in parts reads and writes, valid until the next step.

        Args:
            sequences: whose cached tokens it reads, in this order.
            rows: of the step, which it computes.
            seen: rows whose new K/V it reads, in this order: its own and those of parts before it.
        """
        device = self._store.device
        return PartView(
            self,
            self._slots(sequences),
            torch.tensor(rows, dtype=torch.int64).to(device),
            torch.tensor(seen, dtype=torch.int64).to(device),
        )

    def extend(
        self, layer: int, view: StepView, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Remembers a layer's new K/V (R, Hkv, D); returns cached and new ones (P + R, Hkv, D)."""
        assert layer == len(self._new), "layers run in order, once per step"
        self._new.append(torch.stack((key, value), dim=1))
        seen = self._store[layer].index_select(0, view.index)
        seen[view.cached :] = self._new[-1]
        return seen[:, 0], seen[:, 1]

    def extend_part(
        self, layer: int, part: PartView, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `extend`, for the rows of one part: returns cached and new ones (P + S, Hkv, D)."""
        new = self._new[layer]
        new.index_copy_(0, part.rows, torch.stack((key, value), dim=1))
        cached = self._store[layer].index_select(0, part.index)
        seen = torch.cat((cached, new.index_select(0, part.seen)))
        return seen[:, 0], seen[:, 1]

    def keep(self, step: Step, rows: Sequence[int]) -> None:
        """Caches rows of the step just computed.

        Args:
            rows: a path from the root: each row's parent is the row before it, the first one's is
                CACHED. Group 0 and drafter off: nothing bidirectional or drafted is ever cached.
        """
        if not rows:
            return
        sequence = step.sequence[rows[0]]
        check_path(step, rows)
        assert step.position[rows[0]] == self._pages.length(sequence)
        slots = self._pages.append(sequence, [step.token[row] for row in rows])
        device = self._store.device
        target = torch.tensor(slots, dtype=torch.int64).to(device)
        source = torch.tensor(list(rows), dtype=torch.int64).to(device)
        for stored, new in zip(self._store, self._new, strict=True):
            stored.index_copy_(0, target, new.index_select(0, source))

    def _slots(self, sequences: Iterable[int]) -> Tensor:
        """(P,) int64: where the cached tokens of these sequences are, one behind the other."""
        slots = [slot for sequence in sequences for slot in self._pages.slots(sequence)]
        return torch.tensor(slots, dtype=torch.int64).to(self._store.device)


@dataclass(frozen=True, slots=True)
class StepView:
    """The cached tokens that one step's rows see.

    Attributes:
        index: (P + R,) int64: their slots, and room for the step's own rows.
        cached: P.
    """

    cache: KVCache
    index: Tensor
    cached: int

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """As `KVCache.extend`."""
        return self.cache.extend(layer, self, key, value)


@dataclass(frozen=True, slots=True)
class PartView:
    """As `StepView`, of a step in parts; see `KVCache.part_view`.

    Attributes:
        index: (P,) int64, slots of the cached tokens it reads.
        rows: (N,) int64, rows of the step that it computes.
        seen: (S,) int64, rows of the step whose new K/V it reads.
    """

    cache: KVCache
    index: Tensor
    rows: Tensor
    seen: Tensor

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """As `KVCache.extend_part`."""
        return self.cache.extend_part(layer, self, key, value)
