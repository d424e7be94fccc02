"""Sections of a benchmark's JSON file, of which a run replaces its own and keeps the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import ConfigError

Section = TypeVar("Section")


def read_sections(
    file: Path, version: int, to_section: Callable[[Mapping[str, Any]], Section]
) -> list[Section]:
    """The sections of a file in this version of its format; none if there is no file.

    Raises:
        ConfigError: The file cannot be read, or has another format.
    """
    if not file.exists():
        return []
    try:
        content = json.loads(file.read_text("utf-8"))
        if content["format"] != version:
            raise ValueError("another format")
        return [to_section(entry) for entry in content["sections"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} cannot be read: {error}.",
            remedy="Delete it, or give another --out.",
            param="out",
        ) from None
