"""One run of the engine for a place in a document, which a newer request may take over.

Owns the run's task and its latest state; what a follower sees of it once the user has typed the
beginning of the text. Followed by one request at a time. Does not know the host.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from dlm_lsp.client.messages import SpanBody
from dlm_lsp.session.cache import Completion, remainder
from dlm_lsp.session.context import Context
from dlm_lsp.session.document import Edit
from dlm_lsp.session.pipeline import Suggestion
from dlm_lsp.session.place import CompletionPlace


class Deviation(Exception):
    """A completion will certainly not begin with what was typed."""


class Generation:
    """A pipeline that runs in the background until it ends or is cancelled.

    Attributes:
        prefix, suffix: the text on both sides of the cursor that is completed.
        context: what the engine was shown of it.
        edits: that make the document as it is now of the text that is completed, in order;
            appended to by the session.
        are_marks_noted: whether the document has been told where the run's prompt begins.
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
        """Yields the newest state whenever there is one, up to the final one.

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
        """Whether the run, as far as it has come, continues this newer text."""
        text = self.latest.committed + self.latest.draft if self.latest is not None else ""
        return remainder(Completion(self.prefix, self.suffix, text), prefix, suffix) is not None

    def cancel(self) -> None:
        """Stops the run, and with it the engine's work."""
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
    """A state as it looks once `typed`, its beginning, stands in the document.

    None where the draft says something else at the moment. Raises Deviation once it is certain
    that the completion will not begin with `typed`.
    """
    committed, text = suggestion.committed, suggestion.committed + suggestion.draft
    if committed[: len(typed)] != typed[: len(committed)]:
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
        suggestion, committed=committed[len(typed) :], draft=suggestion.draft[cut:], spans=spans
    )
