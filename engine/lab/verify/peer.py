"""The same network in `transformers`, an independent implementation of each family.

NLD is a Ministral 3 decoder with other tensor names; the other families have their own classes. To
examine a checkpoint, the peer reads config and weights from the folder without our parser and
loader, so that their mistakes show as well. To be timed, it shares our weights, so that a large
network need not fit twice.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from engine.api import Request
from engine.errors import EngineFailure
from engine.lab.verify.activations import Trace, capture, layout
from engine.model.config import to_json
from engine.model.families import LLAMA, MINISTRAL3, MISTRAL, NEMOTRON, QWEN2, QWEN3
from engine.model.network import Network
from engine.model.safetensors_file import weight_files

# The names of (config, network) by model_type; older releases of transformers lack the first ones.
# Llama computes the same as Ministral 3 except the query scale of distant positions.
CLASSES = {
    NEMOTRON.model_type: (
        ("Ministral3Config", "Ministral3ForCausalLM"),
        ("LlamaConfig", "LlamaForCausalLM"),
    ),
    LLAMA.model_type: (("LlamaConfig", "LlamaForCausalLM"),),
    MISTRAL.model_type: (("MistralConfig", "MistralForCausalLM"),),
    MINISTRAL3.model_type: (("Ministral3Config", "Ministral3ForCausalLM"),),
    QWEN2.model_type: (("Qwen2Config", "Qwen2ForCausalLM"),),
    QWEN3.model_type: (("Qwen3Config", "Qwen3ForCausalLM"),),
}
_THEIR_NAMES = (("encoder.", "model."), ("diffusion_head.", "lm_head."))
# Keys that would make transformers choose another class or dtype, or need a quantisation library;
# and those of diffusion.
_NOT_THEIRS = (
    "architectures",
    "auto_map",
    "model_type",
    "torch_dtype",
    "dtype",
    "quantization_config",
    "mask_token_id",
    "block_size",
    "dlm_paradigm",
)
_REMEDY = "pip install 'transformers>=5,<6'"
_ADDED = ("rotary_emb.inv_freq", ".k_scale", ".v_scale")  # these are no weights
_SCALE = "_scale"  # of an int8 weight, (rows, 1)


@dataclass(frozen=True, slots=True)
class PeerResult:
    """The emitted tokens, and the seconds after the prefill."""

    tokens: tuple[int, ...]
    seconds: float


class TransformersPeer:
    """A network as transformers computes it."""

    def __init__(self, model: Any, device: torch.device) -> None:
        """
        Args:
            model: an instance of transformers' class.
        """
        self._model = model
        self._device = device

    @classmethod
    def read(cls, folder: Path, device: torch.device, names: tuple[str, str]) -> TransformersPeer:
        """The checkpoint of a folder, in fp32 until `round_to`.

        Args:
            names: a pair of CLASSES.

        Raises:
            EngineFailure: transformers cannot build or fill it.
        """
        try:
            raw = json.loads((folder / "config.json").read_text("utf-8"))
            return cls(_build(raw, names, _read_weights(folder, device), device), device)
        except (torch.OutOfMemoryError, MemoryError):
            raise EngineFailure(f"The copy in transformers does not fit on {device}.") from None
        except Exception as error:  # the library raises anything for a wrong config
            raise EngineFailure(
                f"transformers cannot build {names[1]} from {folder}: {error!r}."
            ) from None

    @classmethod
    def sharing(cls, network: Network) -> TransformersPeer:
        """The peer of our network, on the same tensors. Raises as `find_class`."""
        names = find_class(network.config.family.model_type)
        device = next(network.parameters()).device
        weights = {_their_name(name): value for name, value in network.state_dict().items()}
        return cls(_build(to_json(network.config), names, weights, device), device)

    def round_to(self, dtype: torch.dtype) -> None:
        """Rounds the weights in place, which needs less memory than a copy."""
        for parameter in self._model.parameters():
            parameter.data = parameter.data.to(dtype)

    def trace(self, tokens: Sequence[int]) -> Trace:
        """As `activations.trace`."""
        ids = torch.tensor([tokens], dtype=torch.int64, device=self._device)
        inner = self._model.model
        modules = layout(inner.embed_tokens, inner.layers, inner.norm, self._model.lm_head)
        return capture(modules, lambda: self._model(ids, use_cache=False))

    def generate(
        self, request: Request, *, threads: int = 1, static_cache: bool = False
    ) -> PeerResult:
        """The greedy tokens of a request up to its first stop token, and their time.

        The time of a run for one token is subtracted as the prefill.

        Args:
            static_cache: whether the cache has a fixed size; transformers then compiles on CUDA.
        """
        torch.set_num_threads(threads)
        prefill = self._timed(request, 1, static_cache)
        whole = self._timed(request, request.limits.tokens_max, static_cache)
        tokens = [token for token in whole.tokens if token not in request.stop_token_ids]
        return PeerResult(tuple(tokens), max(whole.seconds - prefill.seconds, 1e-9))

    @torch.inference_mode()
    def _timed(self, request: Request, tokens_max: int, static_cache: bool) -> PeerResult:
        prompt = torch.tensor([request.prompt], device=self._device)
        stop = [*request.stop_token_ids]
        extra = {"cache_implementation": "static"} if static_cache else {}
        began = time.perf_counter()
        output = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens_max,
            do_sample=False,
            eos_token_id=stop or None,
            pad_token_id=stop[0] if stop else 0,
            **extra,
        )
        tokens = output[0, len(request.prompt) :].tolist()
        return PeerResult(tuple(tokens), time.perf_counter() - began)


def find_class(model_type: str) -> tuple[str, str]:
    """The pair of CLASSES to use.

    Raises:
        EngineFailure: transformers is not installed or has no class for this family.
    """
    try:
        transformers = _transformers()
    except ImportError:
        raise EngineFailure("transformers is not installed.", remedy=_REMEDY) from None
    for names in CLASSES.get(model_type, ()):
        if all(hasattr(transformers, name) for name in names):
            return names
    raise EngineFailure(
        f"transformers {transformers.__version__} has no class for {model_type}.", remedy=_REMEDY
    )


def _transformers() -> Any:
    """The library, a development tool that takes seconds to import."""
    return importlib.import_module("transformers")


def _build(
    raw: Mapping[str, Any],
    names: tuple[str, str],
    weights: dict[str, torch.Tensor],
    device: torch.device,
) -> Any:
    """A network of transformers.

    Args:
        raw: a checkpoint's `config.json`.
        weights: the tensors by transformers' names.
    """
    transformers = _transformers()
    kept = {key: value for key, value in raw.items() if key not in _NOT_THEIRS}
    config = getattr(transformers, names[0])(**kept, attn_implementation="sdpa")
    with torch.device("meta"):
        model = getattr(transformers, names[1])(config)
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, strict=True, assign=True)
    # Its only buffers follow from the config and are still on the meta device.
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config).to(device)
    return model.requires_grad_(False).eval()


def _read_weights(folder: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """All weights in fp32 by transformers' names; int8 ones are dequantized."""
    weights: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        with safe_open(str(path), framework="pt", device="cpu") as reader:
            for name in reader.keys():  # noqa: SIM118 - not a dict
                if not name.endswith(_ADDED):
                    tensor = reader.get_tensor(name).to(device, torch.float32)
                    weights[_their_name(name)] = tensor
    for name in [name for name in weights if name.endswith(_SCALE)]:
        weights[name.removesuffix(_SCALE)] *= weights.pop(name)
    return weights


def _their_name(name: str) -> str:
    for ours, theirs in _THEIR_NAMES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
