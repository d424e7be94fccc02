"""An examination of a checkpoint by the engine's own code, in this process, without a host.

The only door from the command to it: the engine is imported when an examination begins, since torch
takes a second. Owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.config import EngineSettings
from engine.device import needs_torch, torch_unusable
from engine.lab.verify.report import Check, Section

__all__ = ["Check", "Section", "sections"]


def sections(settings: EngineSettings, holes_max: int | None) -> Iterator[Section]:
    """Sections as they are finished.

    Args:
        holes_max: most built-in holes to fill; None means all.

    Raises:
        ConfigError: torch is not installed, or the device asked for is not there.
    """
    needs_torch("dlm-lsp verify")
    # torch: only who asks for an examination waits for it
    try:
        from engine.lab.verify.examination import HOLES_MAX, examine
    except (ImportError, OSError) as error:
        raise torch_unusable(error) from None

    yield from examine(settings, HOLES_MAX if holes_max is None else holes_max)
