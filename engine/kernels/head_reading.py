"""The output head and what is read of its logits, in one pass: the logits are never stored.

For each row: the best tokens and their logits (the lowest id first on ties, never the mask token),
the log-sum-exp of all logits including the mask token's, and the logit of one chosen token. The
vocabulary is split among programs, which leave a few numbers per row each; a second kernel joins
them. A logit is the product rounded to the weights' dtype, as torch stores it, so that ties are the
same ones. Knows neither sampling nor readings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.dispatch import choose, for_architecture, launch
from engine.kernels.products import FP32, Config, tile_for, tile_product
from engine.kernels.variants import Variant

NO_TOKEN = -1  # as a mask id: no token is left out; as a chosen token: none is asked for


@dataclass(frozen=True, slots=True)
class HeadReading:
    """What is read of N rows' logits.

    Attributes:
        tokens: (N, K) int32, the best tokens, highest logit first, the lowest id first on ties.
        logits: (N, K) fp32, theirs.
        log_sum_exp: (N,) fp32, in nats, of all V logits.
        chosen: (N,) fp32, the logits of the tokens asked for; minus infinity for NO_TOKEN.
    """

    tokens: Tensor
    logits: Tensor
    log_sum_exp: Tensor
    chosen: Tensor

    @property
    def probability(self) -> Tensor:
        """(N,) fp32: the best token's softmax probability over the whole vocabulary."""
        return torch.exp(self.logits[:, 0] - self.log_sum_exp)


JOINED_AT_ONCE = 1024  # tiles of the vocabulary, or tokens of theirs
# Chosen so that nothing spills and shared memory fits (benchmarks/kernels.md); not timed yet.
CONFIGS = {
    80: {16: Config(64, 128, 4, 4), 32: Config(64, 128, 4, 4), 64: Config(128, 64, 8, 4)},
    90: {16: Config(64, 128, 4, 5), 32: Config(64, 128, 4, 5), 64: Config(128, 64, 8, 5)},
    120: {16: Config(64, 128, 4, 3), 32: Config(64, 128, 4, 3), 64: Config(128, 64, 8, 3)},
}


def head_reading_torch(
    hidden: Tensor, weight: Tensor, chosen: Tensor, mask_id: int, best: int
) -> HeadReading:
    """The meaning of `head_reading`: logits in the weights' dtype, then all in fp32 (or fp64)."""
    return logits_reading(hidden @ weight.T, chosen, mask_id, best)


