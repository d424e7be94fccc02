"""Revision in block diffusion that fills masks: a place that was decided early is decided again.

A place may be decided while a place before it is still masked. Once the place right before it is
decided, what it was decided by has changed: it is masked again and decided anew. A request has a
budget of such revisions (`BlockOptions.revisions`), so that decoding ends; with none, a decided
place stays, as in the reference algorithm. What is committed is never revised, since no place
before it is masked.
"""

from __future__ import annotations

from engine.decoders.strategy import DraftPlace


def revised(
    before: tuple[DraftPlace, ...], after: tuple[DraftPlace, ...], budget: int
) -> tuple[tuple[DraftPlace, ...], int]:
    """The block after a forward, with some places masked again, and the budget that is left.

    Args:
        before, after: the block's places before and after the forward's decisions.
    """
    places = list(after)
    for index in range(1, len(places)):
        if budget <= 0:
            break
        was_decided = before[index].token is not None
        is_news = before[index - 1].token is None and after[index - 1].token is not None
        if was_decided and is_news:
            places[index] = DraftPlace(None)
            budget -= 1
    return tuple(places), budget
