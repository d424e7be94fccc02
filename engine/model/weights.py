"""The tensors of a checkpoint as arrays by the network's own names, wherever they are stored.

What a loader needs to know of a checkpoint: which tensors there are, their shapes, the memory they
take, and a way to read one of them, or some rows of one. Torch-free: an engine of any kind builds
its network from this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.model.config import ModelConfig

Float32 = NDArray[np.float32]
Shape = tuple[int, ...]
HEAD, EMBEDDING = "diffusion_head.weight", "encoder.embed_tokens.weight"


class Weights(Protocol):
    """The tensors of a checkpoint by the network's own names, such as
    "encoder.layers.0.self_attn.q_proj.weight".

    Names, shapes and dtypes have been checked against the config before there is such an object.
    The files stay memory-mapped for as long as it lives. May be read from several threads.
    """

    def names(self) -> frozenset[str]:
        """Every tensor; a tied head is none of its own."""
        ...

    def read(self, name: str) -> Float32:
        """A new array, (out, in) for matrices, quantised ones multiplied out.

        Raises:
            KeyError: there is no such tensor.
        """
        ...

    def rows(self, name: str, rows: Sequence[int]) -> Float32:
        """A new array (len(rows), in) of some rows of a matrix, in that order; no other row is
        read. A `range` of step 1 is the fastest.

        Raises:
            KeyError: there is no such tensor.
            IndexError: a row is negative or past the end.
        """
        ...


def network_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor of a network by its own name, and its shape, in the network's order. A tied head
    has none."""
    hidden, family = config.hidden, config.family
    widths = {"q": config.heads, "k": config.kv_heads, "v": config.kv_heads}
    shapes: dict[str, Shape] = {EMBEDDING: (config.vocabulary, hidden)}
    for layer in range(config.layers):
        at = f"encoder.layers.{layer}."
        shapes[f"{at}input_layernorm.weight"] = (hidden,)
        for part, heads in widths.items():
            shapes[f"{at}self_attn.{part}_proj.weight"] = (heads * config.head_dim, hidden)
            if family.qkv_bias:
                shapes[f"{at}self_attn.{part}_proj.bias"] = (heads * config.head_dim,)
        shapes[f"{at}self_attn.o_proj.weight"] = (hidden, config.heads * config.head_dim)
        if family.qk_norm:
            shapes[f"{at}self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[f"{at}self_attn.k_norm.weight"] = (config.head_dim,)
        shapes[f"{at}post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{at}mlp.gate_proj.weight"] = (config.intermediate, hidden)
        shapes[f"{at}mlp.up_proj.weight"] = (config.intermediate, hidden)
        shapes[f"{at}mlp.down_proj.weight"] = (hidden, config.intermediate)
    shapes["encoder.norm.weight"] = (hidden,)
    if not config.tied_head:
        shapes[HEAD] = (config.vocabulary, hidden)
    return shapes


def expected_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Every weight that safetensors files of this family must hold, by the name it has there, and
    its shape; see `safetensors_file.stored_tensors` for what they hold besides."""
    return {
        config.family.tensor_name(name): shape for name, shape in network_tensors(config).items()
    }


def bytes_estimate(config: ModelConfig, dtype: Literal["float32", "bfloat16", "int8"]) -> int:
    """Memory that the weights take once they are loaded.

    Args:
        dtype: "int8" means matrices of int8 with one float32 scale a row, and float32 vectors.
    """
    if dtype != "int8":
        return config.parameters() * (4 if dtype == "float32" else 2)
    shapes = network_tensors(config).values()
    return sum(
        math.prod(shape) + 4 * shape[0] if len(shape) == 2 else 4 * shape[0] for shape in shapes
    )


def selection(rows: Sequence[int], count: int) -> slice | NDArray[np.int64]:
    """How numpy picks these rows of `count`: a slice where they follow each other, for a view.

    Raises:
        IndexError: a row is negative or past the end.
    """
    if isinstance(rows, range) and rows.step == 1 and rows.start >= 0 and rows.stop <= count:
        return slice(rows.start, max(rows.start, rows.stop))
    wanted = np.asarray(rows, dtype=np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= count):
        raise IndexError(f"rows {wanted.min()}..{wanted.max()} of a matrix of {count}")
    return wanted
