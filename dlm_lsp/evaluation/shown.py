"""The log of suggestions that a typing replay was shown, with the probabilities of their tokens.

One line of `suggestions.jsonl` holds those of one file in one mode. Made of it:
`evaluation/thresholds.py`, which thresholds of silence would have shown what.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from engine.api import LogProbs
from engine.errors import ConfigError

# Where a suggestion stands: on a blank line, behind text, or before text, if only a bracket.
PlaceKind = Literal["blank", "behind", "inside"]
PLACE_KINDS: tuple[PlaceKind, ...] = get_args(PlaceKind)
LOG = "suggestions.jsonl"
Verdict = Literal["right", "partly", "wrong", "unwanted"]


@dataclass(frozen=True, slots=True)
class Shown:
    """One suggestion that was shown.

    Attributes:
        verdict: as a `ReplayRecord` counts it; "unwanted" where nothing was to be typed.
        kind: the kind of place.
        text: the suggestion.
        logprobs: the tokens of `text`; empty if unknown.
        same: the number of leading characters of `text` that come next in the file.
        is_line: whether its first line ends where the file's line does.
        is_cached: whether it is the rest of an earlier suggestion, of which the beginning was
            typed.
    """

    verdict: Verdict
    kind: PlaceKind
    text: str
    logprobs: LogProbs
    same: int
    is_line: bool
    is_cached: bool


@dataclass(frozen=True, slots=True)
class ShownInFile:
    """The suggestions shown while one file was typed in one mode.

    Attributes:
        id, mode: as in the file's `ReplayRecord`.
        asks: the requests while the text so far was that of the file.
        elsewhere: the requests where nothing was to be typed.
    """

    id: str
    mode: str
    asks: int
    elsewhere: int
    shown: Sequence[Shown] = field(default_factory=tuple[Shown, ...])


def write(folder: Path, one: ShownInFile) -> None:
    """Adds a file's suggestions to the log of a run's folder."""
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(one)) + "\n")


def read(folder: Path) -> list[ShownInFile]:
    """Returns the log of a run's folder; of a file that was typed again, the last time.

    Raises:
        ConfigError: there is no log, or a line of it is damaged; the error names it.
    """
    path = folder / LOG
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no {LOG}.",
            remedy="Give the folder of a replay that ran with --log-shown.",
            param="folder",
        )
    found: dict[tuple[str, str], ShownInFile] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            row["shown"] = tuple(
                Shown(**{**one, "logprobs": tuple((end, value) for end, value in one["logprobs"])})
                for one in row["shown"]
            )
            one = ShownInFile(**row)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path}, line {number} is damaged: {error}.",
                remedy="Remove the line.",
                param="folder",
            ) from None
        found[one.id, one.mode] = one
    return list(found.values())


def place_kind(before: str, behind: str) -> PlaceKind:
    """Returns the kind of place by the text on the cursor's line."""
    if behind.strip():
        return "inside"
    return "behind" if before.strip() else "blank"
