"""The visibility of a step as a matrix, for the attention of every backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from engine.step import Step, visible_rows


def visibility(step: Step, lengths: Sequence[tuple[int, int]]) -> NDArray[numpy.bool_]:
    """(R, P + R): whether each row sees each cached token and each row of the step.

    Args:
        lengths: (sequence, cached tokens), in the order of their P keys.
    """
    rows = step.rows
    width = -(-rows // 8)
    packed = b"".join(bits.to_bytes(width, "little") for bits in visible_rows(step))
    bits = numpy.frombuffer(packed, dtype=numpy.uint8).reshape(rows, width)
    among_rows = numpy.unpackbits(bits, axis=1, bitorder="little")[:, :rows].astype(bool)
    sequence = numpy.array(step.sequence)
    cached = [
        numpy.broadcast_to((sequence == number)[:, None], (rows, length))
        for number, length in lengths
    ]
    return numpy.concatenate([*cached, among_rows], axis=1)
