"""Keys and values of suffixes, for later prompts in which a little other text stands before them.

An infilling prompt ends with the text after the cursor, so that every key would compute all of it
anew. Its keys and values hardly change while the user types, but for their positions: they are kept
here, with the tokens before them, and found again as long as the text before the suffix has changed
by few tokens. What is computed with them is an approximation, so it is never shared. Torch-free;
this module knows nothing of arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

# The most tokens by which the text before a suffix may have changed since the suffix was computed;
# benchmarks/reuse.md shows what they cost.
DRIFT_MAX = 48
_KEPT = 4  # for as many documents or cursors at a time

KV = TypeVar("KV")


@dataclass(frozen=True, slots=True)
class HeldSuffix(Generic[KV]):
    """The keys and values of `tokens`, computed at the positions after the tokens `before`."""

    before: tuple[int, ...]
    tokens: tuple[int, ...]
    kv: KV


class SuffixStore(Generic[KV]):
    """The latest suffixes. Only the engine thread calls `hold`; any thread may call `find`."""

    def __init__(self) -> None:
        self._held: list[HeldSuffix[KV]] = []

    def hold(self, before: Sequence[int], tokens: Sequence[int], kv: KV) -> None:
        """Keeps a suffix, in place of an earlier one of the same tokens."""
        held = HeldSuffix(tuple(before), tuple(tokens), kv)
        self._held = [one for one in self._held if one.tokens != held.tokens]
        self._held = [*self._held, held][-_KEPT:]

    def find(self, before: Sequence[int], tokens: Sequence[int]) -> HeldSuffix[KV] | None:
        """The suffix of these tokens, unless the text before it differs in too many tokens."""
        wanted = tuple(tokens)
        for one in self._held:
            if one.tokens == wanted and drift(one.before, before) <= DRIFT_MAX:
                return one
        return None


def drift(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of tokens after the beginning that both have in common, of the longer one."""
    return max(len(one), len(other)) - common_length(one, other)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of tokens at the beginning that both have in common."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
