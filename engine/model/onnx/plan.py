"""How a graph is built: the choices that are made per model and machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

# How linear layers are computed: "float32"; "int8" with signed weights; "uint8" with unsigned ones
# (the same numbers, shifted). See `engine.model.onnx.products`.
Product = Literal["float32", "int8", "uint8"]
PRODUCTS: tuple[Product, ...] = get_args(Product)


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """What a graph is built as.

    Attributes:
        product: how linear layers are computed.
        half_cache: new keys and values are rounded to fp16 before anything sees them, so that they
            can be kept as fp16 and a row sees the same numbers whether or not they were cached.
    """

    product: Product
    half_cache: bool
