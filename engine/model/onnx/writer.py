"""Writes an ONNX graph node by node, and its tensors into a data file next to it.

A model's weights pass through memory one at a time: a tensor is appended to the data file at once,
and the graph only refers to it (ONNX external data).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import onnx
from numpy import ndarray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

GRAPH_FILE, DATA_FILE = "graph.onnx", "graph.data"
OPSET, MICROSOFT_OPSET, IR_VERSION = 21, 1, 10
_ALIGNMENT = 4096  # a page, so that a tensor can be memory-mapped by itself
_TYPES = {
    numpy.dtype(numpy.float32): TensorProto.FLOAT,
    numpy.dtype(numpy.float16): TensorProto.FLOAT16,
    numpy.dtype(numpy.int8): TensorProto.INT8,
    numpy.dtype(numpy.uint8): TensorProto.UINT8,
    numpy.dtype(numpy.int64): TensorProto.INT64,
}


class GraphWriter:
    """Writes a graph into a folder; a context manager that closes the data file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data: BinaryIO = (folder / DATA_FILE).open("wb")
        self._nodes: list[NodeProto] = []
        self._tensors: list[TensorProto] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def __enter__(self) -> GraphWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def input(self, name: str, shape: Sequence[int | str], dtype: Any = numpy.float32) -> str:
        """Declares an input; named dimensions are free. Returns its name, as all methods do."""
        self._inputs.append(_value(name, shape, dtype))
        return name

    def output(self, name: str, shape: Sequence[int | str], dtype: Any = numpy.float32) -> None:
        """Declares the result of a node as an output of the graph."""
        self._outputs.append(_value(name, shape, dtype))

    def constant(self, name: str, value: ndarray | numpy.generic) -> str:
        """Adds a small constant, which is kept in the graph itself."""
        self._tensors.append(numpy_helper.from_array(numpy.asarray(value), name))
        return name

    def tensor(self, name: str, value: ndarray) -> str:
        """Adds a weight, which is appended to the data file."""
        value = numpy.ascontiguousarray(value)
        padding = -self._data.tell() % _ALIGNMENT
        self._data.write(b"\0" * padding)
        offset = self._data.tell()
        self._data.write(value.data)
        tensor = TensorProto(
            name=name,
            data_type=_TYPES[value.dtype],
            dims=value.shape,
            data_location=TensorProto.EXTERNAL,
        )
        where = {"location": DATA_FILE, "offset": offset, "length": value.nbytes}
        for key, entry in where.items():
            tensor.external_data.add(key=key, value=str(entry))
        self._tensors.append(tensor)
        return name

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str | Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Adds a node; returns the name of its (first) result."""
        outputs = [output] if isinstance(output, str) else list(output)
        self._nodes.append(
            helper.make_node(operator, list(inputs), outputs, domain=domain, **attributes)
        )
        return outputs[0]

    def conditional(
        self, condition: str, output: str, build: Callable[[], str], otherwise: str
    ) -> str:
        """A value that is computed only where a bool scalar is true, else another one.

        Args:
            build: adds the nodes that compute it, which may use every value that is there; returns
                the name of the result.
            otherwise: the value in the other case, of the same shape.
        """
        # A branch's weights are its own: those of the graph around it would not be packed for it.
        outer, self._nodes, self._tensors = (self._nodes, self._tensors), [], []
        then = self._branch(f"{output}.then", build())
        other = self._branch(
            f"{output}.else", self.node("Identity", [otherwise], f"{output}.otherwise")
        )
        self._nodes, self._tensors = outer
        return self.node("If", [condition], output, then_branch=then, else_branch=other)

    def _branch(self, name: str, result: str) -> GraphProto:
        """The nodes added since as a graph of their own."""
        nodes, tensors = self._nodes, self._tensors
        self._nodes, self._tensors = [], []
        value = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [value], tensors)

    def save(self) -> None:
        """Writes the graph, whose tensors are in the data file already."""
        self._data.flush()
        os.fsync(self._data.fileno())  # a power cut must not leave half of a minute's work
        graph: GraphProto = helper.make_graph(
            self._nodes, "decoder", self._inputs, self._outputs, self._tensors
        )
        model = helper.make_model(
            graph,
            opset_imports=[
                helper.make_opsetid("", OPSET),
                helper.make_opsetid("com.microsoft", MICROSOFT_OPSET),
            ],
            ir_version=IR_VERSION,
        )
        onnx.save_model(model, str(self._folder / GRAPH_FILE))


def _value(name: str, shape: Sequence[int | str], dtype: Any) -> Any:
    return helper.make_tensor_value_info(name, _TYPES[numpy.dtype(dtype)], list(shape))
