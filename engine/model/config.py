"""The `config.json` of a checkpoint as a frozen, checked object.

Unknown keys are ignored, since released configs contain many that only training uses. Errors name
wrong or missing keys. The defaults of NLD's config *class* differ from the released JSON, so keys
that shape the network have no defaults here. Torch-free.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import CheckpointError
from engine.model.families import FAMILIES, NEMOTRON, RELEASED, Family

Positive = Annotated[int, Field(gt=0)]
_VISION = "nemotron_labs_diffusion_vlm"  # the family's sibling that reads images


class _Rope(BaseModel):
    """The object `rope_parameters` in the JSON."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    rope_type: str = "default"
    rope_theta: float = Field(gt=0)
    factor: float = Field(default=1.0, ge=1)
    original_max_position_embeddings: int | None = Field(default=None, gt=0)
    beta_fast: float = Field(default=32.0, gt=0)
    beta_slow: float = Field(default=1.0, gt=0)
    mscale: float = 1.0
    mscale_all_dim: float = 1.0
    attention_factor: float | None = Field(default=None, gt=0)
    llama_4_scaling_beta: float | None = None
    # Not a key of NLD's; a checkpoint that was converted from a GGUF file has it.
    frequency_factors: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()


class _Json(BaseModel):
    """The keys of `config.json` that shape the network or its decoding."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    model_type: str
    vocab_size: Positive
    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    head_dim: Positive | None = None
    rms_norm_eps: float = Field(gt=0, lt=0.1)
    max_position_embeddings: Positive
    mask_token_id: int | None = Field(default=None, ge=0)
    eos_token_id: int | list[int]
    bos_token_id: int | None = None
    block_size: int = Field(default=32, ge=2)
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    use_sliding_window: bool = True
    # Not keys of NLD's; a checkpoint that was converted from another family has them.
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_parameters: _Rope


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position encoding; `yarn` false means plain rotary.

    Attributes:
        attention_factor: the factor of cos and sin; 1 for NLD, where mscale equals mscale_all_dim.
        query_scale_beta: beta in Llama-4's query scale `1 + beta ln(1 + floor(pos / original))`; 0
            for no scale.
        frequency_factors: the divisors of the D/2 plain frequencies (Llama 3.1, linear scaling);
            empty for none.
    """

    theta: float
    yarn: bool
    factor: float
    original_positions: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    query_scale_beta: float
    frequency_factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of the network and its special ids.

    `mask_id` is None for a checkpoint that was not trained to fill masks.
    """

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    positions_max: int
    tied_head: bool
    mask_id: int | None
    begin_id: int | None
    end_ids: tuple[int, ...]
    block_length: int
    rope: RopeConfig
    family: Family = NEMOTRON

    @property
    def is_released(self) -> bool:
        """Whether it has the architecture and the size of a released Nemotron-Labs-Diffusion."""
        size = (self.layers, self.hidden, self.intermediate)
        return self.family == NEMOTRON and size in RELEASED.values()

    def parameters(self) -> int:
        """The number of weights, including the output head."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        if self.family.qkv_bias:
            attention += self.head_dim * (self.heads + 2 * self.kv_heads)
        if self.family.qk_norm:
            attention += 2 * self.head_dim
        mlp = 3 * self.hidden * self.intermediate
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_head else 2)
        return embeddings + self.layers * (attention + mlp + 2 * self.hidden) + self.hidden


def read_config(folder: Path) -> ModelConfig:
    """Reads and checks `folder/config.json`.

    Raises:
        CheckpointError: the file is missing or not JSON, or a key is missing or wrong.
    """
    return parse_config(read_config_json(folder), str(folder / "config.json"))


def read_config_json(folder: Path) -> Any:
    """The decoded JSON of `folder/config.json`, unchecked.

    Raises:
        CheckpointError: the file is missing or not JSON.
    """
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no config.json.",
            remedy="Give the folder of a checkpoint in Nemotron-Labs-Diffusion layout.",
            param="config.json",
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON: {error}.",
            remedy="Copy the checkpoint again.",
            param="config.json",
        ) from None


def parse_config(raw: Any, source: str = "config.json") -> ModelConfig:
    """Checks the decoded JSON of a config.

    Raises:
        CheckpointError: names the first missing or wrong key.
    """
    if not isinstance(raw, dict):
        raise CheckpointError(f"{source} is not a JSON object.", param=source)
    _check_family(raw.get("model_type"), source)
    raw = {**raw, "rope_parameters": _rope_object(raw)}
    try:
        fields = _Json.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{source}: {key}: {first['msg'].lower()} (got {_short(first.get('input'))}).",
            remedy="Check the checkpoint's config.json.",
            param=key,
        ) from None
    _check_supported(fields, source)
    return _to_model_config(fields)


def _check_family(model_type: object, source: str) -> None:
    """Raises CheckpointError for an unknown model, whose other keys would mislead."""
    if model_type in FAMILIES:
        return
    remedy = "Use a checkpoint of a supported kind."
    if model_type == _VISION:
        remedy = "Use the text checkpoint Nemotron-Labs-Diffusion-8B; images are not supported."
    raise CheckpointError(
        f"{source}: model_type is {model_type!r}; this engine computes {' or '.join(FAMILIES)}.",
        remedy=remedy,
        param="model_type",
    )


