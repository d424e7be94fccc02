"""How long a request waits for the next key: never longer than the user's own rhythm."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.session.rhythm import SECONDS_MAX, Rhythm

intervals = st.lists(st.floats(0, 3), max_size=40)


def typed(keys: list[float]) -> tuple[Rhythm, float]:
    """A rhythm after keys with these intervals before them, and the time of the last key."""
    rhythm, now = Rhythm(), 100.0
    for interval in keys:
        now += interval
        rhythm.note(now)
    return rhythm, now


@given(intervals, st.floats(0, 3))
def test_a_wait_is_bounded_and_ends_with_the_time_since_the_last_key(
    keys: list[float], since: float
) -> None:
    rhythm, now = typed(keys)
    seconds = rhythm.seconds(None, now + since)
    assert 0 <= seconds <= SECONDS_MAX
    assert seconds == 0 or since + seconds <= SECONDS_MAX + 1e-9


@given(intervals, st.integers(0, 2000), st.floats(0, 3))
def test_a_fixed_delay_counts_from_the_last_key(
    keys: list[float], milliseconds: int, since: float
) -> None:
    rhythm, now = typed(keys)
    expected = max(0.0, milliseconds / 1000 - since) if keys else 0.0
    assert abs(rhythm.seconds(milliseconds, now + since) - expected) < 1e-6


def test_the_wait_follows_the_user() -> None:
    fast, now = typed([0.08] * 12)
    assert 0.08 < fast.seconds(None, now) < 0.13
    slow, now = typed([0.18] * 12)
    assert 0.18 < slow.seconds(None, now) <= SECONDS_MAX
    # An editor that has waited itself waits no longer, and pauses are no rhythm.
    assert slow.seconds(None, now + 0.25) == 0
    paused, now = typed([2.0] * 12)
    assert paused.seconds(None, now) == 0
    assert typed([0.1] * 3)[0].seconds(None, 100.3) == 0  # Too few keys to know.


@given(intervals, st.floats(1, 2), st.floats(1, 2))
def test_a_stretched_wait_is_longer_and_as_bounded(
    keys: list[float], one: float, other: float
) -> None:
    rhythm, now = typed(keys)
    low, high = sorted((one, other))
    assert rhythm.seconds(None, now) <= rhythm.seconds(None, now, low)
    assert rhythm.seconds(None, now, low) <= rhythm.seconds(None, now, high) <= SECONDS_MAX
    assert rhythm.seconds(150, now, high) == rhythm.seconds(150, now), "the user's own stands"


async def test_a_newer_request_ends_the_wait() -> None:
    rhythm = Rhythm()
    rhythm.note(0.0)
    waiting = asyncio.create_task(rhythm.wait(10_000, 0.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    assert (await asyncio.gather(waiting, return_exceptions=True))[0] is not None
