"""Reads the metadata of a GGUF file as this engine's config.

The supported architectures are the one network under other names: qwen2, qwen3, llama (which
Mistral's files also use) and mistral3. A key that would change the computation is refused by name.
Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.errors import CheckpointError
from engine.model.config import ModelConfig, RopeConfig, attention_temperature
from engine.model.families import LLAMA, MINISTRAL3, QWEN2, QWEN3
from engine.model.gguf_file import GGUFFile

FAMILIES = {"llama": LLAMA, "mistral3": MINISTRAL3, "qwen2": QWEN2, "qwen3": QWEN3}
EMBEDDING, HEAD, FREQUENCIES = "token_embd.weight", "output.weight", "rope_freqs.weight"
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Tokens that end a text, a turn or a message in some vocabulary. A file often does not name the ids
# of all of them, so they are also looked for among the tokens that are not ordinary text.
_END_NAMES = frozenset((
    "<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "</s>",
    "<|end|>", "<|EOT|>", "<|eot|>", "<|end▁of▁sentence|>", "<｜end▁of▁sentence｜>",
))  # fmt: skip
# Far above any model's. They bound the memory that is used before tensors have been checked.
_HEAD_DIM_MAX, _LAYERS_MAX = 1 << 14, 1 << 12
_CONTROL, _ADDED = 3, 4  # types of tokens that are not ordinary text
_NONE = (None, 0, 0.0, False)
# Keys that change the computation, and the values with which it is this network's.
_REFUSED: dict[str, tuple[object, ...]] = {
    "expert_count": _NONE,
    "attention.causal": (None, True),
    "attention.scale": _NONE,
    "attention.clamp_kqv": _NONE,
    "attention.max_alibi_bias": _NONE,
    "logit_scale": (*_NONE, 1.0),
    "residual_scale": (*_NONE, 1.0),
    "embedding_scale": (*_NONE, 1.0),
    "rope.scaling.attn_factor": (*_NONE, 1.0),
    "rope.scaling.yarn_attn_factor": (*_NONE, 1.0),
    "rope.scaling.yarn_ext_factor": (*_NONE, 1.0, -1.0),
}


def gguf_config(file: GGUFFile) -> ModelConfig:
    """The checked config that the metadata describes.

    Raises:
        CheckpointError: a key is missing or wrong, or describes an unsupported model.
    """
    keys = _Keys(file)
    hidden, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    kv_heads = keys.integer("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise keys.wrong("attention.head_count_kv", kv_heads, f"a divisor of {heads}")
    head_dim = keys.integer("attention.key_length", max(1, hidden // heads))
    if head_dim > _HEAD_DIM_MAX:
        raise keys.wrong("attention.key_length", head_dim, f"at most {_HEAD_DIM_MAX}")
    for key in ("attention.value_length", "rope.dimension_count"):
        if keys.integer(key, head_dim) != head_dim:
            raise keys.wrong(key, keys.integer(key), f"{head_dim}, the width of a head")
    if head_dim % 2:
        raise keys.wrong("attention.key_length", head_dim, "an even number")
    layers = keys.integer("block_count")
    if layers > min(len(file.tensors), _LAYERS_MAX):
        raise keys.wrong("block_count", layers, "no more than the file has tensors for")
    context = keys.integer("context_length")
    # Within its window, windowed attention is full attention.
    window = keys.integer("attention.sliding_window", 0, low=0)
    vocabulary = _vocabulary(file)
    begins = keys.metadata.get("tokenizer.ggml.add_bos_token") is not False
    return ModelConfig(
        vocabulary=vocabulary,
        hidden=hidden,
        intermediate=keys.integer("feed_forward_length"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=keys.number("attention.layer_norm_rms_epsilon", low=0.0, high=0.1),
        positions_max=min(context, window or context),
        tied_head=HEAD not in file.tensors,
        mask_id=None,
        begin_id=keys.token("bos_token_id", vocabulary) if begins else None,
        end_ids=_end_ids(keys, vocabulary),
        block_length=32,
        rope=_rope(keys, file, head_dim, context),
        family=FAMILIES[keys.architecture],
    )


class _Keys:
    """Checked values by key; the architecture's keys are given without its name."""

    def __init__(self, file: GGUFFile) -> None:
        self.path = file.path
        self.metadata: Mapping[str, Any] = file.metadata
        _check_whole(file)
        self.architecture = _architecture(file)
        for key, accepted in _REFUSED.items():
            if (value := self.get(key)) not in accepted:
                raise self.wrong(key, value, f"models without {key}")

    def get(self, key: str) -> Any:
        return self.metadata.get(f"{self.architecture}.{key}")

    def integer(self, key: str, default: int | None = None, *, low: int = 1) -> int:
        value = self.get(key)
        if value is None and default is not None:
            return default
        # A bool is an int to Python; a list gives a number to each layer.
        if type(value) is not int or not low <= value < 2**31:
            raise self.wrong(key, value, f"one number from {low} on")
        return value

    def number(self, key: str, default: float | None = None, *, low: float, high: float) -> float:
        """A number above `low` and below `high`."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
            raise self.wrong(key, value, f"a number between {low:g} and {high:g}")
        return _shortest(float(value))

    def token(self, key: str, vocabulary: int) -> int | None:
        """A special token's id; None if the file has none, which some write as -1 or 2^32-1."""
        whole = f"tokenizer.ggml.{key}"
        value = self.metadata.get(whole)
        if value is None or value in (-1, 2**32 - 1):
            return None
        if type(value) is not int or not 0 <= value < vocabulary:
            raise _refusal(self.path, whole, value, f"an id below {vocabulary}")
        return value

    def wrong(self, key: str, value: object, expected: str) -> CheckpointError:
        return _refusal(self.path, f"{self.architecture}.{key}", value, expected)


