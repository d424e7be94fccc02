"""Adapters that make an autoregressive checkpoint draft in parallel, and whose they are.

An adapter runs at mask rows alone, so that every other row computes what the checkpoint computes.
Its folder is in PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`) with extras that
are named in the config under "dlm": mask vectors, a draft vocabulary, and a Markov head. Matrices
may be int8 with a scale per row (`quantized.py`). It is loaded for the weights that it was trained
on and refused for any others. Adapters lie in folders of adapters: the user's own, which may have
none, and the one that is bundled. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import CheckpointError
from engine.model.config import ModelConfig
from engine.model.safetensors_file import SafetensorsWeights
from engine.model.weights import Float32, Shape, Weights, network_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EXTRAS, DIGEST = "dlm", "sha256"
MASKS, DRAFT_IDS, BEFORE, AFTER = (
    f"{EXTRAS}.{name}" for name in ("mask_vectors", "draft_ids", "markov_before", "markov_after")
)
logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent.parent / "assets" / "adapters"


@dataclass(frozen=True, slots=True)
class Factors:
    """One linear's low-rank addition: x gains up @ (down @ x) times the adapter's scale.

    Attributes:
        down: (rank, in) fp32.
        up: (out, rank) fp32, the scale alpha / rank multiplied in.
    """

    down: Float32
    up: Float32


@dataclass(frozen=True, slots=True)
class MaskAdapterWeights:
    """A whole adapter.

    Attributes:
        name: the model that it belongs to.
        factors: reads one linear's factors, by the network's name of it, such as
            "encoder.layers.0.mlp.up_proj". A prepared graph has them already, so that a start
            reads none.
        mask_vectors: (K, hidden) fp32, the embeddings of mask rows by their offset from the anchor,
            1 first; further offsets share the last.
        draft_ids: (D,) int64, the tokens that may be drafted, ascending.
        before: (D + 2, m) fp32, rows of the Markov head by the token before: row D stands for any
            token outside the draft vocabulary, row D + 1 for one that is not known yet.
        after: (m, D) fp32.
    """

    name: str
    factors: Callable[[str], Factors]
    mask_vectors: Float32
    draft_ids: NDArray[np.int64]
    before: Float32
    after: Float32


def find_adapter(
    config: ModelConfig, weights: Weights, own: Path | None = None
) -> MaskAdapterWeights | None:
    """As `adapter_folder`, and reads the adapter. Raises as that does."""
    folder = adapter_folder(config, weights, own)
    return None if folder is None else load_adapter(folder, config)


def adapter_folder(config: ModelConfig, weights: Weights, own: Path | None = None) -> Path | None:
    """The folder of the adapter that belongs to exactly these weights, or None.

    A folder of the user's that is no such adapter is left out, with a line in the log.

    Args:
        own: the user's folder of adapters. Those in it come before the bundled ones, the newest
            first.

    Raises:
        CheckpointError: a bundled adapter's config is damaged.
    """
    if config.family.fills_masks:
        return None
    fingerprint_of_weights: str | None = None
    for folder in (*_adapters_in(own), *_adapters_in(BUNDLED)):
        try:
            base = _read_json(folder / CONFIG)[EXTRAS]["base"]
        except CheckpointError as error:
            if folder.parent == BUNDLED:
                raise
            logger.warning("%s is left out: %s", folder, error)
            continue
        if base["layers"] != config.layers or base["hidden"] != config.hidden:
            continue  # not worth reading rows of every tensor
        fingerprint_of_weights = fingerprint_of_weights or fingerprint(config, weights)
        if base["fingerprint"] == fingerprint_of_weights:
            return folder
    return None


def _adapters_in(folders: Path | None) -> list[Path]:
    """The adapters in a folder of adapters, the newest first."""
    if folders is None or not folders.is_dir():
        return []
    found = [
        path
        for path in folders.iterdir()
        # A name with a dot is that of an adapter which is being copied.
        if not path.name.startswith(".") and (path / CONFIG).is_file()
    ]
    return sorted(found, key=lambda path: (-(path / CONFIG).stat().st_mtime_ns, path.name))


def load_adapter(folder: Path, config: ModelConfig) -> MaskAdapterWeights:
    """Reads an adapter that `adapter_folder` found. Raises CheckpointError if it is damaged."""
    return _read(folder, _read_json(folder / CONFIG), config)


def adapter_stamp(folder: Path | None) -> str:
    """Tells one adapter from another: what was built of an adapter belongs to it.

    The config has the digest of the tensors. An adapter that was written without one is told by the
    size and the time of its file. "" stands for no adapter.
    """
    if folder is None:
        return ""
    text = (folder / CONFIG).read_text("utf-8")
    if DIGEST in json.loads(text)[EXTRAS]:
        return text
    status = (folder / WEIGHTS).stat()
    return f"{text}|{status.st_size}|{status.st_mtime_ns}"


def read_mask_adapter(folder: Path, config: ModelConfig, weights: Weights) -> MaskAdapterWeights:
    """Reads an adapter for these weights.

    Raises:
        CheckpointError: it is incomplete, damaged, or belongs to other weights.
    """
    raw = _read_json(folder / CONFIG)
    extras = raw[EXTRAS]
    if extras["base"]["fingerprint"] != fingerprint(config, weights):
        raise CheckpointError(
            f"{folder} is an adapter of {extras['base']['name']}, and not of these weights.",
            remedy="Use the checkpoint that the adapter was trained on, or another adapter.",
            param=f"{CONFIG}: {EXTRAS}.base.fingerprint",
        )
    return _read(folder, raw, config)


def fingerprint(config: ModelConfig, weights: Weights) -> str:
    """A hash that tells one set of weights from another, by the first row of every tensor.

    Rows are compared as float32 numbers, so that the same weights in another file format have the
    same fingerprint.
    """
    digest = hashlib.sha256()
    for name, shape in network_tensors(config).items():
        rows = weights.read(name) if len(shape) == 1 else weights.rows(name, range(1))
        digest.update(f"{name}{shape}".encode())
        digest.update(np.ascontiguousarray(rows, dtype="<f4").tobytes())
    return digest.hexdigest()


def _read(folder: Path, raw: dict[str, Any], config: ModelConfig) -> MaskAdapterWeights:
    """The adapter of weights that are known to be its own."""
    extras = raw[EXTRAS]
    names = _names(config, int(raw["r"]), extras)
    tensors = SafetensorsWeights([folder / WEIGHTS], names, quantized=True)
    scale = np.float32(raw["lora_alpha"] / raw["r"])

    def factors(linear: str) -> Factors:
        down, up = (tensors.read(peft_name(config, linear, part)) for part in "AB")
        return Factors(down, up * scale)

    return MaskAdapterWeights(
        name=extras["base"]["name"],
        factors=factors,
        mask_vectors=tensors.read(MASKS),
        draft_ids=np.flatnonzero(tensors.read(DRAFT_IDS)).astype(np.int64),
        before=tensors.read(BEFORE),
        after=np.ascontiguousarray(tensors.read(AFTER).T),
    )


def peft_name(config: ModelConfig, linear: str, part: str) -> str:
    """PEFT's name of a factor; `part` is "A" or "B"."""
    return f"base_model.model.{config.family.tensor_name(linear + '.')}lora_{part}.weight"


