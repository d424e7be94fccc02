"""The decoding strategies by mode. A strategy decides; it neither computes nor caches."""

from __future__ import annotations

from typing import Any

from engine.decoders.ar import AutoRegressive
from engine.decoders.block import BlockDiffusion
from engine.decoders.copy_spec import CopySpec
from engine.decoders.linear_spec import LinearSpec
from engine.decoders.pruned_spec import PrunedSpec
from engine.decoders.quadratic_spec import QuadraticSpec
from engine.decoders.strategy import Strategy

STRATEGIES: dict[str, Strategy[Any]] = {
    "ar": AutoRegressive(),
    "block": BlockDiffusion(),
    "linear_spec": LinearSpec(),
    "quadratic_spec": QuadraticSpec(),
    "pruned_spec": PrunedSpec(),
    "copy_spec": CopySpec(),
}
