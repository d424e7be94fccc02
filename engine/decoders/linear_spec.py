"""Linear self-speculation: the model drafts a block in parallel and verifies it causally.

As Nemotron-Labs-Diffusion's reference `linear_spec_generate` (arXiv 2607.05722): one bidirectional
forward of [seed, masks] with the drafter LoRA on fills every mask; one causal forward of the same
block with it off says which token follows each place. The longest run of agreement is kept, and the
causal token behind it is the next seed, so that every emitted token is an autoregressive one.

Above temperature 0 both forwards draw with the place's one random number. What is emitted is the
causal draw, so its distribution, and with a seed its every token, is that of "ar"; sharing the
number makes the two draws agree more often than independent ones would.
"""

from __future__ import annotations

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
from engine.step import Step, chain, group

WINDOW_FIRST = 8  # rows of the first block; grows while drafts are accepted whole


@dataclass(frozen=True, slots=True)
class LinearState:
    """Feeding the prompt, then drafting and verifying in turn.

    Attributes:
        feed: the prompt's rest; afterwards its `cached` ends before the seed, which is the token
            committed last.
        window: rows of the next block.
        drafts: tokens behind the seed to verify, or None when they are to be drafted.
    """

    task: Task
    feed: Feed
    progress: Progress
    window: int = WINDOW_FIRST
    drafts: tuple[int, ...] | None = None


class LinearSpec:
    """Strategy "linear_spec"."""

    def start(self, task: Task) -> LinearState:
        return LinearState(task, Feed(task.cached, task.request.prompt[task.cached :]), Progress())

    def plan(self, state: LinearState) -> Step:
        if state.feed.pending:
            return state.feed.plan(state.task.sequence)
        task = state.task
        seed = state.progress.committed[-1]
        if state.drafts is not None:
            tokens = (seed, *state.drafts)
            read = tuple(range(len(tokens)))
            return chain(tokens, state.feed.cached, read=read, sequence=task.sequence)
        return group(
            (seed, *task.masks(state.window - 1)),
            state.feed.cached,
            read=tuple(range(1, state.window)),
            sequence=task.sequence,
            drafter=task.traits.has_drafter,
        )

    def resolve(
        self, state: LinearState, step: Step, logits: Tensor
    ) -> tuple[LinearState, tuple[int, ...]]:
        if state.feed.pending:
            return self._fed(state, step, logits), tuple(range(step.rows))
        if state.drafts is None:
            return self._drafted(state, step, logits), ()
        return self._verified(state, step, logits)

    def _fed(self, state: LinearState, step: Step, logits: Tensor) -> LinearState:
        feed = state.feed.after(step)
        if feed.pending:
            return replace(state, feed=feed)
        task = state.task
        seed, confidence = choose(
            logits, [feed.cached], task.request.sampling, mask_id=task.mask_id
        )
        progress = commit(state.progress, tuple(seed), tuple(confidence), task)
        return _next_block(LinearState(task, feed, progress))

    def _drafted(self, state: LinearState, step: Step, logits: Tensor) -> LinearState:
        task = state.task
        positions = [step.position[row] for row in step.read]
        drafts, confidences = choose(logits, positions, task.request.sampling, mask_id=task.mask_id)
        places = tuple(map(Place, drafts, confidences))
        progress = replace(state.progress, draft=before_stop(places, task))
        return replace(state, progress=progress, drafts=tuple(drafts))

    def _verified(
        self, state: LinearState, step: Step, logits: Tensor
    ) -> tuple[LinearState, tuple[int, ...]]:
        task = state.task
        positions = [position + 1 for position in step.position]
        tokens, confidences = choose(logits, positions, task.request.sampling, mask_id=task.mask_id)
        emitted = accepted_run(step.token[1:], tokens)
        progress = commit(
            state.progress, tuple(tokens[:emitted]), tuple(confidences[:emitted]), task
        )
        following = LinearState(
            task,
            Feed(state.feed.cached + emitted),
            progress,
            _next_window(state.window, emitted, task.request.block.length),
        )
        return _next_block(following), tuple(range(emitted))


def _next_window(window: int, emitted: int, longest: int) -> int:
    """Twice as long after a block accepted whole, half after one of which half or less was."""
    if emitted == window:
        return min(2 * window, longest)
    return max(window // 2, 2) if emitted <= window // 2 else window


def _next_block(state: LinearState) -> LinearState:
    """Bounds the window by what can still be emitted; a lone seed needs no draft."""
    task = state.task
    window = min(state.window, task.request.block.length, room_left(state.progress, task))
    return replace(state, window=max(window, 1), drafts=None if window > 1 else ())
