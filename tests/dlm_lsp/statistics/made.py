"""Rows for tests, of which only what a test is about differs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from dlm_lsp.statistics.rows import Known, Row, new_id

ROW = Row(
    id=1,
    time=0.0,
    language="python",
    model="real-1b",
    mode="ar",
    automatic=True,
    lines=1,
    characters=10,
    probability=0.5,
    line_probability=0.5,
    first_ms=100.0,
    answer_ms=200.0,
    source="engine",
)


def row(**values: Any) -> Row:
    """A row of now with an id of its own."""
    return replace(ROW, id=new_id(), time=time.time(), **values)


def known(
    fate: str = "dismissed",
    fate_ms: float | None = 5000.0,
    accepted: int = 0,
    kept: int | None = None,
    **values: Any,
) -> Known:
    """A row with what is known of it."""
    return Known(row=row(**values), fate=fate, fate_ms=fate_ms, accepted=accepted, kept=kept)
