"""Checkpoints in NLD's layout: `config.json`, single or sharded safetensors, `tokenizer.json`.

Every tensor's name, shape and dtype is checked against the config before a byte of it is read.
Weights are stored as bf16, or as int8 with scales, of which the network sees nothing
(`quantized.py`). Pickle weights are refused: they run code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import CheckpointError, MemoryExhausted
from engine.model.config import ModelConfig, to_json
from engine.model.network import Network
from engine.model.quantized import (
    CONFIG,
    KEY,
    check_scale,
    dequantize,
    quantize,
    read_quantization,
    scale_name,
    weight_name,
    with_scales,
)

# How the matrices of a checkpoint are stored; vectors (norms, biases) are bf16 in both.
Weights = Literal["bf16", "int8"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Buffers that older exports carry; derived from the config, so never read.
_DERIVED = ("rotary_emb.inv_freq",)
# As safetensors spells dtypes.
_INT8, _FLOATS = "I8", ("BF16", "F16", "F32", "F64")


def load_network(
    folder: Path, config: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> Network:
    """Builds the network and reads its weights straight onto the device, int8 ones multiplied out.

    Raises:
        CheckpointError: a file is missing or truncated, a tensor missing, unknown or misshapen, or
            quantised in a way that is not read.
        MemoryExhausted: the weights do not fit.
    """
    quantized = read_quantization(folder)
    files = weight_files(folder)
    with torch.device("meta"):
        network = Network(config)
    _check_memory(config, device, dtype)
    read = read_tensors(files, expected_tensors(config), device, dtype, quantized=quantized)
    tensors = {name: read[their] for name, their in _names(network).items()}
    if config.tied_head:
        tensors["diffusion_head.weight"] = tensors["encoder.embed_tokens.weight"]
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.requires_grad_(False).eval()


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
        metadata: extra keys for config.json, such as how the model was trained.
        shard_bytes: most bytes of tensors in a file; more go into further ones, with an index.
            None writes `model.safetensors` alone.
        weights: how matrices are stored; int8 takes a little over half of the space.

    Raises:
        CheckpointError: infinities or NaN are to be stored as int8.
    """
    state = _state(network, weights)
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(state, shard_bytes)
    stale = {*folder.glob("model*.safetensors"), folder / _INDEX}
    for name, tensors in shards.items():
        partial = folder / (name + ".partial")
        save_file(tensors, str(partial), metadata={"format": "pt"})
        partial.replace(folder / name)
    if len(shards) > 1:
        places = {tensor: name for name, tensors in shards.items() for tensor in tensors}
        total = sum(tensor.nbytes for tensor in state.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / _INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        stale.discard(folder / _INDEX)
    for path in stale - {folder / name for name in shards}:
        path.unlink(missing_ok=True)  # of a checkpoint that was here before
    raw = {**to_json(network.config), **(metadata or {})}
    raw.pop(KEY, None)  # of the checkpoint that this one was made from
    if weights == "int8":
        raw[KEY] = CONFIG
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def _state(network: Network, weights: Weights) -> dict[str, Tensor]:
    """What the files hold, by their names, on the CPU."""
    tensors, state = network.state_dict(), dict[str, Tensor]()
    for ours, name in _names(network).items():
        tensor = tensors[ours].detach().to("cpu")
        if weights == "int8" and tensor.dim() == 2:
            state[name], state[scale_name(name)] = quantize(name, tensor)
        else:
            state[name] = tensor.to(torch.bfloat16).contiguous()
    return state


def _shards(state: dict[str, Tensor], shard_bytes: int | None) -> dict[str, dict[str, Tensor]]:
    """The tensors by file name, in their order; each file holds one tensor at least."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if shard_bytes is not None and groups[-1] and size + tensor.nbytes > shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    if len(groups) == 1:
        return {_SINGLE: groups[0]}
    count = len(groups)
    return {
        f"model-{number:05}-of-{count:05}.safetensors": group
        for number, group in enumerate(groups, 1)
    }


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every weight the checkpoint's files must hold, and its shape; see `stored_tensors` for what
    they hold besides. Takes no memory."""
    with torch.device("meta"):
        network = Network(config)
    state = network.state_dict()
    return {their: tuple(state[name].shape) for name, their in _names(network).items()}


def _names(network: Network) -> dict[str, str]:
    """The network's tensor names and the checkpoint's; a tied head has no tensor of its own."""
    config = network.config
    names = {name: config.family.tensor_name(name) for name in network.state_dict()}
    if config.tied_head:
        names.pop("diffusion_head.weight")
    return names


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, by its index where it is sharded.

    Raises:
        CheckpointError: a file is missing, the index malformed, or there are only pickles.
    """
    if (folder / _INDEX).is_file():
        return _sharded_files(folder)
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        raise CheckpointError(
            f"{folder} has only pickle weights, which can run code when loaded.",
            remedy="Convert them to safetensors first.",
            param=_SINGLE,
        )
    raise CheckpointError(
        f"{folder} has neither {_SINGLE} nor {_INDEX}.",
        remedy="Give the folder that holds the weights.",
        param=_SINGLE,
    )


def _sharded_files(folder: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads((folder / _INDEX).read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{folder / _INDEX} is malformed: {error!r}.",
            remedy="Copy the checkpoint again.",
            param=_INDEX,
        ) from None
    for name in names:
        # A shard is a plain file name: an index must not make us read outside the folder.
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / _INDEX} names {name!r}, which is not in the folder.",
                remedy="Copy the missing shard.",
                param=str(name),
            )
    return [folder / name for name in names]


def read_tensors(
    files: list[Path],
    expected: dict[str, tuple[int, ...]],
    device: torch.device,
    dtype: torch.dtype,
    *,
    quantized: bool = False,
) -> dict[str, Tensor]:
    """Reads tensors straight onto the device, their names, shapes and dtypes checked first.

    Args:
        expected: every name that must be there, none besides but scales, and its shape.
        quantized: whether matrices may be int8, with scales.

    Raises:
        CheckpointError: truncated file; missing, unknown or misshapen tensor, or one of a dtype
            that is not read; a scale that is none.
        MemoryExhausted: they do not fit.
    """
    stored = _check_headers(files, expected, quantized)
    tensors: dict[str, Tensor] = {}
    try:
        # First, for a weight's may lie in another file.
        scales = dict(_each(files, stored.keys() - expected.keys()))
        for name, tensor in _each(files, expected):
            scale = scales.get(scale_name(name))
            if scale is None:
                tensors[name] = tensor.to(device=device, dtype=dtype)
            else:
                tensors[name] = dequantize(tensor.to(device), scale.to(device), dtype)
    except (torch.OutOfMemoryError, MemoryError):
        raise _too_large(expected, device, dtype) from None
    return tensors


def _each(files: list[Path], names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of these names as they are stored, one at a time; scales are checked."""
    for path in files:
        try:
            with safe_open(str(path), framework="pt", device="cpu") as reader:
                for name in reader.keys():  # noqa: SIM118 - not a dict
                    if name in names:
                        tensor = reader.get_tensor(name)
                        if weight_name(name) is not None:
                            check_scale(path, name, tensor)
                        yield name, tensor
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from None


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of one tensor, without its data.

    Attributes:
        dtype: as safetensors spells it: "BF16", "F32", "I8".
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_headers(files: list[Path]) -> dict[str, Header]:
    """What the files say they hold, buffers that are derived from the config left out.

    Raises:
        CheckpointError: a file is truncated or damaged.
    """
    headers: dict[str, Header] = {}
    for path in files:
        try:
            with safe_open(str(path), framework="pt", device="cpu") as reader:
                for name in reader.keys():  # noqa: SIM118 - not a dict
                    if not name.endswith(_DERIVED):
                        view = reader.get_slice(name)
                        headers[name] = Header(path, tuple(view.get_shape()), view.get_dtype())
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from None
    return headers


def stored_tensors(
    expected: Mapping[str, tuple[int, ...]], headers: Mapping[str, Header]
) -> dict[str, tuple[int, ...]]:
    """Every name the files must hold, none besides, and its shape: weights, and the scales of those
    that are int8."""
    int8 = [name for name in expected if name in headers and headers[name].dtype == _INT8]
    return with_scales(expected, int8)


def check_dtype(name: str, header: Header, *, quantized: bool) -> None:
    """
    Args:
        quantized: whether config.json says that matrices are int8.

    Raises:
        CheckpointError: the tensor's numbers are not ones that are read.
    """
    if header.dtype in _FLOATS:
        return
    if header.dtype != _INT8 or len(header.shape) != 2 or weight_name(name) is not None:
        raise CheckpointError(
            f"{header.file}: {name} is {header.dtype}; this engine reads {', '.join(_FLOATS)}, and "
            "matrices of I8 with scales.",
            remedy="Use a checkpoint in bf16, or one with int8 weights (compressed-tensors, "
            "int-quantized).",
            param=name,
        )
    if not quantized:
        raise CheckpointError(
            f"{header.file}: {name} is {_INT8}, but config.json has no {KEY}.",
            remedy="Copy config.json again: it belongs to other weights.",
            param=name,
        )


def _check_headers(
    files: list[Path], expected: dict[str, tuple[int, ...]], quantized: bool
) -> dict[str, tuple[int, ...]]:
    """What the files hold, and its shapes, all checked."""
    headers = read_headers(files)
    stored = stored_tensors(expected, headers)
    for name, header in headers.items():
        _check_shape(header.file, name, header.shape, stored)
        check_dtype(name, header, quantized=quantized)
    missing = sorted(stored.keys() - headers.keys())
    if missing:
        raise CheckpointError(
            f"{files[0].parent} lacks {len(missing)} of {len(stored)} tensors: {missing[0]}.",
            remedy="The checkpoint is incomplete, or its config.json is another model's.",
            param=missing[0],
        )
    return stored


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated or damaged: {error}.",
        remedy="Copy the file again.",
        param=path.name,
    )


