"""The K/V store in torch: tensors whose slots the page table assigns, and the K/V of one step.

Rows of a step enter the store only through `keep`. Rows that are not kept disappear with the next
step, so that rolling back a draft means not keeping it. This module knows nothing of decoding or
attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.cache.pages import PAGE_TOKENS, PageCounts, PageTable
from engine.cache.shape import CacheShape
from engine.cache.suffixes import HeldSuffix, SuffixStore
from engine.errors import MemoryExhausted
from engine.step import Step, check_path


class KVCache:
    """The K/V of all sequences. Only the engine thread calls it."""

    def __init__(
        self, shape: CacheShape, num_tokens: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Raises MemoryExhausted if the store does not fit on the device."""
        self._pages = PageTable(max(1, num_tokens // PAGE_TOKENS))
        slots = self._pages.counts().total * PAGE_TOKENS
        size = (shape.layers, slots, 2, shape.kv_heads, shape.head_dim)
        try:
            # (L, slots, 2, Hkv, D): a token's key and value are adjacent because they are read
            # together.
            self._store = torch.zeros(size, device=device, dtype=dtype)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            raise MemoryExhausted(
                f"A K/V cache of {num_tokens} tokens does not fit on {device}: {error}.",
                remedy="Lower engine.cache_tokens.",
                param="engine.cache_tokens",
            ) from None
        self._new: list[Tensor] | Tensor = []  # for each layer, (R, 2, Hkv, D)
        self._exact: set[int] = set()
        self._shape = shape
        self._suffixes: SuffixStore[Tensor] = SuffixStore()  # (L, n, 2, Hkv, D) each

    @property
    def capacity(self) -> int:
        """The number of tokens that fit."""
        return self._pages.counts().total * PAGE_TOKENS

    def open(
        self, prompt: Sequence[int], tokens_max: int, *, exact: bool = False
    ) -> tuple[int, int]:
        """As `PageTable.open`; the causal rows of exact sequences need row invariance."""
        sequence, cached = self._pages.open(prompt, tokens_max, exact=exact)
        if exact:
            self._exact.add(sequence)
        return sequence, cached

    def close(self, sequence: int) -> None:
        """As `PageTable.close`."""
        self._exact.discard(sequence)
        self._pages.close(sequence)

    def held(self, prompt: Sequence[int]) -> int:
        """As `PageTable.held`."""
        return self._pages.held(prompt)

    def counts(self) -> PageCounts:
        """As `PageTable.counts`."""
        return self._pages.counts()

    def lengths(self, step: Step) -> list[tuple[int, int]]:
        """(sequence, cached tokens) for each sequence of the step, in the order of their first
        rows, which is also the order of the cached keys in a `view`."""
        return [(number, self._pages.length(number)) for number in dict.fromkeys(step.sequence)]

    def exact_sequences(self, step: Step) -> frozenset[int]:
        """The sequences of the step that were opened as exact."""
        return frozenset(self._exact.intersection(step.sequence))

    def view(self, step: Step) -> StepView:
        """Opens a step. Attention reads through the returned view, valid until the next step."""
        new = self._new = list[Tensor]()
        slots = self._slots(dict.fromkeys(step.sequence))
        # The step's own rows overwrite the padding, so any slot will do there.
        index = functional.pad(slots, (0, step.rows))
        return StepView(self._store, index, len(slots), new)

    def begin_parts(self, step: Step) -> None:
        """Opens a step that is computed by several forwards, each through its own `part_view`."""
        size = (len(self._store), step.rows, *self._store.shape[2:])
        self._new = list(self._store.new_zeros(size))

    def part_view(
        self, sequences: Iterable[int], rows: Sequence[int], seen: Sequence[int]
    ) -> PartView:
        """The view of one forward of a step in parts, valid until the next step.

        Args:
            sequences: the sequences whose cached tokens the forward reads, in this order.
            rows: the rows of the step that the forward computes.
            seen: the rows whose new K/V the forward reads, in this order: its own rows and rows of
                earlier parts.
        """
        device, new = self._store.device, self._new
        assert isinstance(new, list), "`begin_parts` comes first"
        return PartView(
            self._store,
            self._slots(sequences),
            torch.tensor(rows, dtype=torch.int64).to(device),
            torch.tensor(seen, dtype=torch.int64).to(device),
            new,
        )

    @property
    def store(self) -> Tensor:
        """(L, slots, 2, Hkv, D), the cached tokens; always the same memory. Only `keep` and
        `take_suffix` write to it."""
        return self._store

    def open_paged(
        self, step: Step, new: Tensor, known: Sequence[int] = ()
    ) -> list[tuple[list[int], int]]:
        """Opens a step that is computed on the pages themselves.

        Args:
            new: (L, at least R, 2, Hkv, D), where the step's keys and values will stand until the
                next step.
            known: rows whose keys and values are those that the last step, which was the same one,
                has computed.

        Returns:
            The page numbers and the cached tokens of each sequence, in the order of first rows.
        """
        if known:
            rows = torch.tensor(known, dtype=torch.int64).to(new.device)
            for target, source in zip(new, self._new, strict=True):
                target.index_copy_(0, rows, source.index_select(0, rows))
        self._new = new
        pages = self._pages
        return [(pages.pages(one), pages.length(one)) for one in dict.fromkeys(step.sequence)]

    def keep(self, step: Step, rows: Sequence[int]) -> None:
        """Caches rows of the step that was just computed.

        Args:
            rows: a causal path, as `engine.step.check_path` requires.
        """
        if not rows:
            return
        sequence = step.sequence[rows[0]]
        check_path(step, rows)
        assert step.position[rows[0]] == self._pages.length(sequence)
        slots = self._pages.append(sequence, [step.token[row] for row in rows])
        pairs = torch.tensor((slots, list(rows)), dtype=torch.int64).to(self._store.device)
        target, source = pairs.unbind()
        if isinstance(self._new, Tensor):  # all layers at once
            self._store.index_copy_(1, target, self._new.index_select(1, source))
            return
        for stored, new in zip(self._store, self._new, strict=True):
            stored.index_copy_(0, target, new.index_select(0, source))

    def find_suffix(
        self, prompt: Sequence[int], suffix: tuple[int, int]
    ) -> HeldSuffix[Tensor] | None:
        """As `ArrayCache.find_suffix`."""
        start, end = suffix
        return self._suffixes.find(prompt[:start], prompt[start:end])

    def take_suffix(self, sequence: int, held: HeldSuffix[Tensor]) -> None:
        """As `ArrayCache.take_suffix`."""
        start = self._pages.length(sequence)
        self._pages.keep_private(sequence)
        slots = torch.tensor(self._pages.append(sequence, held.tokens), dtype=torch.int64)
        kv = held.kv
        if moved := start - len(held.before):
            keys = kv[:, :, 0].float()
            cos, sin = (torch.from_numpy(part).to(keys.device) for part in self._shape.turn(moved))
            first, second = keys.chunk(2, dim=-1)
            turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
            kv = torch.stack((turned.to(kv.dtype), kv[:, :, 1]), dim=2)
        self._store.index_copy_(1, slots.to(self._store.device), kv)

    def hold_suffix(self, sequence: int, prompt: Sequence[int], suffix: tuple[int, int]) -> None:
        """As `ArrayCache.hold_suffix`."""
        start, end = suffix
        kv = self._store.index_select(1, self._slots([sequence])[start:end])
        self._suffixes.hold(prompt[:start], prompt[start:end], kv)

    def _slots(self, sequences: Iterable[int]) -> Tensor:
        """(P,) int64: the slots of these sequences' cached tokens, one sequence after another."""
        slots = [slot for sequence in sequences for slot in self._pages.slots(sequence)]
        return torch.tensor(slots, dtype=torch.int64).to(self._store.device)


@dataclass(frozen=True, slots=True)
class StepView:
    """The keys and values that the rows of one step see.

    Attributes:
        store: (L, slots, 2, Hkv, D), the cached tokens of all sequences.
        index: (P + R,) int64: the slots of the P cached tokens, and room for the step's R rows.
        cached: P.
        new: for each layer that has run, (R, 2, Hkv, D); filled by `extend`.
    """

    store: Tensor
    index: Tensor
    cached: int
    new: list[Tensor]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Remembers a layer's new K/V (R, Hkv, D); returns cached and new ones (P + R, Hkv, D)."""
        assert layer == len(self.new), "layers run in order, once per step"
        self.new.append(torch.stack((key, value), dim=1))
        seen = self.store[layer].index_select(0, self.index)
        seen[self.cached :] = self.new[-1]
        return seen[:, 0], seen[:, 1]


@dataclass(frozen=True, slots=True)
class PartView:
    """The keys and values that one part of a step sees; see `KVCache.part_view`.

    Attributes:
        store: (L, slots, 2, Hkv, D), the cached tokens of all sequences.
        index: (P,) int64, slots of the cached tokens that the part reads.
        rows: (N,) int64, rows of the step that the part computes.
        seen: (S,) int64, rows of the step whose new K/V the part reads.
        new: for each layer, (R, 2, Hkv, D) of the whole step; `extend` fills in the part's rows.
    """

    store: Tensor
    index: Tensor
    rows: Tensor
    seen: Tensor
    new: list[Tensor]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Remembers a layer's new K/V (N, Hkv, D); returns cached and seen ones (P + S, Hkv, D)."""
        new = self.new[layer]
        new.index_copy_(0, self.rows, torch.stack((key, value), dim=1))
        cached = self.store[layer].index_select(0, self.index)
        seen = torch.cat((cached, new.index_select(0, self.seen)))
        return seen[:, 0], seen[:, 1]
