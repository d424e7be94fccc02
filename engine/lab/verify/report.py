"""What an examination found: checks in sections, each ok, failed or skipped with the reason.

Owns the types only; knows neither what is examined nor how it is printed. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from engine.errors import EngineError

State = Literal["ok", "failed", "skipped"]
Figure = float | int | str | bool | None
OUR_FAULT = "The engine is wrong, not the checkpoint: please report it."


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        found: what was seen, or why it failed or was skipped.
        remedy: what the user can do about it; may be empty.
        figures: the same as numbers, for programs.
    """

    name: str
    state: State
    found: str
    remedy: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    """Checks that belong together, in the order in which they were made."""

    title: str
    checks: tuple[Check, ...]

    @property
    def is_ok(self) -> bool:
        """Whether nothing failed; what was skipped does not count."""
        return all(check.state != "failed" for check in self.checks)

    def to_object(self) -> dict[str, object]:
        """For JSON."""
        return {
            "title": self.title,
            "checks": [
                {
                    "name": check.name,
                    "state": check.state,
                    "found": check.found,
                    **({"remedy": check.remedy} if check.remedy else {}),
                    "figures": dict(check.figures),
                }
                for check in self.checks
            ],
        }


def passed(name: str, found: str, /, **figures: Figure) -> Check:
    """A check that went well, or a fact."""
    return Check(name, "ok", found, figures=figures)


def failed(name: str, error: EngineError) -> Check:
    """What an error of the engine says."""
    return Check(name, "failed", error.message, error.remedy, {"param": error.param})


def skipped(name: str, why: str, remedy: str = "", /, **figures: Figure) -> Check:
    """A check that could not be made."""
    return Check(name, "skipped", why, remedy, figures)
