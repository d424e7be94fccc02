"""How many bytes a network's weights take, by the way in which they are stored.

"bf16" has two bytes a weight. "int8" has one, and a scale of fp32 for every output channel
(`engine.model.quantized`). "Q4_K_M" is the mixture of ggml's block types that llama.cpp's converter
of that name writes, tensor by tensor. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES

from engine.model.config import ModelConfig

STORAGES = ("bf16", "int8", "Q4_K_M")
EMBEDDING, HEAD = "embedding", "head"
# What llama.cpp takes where a row is no multiple of 256 weights (llama-quant.cpp).
_FALLBACK = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of weights; `layer` is -1 outside the layers."""

    name: str
    layer: int
    outputs: int
    width: int

    @property
    def weights(self) -> int:
        """The number of weights."""
        return self.outputs * self.width


def matrices(config: ModelConfig) -> Iterator[Matrix]:
    """Every matrix of a network. A tied head is the embedding, and named twice all the same."""
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    yield Matrix(EMBEDDING, -1, config.vocabulary, config.hidden)
    for layer in range(config.layers):
        for name, outputs, width in (
            ("q", query, config.hidden),
            ("k", key, config.hidden),
            ("v", key, config.hidden),
            ("o", config.hidden, query),
            ("gate", config.intermediate, config.hidden),
            ("up", config.intermediate, config.hidden),
            ("down", config.hidden, config.intermediate),
        ):
            yield Matrix(name, layer, outputs, width)
    yield Matrix(HEAD, -1, config.vocabulary, config.hidden)


def vector_weights(config: ModelConfig) -> int:
    """The weights that stand in no matrix: norms and biases."""
    layer = 2 * config.hidden
    if config.family.qkv_bias:
        layer += config.head_dim * (config.heads + 2 * config.kv_heads)
    if config.family.qk_norm:
        layer += 2 * config.head_dim
    return config.layers * layer + config.hidden


def matrix_bytes(matrix: Matrix, config: ModelConfig, storage: str) -> int:
    """The bytes of a whole matrix."""
    if storage == "bf16":
        return 2 * matrix.weights
    if storage == "int8":
        return matrix.weights + 4 * matrix.outputs
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[block_type(matrix, config.layers)]]
    return matrix.weights // weights * size


def vector_bytes(config: ModelConfig, storage: str) -> int:
    """The bytes of norms and biases, which a GGUF file keeps in fp32."""
    return vector_weights(config) * (4 if storage == "Q4_K_M" else 2)


def block_type(matrix: Matrix, layers: int) -> str:
    """The ggml type of a matrix in a Q4_K_M file (llama-quant.cpp, `llama_tensor_get_type`)."""
    careful = matrix.name in ("v", "down") and _more_bits(matrix.layer, layers)
    kind = "Q6_K" if careful or matrix.name == HEAD else "Q4_K"
    return kind if matrix.width % 256 == 0 else _FALLBACK[kind]


def _more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighths, and every third between them."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
