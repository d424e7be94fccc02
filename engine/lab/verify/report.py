"""What an examination found: checks in sections, each ok, failed or skipped with a reason.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from engine.errors import EngineError

State = Literal["ok", "failed", "skipped"]
Figure = float | int | str | bool | None
OUR_FAULT = "The engine is wrong, not the checkpoint: please report it."


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one examination.

    Attributes:
        found: what was found, or why the check failed or was skipped.
        remedy: what the user can do about it; may be empty.
        figures: the result as numbers, for programs.
    """

    name: str
    state: State
    found: str
    remedy: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    """Checks that belong together, in their order."""

    title: str
    checks: tuple[Check, ...]

    @property
    def is_ok(self) -> bool:
        """Whether no check failed."""
        return all(check.state != "failed" for check in self.checks)

    def to_object(self) -> dict[str, object]:
        """The section for JSON."""
        checks = [asdict(check) for check in self.checks]
        for check in checks:
            if not check["remedy"]:
                del check["remedy"]
        return {"title": self.title, "checks": checks}


def passed(name: str, found: str, /, **figures: Figure) -> Check:
    """A check that passed, or a fact."""
    return Check(name, "ok", found, figures=figures)


def failed(name: str, error: EngineError) -> Check:
    """A check that failed with an error of the engine."""
    return Check(name, "failed", error.message, error.remedy, {"param": error.param})


def skipped(name: str, why: str, remedy: str = "", /, **figures: Figure) -> Check:
    """A check that was not possible."""
    return Check(name, "skipped", why, remedy, figures)