def _check_shape(
    path: Path, name: str, shape: tuple[int, ...], expected: dict[str, tuple[int, ...]]
) -> None:
    if name not in expected:
        if weight_name(name) in expected:
            raise CheckpointError(
                f"{path} holds {name}, but {weight_name(name)} is not {_INT8}.",
                remedy="Copy the weights again: these are of two checkpoints.",
                param=name,
            )
        raise CheckpointError(
            f"{path} holds {name}, which this network has no place for.",
            remedy="Check that config.json belongs to these weights.",
            param=name,
        )
    if shape != expected[name]:
        raise CheckpointError(
            f"{path}: {name} has shape {list(shape)}, config.json says {list(expected[name])}.",
            remedy="Check that config.json belongs to these weights.",
            param=name,
        )


def free_memory_bytes(device: torch.device) -> int:
    """What can still be put on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory_bytes()


def _check_memory(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Refuses a model that cannot fit before the machine starts to swap."""
    needed = config.parameters() * dtype.itemsize
    free = free_memory_bytes(device)
    if needed > free:
        raise MemoryExhausted(
            f"The weights need {needed / 2**30:.1f} GiB in {str(dtype).removeprefix('torch.')}, "
            f"{free / 2**30:.1f} GiB are free on {device}.",
            remedy='Use a smaller checkpoint, engine.dtype = "bfloat16", or another device.',
            param="engine.checkpoint",
        )


def _too_large(
    expected: dict[str, tuple[int, ...]], device: torch.device, dtype: torch.dtype
) -> MemoryExhausted:
    needed = sum(math.prod(shape) for shape in expected.values()) * dtype.itemsize
    return MemoryExhausted(
        f"The weights ({needed / 2**30:.1f} GiB) do not fit on {device}.",
        remedy="Use a smaller checkpoint or another device.",
        param="engine.checkpoint",
    )


def available_memory_bytes() -> int:
    """Memory the system can give without swapping; unlimited where it does not say."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 2**63 - 1
