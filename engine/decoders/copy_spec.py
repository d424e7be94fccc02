"""Copied drafts: what followed the last tokens when they stood there before, verified causally.

Code repeats itself. Looking the last few tokens up in the prompt and the emitted text costs no
forward, so that a copied draft pays from the first accepted token (prompt lookup decoding). Without
a match a cycle is one autoregressive row.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from engine.decoders.strategy import (
    Feed,
    Place,
    Progress,
    Task,
    accepted_run,
    before_stop,
    commit,
    room_left,
)
from engine.sampling import choose
from engine.step import Step, chain

MATCH_MAX = 8  # tokens: longer matches are hardly more often right
MATCH_MIN = 2  # one token alone is followed by too many different ones


@dataclass(frozen=True, slots=True)
class CopyState:
    """The feed's pending tokens are the prompt's rest; afterwards it ends before the seed.

    Attributes:
        drafts: copied tokens behind the seed, which is the token committed last.
    """

    task: Task
    feed: Feed
    progress: Progress
    drafts: tuple[int, ...] = ()


class CopySpec:
    """Strategy "copy_spec"."""

    def start(self, task: Task) -> CopyState:
        return CopyState(task, Feed(task.cached, task.request.prompt[task.cached :]), Progress())

    def plan(self, state: CopyState) -> Step:
        if state.feed.pending:
            return state.feed.plan(state.task.sequence)
        tokens = (state.progress.committed[-1], *state.drafts)
        read = tuple(range(len(tokens)))
        return chain(tokens, state.feed.cached, read=read, sequence=state.task.sequence)

    def resolve(
        self, state: CopyState, step: Step, logits: Tensor
    ) -> tuple[CopyState, tuple[int, ...]]:
        task, feed = state.task, state.feed
        if feed.pending and feed.after(step).pending:
            return replace(state, feed=feed.after(step)), tuple(range(step.rows))
        positions = [step.position[row] + 1 for row in step.read]
        tokens, confidences = choose(logits, positions, task.request.sampling, mask_id=task.mask_id)
        emitted = accepted_run(state.drafts, tokens)
        progress = commit(
            state.progress, tuple(tokens[:emitted]), tuple(confidences[:emitted]), task
        )
        kept = step.rows if feed.pending else emitted
        following = CopyState(task, Feed(feed.cached + kept), progress)
        return _with_drafts(following), tuple(range(kept))


def copied_draft(tokens: Sequence[int], length: int) -> tuple[tuple[int, ...], int]:
    """What followed the last tokens at their latest earlier occurrence.

    Args:
        length: most tokens wanted.

    Returns:
        The draft, empty if nothing of MATCH_MIN tokens matches, and how many tokens matched.
    """
    data = array("q", tokens)
    size = data.itemsize
    haystack = data.tobytes()
    for match in range(min(MATCH_MAX, len(tokens) - 1), MATCH_MIN - 1, -1):
        needle = haystack[-match * size :]
        end = len(haystack) - size
        while (found := haystack.rfind(needle, 0, end)) >= 0:
            if found % size == 0:
                start = found // size + match
                return tuple(tokens[start : start + length]), match
            end = found + len(needle) - 1
    return (), 0


def _with_drafts(state: CopyState) -> CopyState:
    task = state.task
    count = min(task.request.block.length, room_left(state.progress, task)) - 1
    if state.progress.finished is not None or count <= 0:
        return state
    drafts, _ = copied_draft((*task.request.prompt, *state.progress.committed), count)
    places = before_stop(tuple(Place(token, 0.5) for token in drafts), task)
    return replace(state, progress=replace(state.progress, draft=places), drafts=drafts)