def _rope_object(raw: dict[str, Any]) -> Any:
    """`rope_parameters`, or the older keys `rope_theta` and `rope_scaling` in its form."""
    rope = raw.get("rope_parameters")
    if rope is None and "rope_theta" in raw:
        scaling = raw.get("rope_scaling")
        rope = {**(scaling if isinstance(scaling, dict) else {}), "rope_theta": raw["rope_theta"]}
    return rope


def _check_supported(fields: _Json, source: str) -> None:
    """Raises CheckpointError for values that this network does not support."""

    def refusal(key: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{source}: {key} is {value!r}; this engine computes {expected}.",
            remedy="Use a checkpoint of a supported kind.",
            param=key,
        )

    family = FAMILIES[fields.model_type]
    if fields.hidden_act != "silu":
        raise refusal("hidden_act", fields.hidden_act, "'silu'")
    if fields.attention_bias or fields.mlp_bias:
        raise refusal("attention_bias / mlp_bias", True, "projections without biases")
    if fields.sliding_window is not None and fields.use_sliding_window:
        raise refusal("sliding_window", fields.sliding_window, "full attention (null)")
    if fields.num_attention_heads % fields.num_key_value_heads:
        raise refusal(
            "num_key_value_heads",
            fields.num_key_value_heads,
            f"a divisor of num_attention_heads ({fields.num_attention_heads})",
        )
    if fields.head_dim is None and family.fills_masks:
        raise refusal("head_dim", None, "a given head_dim")
    if fields.head_dim is not None and fields.head_dim % 2:
        raise refusal("head_dim", fields.head_dim, "an even number")
    if family.fills_masks and fields.mask_token_id is None:
        raise refusal("mask_token_id", None, "a model with a mask token")
    if fields.mask_token_id is not None and fields.mask_token_id >= fields.vocab_size:
        raise refusal("mask_token_id", fields.mask_token_id, f"an id below {fields.vocab_size}")
    rope = fields.rope_parameters
    if rope.rope_type not in ("default", "yarn"):
        raise refusal("rope_parameters.rope_type", rope.rope_type, "'yarn' or 'default'")
    if rope.rope_type == "yarn" and rope.original_max_position_embeddings is None:
        raise refusal("rope_parameters.original_max_position_embeddings", None, "a positive number")
    count = len(rope.frequency_factors)
    head_dim = fields.head_dim or fields.hidden_size // fields.num_attention_heads
    if count and 2 * count != head_dim:
        raise refusal("rope_parameters.frequency_factors", count, f"{head_dim // 2} of them")


def _to_model_config(fields: _Json) -> ModelConfig:
    rope = fields.rope_parameters
    ends = fields.eos_token_id
    family = FAMILIES[fields.model_type]
    if family is NEMOTRON:
        family = replace(family, qkv_bias=fields.qkv_bias, qk_norm=fields.qk_norm)
    return ModelConfig(
        family=family,
        vocabulary=fields.vocab_size,
        hidden=fields.hidden_size,
        intermediate=fields.intermediate_size,
        layers=fields.num_hidden_layers,
        heads=fields.num_attention_heads,
        kv_heads=fields.num_key_value_heads,
        head_dim=fields.head_dim or fields.hidden_size // fields.num_attention_heads,
        norm_eps=fields.rms_norm_eps,
        positions_max=fields.max_position_embeddings,
        tied_head=fields.tie_word_embeddings,
        mask_id=fields.mask_token_id if family.fills_masks else None,
        begin_id=fields.bos_token_id,
        end_ids=tuple(ends) if isinstance(ends, list) else (ends,),
        block_length=fields.block_size,
        rope=RopeConfig(
            theta=rope.rope_theta,
            yarn=rope.rope_type == "yarn",
            factor=rope.factor,
            original_positions=rope.original_max_position_embeddings
            or fields.max_position_embeddings,
            beta_fast=rope.beta_fast,
            beta_slow=rope.beta_slow,
            attention_factor=rope.attention_factor
            or attention_temperature(rope.factor, rope.mscale)
            / attention_temperature(rope.factor, rope.mscale_all_dim),
            query_scale_beta=rope.llama_4_scaling_beta or 0.0,
            frequency_factors=rope.frequency_factors,
        ),
    )


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a checkpoint that is written here, with NLD's keys for other loaders."""
    rope, family = config.rope, config.family
    scaling: dict[str, Any] = {}
    if rope.attention_factor != 1.0:
        scaling["attention_factor"] = rope.attention_factor
    if rope.frequency_factors:
        scaling["frequency_factors"] = list(rope.frequency_factors)
    kept = {"qkv_bias": family.qkv_bias, "qk_norm": family.qk_norm}
    return {
        **{key: value for key, value in kept.items() if value},
        "architectures": ["NemotronLabsDiffusionModel"],
        "model_type": family.model_type,
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.positions_max,
        "attention_bias": False,
        "mlp_bias": False,
        "sliding_window": None,
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": config.begin_id,
        "eos_token_id": config.end_ids[0] if len(config.end_ids) == 1 else list(config.end_ids),
        "mask_token_id": config.mask_id,
        "block_size": config.block_length,
        "dlm_paradigm": "bidirectional",
        "torch_dtype": "bfloat16",
        "rope_parameters": {
            "rope_type": "yarn" if rope.yarn else "default",
            "rope_theta": rope.theta,
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original_positions,
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": rope.query_scale_beta,
            **scaling,
        },
    }


def attention_temperature(factor: float, mscale: float) -> float:
    """YaRN's attention temperature (arXiv 2309.00071, eq. 22)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
