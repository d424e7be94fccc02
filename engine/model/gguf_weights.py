"""The tensors of a GGUF file by the network's names, dequantised when they are read or as stored.

llama.cpp's converter reorders the rows of the Llama family's query and key projections, so that
rotary pairs are adjacent. This module restores the order of halves that the network uses.
Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence

import gguf
import numpy as np
from gguf import GGMLQuantizationType as TensorType
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray

from engine.errors import CheckpointError
from engine.model.config import ModelConfig
from engine.model.gguf_config import FREQUENCIES
from engine.model.gguf_file import GGUFFile, TensorHeader
from engine.model.weights import Float32, network_tensors, selection

_PERMUTED = ("llama", "ministral3")  # the families whose files have reordered rows
_OUTSIDE = {
    "encoder.embed_tokens.weight": "token_embd.weight",
    "encoder.norm.weight": "output_norm.weight",
    "diffusion_head.weight": "output.weight",
}
_LAYERS, _BLOCK = "encoder.layers.", "blk."
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Rotary tables, which follow from the config.
_DERIVED = (FREQUENCIES, ".attn_rot_embd", ".rope_freqs.weight")
_CHUNK = 1 << 16  # entries dequantised at once; they fit into the CPU's cache, which is far faster


class GGUFWeights:
    """`Weights` in a GGUF file. Names, shapes and types are checked when the object is made."""

    def __init__(self, file: GGUFFile, config: ModelConfig) -> None:
        """
        Raises:
            CheckpointError: a tensor is missing, unknown, misshapen or of an unsupported type.
        """
        self._file = file
        self._headers = _checked(file, config)
        self._order: dict[str, NDArray[np.int64]] = {}
        if config.family.model_type in _PERMUTED:
            for name, header in self._headers.items():
                if name.endswith(("self_attn.q_proj.weight", "self_attn.k_proj.weight")):
                    self._order[name] = halves(header.shape[0], config.head_dim)

    def names(self) -> frozenset[str]:
        return frozenset(self._headers)

    def read(self, name: str) -> Float32:
        header = self._headers[name]
        if len(header.shape) == 2:
            return self.rows(name, range(header.shape[0]))
        return _dequantized(self._file.stored_rows(header), header)[0]

    def rows(self, name: str, rows: Sequence[int]) -> Float32:
        return _dequantized(self.stored_rows(name, rows), self._headers[name])

    def type_name(self, name: str) -> str:
        """ggml's name of the type that a tensor is stored in, such as "Q4_K"."""
        return self._headers[name].type.name

    def stored_rows(self, name: str, rows: Sequence[int]) -> NDArray[np.uint8]:
        """(len(rows), row_bytes) of a matrix as they are stored, perhaps a view of the file.

        Raises:
            KeyError: there is no such tensor.
            IndexError: a row is negative or past the end.
        """
        header = self._headers[name]
        wanted = selection(rows, header.shape[0])
        if name in self._order:
            wanted = self._order[name][wanted]
        return self._file.stored_rows(header)[wanted]


def halves(rows: int, head_dim: int) -> NDArray[np.int64]:
    """The place of each row of a rotated projection in a Llama-family file, which stores a head's
    rows in the order 0, D/2, 1, D/2 + 1, …"""
    head, within = np.divmod(np.arange(rows), head_dim)
    half, pair = np.divmod(within, head_dim // 2)
    return head * head_dim + 2 * pair + half


def gguf_name(name: str) -> str:
    """The file's name for one of the network's tensors."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    layer, _, rest = name.removeprefix(_LAYERS).partition(".")
    part, _, kind = rest.rpartition(".")
    return f"{_BLOCK}{layer}.{_PARTS[part]}.{kind}"


def _dequantized(stored: NDArray[np.uint8], header: TensorHeader) -> Float32:
    """Dequantises stored rows (rows, row_bytes) into a new array (rows, in)."""
    kind = header.type
    rows, width = len(stored), header.shape[-1]
    if kind is TensorType.F32:
        return stored.view("<f4").astype(np.float32)
    if kind is TensorType.F16:
        return stored.view("<f2").astype(np.float32)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    flat = stored.reshape(-1)
    out = np.empty(rows * width, np.float32)
    step = _CHUNK // block
    with np.errstate(all="ignore"):  # a damaged block may contain infinities
        for start in range(0, rows * width // block, step):
            part = flat[start * block_bytes : (start + step) * block_bytes]
            entries = out[start * block : (start + step) * block]
            entries[:] = gguf.dequantize(part[None], kind)[0]
    return out.reshape(rows, width)


def _is_read(kind: TensorType) -> bool:
    """Whether the library can dequantise the type, tried on one block of zeros."""
    _, block_bytes = GGML_QUANT_SIZES[kind]
    try:
        gguf.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _checked(file: GGUFFile, config: ModelConfig) -> dict[str, TensorHeader]:
    """The checked headers by the network's names."""
    path, tensors = file.path, file.tensors
    headers: dict[str, TensorHeader] = {}
    types: dict[TensorType, bool] = {}
    expected = network_tensors(config)
    for name, shape in expected.items():
        theirs = gguf_name(name)
        header = tensors.get(theirs)
        if header is None:
            raise CheckpointError(
                f"{path} lacks {theirs}.",
                remedy="The file is incomplete, or its metadata is another model's.",
                param=theirs,
            )
        if header.shape != shape:
            raise CheckpointError(
                f"{path}: {theirs} has shape {list(header.shape)}, the metadata says "
                f"{list(shape)}.",
                remedy="The file is damaged, or its metadata is another model's.",
                param=theirs,
            )
        if not types.setdefault(header.type, _is_read(header.type)):
            raise CheckpointError(
                f"{path}: {theirs} is {header.type.name}, which is not supported.",
                remedy="Use a file in another quantisation, such as Q4_K_M or Q8_0.",
                param=theirs,
            )
        headers[name] = header
    known = {header.name for header in headers.values()}
    for name in tensors:
        if name not in known and not name.endswith(_DERIVED):
            raise CheckpointError(
                f"{path} holds {name}, for which this network has no place.",
                remedy="Use a GGUF file of a supported model, or its checkpoint folder.",
                param=name,
            )
    return headers
