"""Runs: a newer request may follow a run, and sees the rest after the typed beginning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.client.messages import SpanBody
from dlm_lsp.session.context import gather
from dlm_lsp.session.document import Document, Encoding, Position
from dlm_lsp.session.generation import Deviation, Generation, typed_through
from dlm_lsp.session.pipeline import Suggestion
from dlm_lsp.session.place import place_of
from dlm_lsp.session.requests import Ask

DOCUMENT = Document("file:///a.py", "python", 1, "x = \n")
CONTEXT = gather(DOCUMENT, 4, None)
PLACE = place_of(DOCUMENT, Ask(DOCUMENT.uri, Position(0, 4)), Encoding.UTF16)

texts = st.text(alphabet="ab (", max_size=6)


def state(committed: str, draft: str = "", *, final: bool = False) -> Suggestion:
    spans = tuple(SpanBody(start=i, end=i + 1, confidence=i / 10) for i in range(len(draft)))
    return Suggestion(committed, draft, spans, final=final, mode="ar")


@given(texts, texts, st.data())
def test_typing_the_beginning_takes_it_off_the_front_and_nothing_else(
    committed: str, draft: str, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(committed + draft)))
    typed = (committed + draft)[:count]
    view = typed_through(state(committed, draft), typed)
    assert view is not None
    assert view.committed + view.draft == (committed + draft)[count:]
    assert view.committed == committed[count:]
    assert [(s.start, s.end) for s in view.spans] == [(i, i + 1) for i in range(len(view.draft))]
    by_character = [span.confidence for span in view.spans]
    assert by_character == [i / 10 for i in range(len(draft))][len(draft) - len(view.draft) :]


@given(texts, texts, texts)
def test_other_text_is_not_shown_and_refused_once_it_is_certain(
    committed: str, draft: str, typed: str
) -> None:
    can_still_fit = committed.startswith(typed) or typed.startswith(committed)
    if not can_still_fit:
        with pytest.raises(Deviation):
            typed_through(state(committed, draft), typed)
    elif not (committed + draft).startswith(typed):
        assert typed_through(state(committed, draft), typed) is None


class Run:
    """A generation whose events come from a test."""

    def __init__(self) -> None:
        self.states: asyncio.Queue[Suggestion | Exception] = asyncio.Queue()
        self.is_closed = False
        self.generation = Generation(CONTEXT, PLACE, self._suggestions())

    async def _suggestions(self) -> AsyncGenerator[Suggestion, None]:
        try:
            while True:
                item = await self.states.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.final:
                    return
        finally:
            self.is_closed = True


async def test_follower_sees_the_newest_state_and_the_end() -> None:
    run = Run()
    follower = run.generation.follow()
    run.states.put_nowait(state("a"))
    assert (await anext(follower)).committed == "a"
    run.states.put_nowait(state("ab"))
    run.states.put_nowait(state("abc", final=True))
    assert [one.committed async for one in follower][-1] == "abc"
    assert [one.committed async for one in run.generation.follow()] == ["abc"]


async def test_error_of_the_run_reaches_the_follower() -> None:
    run = Run()
    run.states.put_nowait(state("a"))
    run.states.put_nowait(LookupError("gone"))
    with pytest.raises(LookupError, match="gone"):
        async for _ in run.generation.follow():
            pass
    assert run.is_closed


async def test_cancelled_run_closes_its_stream_and_cancels_its_follower() -> None:
    run = Run()
    follower = run.generation.follow()
    run.states.put_nowait(state("a"))
    await anext(follower)
    run.generation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await anext(follower)
    assert run.is_closed


async def test_run_serves_text_that_continues_it_and_no_other() -> None:
    run = Run()
    assert run.generation.can_serve("x = ", "\n")
    assert not run.generation.can_serve("x = a", "\n")
    run.states.put_nowait(state("ab", "c(d)"))
    await anext(run.generation.follow())
    assert run.generation.can_serve("x = a", "\n")
    assert run.generation.can_serve("x = abc(", ")\n")
    assert not run.generation.can_serve("x = b", "\n")
    assert not run.generation.can_serve("x =", "\n")
    assert not run.generation.can_serve("x = a", "")
    run.generation.cancel()
