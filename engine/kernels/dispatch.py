"""Chooses between a kernel and its torch reference: the only place that looks at hardware.

Owns the rule, an override for tests and comparisons, and the line in the log that says what was
chosen. Knows no operation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Path = Literal["triton", "torch"]
Operation = TypeVar("Operation", bound=Callable[..., object])
Config = TypeVar("Config")

_FORCED: ContextVar[Path | None] = ContextVar("forced kernel path", default=None)
# Where there is no card, as in the interpreter, the table's entry for the smallest one is taken.
_ARCHITECTURE_MIN = 80
_PROCESSORS_MIN = 1


@contextmanager
def forced(path: Path) -> Iterator[None]:
    """Takes this path for every operation, whatever the device, until the block ends."""
    token = _FORCED.set(path)
    try:
        yield
    finally:
        _FORCED.reset(token)


def choose(kernel: Operation, reference: Operation, tensor: Tensor) -> Operation:
    """The kernel where the tensor is on a CUDA card that it is compiled for, else the reference."""
    path, why = _FORCED.get(), "forced"
    if path is None:
        path, why = _path(tensor)
    _announce(reference.__name__.removesuffix("_torch"), path, why)
    return kernel if path == "triton" else reference


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: object,
    warps: int,
    stages: int = 1,
    **constants: object,
) -> None:
    """Runs a kernel's programs, if there are any.

    Args:
        arguments, constants: the kernel's own, the constexpr ones by name.
        warps, stages: as `Variant`'s.
    """
    if all(grid):
        kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages)


def padded(size: int) -> int:
    """The next power of two, which the shape of a kernel's tensor has to be."""
    return 1 << max(size - 1, 0).bit_length()


def architecture(tensor: Tensor) -> int:
    """The compute capability of the tensor's card, as 90 for 9.0."""
    if tensor.device.type != "cuda":
        return _ARCHITECTURE_MIN
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def processors(tensor: Tensor) -> int:
    """The number of multiprocessors of the tensor's card."""
    if tensor.device.type != "cuda":
        return _PROCESSORS_MIN
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


def for_architecture(table: Mapping[int, Config], number: int) -> Config:
    """The entry of the newest architecture in the table that is no newer than this one."""
    known = [each for each in table if each <= number]
    return table[max(known) if known else min(table)]


def _path(tensor: Tensor) -> tuple[Path, str]:
    if tensor.device.type != "cuda":
        return "torch", f"the tensors are on {tensor.device.type}"
    number = architecture(tensor)
    if number < _ARCHITECTURE_MIN:
        return "torch", f"the card's compute capability {number / 10} is below 8.0"
    return "triton", f"a card of compute capability {number / 10}"


@cache
def _announce(operation: str, path: Path, why: str) -> None:
    """Logs a choice, once for each that differs."""
    logger.info("%s: %s (%s)", operation, path, why)
