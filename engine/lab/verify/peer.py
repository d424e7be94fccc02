"""The same checkpoint in `transformers`: an implementation of the family that nobody here wrote.

NLD is a Ministral 3 decoder under other tensor names; the other families have their own classes.
Config and weights are read from the folder anew, past our parser and our loader, so that their
mistakes show as well.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from engine.errors import EngineFailure
from engine.lab.verify.activations import Trace, capture, layout
from engine.model.families import LLAMA, MINISTRAL3, MISTRAL, NEMOTRON, QWEN2, QWEN3
from engine.model.safetensors_file import weight_files

# By model_type, (config, network) by name: a release of transformers may lack the newer ones.
# Llama computes the same as Ministral 3 but for the query scale of far positions.
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
# Keys that would make transformers look for a class of another name, or another dtype, or ask for
# the library of the quantisation, which is undone here.
_NOT_THEIRS = (
    "architectures",
    "auto_map",
    "model_type",
    "torch_dtype",
    "dtype",
    "quantization_config",
)
_REMEDY = "pip install 'transformers>=5,<6'"
_ADDED = ("rotary_emb.inv_freq", ".k_scale", ".v_scale")  # never weights
_SCALE = "_scale"  # of an int8 weight, (rows, 1)


class TransformersPeer:
    """A checkpoint in transformers, in fp32 until `round_to`. Takes 4 bytes a parameter."""

    def __init__(self, folder: Path, device: torch.device, names: tuple[str, str]) -> None:
        """
        Args:
            names: one of CLASSES' pairs.

        Raises:
            EngineFailure: transformers cannot build or fill it.
        """
        self._device = device
        try:
            self._model = _build(folder, names, device)
        except (torch.OutOfMemoryError, MemoryError):
            raise EngineFailure(f"The copy in transformers does not fit on {device}.") from None
        except Exception as error:  # whatever a foreign library raises, with any config
            raise EngineFailure(
                f"transformers cannot build {names[1]} from {folder}: {error!r}."
            ) from None

    def round_to(self, dtype: torch.dtype) -> None:
        """Rounds the weights, in place: less memory than a second copy."""
        for parameter in self._model.parameters():
            parameter.data = parameter.data.to(dtype)

    def trace(self, tokens: Sequence[int]) -> Trace:
        """As `activations.trace`."""
        ids = torch.tensor([tokens], dtype=torch.int64, device=self._device)
        inner = self._model.model
        modules = layout(inner.embed_tokens, inner.layers, inner.norm, self._model.lm_head)
        return capture(modules, lambda: self._model(ids, use_cache=False))


def find_class(model_type: str) -> tuple[str, str]:
    """The pair of CLASSES to use.

    Raises:
        EngineFailure: transformers is not installed, or has no class for this family.
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
    """The library, where it is installed: a development tool, seconds to import."""
    return importlib.import_module("transformers")


def _build(folder: Path, names: tuple[str, str], device: torch.device) -> Any:
    transformers = _transformers()
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    raw = {key: value for key, value in raw.items() if key not in _NOT_THEIRS}
    config = getattr(transformers, names[0])(**raw, attn_implementation="sdpa")
    with torch.device("meta"):
        model = getattr(transformers, names[1])(config)
    state: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        with safe_open(str(path), framework="pt", device="cpu") as reader:
            for name in reader.keys():  # noqa: SIM118 - not a dict
                if not name.endswith(_ADDED):
                    tensor = reader.get_tensor(name).to(device, torch.float32)
                    state[_their_name(name)] = tensor
    for name in [name for name in state if name.endswith(_SCALE)]:
        state[name.removesuffix(_SCALE)] *= state.pop(name)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    # Its only buffers are derived from the config and were left on the meta device.
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config).to(device)
    return model.requires_grad_(False).eval()


def _their_name(name: str) -> str:
    for ours, theirs in _THEIR_NAMES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
