"""The K/V store of the CPU engine, in numpy.

Pages hold the keys and values that later requests may reuse. Each open sequence also has a
workspace, in which its keys and values have the layout that the graph reads. Opening a sequence
copies its cached pages into the workspace once. A step reads the workspace without copying and adds
the kept rows to both. This module knows nothing of decoding or attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

from engine.cache.pages import PAGE_TOKENS, CacheFull, PageCounts, PageTable
from engine.cache.shape import CacheShape
from engine.cache.suffixes import HeldSuffix, SuffixStore, common_length
from engine.errors import MemoryExhausted
from engine.step import Step, check_path

# Workspaces of closed sequences that are kept: they save allocations, and often hold the beginning
# of the next prompt.
_WORKSPACES_KEPT = 2
Array = NDArray[numpy.float32]


@dataclass(slots=True, eq=False)
class Workspace:
    """The keys and values of one open sequence.

    Attributes:
        array: (layers, 2, Hkv, capacity, D) fp32. The first `len(tokens)` places are cached; the
            places after them are scratch memory for the current step.
        tokens: the tokens whose keys and values are cached.
        sound: the number of tokens at the beginning whose keys and values were computed for exactly
            these tokens; None means all.
    """

    array: Array
    is_exact: bool
    tokens: list[int] = field(default_factory=list[int])
    sound: int | None = None

    @property
    def length(self) -> int:
        """The number of cached tokens."""
        return len(self.tokens)

    def cached(self, layer: int, part: int, head: int, length: int | None = None) -> Array:
        """(length, D), contiguous: keys (part 0) or values (part 1) of a head's first tokens."""
        return self.array[layer, part, head, : self.length if length is None else length]


