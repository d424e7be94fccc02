"""Weights stored as int8 with one scale per output channel (row): `weight` and `weight_scale`.

The layout is compressed-tensors' "int-quantized" (https://github.com/vllm-project/compressed-tensors):
symmetric, `weight` int8 (rows, columns), `weight_scale` float (rows, 1), `quantization_config` in
config.json. It is a storage format: weights are dequantised when they are read, but for a card,
whose kernel multiplies by the same values (`quantized_linear.py`). Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import CheckpointError

if TYPE_CHECKING:  # only writing uses torch
    from torch import Tensor

KEY = "quantization_config"
# The value that this project writes. The embedding table is quantised as well.
CONFIG: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear", "Embedding"],
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
            # Without this the library assumes that weights are packed into int32.
            "format": "int-quantized",
        }
    },
    "ignore": [],
}
_SUFFIX = "_scale"
_LARGEST = 127  # -128 has no positive counterpart
# The scale of rows that are zero or nearly zero; both float32 and bf16 can represent it.
_SCALE_MIN = 2.0**-100

# The accepted values by key; a missing key counts as None.
_WHOLE: dict[str, tuple[Any, ...]] = {
    "quant_method": ("compressed-tensors",),
    "format": ("int-quantized",),
    "quantization_status": ("compressed",),
    "kv_cache_scheme": (None,),
    "sparsity_config": (None, {}),
    "transform_config": (None, {}),
}
_GROUP: dict[str, tuple[Any, ...]] = {
    "input_activations": (None,),
    "output_activations": (None,),
    "format": (None, "int-quantized"),
}
_WEIGHTS: dict[str, tuple[Any, ...]] = {
    "num_bits": (8,),
    "type": ("int",),
    "symmetric": (True,),
    "strategy": ("channel",),
    "group_size": (None, -1),
    "block_structure": (None,),
    "actorder": (None,),
    "dynamic": (False, None),
}


def scale_name(name: str) -> str:
    """The name of the tensor that holds a weight's scales."""
    return name + _SUFFIX


def weight_name(name: str) -> str | None:
    """The name of the weight whose scales a tensor holds; None if its name is not a scale's."""
    return name.removesuffix(_SUFFIX) if name.endswith(_SUFFIX) else None


def with_scales(
    shapes: Mapping[str, tuple[int, ...]], int8: Iterable[str]
) -> dict[str, tuple[int, ...]]:
    """The shapes by name, with the shapes (rows, 1) of the scales of the weights in `int8`."""
    return {**shapes, **{scale_name(name): (shapes[name][0], 1) for name in int8}}


def quantize(name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (rows, columns) as int8 and its scales (rows, 1) as float32, on its device.

    A row's largest entry becomes ±127. An entry comes back within half of its row's scale.

    Raises:
        CheckpointError: the weight contains infinities or NaN; names it.
    """
    wide = weight.float()
    if not wide.isfinite().all():
        raise CheckpointError(
            f"{name} contains infinities or NaN, which int8 cannot store.",
            remedy="Train again from an earlier state, or store bf16.",
            param=name,
        )
    # Rows may have no entries (a Markov head of rank 0), and then no largest one.
    largest = wide.abs().amax(dim=1, keepdim=True) if weight.shape[1] else wide.sum(1, keepdim=True)
    scale = (largest / _LARGEST).clamp(min=_SCALE_MIN)
    return (wide / scale).round().char(), scale


def dequantize(values: NDArray[np.generic], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """int8 (rows, columns) times the scales (rows, 1), as a new array of float32."""
    return np.multiply(values, scale, dtype=np.float32)


def check_scale(file: Path, name: str, scale: NDArray[np.float32]) -> None:
    """
    Raises:
        CheckpointError: a scale is not finite, or not above zero.
    """
    flat = scale.ravel()
    wrong = np.flatnonzero(~(np.isfinite(flat) & (flat > 0)))
    if not wrong.size:
        return
    row = int(wrong[0])
    raise CheckpointError(
        f"{file}: {name} is {flat[row].item()} in row {row}; a scale must be finite and positive.",
        remedy="Copy the file again, or quantise the model again.",
        param=name,
    )


def read_quantization(folder: Path) -> bool:
    """Whether `folder/config.json` says that weights are stored as int8 in this layout.

    Raises:
        CheckpointError: the file says that they are quantised in another way, or cannot be read.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON: {error}.",
            remedy="Copy the checkpoint again.",
            param="config.json",
        ) from None
    stated = raw.get(KEY) if isinstance(raw, dict) else None
    if stated is None:
        return False
    _check(path, KEY, stated, _WHOLE)
    groups = stated.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise _refusal(path, f"{KEY}.config_groups", groups, "groups with a scheme each")
    for name, group in groups.items():
        at = f"{KEY}.config_groups.{name}"
        _check(path, at, group, _GROUP)
        _check(path, f"{at}.weights", group.get("weights"), _WEIGHTS)
    return True


def _check(path: Path, at: str, stated: object, known: Mapping[str, tuple[Any, ...]]) -> None:
    if not isinstance(stated, dict):
        raise _refusal(path, at, stated, "an object")
    for key, values in known.items():
        if stated.get(key) not in values:
            wanted = " or ".join(json.dumps(value) for value in values)
            raise _refusal(path, f"{at}.{key}", stated.get(key), wanted)


def _refusal(path: Path, key: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {key} is {json.dumps(value)[:60]}; this engine reads {expected}.",
        remedy="Use the checkpoint that is not quantised, or int8 weights with one scale per "
        "output channel (compressed-tensors, int-quantized, weights only).",
        param=key,
    )
