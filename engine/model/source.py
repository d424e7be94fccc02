"""Opens a checkpoint, a folder of safetensors or one GGUF file, without torch.

Opening checks everything but reads no weights; these are read when a tensor is requested.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from engine.errors import CheckpointError
from engine.model.config import ModelConfig, parse_config, read_config_json
from engine.model.gguf_config import gguf_config
from engine.model.gguf_file import read_gguf
from engine.model.gguf_tokenizer import tokenizer_from_gguf
from engine.model.gguf_weights import GGUFWeights
from engine.model.quantized import read_quantization
from engine.model.safetensors_file import SafetensorsWeights, weight_files
from engine.model.tokenizer import Tokenizer, read_tokenizer
from engine.model.weights import Weights, bytes_estimate, expected_tensors, network_tensors


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """An open checkpoint.

    Attributes:
        path: the folder or the GGUF file.
        metadata: the content of config.json, or the GGUF file's keys without lists.
    """

    config: ModelConfig
    weights: Weights
    tokenizer: Tokenizer
    path: Path
    metadata: Mapping[str, Any]

    def bytes_estimate(self, dtype: Literal["float32", "bfloat16", "int8"]) -> int:
        """The memory of the loaded weights; see `weights.bytes_estimate`."""
        return bytes_estimate(self.config, dtype)


def open_checkpoint(path: Path) -> CheckpointSource:
    """Opens a folder in the layout of NLD or transformers, or a GGUF file.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete, damaged or of an unknown kind; names
            the file, key or tensor.
    """
    if is_gguf(path):
        file = read_gguf(path)
        config = gguf_config(file)
        tokenizer = tokenizer_from_gguf(file.metadata, str(path))
        # The vocabulary takes tens of megabytes as Python objects and is not needed any more.
        metadata = {
            key: value for key, value in file.metadata.items() if not isinstance(value, list)
        }
        weights = GGUFWeights(replace(file, metadata=metadata), config)
    else:
        metadata = read_config_json(_folder(path))
        config = parse_config(metadata, str(path / "config.json"))
        tokenizer = read_tokenizer(path)
        weights = _folder_weights(path, config)
    if tokenizer.size > config.vocabulary:
        theirs = "the table of embeddings" if is_gguf(path) else "config.json vocab_size"
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.size} ids, {theirs} {config.vocabulary}.",
            remedy="Check that both belong to the same checkpoint.",
            param="vocab_size",
        )
    return CheckpointSource(config, weights, tokenizer, path, metadata)


def open_weights(path: Path, config: ModelConfig) -> Weights:
    """Opens only the tensors of a folder or a GGUF file whose config is known.

    Raises:
        CheckpointError: as for `open_checkpoint`, except for the tokenizer.
    """
    if is_gguf(path):
        return GGUFWeights(read_gguf(path), config)
    return _folder_weights(path, config)


def is_gguf(path: Path) -> bool:
    """Whether a checkpoint is a file and not a folder."""
    return os.path.isfile(path)  # unlike `Path.is_file`, false for a path that cannot be accessed


def _folder(path: Path) -> Path:
    if os.path.isdir(path):
        return path
    raise CheckpointError(
        f"{path} is not a folder or a GGUF file.",
        remedy="Set engine.checkpoint to a checkpoint folder or a GGUF file, or leave it out.",
        param="engine.checkpoint",
    )


def _folder_weights(folder: Path, config: ModelConfig) -> SafetensorsWeights:
    quantized = read_quantization(folder)
    names = {name: config.family.tensor_name(name) for name in network_tensors(config)}
    files = weight_files(folder)
    return SafetensorsWeights(files, expected_tensors(config), quantized=quantized, names=names)