def _names(config: ModelConfig, rank: int, extras: dict[str, Any]) -> dict[str, Shape]:
    """Every tensor of an adapter's file and its shape.

    The draft vocabulary is a row of ones and zeros, one for each token, which needs no dtype of its
    own; `after` lies transposed, a row for each drafted token, since int8 has a scale per row.
    """
    shapes = network_tensors(config)
    names: dict[str, Shape] = {}
    for name, shape in shapes.items():
        if len(shape) == 2 and ".layers." in name:
            linear, (rows, columns) = name.removesuffix(".weight"), shape
            names[peft_name(config, linear, "A")] = (rank, columns)
            names[peft_name(config, linear, "B")] = (rows, rank)
    count, markov = extras["draft_vocabulary"], extras["markov_rank"]
    return {
        **names,
        MASKS: (extras["masks"], config.hidden),
        DRAFT_IDS: (1, config.vocabulary),
        BEFORE: (count + 2, markov),
        AFTER: (count, markov),
    }


def _read_json(path: Path) -> dict[str, Any]:
    def refuse(what: str, key: str) -> CheckpointError:
        return CheckpointError(
            f"{path}: {what}.", remedy="Copy the adapter again, or remove its folder.", param=key
        )

    try:
        raw: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {error}", CONFIG) from None
    wanted = {"r": int, "lora_alpha": int | float, EXTRAS: dict}
    for key, kind in wanted.items():
        if not isinstance(raw, dict) or not isinstance(raw.get(key), kind):
            raise refuse(f"{key} is missing or of the wrong kind", key)
    extras: Any = raw[EXTRAS]
    for key in ("masks", "draft_vocabulary", "markov_rank"):
        if not isinstance(extras.get(key), int) or extras[key] < 0:
            raise refuse(f"{EXTRAS}.{key} is missing or not a count", key)
    base = extras.get("base")
    if not isinstance(base, dict) or not all(
        isinstance(base.get(key), kind)
        for key, kind in {"name": str, "fingerprint": str, "layers": int, "hidden": int}.items()
    ):
        raise refuse(f"{EXTRAS}.base does not say which weights it belongs to", "base")
    if raw["r"] < 1 or extras.get("shift") is not True:
        raise refuse("only adapters whose rows predict the next token (shift) are read", "shift")
    return raw