def logits_reading(logits: Tensor, chosen: Tensor, mask_id: int, best: int) -> HeadReading:
    """What `head_reading` reads, of logits (N, V) that are stored."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    asked = logits.gather(1, chosen.long().clamp(min=0)[:, None])[:, 0]
    allowed = logits.clone()
    if mask_id != NO_TOKEN:
        allowed[:, mask_id] = float("-inf")
    found: list[Tensor] = []
    for _ in range(best):  # argmax returns the first of equal maxima, topk any of them
        found.append(allowed.argmax(dim=-1, keepdim=True))
        allowed.scatter_(1, found[-1], float("-inf"))
    tokens = torch.cat(found, dim=-1)
    return HeadReading(
        tokens=tokens.int(),
        logits=logits.gather(1, tokens),
        log_sum_exp=logits.logsumexp(dim=-1),
        chosen=asked.masked_fill(chosen == NO_TOKEN, float("-inf")),
    )


@triton.jit
def _tile_kernel(
    hidden, weight, chosen, highest, total, tokens, logits, asked,
    rows, vocabulary, mask_id, hidden_stride, tiles,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, ENTRIES: tl.constexpr, DEPTH: tl.constexpr,
    BEST: tl.constexpr,
):  # fmt: skip
    """One tile of the vocabulary and of the rows: its maximum, the sum of exponentials below it,
    and its best tokens with their logits."""
    tile = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    entry = tile * ENTRIES + tl.arange(0, ENTRIES)
    here, known = row < rows, entry < vocabulary
    product = tile_product(
        hidden, weight, row, entry, here, known, hidden_stride, 0, WIDTH, WIDTH, DEPTH
    )
    scores = product.to(weight.dtype.element_ty).to(tl.float32)
    scores = tl.where(known[None, :], scores, float("-inf"))
    cell = row.to(tl.int64) * tiles + tile
    most = tl.max(scores, 1)
    tl.store(highest + cell, most, mask=here)
    tl.store(total + cell, tl.sum(tl.exp(scores - most[:, None]), 1), mask=here)

    wanted = tl.load(chosen + row, mask=here, other=-1)
    its = tl.max(tl.where(entry[None, :] == wanted[:, None], scores, float("-inf")), 1)
    is_mine = here & (wanted // ENTRIES == tile) & (wanted >= 0)
    tl.store(asked + row, its, mask=is_mine)

    # An id beyond the vocabulary loses every tie: a tile may have fewer tokens than are asked for.
    scores = tl.where((entry == mask_id)[None, :], float("-inf"), scores)
    ids = tl.where(known & (entry != mask_id), entry, vocabulary + entry)
    for rank in tl.static_range(BEST):
        best = tl.max(scores, 1)
        token = tl.min(tl.where(scores == best[:, None], ids[None, :], 2147483647), 1)
        tl.store(tokens + cell * BEST + rank, token, mask=here)
        tl.store(logits + cell * BEST + rank, best, mask=here)
        scores = tl.where(ids[None, :] == token[:, None], float("-inf"), scores)


@triton.jit
def _join_kernel(
    highest, total, tokens, logits, best_tokens, best_logits, log_sum_exp, tiles,
    BLOCK: tl.constexpr, BEST: tl.constexpr,
):  # fmt: skip
    """One row: joins what the tiles of the vocabulary left, BLOCK of them at once."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    most = tl.full((), float("-inf"), tl.float32)
    for low in range(0, tiles, BLOCK):
        here = low + place < tiles
        found = tl.load(highest + row * tiles + low + place, mask=here, other=float("-inf"))
        most = tl.maximum(most, tl.max(found, 0))
    mass = tl.zeros((BLOCK,), tl.float32)
    for low in range(0, tiles, BLOCK):
        here = low + place < tiles
        at = row * tiles + low + place
        found = tl.load(highest + at, mask=here, other=float("-inf"))
        mass += tl.load(total + at, mask=here, other=0.0) * tl.exp(found - most)
    tl.store(log_sum_exp + row, most + tl.log(tl.sum(mass, 0)))

    # The best so far are the last token that was taken and its logit: what follows it in the order
    # of falling logits and rising ids is the next.
    last_logit = tl.full((), float("inf"), tl.float32)
    last_token = tl.full((), -1, tl.int32)
    for rank in tl.static_range(BEST):
        best = tl.full((), float("-inf"), tl.float32)
        token = tl.full((), 2147483647, tl.int32)
        for low in range(0, tiles * BEST, BLOCK):
            here = low + place < tiles * BEST
            at = row * tiles * BEST + low + place
            score = tl.load(logits + at, mask=here, other=float("-inf"))
            ids = tl.load(tokens + at, mask=here, other=2147483647)
            follows = (score < last_logit) | ((score == last_logit) & (ids > last_token))
            score = tl.where(follows, score, float("-inf"))
            ids = tl.where(follows, ids, 2147483647)
            top = tl.max(score, 0)
            first = tl.min(tl.where(score == top, ids, 2147483647), 0)
            first = tl.where(top == best, tl.minimum(token, first), first)
            token = tl.where(top >= best, first, token)
            best = tl.maximum(best, top)
        tl.store(best_tokens + row * BEST + rank, token)
        tl.store(best_logits + row * BEST + rank, best)
        last_logit, last_token = best, token


