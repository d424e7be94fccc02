"""Tensors in safetensors files, single or sharded: headers, their checks, and memory-mapped arrays.

Every tensor's name, shape and dtype is checked before a byte of it is read. bf16 is widened by
shifting bits, because numpy has no such dtype. int8 matrices are dequantised (`quantized.py`).
Pickle weights are refused, because they can run code. Torch-free.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from engine.errors import CheckpointError
from engine.model.quantized import (
    KEY,
    check_scale,
    dequantize,
    scale_name,
    weight_name,
    with_scales,
)
from engine.model.weights import Float32, Shape, selection

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Buffers in older exports. They follow from the config and are never read.
_DERIVED = ("rotary_emb.inv_freq",)
# The dtypes' names in safetensors.
_INT8, _BFLOAT16 = "I8", "BF16"
_STORED = {_INT8: "i1", _BFLOAT16: "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
_FLOATS = (_BFLOAT16, "F16", "F32", "F64")


@dataclass(frozen=True, slots=True)
class Header:
    """The description of one tensor in a safetensors file.

    Attributes:
        dtype: the dtype's name in safetensors, such as "BF16", "F32" or "I8".
        start: the byte of the file at which the tensor's data begins.
    """

    file: Path
    shape: Shape
    dtype: str
    start: int


class SafetensorsWeights:
    """`Weights` in safetensors files. Everything is checked when the object is made."""

    def __init__(
        self,
        files: list[Path],
        expected: Mapping[str, Shape],
        *,
        quantized: bool = False,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            expected: the shapes by name of all tensors that the files must hold besides scales.
            quantized: whether matrices may be int8 with scales.
            names: the names in the files by the names outside; None if they are the same.

        Raises:
            CheckpointError: a file is truncated; a tensor is missing, unknown, misshapen or of an
                unsupported dtype; or a scale is not a finite positive number.
        """
        headers = _checked_headers(files, expected, quantized)
        self._maps = {path: _mapped(path) for path in files}
        outside = {name: name for name in expected} if names is None else names
        self._headers = {ours: headers[theirs] for ours, theirs in outside.items()}
        # Scales are small, so all of them are read and checked before any weight.
        self._scales = {
            ours: self._scale(scale_name(theirs), headers[scale_name(theirs)])
            for ours, theirs in outside.items()
            if headers[theirs].dtype == _INT8
        }

    def names(self) -> frozenset[str]:
        return frozenset(self._headers)

    def read(self, name: str) -> Float32:
        header = self._headers[name]
        stored = self._stored(header)
        scale = self._scales.get(name)
        return _widened(stored, header.dtype) if scale is None else dequantize(stored, scale)

    def rows(self, name: str, rows: Sequence[int]) -> Float32:
        header = self._headers[name]
        wanted = selection(rows, header.shape[0])
        stored = self._stored(header)[wanted]
        scale = self._scales.get(name)
        if scale is None:
            return _widened(stored, header.dtype)
        return dequantize(stored, scale[wanted])

    def stored_int8(self, name: str) -> tuple[NDArray[np.generic], Float32] | None:
        """int8 (out, in), a view of the file, and scales (out, 1); None for tensors of other
        dtypes."""
        scale = self._scales.get(name)
        return None if scale is None else (self._stored(self._headers[name]), scale)

    def _stored(self, header: Header) -> NDArray[np.generic]:
        """The stored tensor, as a view of the file."""
        buffer = self._maps[header.file]
        try:
            return np.ndarray(header.shape, _STORED[header.dtype], buffer, header.start)
        except TypeError as error:  # the file has become shorter since its header was checked
            raise _damaged(header.file, error) from None

    def _scale(self, name: str, header: Header) -> Float32:
        scale = _widened(self._stored(header), header.dtype)
        check_scale(header.file, name, scale)
        return scale


