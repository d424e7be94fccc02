"""What the rows of a step see, as a matrix: the one form that every backend's attention takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from engine.step import Step, visible_rows


def visibility(step: Step, lengths: Sequence[tuple[int, int]]) -> NDArray[numpy.bool_]:
    """(R, P + R): what each row sees of the cached tokens and of the step's rows.

    Args:
        lengths: (sequence, cached tokens), in the order in which their P keys lie.
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
