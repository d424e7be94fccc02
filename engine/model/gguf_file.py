"""A GGUF file: its metadata, its tensors' headers, and their memory-mapped bytes.

Reads the little-endian versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
Nothing in a file is trusted: counts are compared with the rest of the file before memory is
allocated, and every tensor must lie inside the file, so that a damaged or malicious file is refused
at once. Knows no model. Torch-free.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as TensorType
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray

from engine.errors import CheckpointError
from engine.model.weights import Shape

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
# Far above any model's header, and small enough to be read in a second.
_HEADER_BYTES_MAX = 1 << 28
_KEYS_MAX = _TENSORS_MAX = 1 << 16
_ENTRIES_MAX = 1 << 22  # of all arrays together; a vocabulary and its merges are under 2^21
_DIMENSIONS_MAX = 4
_ALIGNMENT_KEY, _ALIGNMENT = "general.alignment", 32
# The numpy dtype for each of GGUF's numbers of value types.
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """The place of a tensor in the file and its storage.

    Attributes:
        shape: (out, in) for matrices, which the file states in reverse order.
        start: the byte of the file at which the tensor begins.
        row_bytes: the number of bytes of one row, or of a whole vector.
    """

    name: str
    shape: Shape
    type: TensorType
    start: int
    row_bytes: int


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The content of a file.

    Attributes:
        metadata: the values by key, in the file's order: int, float, bool, str, or a list of these.
        tensors: the headers by the file's own names.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorHeader]
    data: NDArray[np.uint8]

    def stored_rows(self, header: TensorHeader) -> NDArray[np.uint8]:
        """(rows, row_bytes): a view of the stored rows; a vector is one row."""
        rows = math.prod(header.shape[:-1])
        shape = (rows, header.row_bytes)
        return np.ndarray(shape, np.uint8, self.data, header.start)


def read_gguf(path: Path) -> GGUFFile:
    """Reads the header and maps the rest; checks that every tensor is complete.

    Raises:
        CheckpointError: the file is not a GGUF file, has another version or byte order, or is
            truncated or damaged; names the key or tensor at fault.
    """
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}.",
            remedy="Give a GGUF file, or the folder of a checkpoint.",
            param=path.name,
        ) from None
    cursor = _Cursor(path, data)
    num_tensors, num_keys = _start(cursor)
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.text()
        if key in metadata:
            raise cursor.damaged(f"it has {key} twice", key)
        cursor.within = key
        metadata[key] = _value(cursor, cursor.unsigned("<I"))
        cursor.within = ""
    alignment = _alignment(cursor, metadata)
    raw = [_tensor(cursor) for _ in range(num_tensors)]
    start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorHeader] = {}
    for name, shape, number, offset in raw:
        if name in tensors:
            raise cursor.damaged(f"it has {name} twice", name)
        if offset % alignment:
            raise cursor.damaged(f"{name} is not aligned to {alignment} bytes", name)
        tensors[name] = _placed(cursor, name, shape, number, start + offset)
    return GGUFFile(path, metadata, tensors, data)


class _Cursor:
    """Reads the header value by value, and never after its end."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        self.path = path
        self.data = data
        self.position = 0
        self.end = min(len(data), _HEADER_BYTES_MAX)
        self.entries_left = _ENTRIES_MAX
        self.within = ""  # the key whose value is being read

    def take(self, count: int) -> bytes:
        if count > self.end - self.position:
            at = f" in {self.within}" if self.within else ""
            raise self.damaged(f"its header ends{at} at byte {self.end}", self.within or None)
        start = self.position
        self.position += count
        return self.data[start : self.position].tobytes()

    def unsigned(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        count = self.unsigned("<Q")
        try:
            return self.take(count).decode("utf-8")
        except UnicodeDecodeError as error:
            at = self.within or f"byte {self.position - count}"
            raise self.damaged(f"the text at {at} is not UTF-8: {error}", self.within) from None

    def texts(self, count: int) -> list[str]:
        """Several texts, in a fifth of the time of `text`: vocabularies have up to 300,000."""
        view, end = self.data.data, self.end
        length_at = struct.Struct("<Q").unpack_from
        found: list[str] = []
        for _ in range(count):
            start = self.position + 8
            try:
                stop = start + length_at(view, self.position)[0]
                if stop > end:
                    raise ValueError
                found.append(str(view[start:stop], "utf-8"))
                self.position = stop
            except (ValueError, struct.error):
                found.append(self.text())  # raises the error that describes the problem
        return found

    def count(self, what: str, least_bytes: int, most: int) -> int:
        """The stated number of items, each of which takes at least `least_bytes`."""
        count = self.unsigned("<Q")
        if count > min(most, (self.end - self.position) // least_bytes):
            raise self.damaged(f"it says that it has {count} {what}", self.within or what)
        return count

    def damaged(self, what: str, param: str | None = None) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is truncated or damaged: {what}.",
            remedy="Copy or download the file again.",
            param=param or self.path.name,
        )


def _start(cursor: _Cursor) -> tuple[int, int]:
    """The numbers of tensors and keys, which follow the magic and the version."""
    path = cursor.path
    magic = cursor.data[: len(_MAGIC)].tobytes()
    if magic != _MAGIC:
        raise CheckpointError(
            f"{path} is not a GGUF file: it begins with {magic!r}.",
            remedy="Give a GGUF file, or the folder of a checkpoint.",
            param=path.name,
        )
    cursor.take(len(_MAGIC))
    version = cursor.unsigned("<I")
    if version and version & 0xFFFF == 0:
        raise CheckpointError(
            f"{path} is big-endian.",
            remedy="Convert it with gguf-convert-endian (pip install gguf), or use the "
            "little-endian file.",
            param=path.name,
        )
    if version not in _VERSIONS:
        raise CheckpointError(
            f"{path} is GGUF version {version}; this engine reads {_VERSIONS[0]} and "
            f"{_VERSIONS[1]}.",
            remedy="Convert the model again with a recent llama.cpp.",
            param=path.name,
        )
    # The least bytes: name length, number of dimensions, type, offset; key length, type, one byte.
    num_tensors = cursor.count("tensors", 24, _TENSORS_MAX)
    return num_tensors, cursor.count("keys", 13, _KEYS_MAX)


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind == _STRING:
        return cursor.text()
    if kind == _BOOL:
        return cursor.unsigned("<B") != 0
    if kind in _NUMBERS:
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(cursor.take(dtype.itemsize), dtype)[0].item()
    if kind == _ARRAY:
        return _array(cursor)
    raise cursor.damaged(f"{cursor.within} is of the unknown type {kind}", cursor.within)


def _array(cursor: _Cursor) -> list[Any]:
    kind = cursor.unsigned("<I")
    if kind == _STRING:
        count = cursor.count("entries", 8, cursor.entries_left)
        cursor.entries_left -= count
        return cursor.texts(count)
    if kind != _BOOL and kind not in _NUMBERS:
        raise cursor.damaged(f"{cursor.within} is an array of the type {kind}", cursor.within)
    dtype = np.dtype("?" if kind == _BOOL else _NUMBERS[kind])
    count = cursor.count("entries", dtype.itemsize, cursor.entries_left)
    cursor.entries_left -= count
    return np.frombuffer(cursor.take(count * dtype.itemsize), dtype).tolist()


def _alignment(cursor: _Cursor, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get(_ALIGNMENT_KEY, _ALIGNMENT)
    is_power = type(alignment) is int and alignment > 0 and not alignment & (alignment - 1)
    if not is_power or alignment > 1 << 20:
        raise cursor.damaged(f"{_ALIGNMENT_KEY} is {str(alignment)[:40]}", _ALIGNMENT_KEY)
    return alignment


def _tensor(cursor: _Cursor) -> tuple[str, Shape, int, int]:
    """The name, the shape, the number of the type, and the offset from the first tensor's start."""
    name = cursor.text()
    cursor.within = name
    dimensions = cursor.unsigned("<I")
    if not 1 <= dimensions <= _DIMENSIONS_MAX:
        raise cursor.damaged(f"{name} has {dimensions} dimensions", name)
    shape = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions))[::-1]
    number, offset = cursor.unsigned("<I"), cursor.unsigned("<Q")
    cursor.within = ""
    return name, shape, number, offset


def _placed(cursor: _Cursor, name: str, shape: Shape, number: int, start: int) -> TensorHeader:
    """The header of a tensor, which must lie inside the file."""
    try:
        kind = TensorType(number)
        block, block_bytes = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise CheckpointError(
            f"{cursor.path}: {name} is of the type {number}, which is unknown.",
            remedy="Use a file in another quantisation, such as Q4_K_M or Q8_0.",
            param=name,
        ) from None
    if not all(shape):
        raise cursor.damaged(f"{name} has shape {list(shape)}", name)
    if shape[-1] % block:
        raise cursor.damaged(f"{name} has rows of {shape[-1]}, not a multiple of {block}", name)
    row_bytes = shape[-1] // block * block_bytes
    end = start + math.prod(shape[:-1]) * row_bytes
    if end > len(cursor.data):
        raise cursor.damaged(
            f"{name} ends at byte {end}, the file at byte {len(cursor.data)}", name
        )
    return TensorHeader(name, shape, kind, start, row_bytes)
