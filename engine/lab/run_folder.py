"""The options of a run in its folder, so that only a run with the same options resumes there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from engine.errors import ConfigError


def check_options(path: Path, options: Mapping[str, object]) -> None:
    """Writes the options of a run, or compares them with those of the run that began there.

    Raises:
        ConfigError: The file is damaged, or an option differs; the first such option is named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    given = json.loads(json.dumps(options, default=str))
    if not path.exists():
        path.write_text(json.dumps(given, indent=1) + "\n", encoding="utf-8")
        return
    try:
        earlier = dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError):
        raise ConfigError(
            f"{path} is damaged.", remedy="Remove its folder or give another --out.", param="out"
        ) from None
    for name in sorted({*earlier, *given}):
        if earlier.get(name) != given.get(name):
            raise ConfigError(
                f"{path.parent} holds a run with other options: {name} was "
                f"{json.dumps(earlier.get(name))}, now it is {json.dumps(given.get(name))}.",
                remedy="Give another --out, or the same options to go on.",
                param="out",
            )
