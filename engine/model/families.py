"""Model families as mappings onto the one network: how keys and tensor names differ.

A family is data, not code: the network computes what its config says (biases, tied head, rotary
kind), wherever the checkpoint came from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """How one `model_type` differs from Nemotron-Labs-Diffusion.

    Attributes:
        qkv_bias: whether the q, k and v projections have biases (not a config key in Qwen2).
        qk_norm: whether each head's queries and keys are RMS-normalised before rotation.
        fills_masks: whether the models were trained to fill masks; others decode causally only.
        prefixes: (ours, theirs) beginnings of tensor names.
    """

    model_type: str
    qkv_bias: bool = False
    qk_norm: bool = False
    fills_masks: bool = True
    prefixes: tuple[tuple[str, str], ...] = ()

    def tensor_name(self, ours: str) -> str:
        """The checkpoint's name for one of the network's tensors."""
        for mine, theirs in self.prefixes:
            if ours.startswith(mine):
                return theirs + ours.removeprefix(mine)
        return ours


_TRANSFORMERS = (("encoder.", "model."), ("diffusion_head.", "lm_head."))

NEMOTRON = Family("nemotron_labs_diffusion")
LLAMA = Family("llama", fills_masks=False, prefixes=_TRANSFORMERS)
MISTRAL = Family("mistral", fills_masks=False, prefixes=_TRANSFORMERS)
MINISTRAL3 = Family("ministral3", fills_masks=False, prefixes=_TRANSFORMERS)
QWEN2 = Family("qwen2", qkv_bias=True, fills_masks=False, prefixes=_TRANSFORMERS)
QWEN3 = Family("qwen3", qk_norm=True, fills_masks=False, prefixes=_TRANSFORMERS)

FAMILIES = {
    family.model_type: family for family in (NEMOTRON, LLAMA, MISTRAL, MINISTRAL3, QWEN2, QWEN3)
}

# The released Nemotron-Labs-Diffusion: layers, hidden size and feed-forward size. All of them have
# 32 query heads and 8 key heads of width 128.
RELEASED = {"3B": (26, 3072, 9216), "8B": (34, 4096, 14336), "14B": (40, 5120, 16384)}