def _widened(stored: NDArray[np.generic], dtype: str) -> Float32:
    """A new array of float32."""
    if dtype != _BFLOAT16:
        return stored.astype(np.float32)
    bits = stored.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: those of its index, or the single one.

    Raises:
        CheckpointError: a file is missing, the index is malformed, or there are only pickles.
    """
    if (folder / INDEX).is_file():
        return _sharded_files(folder)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        raise CheckpointError(
            f"{folder} has only pickle weights, which can run code when loaded.",
            remedy="Convert them to safetensors first.",
            param=SINGLE,
        )
    raise CheckpointError(
        f"{folder} has neither {SINGLE} nor {INDEX}.",
        remedy="Give the folder that holds the weights.",
        param=SINGLE,
    )


def _sharded_files(folder: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{folder / INDEX} is malformed: {error!r}.",
            remedy="Copy the checkpoint again.",
            param=INDEX,
        ) from None
    for name in names:
        # Only plain file names: an index must not lead to files outside the folder.
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / INDEX} names {name!r}, which is not in the folder.",
                remedy="Copy the missing shard.",
                param=str(name),
            )
    return [folder / name for name in names]


def read_headers(files: list[Path]) -> dict[str, Header]:
    """The headers of all tensors by name, without buffers that follow from the config.

    Raises:
        CheckpointError: a file is truncated or damaged.
    """
    headers: dict[str, Header] = {}
    for path in files:
        try:
            # The library checks that the header is valid and the data complete.
            with safe_open(str(path), framework="numpy"):
                pass
            headers |= _parsed(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise _damaged(path, error) from None
    return headers


def _parsed(path: Path) -> dict[str, Header]:
    """The parsed header of a file, which is its length in 8 bytes and then JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(length))
    return {
        name: Header(
            path, tuple(entry["shape"]), entry["dtype"], 8 + length + entry["data_offsets"][0]
        )
        for name, entry in entries.items()
        if name != "__metadata__" and not name.endswith(_DERIVED)
    }


def stored_tensors(
    expected: Mapping[str, Shape], headers: Mapping[str, Header]
) -> dict[str, Shape]:
    """The shapes by name of all tensors that the files must hold, and no others: the weights, and
    the scales of int8 weights."""
    int8 = [name for name in expected if name in headers and headers[name].dtype == _INT8]
    return with_scales(expected, int8)


def check_dtype(name: str, header: Header, *, quantized: bool) -> None:
    """
    Args:
        quantized: whether config.json says that matrices are int8.

    Raises:
        CheckpointError: the tensor's dtype is not supported.
    """
    if header.dtype in _FLOATS:
        return
    if header.dtype != _INT8 or len(header.shape) != 2 or weight_name(name) is not None:
        raise CheckpointError(
            f"{header.file}: {name} is {header.dtype}; this engine reads {', '.join(_FLOATS)}, and "
            "matrices of I8 with scales.",
            remedy="Use a checkpoint in bf16, or one with int8 weights (compressed-tensors, "
            "int-quantized).",
            param=name,
        )
    if not quantized:
        raise CheckpointError(
            f"{header.file}: {name} is {_INT8}, but config.json has no {KEY}.",
            remedy="Copy config.json again: it belongs to other weights.",
            param=name,
        )


def _checked_headers(
    files: list[Path], expected: Mapping[str, Shape], quantized: bool
) -> dict[str, Header]:
    """The checked headers of all tensors by name."""
    headers = read_headers(files)
    stored = stored_tensors(expected, headers)
    for name, header in headers.items():
        _check_shape(header, name, stored)
        check_dtype(name, header, quantized=quantized)
    missing = sorted(stored.keys() - headers.keys())
    if missing:
        raise CheckpointError(
            f"{files[0].parent} lacks {len(missing)} of {len(stored)} tensors: {missing[0]}.",
            remedy="The checkpoint is incomplete, or its config.json is another model's.",
            param=missing[0],
        )
    return headers


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated or damaged: {error}.",
        remedy="Copy the file again.",
        param=path.name,
    )


def _check_shape(header: Header, name: str, expected: Mapping[str, Shape]) -> None:
    path, shape = header.file, header.shape
    if name not in expected:
        if weight_name(name) in expected:
            raise CheckpointError(
                f"{path} holds {name}, but {weight_name(name)} is not {_INT8}.",
                remedy="Copy the weights again: these files belong to two checkpoints.",
                param=name,
            )
        raise CheckpointError(
            f"{path} holds {name}, for which this network has no place.",
            remedy="Check that config.json belongs to these weights.",
            param=name,
        )
    if shape != expected[name]:
        raise CheckpointError(
            f"{path}: {name} has shape {list(shape)}, config.json says {list(expected[name])}.",
            remedy="Check that config.json belongs to these weights.",
            param=name,
        )