def _check_whole(file: GGUFFile) -> None:
    """Raises CheckpointError for a file that is not a model, or only a part of one."""
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise _refusal(file.path, "general.type", kind, "'model'")
    parts = file.metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise CheckpointError(
            f"{file.path} is one part of a model: split.count is {str(parts)[:20]}.",
            remedy="Join them with llama-gguf-split --merge FIRST-PART OUTPUT, and give that file.",
            param="split.count",
        )


def _architecture(file: GGUFFile) -> str:
    name = file.metadata.get("general.architecture")
    if isinstance(name, str) and name in FAMILIES:
        return name
    raise _refusal(file.path, "general.architecture", name, " or ".join(FAMILIES))


def _vocabulary(file: GGUFFile) -> int:
    header = file.tensors.get(EMBEDDING)
    if header is None or len(header.shape) != 2:
        raise CheckpointError(
            f"{file.path} has no table {EMBEDDING}.",
            remedy="Use a file that holds a whole model.",
            param=EMBEDDING,
        )
    return header.shape[0]


def _rope(keys: _Keys, file: GGUFFile, head_dim: int, context: int) -> RopeConfig:
    """Rotary positions as llama.cpp understands the keys."""
    kind = keys.get("rope.scaling.type")
    kind = "linear" if kind is None else kind
    if kind not in ("none", "linear", "yarn"):
        raise keys.wrong("rope.scaling.type", kind, "'none', 'linear' or 'yarn'")
    key = "rope.scale_linear" if keys.get("rope.scaling.factor") is None else "rope.scaling.factor"
    # 0 stands for no scaling.
    factor = 1.0 if kind == "none" or keys.get(key) == 0 else keys.number(key, 1.0, low=0, high=1e4)
    if factor < 1:
        raise keys.wrong(key, factor, "at least 1")
    factors = _frequency_factors(file, head_dim)
    if kind == "linear" and factor > 1:
        factors = tuple(factor * other for other in factors or (1.0,) * (head_dim // 2))
    yarn = kind == "yarn"
    original = keys.integer("rope.scaling.original_context_length", context)
    is_mistral = keys.architecture == "mistral3"
    beta = keys.number("attention.temperature_scale", 0.0, low=-1e-9, high=10) if is_mistral else 0
    return RopeConfig(
        theta=keys.number("rope.freq_base", 10_000.0, low=1, high=1e12),
        yarn=yarn,
        factor=factor if yarn else 1.0,
        original_positions=original,
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0, low=0, high=1e6),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0, low=0, high=1e6),
        attention_factor=_attention_factor(keys, factor) if yarn else 1.0,
        query_scale_beta=float(beta),
        frequency_factors=factors,
    )


def _attention_factor(keys: _Keys, factor: float) -> float:
    """YaRN's factor of cos and sin: DeepSeek's two temperatures if the file has the second one,
    else the temperature of the paper, which Mistral's models do not use."""
    both = keys.number("rope.scaling.yarn_log_multiplier", 0.0, low=-1e-9, high=100)
    if not both and keys.architecture == "mistral3":
        return 1.0
    return attention_temperature(factor, 1.0) / attention_temperature(factor, both)


def _frequency_factors(file: GGUFFile, head_dim: int) -> tuple[float, ...]:
    """Llama 3.1's divisors of the D/2 frequencies, which are stored as a tensor."""
    header = file.tensors.get(FREQUENCIES)
    if header is None:
        return ()
    if header.shape != (head_dim // 2,) or header.type.name != "F32":
        raise CheckpointError(
            f"{file.path}: {FREQUENCIES} is {header.type.name} {list(header.shape)}; this engine "
            f"reads F32 [{head_dim // 2}].",
            remedy="Convert the model again with a recent llama.cpp.",
            param=FREQUENCIES,
        )
    factors = file.stored_rows(header).view("<f4")[0]
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise CheckpointError(
            f"{file.path}: {FREQUENCIES} contains numbers that are not finite and positive.",
            remedy="Copy or download the file again.",
            param=FREQUENCIES,
        )
    return () if (factors == 1).all() else tuple(factors.tolist())


def _end_ids(keys: _Keys, vocabulary: int) -> tuple[int, ...]:
    """The ids that end a text, each once: first those that the file names, then those by name."""
    stated = [keys.token(key, vocabulary) for key in _ENDS]
    tokens = keys.metadata.get("tokenizer.ggml.tokens")
    kinds = keys.metadata.get("tokenizer.ggml.token_type")
    found: list[int | None] = []
    if isinstance(tokens, list):
        tokens = tokens[:vocabulary]
        if not isinstance(kinds, list) or len(kinds) < len(tokens):
            kinds = [_CONTROL] * len(tokens)  # the file has no types
        found = [
            index
            for index, token in enumerate(tokens)
            if token in _END_NAMES and kinds[index] in (_CONTROL, _ADDED)
        ]
    ids = tuple(dict.fromkeys(token for token in (*stated, *found) if token is not None))
    if not ids:
        raise _refusal(keys.path, "tokenizer.ggml.eos_token_id", None, "models with an end token")
    return ids


def _shortest(value: float) -> float:
    """The shortest decimal that rounds to this float32: 1e-06 and not 9.99999997e-07."""
    narrow = np.float32(value)
    return float(str(narrow)) if math.isfinite(value) and float(narrow) == value else value


def _refusal(path: object, key: str, value: object, expected: str) -> CheckpointError:
    found = "missing" if value is None else repr(value)[:60]
    return CheckpointError(
        f"{path}: {key} is {found}; this engine reads {expected}.",
        remedy="Use a GGUF file of a supported model, or its checkpoint folder.",
        param=key,
    )
