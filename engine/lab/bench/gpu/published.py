"""How many tokens a forward yields, as others have published it or as we measured it elsewhere.

Nothing here was measured on the card whose times it is multiplied with: such products are labelled
"published, replayed". Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass

_PAPER = "Nemotron-Labs-Diffusion, arXiv 2607.05722"
_SPEED = f"SPEED-Bench, {_PAPER}"
_TASKS = f"mean of ten tasks, {_PAPER}"
_THIRD = "linyewei526/Nemotron-Labs-Diffusion (third party)"
_OWN = "benchmarks/mask_adapter.md (the CPU's engine)"


@dataclass(frozen=True, slots=True)
class Published:
    """One published yield.

    Attributes:
        shape: the model's name in `engine.lab.bench.shapes.SHAPES`.
        mode: the engine's name of the decoding mode.
        rows: of each of its steps. Where the source does not say, what the mode takes there.
        tokens: per forward, the prompt's not counted.
        task, source: what was decoded, and who says so.
    """

    shape: str
    mode: str
    rows: int
    tokens: float
    task: str
    source: str


YIELDS = (
    Published("8B", "ar", 1, 1.0, "any", "by definition"),
    Published("8B", "block", 32, 2.57, "ten tasks", _TASKS),
    Published("8B", "linear_spec", 32, 5.46 / 2, "without drafter LoRA", _SPEED),
    Published("8B", "linear_spec", 32, 6.82 / 2, "with drafter LoRA", _SPEED),
    Published("8B", "linear_spec", 8, 3.31, "HumanEval", _THIRD),
    Published("8B", "linear_spec", 16, 5.08, "HumanEval", _THIRD),
    Published("8B", "linear_spec", 32, 6.16, "HumanEval", _THIRD),
    Published("8B", "linear_spec", 32, 4.56, "MBPP", _THIRD),
    Published("8B", "quadratic_spec", 272, 6.38, "ten tasks; rows assumed", _TASKS),
    Published("14B", "ar", 1, 1.0, "any", "by definition"),
    Published("14B", "linear_spec", 32, 8.38, "HumanEval", _THIRD),
    Published("14B", "linear_spec", 32, 5.74, "MBPP", _THIRD),
    Published("3B", "ar", 1, 1.0, "any", "by definition"),
    Published("qwen 0.5B", "ar", 1, 1.0, "any", "by definition"),
    Published("qwen 0.5B", "pruned_spec", 32, 1.91, "held-out prompts", _OWN),
    Published("qwen 1.5B", "ar", 1, 1.0, "any", "by definition"),
    Published("qwen 1.5B", "pruned_spec", 32, 1.95, "held-out prompts", _OWN),
    Published("qwen 7B", "ar", 1, 1.0, "any", "by definition"),
)


@dataclass(frozen=True, slots=True)
class PublishedStep:
    """A published time of a whole forward, to be held against the floor.

    Attributes:
        card: a name in `cards.CARDS`.
        milliseconds: of one forward of `rows` rows after `context` tokens, in bf16.
    """

    shape: str
    card: str
    rows: int
    context: int
    milliseconds: float
    source: str


_SGLANG = f"SGLang with CUDA graphs, {_THIRD}"
STEPS = tuple(
    PublishedStep("8B", "B200", rows, 330, milliseconds, _SGLANG)
    for rows, milliseconds in (
        (8, 4.98), (16, 5.12), (32, 5.56), (64, 6.58), (128, 9.5), (256, 10.7), (512, 14.6),
    )
)  # fmt: skip
