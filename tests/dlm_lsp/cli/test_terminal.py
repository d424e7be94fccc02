"""The terminal view: the picture of each state, at any size of the terminal."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from dlm_lsp.cli.terminal import (
    COMMITTED,
    MASK,
    SURE,
    UNSURE,
    LiveView,
    ShownState,
    hole_at,
    picture,
)
from dlm_lsp.client.messages import (
    DraftEvent,
    FinishedEvent,
    SpanBody,
    UsageBody,
    parse_event,
    to_line,
)
from engine.api import MASKED

SOURCE = "".join(f"line {number}\n" for number in range(1, 41))
CURSOR = SOURCE.index("line 20") + len("line ")


def hole():
    return hole_at("file.py:20:6", SOURCE, CURSOR)


def styles_of(text: Text, piece: str) -> set[str]:
    """The styles that cover the whole of `piece` in `text`."""
    start = text.plain.index(piece)
    end = start + len(piece)
    return {str(span.style) for span in text.spans if span.start <= start and span.end >= end}


def console(columns: int = 80, rows: int = 24) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=columns, height=rows, color_system="standard"
    )


def written(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def test_hole_at_keeps_whole_lines_and_the_number_of_the_first():
    place = hole()
    assert place.before.split("\n") == [f"line {n}" for n in range(14, 20)] + ["line "]
    assert place.after.split("\n")[:2] == ["20", "line 21"]
    assert place.first_line == 14


@given(st.text(alphabet="ab\n", max_size=60), st.integers(0, 60), st.integers(0, 5))
def test_hole_at_is_a_window_of_the_text_at_its_line(text: str, offset: int, around: int):
    offset = min(offset, len(text))
    place = hole_at("", text, offset, around)
    assert text[:offset].endswith(place.before)
    assert text[offset:].startswith(place.after)
    whole = (place.before + place.after).split("\n")
    assert text.split("\n")[place.first_line - 1 :][: len(whole)] == whole


def test_picture_numbers_every_row_and_inserts_the_text():
    drawn = picture(hole(), ShownState(committed="1\nnew "), 80, 24).plain.split("\n")
    assert drawn[0] == " file.py:20:6"
    assert drawn[1:3] == [" 14 │ line 14", " 15 │ line 15"]
    assert drawn[7:10] == [" 20 │ line 1", " 21 │ new 20", " 22 │ line 21"]


def test_picture_shades_masked_draft_and_committed_differently():
    draft = f"SURE {MASKED * 4} MAYBE"
    spans = (SpanBody(start=0, end=4, confidence=0.95), SpanBody(start=10, end=15, confidence=0.2))
    drawn = picture(hole(), ShownState("FINAL ", draft, spans), 80, 24)
    assert styles_of(drawn, "FINAL ") == {COMMITTED}
    assert styles_of(drawn, "SURE") == {SURE}
    assert styles_of(drawn, MASKED * 4) == {MASK}
    assert styles_of(drawn, "MAYBE") == {UNSURE}
    assert len({COMMITTED, SURE, UNSURE, MASK}) == 4


def test_picture_shows_what_was_filled_earlier_as_committed():
    text = "a = ONE\nb = TWO\nc = "
    filled = [(4, 7), (12, 15)]
    drawn = picture(hole_at("f", text, len(text), filled=filled), ShownState("THREE"), 80, 24)
    for piece in ("ONE", "TWO", "THREE"):
        assert styles_of(drawn, piece) == {COMMITTED}
    assert styles_of(drawn, "b = ") != {COMMITTED}
    cut = hole_at("f", text, len(text), lines_around=1, filled=filled)
    assert [cut.before[start:end] for start, end in cut.filled] == ["TWO"]


def test_picture_leaves_out_what_the_text_replaces():
    place = hole_at("f", "call()\n", 5)
    assert picture(place, ShownState("x)", replaced=1), 80, 24).plain.endswith(" 1 │ call(x)")


def test_picture_draws_control_codes_of_file_and_model_as_symbols():
    place = hole_at("evil\x1b[2J.py", "a\x1b]0;x\x07\r\nb\x9bc", 1)
    drawn = picture(place, ShownState("\x1b[31m", "\x00", ()), 80, 24).plain
    assert not [character for character in drawn if ord(character) < 32 and character != "\n"]
    assert "\x9b" not in drawn
    assert "␛[31m" in drawn


@given(
    committed=st.text(alphabet="ab\n\t界", max_size=200),
    draft=st.text(alphabet=f"ab\n{MASKED}", max_size=200),
    columns=st.integers(20, 120),
    rows=st.integers(2, 40),
)
def test_picture_fits_and_shows_the_end_of_the_text(
    committed: str, draft: str, columns: int, rows: int
):
    drawn = picture(hole(), ShownState(committed + "«", draft + "»"), columns, rows)
    lines = drawn.plain.split("\n")
    assert len(lines) <= rows
    assert all(cell_len(line) <= columns for line in lines)
    last = (committed + "«" + draft).split("\n")[-1]
    if cell_len(last.expandtabs(4)) * 2 < columns - 20:
        assert "»" in drawn.plain


def events() -> list[DraftEvent | FinishedEvent]:
    """A short run of events, parsed from the host's JSON lines."""
    usage = UsageBody(tokens=2, forwards=1)
    sent = [
        DraftEvent(sequence=1, committed="", draft=MASKED * 3, spans=(), usage=usage),
        DraftEvent(
            sequence=2,
            committed="x = ",
            draft=f"1{MASKED}",
            spans=(SpanBody(start=0, end=1, confidence=0.7),),
            usage=usage,
        ),
        FinishedEvent(text="x = 12", finish_reason="end", confidence=1, mode="block", usage=usage),
    ]
    received = [parse_event(to_line(event)) for event in sent]
    return [event for event in received if isinstance(event, DraftEvent | FinishedEvent)]


def test_live_view_draws_each_state_of_a_run_and_leaves_the_last():
    to = console()
    with LiveView(to) as view:
        for event in events():
            if isinstance(event, DraftEvent):
                view.show(hole(), ShownState(event.committed, event.draft, event.spans))
            else:
                view.show(hole(), ShownState(event.text), Text("all done"))
    output = written(to)
    assert output.index(MASKED * 3) < output.index("x = ") < output.index("x = 12")
    assert "all done" in output[output.index("x = 12") :]
    assert "\x1b[1;32mx = 12" in output  # bold green
    assert "\x1b[36m1" in output  # cyan


@pytest.mark.parametrize("rows", [6, 10, 24])
def test_live_view_never_grows_past_the_terminal(rows: int):
    to = console(rows=rows)
    with LiveView(to) as view:
        view.show(hole(), ShownState("x\n" * 60))
        view.show(hole(), ShownState("x\n" * 61 + "end"))
    drawings = written(to).split("file.py:20:6")[1:]
    assert drawings
    assert all(drawing.count("\n") < rows for drawing in drawings)
    assert "end" in drawings[-1]
