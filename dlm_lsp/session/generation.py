"""One run of the engine for a place in a document, which a newer request may take over.

Owns the run's task and its latest state, and computes what remains of a state after the user has
typed its beginning. One request at a time follows a run. Does not know the host.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from dlm_lsp.client.messages import SpanBody
from dlm_lsp.session.cache import Completion, remainder
from dlm_lsp.session.confidence import after
from dlm_lsp.session.context import Context
from dlm_lsp.session.document import Edit
from dlm_lsp.session.pipeline import Suggestion
from dlm_lsp.session.place import CompletionPlace


class Deviation(Exception):
    """The completion certainly does not begin with the typed text."""


class Generation:
    """A pipeline that runs in the background until it ends or is cancelled.

    Attributes:
        prefix, suffix: the text before and after the cursor of the run.
        context: the part of this text that the engine was given.
        edits: the edits, in order, from the completed text to the current document; the session
            appends to the list.
        are_marks_noted: whether the marks of the run's prompt are stored with the document.
        latest: the newest state, None before the first.
    """

    def __init__(
        self,
        context: Context,
        place: CompletionPlace,
        suggestions: AsyncGenerator[Suggestion, None],
    ) -> None:
        self.prefix = place.prefix
        self.suffix = place.suffix
        self.context = context
        self.edits: list[Edit] = place.undoing
        self.are_marks_noted = False
        self.latest: Suggestion | None = None
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(suggestions))

    async def follow(self) -> AsyncGenerator[Suggestion, None]:
        """Yields each newest state up to the final one.

        Raises: HostError as the pipeline does; CancelledError once the run is cancelled.
        """
        seen: Suggestion | None = None
        while seen is None or not seen.final:
            if self.latest is not None and self.latest is not seen:
                seen = self.latest
                yield seen
            elif self._task.done():
                self._task.result()
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    def can_serve(self, prefix: str, suffix: str) -> bool:
        """Returns whether the run's latest state still fits this newer text."""
        state = self.latest
        text = state.committed + state.draft + state.hidden if state is not None else ""
        return remainder(Completion(self.prefix, self.suffix, text), prefix, suffix) is not None

    def cancel(self) -> None:
        """Stops the run and with it the engine's work."""
        self._task.cancel()

    async def _run(self, suggestions: AsyncGenerator[Suggestion, None]) -> None:
        try:
            async with aclosing(suggestions):
                async for suggestion in suggestions:
                    self.latest = suggestion
                    self._changed.set()
        finally:
            self._changed.set()


def typed_through(suggestion: Suggestion, typed: str) -> Suggestion | None:
    """Returns a state without its beginning `typed`, which the user has typed.

    Returns None while the draft begins differently. Raises Deviation once it is certain that the
    completion does not begin with `typed`.
    """
    committed, text = suggestion.committed, suggestion.committed + suggestion.draft
    decided = text[: len(committed) + suggestion.held] + suggestion.hidden
    if decided[: len(typed)] != typed[: len(decided)]:
        raise Deviation
    if not text.startswith(typed):
        return None
    cut = max(len(typed) - len(committed), 0)
    spans = tuple(
        SpanBody(start=max(span.start - cut, 0), end=span.end - cut, confidence=span.confidence)
        for span in suggestion.spans
        if span.end > cut
    )
    return replace(
        suggestion,
        committed=committed[len(typed) :],
        draft=suggestion.draft[cut:],
        spans=spans,
        held=max(suggestion.held - cut, 0),
        hidden=suggestion.hidden[max(len(typed) - len(text), 0) :],
        logprobs=after(suggestion.logprobs, len(typed)),
    )