def head_reading_triton(
    hidden: Tensor, weight: Tensor, chosen: Tensor, mask_id: int, best: int
) -> HeadReading:
    """As `head_reading`."""
    rows, width = hidden.shape
    vocabulary = len(weight)
    assert weight.is_contiguous()
    assert weight.shape[1] == width
    assert hidden.stride(1) == 1
    assert chosen.shape == (rows,)
    assert chosen.dtype == torch.int32
    assert best + (mask_id != NO_TOKEN) <= vocabulary
    size, config = tile_for(CONFIGS, rows, hidden)
    tiles = -(-vocabulary // config.outputs)
    numbers = hidden.new_empty(0, dtype=torch.float32)
    highest, total = numbers.new_empty((2, rows, tiles)).unbind()
    logits = numbers.new_empty((rows, tiles, best))
    tokens = torch.empty_like(logits, dtype=torch.int32)
    asked = numbers.new_full((rows,), float("-inf"))
    launch(
        _tile_kernel, (tiles, -(-rows // size)),
        hidden, weight, chosen, highest, total, tokens, logits, asked,
        rows, vocabulary, mask_id, hidden.stride(0), tiles,
        WIDTH=width, ROWS=size, ENTRIES=config.outputs, DEPTH=config.depth, BEST=best,
        warps=config.warps, stages=config.stages,
    )  # fmt: skip
    log_sum_exp = numbers.new_empty((rows,))
    best_logits = numbers.new_empty((rows, best))
    best_tokens = torch.empty_like(best_logits, dtype=torch.int32)
    launch(
        _join_kernel, (rows,),
        highest, total, tokens, logits, best_tokens, best_logits, log_sum_exp, tiles,
        BLOCK=JOINED_AT_ONCE, BEST=best, warps=4,
    )  # fmt: skip
    return HeadReading(best_tokens, best_logits, log_sum_exp, asked)


def head_reading(
    hidden: Tensor, weight: Tensor, chosen: Tensor, *, mask_id: int = NO_TOKEN, best: int = 1
) -> HeadReading:
    """What is read of the logits `hidden @ weight.T`, without storing them.

    Args:
        hidden: (N, width), after the final norm.
        weight: (V, width), the output head.
        chosen: (N,) int32, a token of each row whose logit is wanted, or NO_TOKEN.
        mask_id: the token that is never among the best, or NO_TOKEN.
        best: K, how many of the best tokens are wanted; at most V without the mask token.
    """
    operation = choose(head_reading_triton, head_reading_torch, hidden)
    return operation(hidden, weight, chosen, mask_id, best)


@dataclass(frozen=True, slots=True)
class Case:
    """A shape for tests and benchmarks: rows, width, vocabulary, mask token and best tokens."""

    rows: int
    width: int
    vocabulary: int
    mask_id: int
    best: int
    is_large: bool = False


CASES = {
    "one row": Case(1, 64, 200, 100, 1),
    "three best, no mask token": Case(5, 48, 97, NO_TOKEN, 3),
    "two tiles of rows, two best": Case(67, 16, 70, 3, 2),
    "one entry beyond a tile": Case(2, 16, 65, 64, 4),
    "a vocabulary of all it may answer": Case(3, 16, 5, 2, 4),
    "five tiles of the vocabulary": Case(1, 16, 300, 7, 4),
    "8B, one row": Case(1, 4096, 131_072, 100, 4, is_large=True),
    "8B, a block": Case(32, 4096, 131_072, 100, 4, is_large=True),
    "14B, a block": Case(32, 5120, 131_072, 100, 1, is_large=True),
    "0.5B, a block": Case(32, 896, 151_936, NO_TOKEN, 4, is_large=True),
    "8B, quadratic": Case(272, 4096, 131_072, 100, 4, is_large=True),
}


def variants(architecture: int) -> list[Variant]:
    """What is compiled ahead of time: the heads of two served models and of the tests' network."""
    found: list[Variant] = []
    numbers = dict.fromkeys(("highest", "total", "logits"), "*fp32")
    for size, dtype, width in (("8B", "bf16", 4096), ("0.5B", "bf16", 896), ("laws", "fp32", 32)):
        table = FP32 if dtype == "fp32" else for_architecture(CONFIGS, architecture)
        for rows, config in table.items():
            types = {"hidden": f"*{dtype}", "weight": f"*{dtype}", **numbers, "asked": "*fp32"}
            types |= {"chosen": "*i32", "tokens": "*i32"}
            types |= dict.fromkeys(
                ("rows", "vocabulary", "mask_id", "hidden_stride", "tiles"), "i32"
            )
            constants = {"WIDTH": width, "ROWS": rows, "BEST": 4}
            constants |= {"ENTRIES": config.outputs, "DEPTH": config.depth}
            name = f"head reading {size} {dtype}, {rows} rows"
            unaligned = ("rows", "mask_id", "tiles")
            warps, stages = config.warps, config.stages
            found.append(Variant(name, _tile_kernel, types, constants, warps, stages, unaligned))
    types = {**numbers, "tokens": "*i32", "best_tokens": "*i32", "best_logits": "*fp32"}
    types |= {"log_sum_exp": "*fp32", "tiles": "i32"}
    constants = {"BLOCK": JOINED_AT_ONCE, "BEST": 4}
    found.append(Variant("head reading, join", _join_kernel, types, constants, 4, 1, ("tiles",)))
    return found
