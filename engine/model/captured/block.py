"""A block of integers that a captured step reads, at the same place on the device for ever.

The host fills memory of its own and copies it at once. Knows no step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy
import torch
from torch import Tensor

_ALIGNED = 4  # integers: pointers of kernels are multiples of 16 bytes


class Block:
    """Named arrays of int32, one behind the other.

    Attributes:
        device: all of them, as they lie on the device, (n,) int32.
        host: the same on the host; pinned where the device is a card.
    """

    def __init__(self, sizes: Mapping[str, int], device: torch.device) -> None:
        """
        Args:
            sizes: integers of each array. What is written in part stands last (`send`).
        """
        self._places: dict[str, slice] = {}
        end = 0
        for name, size in sizes.items():
            self._places[name] = slice(end, end + size)
            end += -(-size // _ALIGNED) * _ALIGNED
        self.host = torch.zeros(end, dtype=torch.int32, pin_memory=device.type == "cuda")
        self.device = torch.zeros(end, dtype=torch.int32, device=device)
        self._numbers = self.host.numpy()
        self._copied = torch.cuda.Event() if device.type == "cuda" else None

    def __getitem__(self, name: str) -> Tensor:
        """(size,) int32, an array on the device."""
        return self.device[self._places[name]]

    def begin(self) -> None:
        """Waits until the copy before has read the host's memory."""
        if self._copied is not None:
            self._copied.synchronize()

    def write(self, name: str, values: Iterable[int], padding: int = 0) -> None:
        """Fills an array on the host, the rest of it with padding."""
        part = self._numbers[self._places[name]]
        found = numpy.asarray(values if isinstance(values, numpy.ndarray) else list(values))
        part[: len(found)] = found
        part[len(found) :] = padding

    def write_at(self, name: str, first: int, values: list[int]) -> int:
        """Writes entries of an array from `first` on; returns the end of what is written."""
        begin = self._places[name].start + first
        self._numbers[begin : begin + len(values)] = values
        return begin + len(values)

    def send(self, end: int) -> None:
        """Begins the copy of the first `end` integers, which the stream's work waits for."""
        self.device[:end].copy_(self.host[:end], non_blocking=True)
        if self._copied is not None:
            self._copied.record()
