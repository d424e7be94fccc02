"""mlx-vlm's own Nemotron-Labs-Diffusion with the weights of one of our networks, in fp32.

Its package initialiser imports audio, vision and server libraries that a language model does not
need, so it is bypassed, and only the modules of this one model are loaded.
"""

from __future__ import annotations

import importlib.util
import sys
import types

import mlx.core as mx
import numpy as np

from engine.model.config import to_json
from engine.model.network import Network


def _bare(name: str) -> None:
    """Makes a package importable from without running its initialiser."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules[name] = package


class MlxPeer:
    """Greedy decoding by mlx-vlm. Tokens in, emitted tokens out."""

    def __init__(self, network: Network) -> None:
        for name in ("mlx_vlm", "mlx_vlm.generate", "mlx_vlm.models"):
            if name not in sys.modules:
                _bare(name)
        config = importlib.import_module("mlx_vlm.models.nemotron_labs_diffusion.config")
        language = importlib.import_module("mlx_vlm.models.nemotron_labs_diffusion.language")
        fields = config.ModelConfig.__dataclass_fields__
        raw = {key: value for key, value in to_json(network.config).items() if key in fields}
        mx.set_default_device(mx.cpu)
        self._model = language.LanguageModel(config.ModelConfig(**raw))
        weights = [
            (name.replace("encoder.", "model.", 1), mx.array(np.asarray(tensor.float())))
            for name, tensor in network.state_dict().items()
        ]
        self._model.load_weights(weights)
        mx.eval(self._model.parameters())
        self._never_emit(network.config.mask_id)

    def _never_emit(self, mask_id: int | None) -> None:
        """Switches off the one difference of the samplers: theirs, like the first reference code,
        lets the mask token itself win the argmax; ours, like vLLM and SGLang, never emits it. Its
        probability stays in the denominator of the confidence in both."""
        model = self._model

        def without_mask(logits: mx.array) -> mx.array:
            return mx.where(mx.arange(logits.shape[-1]) == mask_id, -mx.inf, logits)

        def sample(logits: mx.array, temperature: float = 0.0, **_: object):
            token = mx.argmax(without_mask(logits), axis=-1)
            logit = mx.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
            return token, mx.exp(logit - mx.logsumexp(logits, axis=-1))

        model._sample_with_temperature_topk_topp = sample
        model._sample_tokens = lambda logits, **_: mx.argmax(without_mask(logits), axis=-1)

    def logits(self, tokens: tuple[int, ...]) -> np.ndarray:
        """(T, V) of a plain causal pass."""
        return np.array(self._model(mx.array([tokens])).logits[0])

    def ar(self, prompt: tuple[int, ...], tokens_max: int) -> tuple[int, ...]:
        output, _ = self._model.ar_generate(mx.array([prompt]), tokens_max, eos_token_id=-1)
        return tuple(output[0].tolist()[len(prompt) :])

    def linear_spec(
        self, prompt: tuple[int, ...], tokens_max: int, block_length: int
    ) -> tuple[int, ...]:
        output, _ = self._model.linear_spec_generate(
            mx.array([prompt]), tokens_max, block_length=block_length, eos_token_id=-1
        )
        return tuple(output[0].tolist()[len(prompt) :])

    def block(
        self, prompt: tuple[int, ...], tokens_max: int, block_length: int, threshold: float
    ) -> tuple[int, ...]:
        """The reference sampler ("native"), as many steps as a block can need."""
        output = self._model.generate(
            mx.array([prompt]),
            gen_length=tokens_max,
            block_length=block_length,
            steps=block_length,
            threshold=threshold,
            sampler="native",
            eos_id=-1,
        )
        return tuple(output[0].tolist())
