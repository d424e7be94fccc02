"""An examination of a checkpoint by the engine's own code, in this process, without a host.

The only door from the command to it: the engine is imported when an examination begins, since torch
takes a second. Owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.config import EngineSettings
from engine.verify.report import Check, Section

__all__ = ["Check", "Section", "sections"]


def sections(settings: EngineSettings, holes_max: int | None) -> Iterator[Section]:
    """Sections as they are finished.

    Args:
        holes_max: most built-in holes to fill; None means all.

    Raises:
        ConfigError: the device asked for is not there.
    """
    # torch: only who asks for an examination waits for it
    from engine.verify.examination import HOLES_MAX, examine

    yield from examine(settings, HOLES_MAX if holes_max is None else holes_max)
