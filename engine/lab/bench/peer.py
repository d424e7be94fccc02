"""`transformers.generate` on the same weights: the ordinary engine that ours is measured beside.

The checkpoints are Ministral 3 decoders with a head of another name, so that transformers' own
class computes them; greedily, with its cache, in the same dtype and with the same threads. The
weights' tensors are shared, so that a large network need not fit twice.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.api import Request
from engine.config import EngineSettings
from engine.device import resolve
from engine.errors import EngineFailure
from engine.model.checkpoint import load_network
from engine.model.config import read_config, to_json
from engine.model.network import Network


@dataclass(frozen=True, slots=True)
class PeerResult:
    """Tokens emitted, and seconds behind the prompt's prefill."""

    tokens: tuple[int, ...]
    seconds: float


class TransformersPeer:
    """A network as transformers computes it."""

    def __init__(self, network: Network, threads: int, *, static_cache: bool = False) -> None:
        """
        Args:
            static_cache: K/V of one fixed size; on CUDA transformers then compiles the forward.

        Raises:
            EngineFailure: transformers is not installed.
        """
        self._model = to_transformers(network)
        self._threads = threads
        self._extra = {"cache_implementation": "static"} if static_cache else {}

    @classmethod
    def load(cls, settings: EngineSettings) -> TransformersPeer:
        """Reads a checkpoint.

        Raises:
            EngineError: it cannot be read, or transformers is not installed.
        """
        settings = resolve(replace(settings, backend="torch"))
        folder = settings.checkpoint_path()
        device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
        network = load_network(folder, read_config(folder), device=device, dtype=dtype)
        return cls(network, settings.threads or 1)

    def generate(self, request: Request) -> PeerResult:
        """Greedy tokens of a request up to its first stop token, and the time they took.

        The prefill's time is that of a run for one token, taken off.
        """
        torch.set_num_threads(self._threads)
        stop = [*request.stop_token_ids]
        prefill = self._timed(request, stop, 1)
        whole = self._timed(request, stop, request.limits.tokens_max)
        tokens = [token for token in whole.tokens if token not in stop]
        return PeerResult(tuple(tokens), max(whole.seconds - prefill.seconds, 1e-9))

    @torch.inference_mode()
    def _timed(self, request: Request, stop: list[int], tokens_max: int) -> PeerResult:
        prompt = torch.tensor([request.prompt], device=self._model.device)
        began = time.perf_counter()
        output = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens_max,
            do_sample=False,
            eos_token_id=stop or None,
            pad_token_id=stop[0] if stop else 0,
            **self._extra,
        )
        tokens = output[0, len(request.prompt) :].tolist()
        return PeerResult(tuple(tokens), time.perf_counter() - began)


def to_transformers(network: Network) -> Any:
    """The network as `Ministral3ForCausalLM`, on the same tensors.

    Raises:
        EngineFailure: transformers is not installed.
    """
    try:
        from transformers import Ministral3Config, Ministral3ForCausalLM
    except ImportError:
        raise EngineFailure(
            "transformers is not installed.", remedy="pip install -e '.[dev]'"
        ) from None
    raw = {key: value for key, value in to_json(network.config).items() if key not in _NOT_THEIRS}
    with torch.device("meta"):
        model: Any = Ministral3ForCausalLM(Ministral3Config(**raw))
    state = {
        name.replace("encoder.", "model.", 1).replace("diffusion_head", "lm_head"): tensor
        for name, tensor in network.state_dict().items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    # Its only buffers are derived from the config and were left on the meta device.
    device = next(network.parameters()).device
    model.model.rotary_emb.inv_freq = network.frequencies.to(device)
    return model.eval()


# Keys that would make transformers look for another class, or that belong to diffusion.
_NOT_THEIRS = {
    "architectures",
    "model_type",
    "mask_token_id",
    "block_size",
    "dlm_paradigm",
    "torch_dtype",
}
