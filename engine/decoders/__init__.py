"""The decoding strategies by mode. A strategy decides; it neither computes nor caches."""

from __future__ import annotations

from typing import Any

from engine.decoders.ar import AutoRegressive
from engine.decoders.block import BlockDiffusion
from engine.decoders.copy_spec import CopySpec
from engine.decoders.linear_spec import LinearSpec
from engine.decoders.pruned_spec import PrunedSpec
from engine.decoders.quadratic_spec import QuadraticSpec
from engine.decoders.shifted_block import ShiftedBlock
from engine.decoders.strategy import Strategy, Traits

STRATEGIES: dict[str, Strategy[Any]] = {
    "ar": AutoRegressive(),
    "block": BlockDiffusion(),
    "linear_spec": LinearSpec(),
    "quadratic_spec": QuadraticSpec(),
    "pruned_spec": PrunedSpec(),
    "copy_spec": CopySpec(),
}


def strategy_for(mode: str, traits: Traits) -> Strategy[Any]:
    """The strategy of a mode, by the convention that the checkpoint's masks follow.

    Block diffusion is another algorithm where masks predict the token after their place; in the
    other modes the convention only decides how many masks there are.
    """
    return ShiftedBlock() if mode == "block" and traits.shifts else STRATEGIES[mode]
