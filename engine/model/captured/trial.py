"""Tries captured steps against clear ones before any request meets them.

A driver, a card or a library that nobody has tried may compute something else, or nothing. Then the
engine serves with clear steps and says so. The laws of decoding are tested elsewhere: this looks
for what is plainly wrong.
"""

from __future__ import annotations

import torch

from engine.api import Sampling
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.kernels.tile_plan import PART
from engine.model.captured.runner import CapturedRunner
from engine.model.runner import ModelRunner
from engine.model.tiles import TILE_ROWS
from engine.reading import Reading
from engine.step import chain

# Cached tokens and rows of a step: more than a page, and rows that fill no tile of the kernels.
_CACHED, _ROWS = 40, 8
# Of an exact step: across a tile's end and across a part's.
_CACHED_EXACT, _ROWS_EXACT = PART - 6, TILE_ROWS + 8
# The most by which a log-sum-exp may differ, in nats: far more than rounding, far less than what a
# wrong row or a wrong weight does.
_NATS_MAX = {torch.float32: 0.01}
_NATS_MAX_NARROW = 0.5


@torch.inference_mode()
def fault(runner: CapturedRunner, *, exact: bool) -> str | None:
    """What is wrong with captured steps on this machine; None if they agree with clear ones.

    Args:
        exact: whether those of exact sequences are tried, or ordinary ones.
    """
    try:
        return _disagreement(runner, exact=exact)
    except Exception as error:  # The boundary: whatever fails, clear steps serve.
        return f"{type(error).__name__}: {error}"


def _disagreement(runner: CapturedRunner, *, exact: bool) -> str | None:
    """The first row of a step that is read as another one than clear steps read."""
    length, rows = (_CACHED_EXACT, _ROWS_EXACT) if exact else (_CACHED, _ROWS)
    config = runner.network.config
    dtype = next(runner.network.parameters()).dtype
    tokens = tuple((7 * place + 11) % config.vocabulary for place in range(length + rows))
    cache = KVCache(CacheShape.of(config), 2 * len(tokens), device=runner.device, dtype=dtype)
    sequence, _ = cache.open(tokens[:length], len(tokens), exact=exact)
    prompt = chain(tokens[:length], 0, sequence=sequence)
    ModelRunner.__call__(runner, prompt, cache, Sampling())
    cache.keep(prompt, tuple(range(prompt.rows)))
    step = chain(tokens[length:], length, read=tuple(range(rows)), sequence=sequence)
    wanted = ModelRunner.__call__(runner, step, cache, Sampling())
    for _ in range(2):  # The second one replays what the first has captured.
        found = runner(step, cache, Sampling())
        for row, (one, other) in enumerate(zip(found, wanted, strict=True)):
            if not _agree(one, other, _NATS_MAX.get(dtype, _NATS_MAX_NARROW)):
                return f"row {row} was read as {one}, by clear steps as {other}"
    return None


def _agree(one: Reading, other: Reading, nats_max: float) -> bool:
    """False for anything that is no number, too."""
    best = [token for token, _ in other.best]
    return abs(one.log_sum_exp - other.log_sum_exp) <= nats_max and one.token in best
