"""Which page of the K/V store holds which tokens: allocation, sharing, eviction. Pure Python.

A full page is immutable and identified by the hash of its chain (every token up to its end), so
that a later request with the same beginning reuses the page without computing it. The last,
partly filled page of a sequence is private. Pages that no sequence uses stay cached until their
room is needed: the least recently used are evicted first, and the end of a chain before its
beginning. This module knows nothing of tensors.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

PAGE_TOKENS = 16
# The chain of an exact sequence begins with this. Its K/V are computed in tiles and differ from
# those of other sequences in the last bits.
_EXACT_SALT = b"exact"


class CacheFull(Exception):
    """Too few pages are free or evictable right now."""


@dataclass(slots=True)
class _Chain:
    """One open sequence: its pages, the tokens on its private page, the hash before that page."""

    pages: list[int]
    length: int
    hash: bytes
    tail: list[int] = field(default_factory=list[int])
    reserved: int = 0  # pages promised to it and not yet allocated
    is_private: bool = False  # whether further pages are never shared


@dataclass(frozen=True, slots=True)
class PageCounts:
    """How many pages are free, cached without a user, or in use; these three add up to the total.

    `reserved` pages are promised to open sequences and still count as free or cached.
    """

    total: int
    free: int
    cached: int
    in_use: int
    reserved: int


class PageTable:
    """Owns the page numbers 0..num_pages-1. Not thread-safe: the engine thread alone calls it, but
    for `held`."""

    def __init__(self, num_pages: int) -> None:
        assert num_pages > 0
        self._num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._reserved = 0
        self._by_hash: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._users: dict[int, int] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()  # registered, no users, oldest first
        self._chains: dict[int, _Chain] = {}
        self._next_sequence = 0

    def open(
        self, prompt: Sequence[int], tokens_max: int, *, exact: bool = False
    ) -> tuple[int, int]:
        """Opens a sequence that will hold at most `tokens_max` tokens.

        Room for all of them is reserved now, so that a request that has begun never runs out.

        Args:
            prompt: the tokens that the sequence begins with. The last one is never taken from the
                cache, because its logits are needed.
            exact: whether the sequence shares pages with exact sequences instead of ordinary ones.

        Returns:
            The sequence's number, and how many prompt tokens are cached already.

        Raises:
            CacheFull: not enough room while the other sequences are open.
        """
        assert len(prompt) <= tokens_max
        pages, last_hash = self._match(prompt, _EXACT_SALT if exact else b"")
        needed = -(-tokens_max // PAGE_TOKENS) - len(pages)
        revived = sum(1 for page in pages if page in self._unused)
        if needed > len(self._free) + len(self._unused) - revived - self._reserved:
            raise CacheFull
        for page in pages:
            self._users[page] = self._users.get(page, 0) + 1
            self._unused.pop(page, None)
        self._reserved += needed
        sequence = self._next_sequence
        self._next_sequence += 1
        length = len(pages) * PAGE_TOKENS
        self._chains[sequence] = _Chain(pages, length, last_hash, reserved=needed)
        return sequence, length

    def held(self, prompt: Sequence[int]) -> int:
        """The number of tokens at the prompt's beginning that are in shared pages. Any thread may
        call it: it only looks up hashes."""
        return len(self._match(prompt, b"")[0]) * PAGE_TOKENS

    def length(self, sequence: int) -> int:
        """The number of tokens cached for the sequence."""
        return self._chains[sequence].length

    def slots(self, sequence: int) -> list[int]:
        """The slot (page * PAGE_TOKENS + offset) of each cached token, in order of position."""
        chain = self._chains[sequence]
        return [
            page * PAGE_TOKENS + offset for page in chain.pages for offset in range(PAGE_TOKENS)
        ][: chain.length]

    def pages(self, sequence: int) -> list[int]:
        """The numbers of the sequence's pages, in order of position. A copy."""
        return list(self._chains[sequence].pages)

    def append(self, sequence: int, tokens: Sequence[int]) -> list[int]:
        """Extends the sequence and returns the slots where the tokens' K/V belong."""
        chain = self._chains[sequence]
        slots: list[int] = []
        for token in tokens:
            if not chain.tail:
                chain.pages.append(self._allocate(chain))
            slots.append(chain.pages[-1] * PAGE_TOKENS + len(chain.tail))
            chain.tail.append(token)
            chain.length += 1
            if len(chain.tail) == PAGE_TOKENS:
                self._seal(chain)
        return slots

    def keep_private(self, sequence: int) -> None:
        """Never shares the sequence's further pages, the partly filled one included: what is added
        from here on was not computed for exactly the tokens of its chain."""
        self._chains[sequence].is_private = True

    def close(self, sequence: int) -> None:
        """Ends the sequence. Its full pages stay cached, and its private page is freed."""
        chain = self._chains.pop(sequence)
        self._reserved -= chain.reserved
        for page in reversed(chain.pages):  # the end of the chain becomes the oldest page
            self._release(page)

    def counts(self) -> PageCounts:
        """The state of all pages, for metrics and for the law that cancelling leaks nothing."""
        free, cached = len(self._free), len(self._unused)
        return PageCounts(
            self._num_pages, free, cached, self._num_pages - free - cached, self._reserved
        )

    def _match(self, prompt: Sequence[int], salt: bytes) -> tuple[list[int], bytes]:
        pages: list[int] = []
        chain_hash = salt
        for start in range(0, len(prompt) - PAGE_TOKENS, PAGE_TOKENS):
            following = _extend(chain_hash, prompt[start : start + PAGE_TOKENS])
            page = self._by_hash.get(following)
            if page is None:
                break
            pages.append(page)
            chain_hash = following
        return pages, chain_hash

    def _allocate(self, chain: _Chain) -> int:
        assert chain.reserved > 0, "a sequence grew past its tokens_max"
        if not self._free:
            page, _ = self._unused.popitem(last=False)
            del self._by_hash[self._hash_of.pop(page)]
            self._free.append(page)
        chain.reserved -= 1
        self._reserved -= 1
        page = self._free.pop()
        self._users[page] = 1
        return page

    def _seal(self, chain: _Chain) -> None:
        """Registers the full last page, unless another sequence computed the same page first."""
        chain.hash = _extend(chain.hash, chain.tail)
        chain.tail = []
        if not chain.is_private and chain.hash not in self._by_hash:
            self._by_hash[chain.hash] = chain.pages[-1]
            self._hash_of[chain.pages[-1]] = chain.hash

    def _release(self, page: int) -> None:
        self._users[page] -= 1
        if self._users[page]:
            return
        del self._users[page]
        if page in self._hash_of:
            self._unused[page] = None
        else:
            self._free.append(page)


def _extend(chain_hash: bytes, tokens: Sequence[int]) -> bytes:
    return blake2b(chain_hash + array("q", tokens).tobytes(), digest_size=16).digest()
