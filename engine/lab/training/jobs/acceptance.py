"""How many tokens a cycle of linear_spec emits, with and without the drafter, on the same prompts.

The real decoding loop runs with copied drafts switched off, so that the drafter alone is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.decoders.linear_spec import LinearSpec
from engine.lab.verify.modes import Runner
from engine.model.adapter import DrafterAdapter
from engine.model.network import Network
from engine.model.runner import ModelRunner

_TOKENS_MAX = 64


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Sums over all prompts.

    Attributes:
        tokens: tokens emitted after the prompts' own, ends of texts included.
        cycles: verifications; each emits the drafts that were right and one token more.
        forwards: device calls after the prompts.
    """

    tokens: int
    cycles: int
    forwards: int
    texts: tuple[tuple[int, ...], ...]

    @property
    def per_cycle(self) -> float:
        """Tokens emitted per cycle."""
        return self.tokens / max(1, self.cycles)

    @property
    def per_forward(self) -> float:
        """Tokens emitted per forward."""
        return self.tokens / max(1, self.forwards)


def measure_acceptance(
    network: Network,
    adapter: DrafterAdapter | None,
    prompts: Sequence[tuple[int, ...]],
    stop_token_ids: tuple[int, ...],
) -> Acceptance:
    """Decodes greedily in the checkpoint's blocks, at most 64 tokens for each prompt."""
    device = network.encoder.embed_tokens.weight.device
    runner = Runner(ModelRunner(network, device=device, adapter=adapter))
    strategy = LinearSpec(uses_copies=False)
    with torch.inference_mode():
        done = [
            runner.decode(
                runner.request(prompt, "linear_spec", _TOKENS_MAX, stop_token_ids), strategy
            )
            for prompt in prompts
        ]
    # The first token came with the prompt; an end of text was emitted, although it is not shown.
    tokens = sum(max(0, len(each.tokens) - 1 + each.ended) for each in done)
    cycles, forwards = sum(each.cycles for each in done), sum(each.forwards for each in done)
    return Acceptance(tokens, cycles, forwards, tuple(each.tokens for each in done))