class ArrayCache:
    """The K/V of all sequences. Only the engine thread calls it."""

    def __init__(self, shape: CacheShape, num_tokens: int, *, half: bool) -> None:
        """
        Args:
            half: whether pages are kept as fp16, which is lossless only for a graph that rounds its
                keys and values to fp16.

        Raises:
            MemoryExhausted: the store does not fit into memory.
        """
        self._pages = PageTable(max(1, num_tokens // PAGE_TOKENS))
        self._shape = shape
        slots = self._pages.counts().total * PAGE_TOKENS
        dtype = numpy.float16 if half else numpy.float32
        try:
            # The system provides zeroed memory page by page, when it is first used.
            self._store = numpy.zeros((slots, *self._token_size), dtype)
        except MemoryError:
            raise MemoryExhausted(
                f"A K/V cache of {num_tokens} tokens does not fit.",
                remedy="Lower engine.cache_tokens.",
                param="engine.cache_tokens",
            ) from None
        self._open: dict[int, Workspace] = {}
        self._closed: list[Workspace] = []
        self._new: Array | None = None
        self._suffixes: SuffixStore[Array] = SuffixStore()

    @property
    def _token_size(self) -> tuple[int, int, int, int]:
        return (self._shape.layers, 2, self._shape.kv_heads, self._shape.head_dim)

    @property
    def capacity(self) -> int:
        """The number of tokens that fit."""
        return self._pages.counts().total * PAGE_TOKENS

    def open(
        self, prompt: Sequence[int], tokens_max: int, *, exact: bool = False
    ) -> tuple[int, int]:
        """As `PageTable.open`; the causal rows of exact sequences need row invariance.

        A workspace of an earlier sequence may hold some tokens more than the pages.

        Raises:
            CacheFull: also if there is no memory for one more workspace.
        """
        sequence, cached = self._pages.open(prompt, tokens_max, exact=exact)
        try:
            workspace, held = self._take(prompt[:-1], tokens_max, exact)
        except MemoryError:
            self._pages.close(sequence)
            raise CacheFull from None
        if held < cached:
            slots = self._pages.slots(sequence)[held:]
            # (n, L, 2, Hkv, D) → (L, 2, Hkv, n, D)
            pages = self._store[slots].transpose(1, 2, 3, 0, 4)
            workspace.array[:, :, :, held:cached] = pages
        elif held > cached:
            slots = self._pages.append(sequence, prompt[cached:held])
            self._store[slots] = workspace.array[:, :, :, cached:held].transpose(3, 0, 1, 2, 4)
        workspace.tokens, workspace.sound = list(prompt[: max(held, cached)]), None
        self._open[sequence] = workspace
        return sequence, workspace.length

    def close(self, sequence: int) -> None:
        """As `PageTable.close`."""
        self._pages.close(sequence)
        self._closed.append(self._open.pop(sequence))
        del self._closed[:-_WORKSPACES_KEPT]

    def held(self, prompt: Sequence[int]) -> int:
        """As `PageTable.held`."""
        return self._pages.held(prompt)

    def counts(self) -> PageCounts:
        """As `PageTable.counts`."""
        return self._pages.counts()

    def workspace(self, sequence: int) -> Workspace:
        """The workspace of a sequence, valid until the sequence is closed."""
        return self._open[sequence]

    def lengths(self, step: Step) -> list[tuple[int, int]]:
        """(sequence, cached tokens) for each sequence of the step, in the order of first rows."""
        numbers = dict.fromkeys(step.sequence)
        return [(number, self._open[number].length) for number in numbers]

    def exact_sequences(self, step: Step) -> frozenset[int]:
        """The sequences of the step that were opened as exact."""
        return frozenset(number for number in set(step.sequence) if self._open[number].is_exact)

    def computed(self, new: Array) -> None:
        """Takes the keys and values (layers, 2, Hkv, R, D) of the step that was just computed."""
        self._new = new

    def keep(self, step: Step, rows: Sequence[int]) -> None:
        """Caches rows of the step that was just computed.

        Args:
            rows: a causal path, as `engine.step.check_path` requires.
        """
        if not rows:
            return
        sequence = step.sequence[rows[0]]
        check_path(step, rows)
        workspace, start = self._open[sequence], self._open[sequence].length
        assert step.position[rows[0]] == start
        assert self._new is not None
        new = self._new[:, :, :, list(rows)]
        tokens = [step.token[row] for row in rows]
        slots = self._pages.append(sequence, tokens)
        workspace.array[:, :, :, start : start + len(rows)] = new
        workspace.tokens += tokens
        self._store[slots] = new.transpose(3, 0, 1, 2, 4)

    def find_suffix(
        self, prompt: Sequence[int], suffix: tuple[int, int]
    ) -> HeldSuffix[Array] | None:
        """The keys and values of this part of a prompt, if they are kept from an earlier one. They
        stay valid although others are kept meanwhile."""
        start, end = suffix
        return self._suffixes.find(prompt[:start], prompt[start:end])

    def take_suffix(self, sequence: int, held: HeldSuffix[Array]) -> None:
        """Adds kept keys and values to a sequence that holds the tokens before them. The sequence
        shares nothing of what follows."""
        workspace = self._open[sequence]
        start, end = workspace.length, workspace.length + len(held.tokens)
        self._pages.keep_private(sequence)
        workspace.sound = start if workspace.sound is None else min(workspace.sound, start)
        slots = self._pages.append(sequence, held.tokens)
        place = workspace.array[:, :, :, start:end]
        place[:] = held.kv
        if moved := start - len(held.before):
            keys, (cos, sin) = held.kv[:, 0], self._shape.turn(moved)
            half = keys.shape[-1] // 2
            first, second = keys[..., :half], keys[..., half:]
            place[:, 0, :, :, :half] = first * cos - second * sin
            place[:, 0, :, :, half:] = second * cos + first * sin
        workspace.tokens += held.tokens
        self._store[slots] = place.transpose(3, 0, 1, 2, 4)

    def hold_suffix(self, sequence: int, prompt: Sequence[int], suffix: tuple[int, int]) -> None:
        """Keeps the keys and values of this part of an open sequence's prompt."""
        start, end = suffix
        workspace = self._open[sequence]
        assert workspace.sound is None, "a suffix is kept as it was computed for its prompt"
        kv = workspace.array[:, :, :, start:end].copy()
        self._suffixes.hold(prompt[:start], prompt[start:end], kv)

    def _take(self, prompt: Sequence[int], tokens_max: int, exact: bool) -> tuple[Workspace, int]:
        """A workspace with room for `tokens_max`, and the number of the prompt's tokens it
        holds."""
        fitting = [
            workspace
            for workspace in self._closed
            if workspace.array.shape[3] >= tokens_max and workspace.is_exact == exact
        ]
        if not fitting:
            layers, parts, heads, width = self._token_size
            # Somewhat more than needed, so that the workspace still fits when the file has grown.
            room = -(-tokens_max // 512) * 512
            array = numpy.empty((layers, parts, heads, room, width), numpy.float32)
            return Workspace(array, exact), 0
        best = max(fitting, key=lambda workspace: _held(workspace, prompt))
        self._closed.remove(best)
        return best, _held(best, prompt)


def _held(workspace: Workspace, prompt: Sequence[int]) -> int:
    """The number of a prompt's first tokens whose keys and values a workspace holds."""
    return common_length(workspace.tokens[: workspace.sound], prompt)
