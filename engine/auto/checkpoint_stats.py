"""`decoding.json`, a checkpoint's figures about decoding: its schema, reader and writer.

The figures do not depend on the machine: the number of tokens that a forward decides in each mode,
and whether block diffusion gives text as good as autoregressive decoding. Torch-free; knows no step
times and makes no choice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.atomic_json import write_atomically

logger = logging.getLogger(__name__)

FILE = "decoding.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class ModeFigures:
    """One mode's means over many requests, counted after the prompt.

    Attributes:
        tokens_per_forward: the tokens that a forward decides, without rejected drafts.
        rows_per_forward: the rows that a forward computes.
    """

    tokens_per_forward: float
    rows_per_forward: float


@dataclass(frozen=True, slots=True)
class CheckpointStats:
    """What is known about decoding one checkpoint.

    Attributes:
        modes: the figures by mode; a mode that is missing was not measured.
        block_length: the block length of the requests that were measured.
        block_is_on_par: whether block diffusion's text is as good as that of "ar" within the
            benchmark's margin; false if that is unknown.
        source: the source of the figures, for status lines.
    """

    modes: Mapping[str, ModeFigures] = field(default_factory=lambda: MappingProxyType({}))
    block_length: int = 32
    block_is_on_par: bool = False
    source: str = ""


_Positive = Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)]


class _Mode(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tokens_per_forward: _Positive
    rows_per_forward: _Positive


class _File(BaseModel):
    """The content of `decoding.json`. Unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore")
    format: int
    block_length: int = Field(ge=2, le=256)
    block_is_on_par: bool
    modes: dict[str, _Mode]


# From arXiv 2607.05722, SPEED-Bench: with the drafter LoRA 6.82 tokens are accepted per cycle of
# two forwards, without it 5.46. Block diffusion decides 2.57 per forward, at an accuracy 0.4 points
# from AR's. One cycle of quadratic speculation is one forward of 32 x 33 rows.
_ACCEPTED, _ACCEPTED_WITH_DRAFTER = 5.46, 6.82


def published_stats(*, has_drafter: bool) -> CheckpointStats:
    """The published figures of the released Nemotron-Labs-Diffusion."""
    accepted = _ACCEPTED_WITH_DRAFTER if has_drafter else _ACCEPTED
    modes = {
        "linear_spec": ModeFigures(accepted / 2, 32.0),
        "quadratic_spec": ModeFigures(_ACCEPTED, 32.0 * 33),
        "block": ModeFigures(2.57, 32.0),
    }
    return CheckpointStats(modes, 32, block_is_on_par=True, source="published figures")


def adapted_stats() -> CheckpointStats:
    """What the bundled mask adapters do: measured on held-out holes through the CPU's engine."""
    modes = {"pruned_spec": ModeFigures(2.4, 8.5), "linear_spec": ModeFigures(2.1, 4.7)}
    return CheckpointStats(modes, source="the mask adapter's figures")


def read_stats(folder: Path, *, is_released: bool, has_drafter: bool) -> CheckpointStats | None:
    """The figures in `folder/decoding.json`, else the published ones, else None.

    A broken file is logged and gives None. A checkpoint that is a single file has no such file.

    Args:
        is_released: whether the checkpoint has the architecture and the size of a released
            Nemotron-Labs-Diffusion.
    """
    path = folder / FILE
    try:
        stored = _File.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return published_stats(has_drafter=has_drafter) if is_released else None
    except (OSError, ValidationError) as error:
        logger.warning("%s cannot be used: %s", path, type(error).__name__)
        return None
    if stored.format != FORMAT:
        logger.warning("%s has format %d, not %d", path, stored.format, FORMAT)
        return None
    modes = {
        name: ModeFigures(mode.tokens_per_forward, mode.rows_per_forward)
        for name, mode in stored.modes.items()
    }
    return CheckpointStats(modes, stored.block_length, stored.block_is_on_par, source=FILE)


def write_stats(folder: Path, stats: CheckpointStats) -> Path:
    """Writes `folder/decoding.json`, whole or not at all, and returns its path.

    Raises:
        OSError: the file cannot be written.
        ValidationError: a figure is not positive.
    """
    modes = {
        name: _Mode(
            tokens_per_forward=figures.tokens_per_forward,
            rows_per_forward=figures.rows_per_forward,
        )
        for name, figures in stats.modes.items()
    }
    stored = _File(
        format=FORMAT,
        block_length=stats.block_length,
        block_is_on_par=stats.block_is_on_par,
        modes=modes,
    )
    write_atomically(folder / FILE, stored.model_dump())
    return folder / FILE
