"""Reads a checkpoint as a torch network, and writes a network as a checkpoint in NLD's layout.

Reads whatever `source.py` opens: a folder of safetensors or a GGUF file, quantised or not. Writes
`config.json` and single or sharded safetensors.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.device import available_memory_bytes
from engine.errors import MemoryExhausted
from engine.model.config import ModelConfig, to_json
from engine.model.network import Network
from engine.model.quantized import CONFIG, KEY, quantize, scale_name
from engine.model.quantized_linear import install, kept, read_matrices
from engine.model.safetensors_file import INDEX, SINGLE
from engine.model.source import open_weights
from engine.model.weights import EMBEDDING, HEAD, Shape, bytes_estimate, network_tensors
from engine.model.weights import Weights as TensorReader

# How the matrices of a checkpoint are stored; vectors (norms, biases) are always bf16.
Weights = Literal["bf16", "int8"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
_CHUNK = 1 << 22  # the most entries of a matrix that are float32 at the same time


def load_network(
    path: Path, config: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> Network:
    """Builds the network and reads its weights onto the device, dequantised.

    Args:
        path: a checkpoint's folder, or its GGUF file.

    Raises:
        CheckpointError: a file is missing or truncated, or a tensor is missing, unknown, misshapen
            or quantised in a way that is not supported.
        MemoryExhausted: the weights do not fit.
    """
    return build_network(open_weights(path, config), config, device=device, dtype=dtype)


def build_network(
    weights: TensorReader,
    config: ModelConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantized: bool = False,
) -> Network:
    """As `load_network`, for weights that are open already.

    Args:
        quantized: whether matrices that are stored quantised stay so (`quantized_linear.py`), where
            their type allows it. Such a network computes the same; it cannot be saved, joined or
            trained.

    Raises:
        MemoryExhausted: the weights do not fit.
    """
    with torch.device("meta"):
        network = Network(config)
    staying = kept(weights, config) if quantized else {}
    shapes = network_tensors(config)
    needed = bytes_estimate(config, "float32" if dtype == torch.float32 else "bfloat16")
    for name, size in staying.items():
        needed += size - math.prod(shapes[name]) * dtype.itemsize
    if needed > free_memory_bytes(device):  # before the machine starts to swap
        raise _too_large(needed, device, dtype)
    try:
        install(network, read_matrices(weights, config, staying, device), dtype)
        tensors = {
            name: _to_tensor(weights, name, shape, device, dtype)
            for name, shape in shapes.items()
            if name not in staying
        }
    except (torch.OutOfMemoryError, MemoryError):
        raise _too_large(needed, device, dtype) from None
    if config.tied_head and EMBEDDING in tensors:
        tensors[HEAD] = tensors[EMBEDDING]
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.requires_grad_(False).eval()


def _to_tensor(
    weights: TensorReader, name: str, shape: Shape, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """One tensor on its device, rounded once. Only a part of a matrix is float32 at a time."""
    if len(shape) == 1:
        return torch.from_numpy(weights.read(name)).to(device, dtype)
    tensor = torch.empty(shape, dtype=dtype, device=device)
    step = max(1, _CHUNK // shape[1])
    for start in range(0, shape[0], step):
        rows = range(start, min(start + step, shape[0]))
        # Rounded before the copy to the device, which then takes half the bytes.
        part = torch.from_numpy(weights.rows(name, rows)).to(dtype)
        tensor[rows.start : rows.stop].copy_(part)
    return tensor


def save_checkpoint(
    folder: Path,
    network: Network,
    *,
    metadata: dict[str, Any] | None = None,
    shard_bytes: int | None = None,
    weights: Weights = "bf16",
) -> None:
    """Writes `config.json` and the weights, each file by rename.

    Args:
        metadata: additional keys for config.json, such as how the model was trained.
        shard_bytes: the most bytes of tensors in a file; larger models get several files and an
            index. None writes `model.safetensors` only.
        weights: how matrices are stored; int8 takes a little more than half of bf16's space.

    Raises:
        CheckpointError: the weights contain infinities or NaN, which int8 cannot store.
    """
    state = _state(network, weights)
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(state, shard_bytes)
    stale = {*folder.glob("model*.safetensors"), folder / INDEX}
    for name, tensors in shards.items():
        partial = folder / (name + ".partial")
        save_file(tensors, str(partial), metadata={"format": "pt"})
        partial.replace(folder / name)
    if len(shards) > 1:
        places = {tensor: name for name, tensors in shards.items() for tensor in tensors}
        total = sum(tensor.nbytes for tensor in state.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        stale.discard(folder / INDEX)
    for path in stale - {folder / name for name in shards}:
        path.unlink(missing_ok=True)  # of an earlier checkpoint in this folder
    raw = {**to_json(network.config), **(metadata or {})}
    raw.pop(KEY, None)  # of the checkpoint that this one was made from
    if weights == "int8":
        raw[KEY] = CONFIG
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def _state(network: Network, weights: Weights) -> dict[str, Tensor]:
    """The tensors of the files by name, on the CPU."""
    tensors, state = network.state_dict(), dict[str, Tensor]()
    for ours, name in _names(network).items():
        tensor = tensors[ours].detach().to("cpu")
        if weights == "int8" and tensor.dim() == 2:
            state[name], state[scale_name(name)] = quantize(name, tensor)
        else:
            state[name] = tensor.to(torch.bfloat16).contiguous()
    return state


def _shards(state: dict[str, Tensor], shard_bytes: int | None) -> dict[str, dict[str, Tensor]]:
    """The tensors by file name, in order; each file holds at least one tensor."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if shard_bytes is not None and groups[-1] and size + tensor.nbytes > shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    count = len(groups)
    return {
        f"model-{number:05}-of-{count:05}.safetensors": group
        for number, group in enumerate(groups, 1)
    }


def _names(network: Network) -> dict[str, str]:
    """The checkpoint's name for each of the network's tensors; a tied head has no tensor."""
    config = network.config
    names = {name: config.family.tensor_name(name) for name in network.state_dict()}
    if config.tied_head:
        names.pop("diffusion_head.weight")
    return names


def free_memory_bytes(device: torch.device) -> int:
    """The memory that is free on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory_bytes()


def _too_large(needed: int, device: torch.device, dtype: torch.dtype) -> MemoryExhausted:
    free = free_memory_bytes(device)
    return MemoryExhausted(
        f"The weights need {needed / 2**30:.1f} GiB in {str(dtype).removeprefix('torch.')}, but "
        f"only {free / 2**30:.1f} GiB are free on {device}.",
        remedy='Use a smaller checkpoint, engine.dtype = "bfloat16", or another device.',
        param="engine.checkpoint",
    )
