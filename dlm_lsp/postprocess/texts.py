"""Where a text has strings and comments, by the scanner of brackets."""

from __future__ import annotations

from collections.abc import Iterator

from dlm_lsp.postprocess.languages import language_named
from dlm_lsp.postprocess.scanner import Frame, Kind, What, scan


def texts_in(language_id: str, text: str) -> Iterator[tuple[int, int]]:
    """Yields where the strings and comments of a text begin and end, without code in strings.

    Args:
        text: begins in code.
    """
    frames: list[Frame] = []
    since = 0
    for event in scan(language_named(language_id), text, 0, len(text)).events:
        if _is_text(frames) and event.start > since:
            yield since, event.start
        if event.what is What.OPEN and event.frame is not None:
            frames.append(event.frame)
        del frames[event.depth :]
        since = event.end
    if _is_text(frames) and since < len(text):
        yield since, len(text)


def _is_text(frames: list[Frame]) -> bool:
    """Whether the innermost frame that is no bracket in a text is one of text."""
    inner = next((one for one in reversed(frames) if one.kind is not Kind.SOFT), None)
    return inner is not None and inner.is_text
