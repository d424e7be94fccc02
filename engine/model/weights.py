"""The tensors of a checkpoint as arrays by the network's own names, however they are stored.

A loader learns here which tensors there are, their shapes and their memory, and reads a tensor or
some of its rows. Torch-free, so that every runtime can build its network from it.
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

    Names, shapes and dtypes were checked against the config when the object was made. The files
    stay memory-mapped as long as it exists. Several threads may read from it.
    """

    def names(self) -> frozenset[str]:
        """The names of all tensors; a tied head has none."""
        ...

    def read(self, name: str) -> Float32:
        """A new array, (out, in) for matrices; quantised tensors are dequantised.

        Raises:
            KeyError: there is no such tensor.
        """
        ...

    def rows(self, name: str, rows: Sequence[int]) -> Float32:
        """A new array (len(rows), in) with these rows of a matrix, in this order. No other row is
        read. A `range` of step 1 is fastest.

        Raises:
            KeyError: there is no such tensor.
            IndexError: a row is negative or past the end.
        """
        ...


def network_tensors(config: ModelConfig) -> dict[str, Shape]:
    """The name and shape of every tensor of a network, in its order. A tied head has no tensor."""
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
    """The shape of every weight that safetensors files of this family must hold, by its name in the
    files; see `safetensors_file.stored_tensors` for what they hold besides."""
    return {
        config.family.tensor_name(name): shape for name, shape in network_tensors(config).items()
    }


def bytes_estimate(config: ModelConfig, dtype: Literal["float32", "bfloat16", "int8"]) -> int:
    """The memory of the loaded weights in bytes.

    Args:
        dtype: "int8" means int8 matrices with one float32 scale per row, and float32 vectors.
    """
    if dtype != "int8":
        return config.parameters() * (4 if dtype == "float32" else 2)
    shapes = network_tensors(config).values()
    return sum(
        math.prod(shape) + 4 * shape[0] if len(shape) == 2 else 4 * shape[0] for shape in shapes
    )


def selection(rows: Sequence[int], count: int) -> slice | NDArray[np.int64]:
    """The numpy index that selects these rows of `count`: a slice if they are consecutive, which
    gives a view.

    Raises:
        IndexError: a row is negative or past the end.
    """
    if isinstance(rows, range) and rows.step == 1 and rows.start >= 0 and rows.stop <= count:
        return slice(rows.start, max(rows.start, rows.stop))
    wanted = np.asarray(rows, dtype=np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= count):
        raise IndexError(f"rows {wanted.min()}..{wanted.max()} of a matrix of {count}")
    return wanted
