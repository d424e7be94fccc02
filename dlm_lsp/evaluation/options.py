"""What `dlm-lsp eval` can be told; light, since the command line reads its defaults here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from engine.api import AskedMode
from engine.errors import ConfigError

HOLES, REPLAY = "holes", "replay"
THRESHOLD_MAX, TOKENS_MAX = 2, 4096  # as `messages` has them

Execute = Literal["isolated", "unprotected", "never"]
EXECUTE: tuple[Execute, ...] = get_args(Execute)


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What is evaluated, and how.

    Attributes:
        suites: "holes", "replay" or files.
        limit: of each kind of hole, of a file's tasks, of files that are typed; None takes 200,
            all and 10.
        keys_max: typed in one file.
        corpus: with the held-out files; None makes one of what is installed.
        out: folder of a run that can be resumed; None keeps nothing.
        is_shaped: judge what an editor would insert.
    """

    suites: tuple[str, ...] = (HOLES,)
    modes: tuple[AskedMode, ...] = ("ar", "block")
    thresholds: tuple[float, ...] = ()
    limit: int | None = None
    tokens_max: int = 256
    keys_max: int = 200
    seed: int = 7
    corpus: Path | None = None
    out: Path | None = None
    is_shaped: bool = False
    execute: Execute = "isolated"

    def __post_init__(self) -> None:
        """Raises ConfigError naming the option."""
        for value in self.thresholds:
            if not 0 <= value <= THRESHOLD_MAX:
                raise ConfigError(
                    f"--thresholds has {value:g}.",
                    remedy=f"Use 0 to {THRESHOLD_MAX}.",
                    param="thresholds",
                )
        if self.thresholds and "block" not in self.modes:
            raise ConfigError(
                "--thresholds are of the mode block.",
                remedy="Add it to --modes.",
                param="thresholds",
            )
        if not 1 <= self.tokens_max <= TOKENS_MAX:
            raise ConfigError(
                f"--max-tokens is {self.tokens_max}.",
                remedy=f"Use 1 to {TOKENS_MAX}.",
                param="max-tokens",
            )
