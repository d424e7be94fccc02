"""The plan of a graph: the choices that depend on the model and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

# How linear layers are computed: in float32, with signed int8 weights, or with unsigned uint8
# weights (the same numbers, shifted). See `engine.model.onnx.products`.
Product = Literal["float32", "int8", "uint8"]
PRODUCTS: tuple[Product, ...] = get_args(Product)


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """How a graph is built.

    Attributes:
        product: how linear layers are computed.
        half_cache: whether new keys and values are rounded to fp16 before they are used. They can
            then be cached as fp16, and a row sees the same numbers whether they were cached or not.
    """

    product: Product
    half_cache: bool
