"""Writes linear layers into the graph, in float32 or as int8 with one scale per row.

In int8, each weight row (output channel) has one scale, and each row of activations has one that
is computed at run time. The product of the integers is multiplied by both, so that a row's result
does not depend on its neighbours' values. The integer types depend on the processor
(`engine.model.onnx.probe`): VNNI and AMX multiply unsigned activations by signed weights, but x86
without them saturates silently, and there only unsigned weights give exact sums.
"""

from __future__ import annotations

import numpy
from numpy import ndarray

from engine.model.onnx.plan import Product
from engine.model.onnx.writer import GraphWriter

MICROSOFT = "com.microsoft"
_LARGEST = 127  # the largest quantised magnitude; -128 has no positive counterpart
_SHIFT = 128  # the zero point of unsigned integers
_ROWS_AT_ONCE = 1024  # weight rows quantised at once, since an output head takes a gigabyte in fp32
_SCALE_MIN = 1e-30  # the scale of a weight row that is all zeros


class Linear:
    """Writes linear layers of one kind into a graph."""

    def __init__(self, writer: GraphWriter, product: Product) -> None:
        self._writer = writer
        self._product = product
        self._quantized: dict[str, tuple[str, str]] = {}  # (integers, scales) by activations
        if product != "float32":
            writer.constant("q.inverse", numpy.float32(1 / _LARGEST))
            writer.constant("q.tiny", numpy.float32(1e-12))
            writer.constant("q.one", numpy.float32(1))
            writer.constant("q.shift", numpy.uint8(_SHIFT))
            writer.constant("q.last", numpy.array([-1], dtype=numpy.int64))

    def write(self, name: str, x: str, weight: ndarray, bias: ndarray | None = None) -> str:
        """Writes x (R, in) times weight (out, in) plus bias (out,); returns the result's name."""
        if self._product == "float32":
            return self._float(name, x, weight, bias)
        writer = self._writer
        integers, scales = self._quantize(x)
        values, row_scales = quantized(weight, unsigned=self._product == "uint8")
        matrix = writer.tensor(f"{name}.weight", values)
        scale = writer.tensor(f"{name}.scale", row_scales)
        inputs = [integers, matrix, "q.one", scale, "q.shift"]
        if self._product == "uint8":
            inputs.append("q.shift")
        raw = writer.node("MatMulIntegerToFloat", inputs, f"{name}.raw", domain=MICROSOFT)
        out = writer.node("Mul", [raw, scales], f"{name}.product")
        if bias is None:
            return out
        return writer.node("Add", [out, writer.tensor(f"{name}.bias", bias)], f"{name}.out")

    def _float(self, name: str, x: str, weight: ndarray, bias: ndarray | None) -> str:
        writer = self._writer
        transposed = numpy.ascontiguousarray(weight.T, dtype=numpy.float32)
        matrix = writer.tensor(f"{name}.weight", transposed)
        out = writer.node("MatMul", [x, matrix], f"{name}.product")
        if bias is None:
            return out
        return writer.node("Add", [out, writer.tensor(f"{name}.bias", bias)], f"{name}.out")

    def _quantize(self, x: str) -> tuple[str, str]:
        """Writes the quantisation of an input, once: uint8 (R, in) around 128, scales (R, 1)."""
        if x not in self._quantized:
            writer = self._writer
            magnitude = writer.node("Abs", [x], f"{x}.abs")
            largest = writer.node("ReduceMax", [magnitude, "q.last"], f"{x}.largest", keepdims=1)
            bounded = writer.node("Max", [largest, "q.tiny"], f"{x}.bounded")
            scales = writer.node("Mul", [bounded, "q.inverse"], f"{x}.scales")
            scaled = writer.node("Div", [x, scales], f"{x}.scaled")
            integers = writer.node("QuantizeLinear", [scaled, "q.one", "q.shift"], f"{x}.integers")
            self._quantized[x] = (integers, scales)
        return self._quantized[x]


def quantized(weight: ndarray, *, unsigned: bool = False) -> tuple[ndarray, ndarray]:
    """A weight (out, in) fp32 as integers (in, out) for the graph, and the rows' scales (out,).

    A row's largest entry becomes ±127; an entry comes back within half of its row's scale.

    Args:
        unsigned: whether the integers are uint8 around 128 instead of int8.
    """
    largest = numpy.maximum(weight.max(axis=1), -weight.min(axis=1))
    scales = numpy.maximum(largest / _LARGEST, _SCALE_MIN).astype(numpy.float32)
    values = numpy.empty(weight.shape[::-1], numpy.uint8 if unsigned else numpy.int8)
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        rounded = numpy.rint(weight[part] / scales[part, None])
        values[:, part] = (rounded + _SHIFT if unsigned else rounded).T
    return values, scales
