"""The decoder of `engine.model.network` as an ONNX graph over the rows of one step.

Inputs, for R rows that see P cached tokens (Hkv heads of width D cached for each layer):

    x (R, hidden)                  the rows' embeddings
    cos, sin (R, H + Hkv, D)       of queries (scaled by 1 / sqrt(D)) and keys; see `inputs`
    mask (R, P + R)                added to the scores: 0 where visible, else `inputs.HIDDEN`
    read (N,) int64                the rows whose logits are wanted
    drafter (R, 1)                 1 for rows that run with the drafter LoRA, where there is one
    key.{layer}.{head}, value.{layer}.{head} (P, D)

A head's cached keys are an input of their own, because then they lie one behind the other in
memory and the cache gives them to the graph without copying. Outputs:

    new (layers, 2, Hkv, R, D)     the rows' own keys and values
    logits (N, V)                  of the rows that are read, fp32
"""

from __future__ import annotations

from typing import Protocol

import numpy
from numpy import ndarray

from engine.model.adapter_weights import AdapterWeights
from engine.model.config import ModelConfig
from engine.onnx.plan import GraphPlan
from engine.onnx.products import MICROSOFT, Linear
from engine.onnx.writer import GraphWriter

_FLOAT32, _FLOAT16 = 1, 10  # TensorProto.DataType


class WeightSource(Protocol):
    """The tensors of a checkpoint by the network's names, fp32."""

    def read(self, name: str) -> ndarray: ...


def write_graph(
    writer: GraphWriter,
    config: ModelConfig,
    weights: WeightSource,
    plan: GraphPlan,
    drafter: AdapterWeights | None = None,
) -> None:
    """Writes the whole graph and its weights, one tensor in memory at a time."""
    _Decoder(writer, config, weights, plan, drafter).write()


class _Decoder:
    """Writes one decoder. Names of values begin with the layer they belong to."""

    def __init__(
        self,
        writer: GraphWriter,
        config: ModelConfig,
        weights: WeightSource,
        plan: GraphPlan,
        drafter: AdapterWeights | None,
    ) -> None:
        self._writer = writer
        self._config = config
        self._weights = weights
        self._plan = plan
        self._drafter = drafter
        self._linear = Linear(writer, plan.product)

    def write(self) -> None:
        writer, config = self._writer, self._config
        self._inputs()
        self._shapes()
        mask = writer.node("Tile", ["mask", "repeats"], "mask.tiled")
        new: list[str] = []
        x = "x"
        for layer in range(config.layers):
            x, fresh = self._layer(layer, x, mask)
            new.append(fresh)
        writer.node("Concat", new, "new", axis=0)
        shape = (config.layers, 2, config.kv_heads, "R", config.head_dim)
        writer.output("new", shape)
        self._head(x)
        writer.save()

    def _inputs(self) -> None:
        writer, config = self._writer, self._config
        rotated = (config.heads + config.kv_heads, config.head_dim)
        writer.input("x", ("R", config.hidden))
        writer.input("cos", ("R", *rotated))
        writer.input("sin", ("R", *rotated))
        writer.input("mask", ("R", "T"))
        writer.input("read", ("N",), numpy.int64)
        if self._drafter is not None:
            writer.input("drafter", ("R", 1))
        for layer in range(config.layers):
            for head in range(config.kv_heads):
                writer.input(f"key.{layer}.{head}", ("P", config.head_dim))
                writer.input(f"value.{layer}.{head}", ("P", config.head_dim))

    def _shapes(self) -> None:
        """Constants and sizes that every layer uses."""
        writer, config = self._writer, self._config
        heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim
        sizes = {
            "repeats": (heads // kv_heads, 1),
            "to_heads": (0, heads + 2 * kv_heads, width),
            "query_key": (heads, kv_heads),
            "halves": (width // 2, width // 2),
            "of_head": (kv_heads, -1, width),
            "from_head": (heads, -1, width),
            "joined": (0, heads * width),
            "ones": (1,) * kv_heads,
            "up_gate": (config.intermediate, config.intermediate),
            "first": (0,),
            "front": (0, 1),
        }
        if config.family.qk_norm:
            sizes["kinds"] = (heads, kv_heads, kv_heads)
        else:
            sizes["rotated_kinds"] = (heads + kv_heads, kv_heads)
        for name, size in sizes.items():
            writer.constant(name, numpy.array(size, dtype=numpy.int64))
        writer.node("Shape", ["x"], "rows", start=0, end=1)
        writer.node("Shape", ["key.0.0"], "past", start=0, end=1)
        writer.node("Concat", ["past", "rows"], "past_rows", axis=0)

    def _layer(self, layer: int, x: str, mask: str) -> tuple[str, str]:
        """The layer's output (R, hidden), and its new keys and values (1, 2, Hkv, R, D)."""
        writer, at = self._writer, f"l{layer}"
        module = f"encoder.layers.{layer}"
        normed = self._norm(f"{at}.in", x, f"{module}.input_layernorm.weight")
        mixed, fresh = self._attention(layer, normed, mask)
        out = self._linear.write(
            f"{at}.o", mixed, self._weights.read(f"{module}.self_attn.o_proj.weight")
        )
        if self._drafter is not None:
            out = self._draft(layer, mixed, out)
        x = writer.node("Add", [x, out], f"{at}.attended")
        normed = self._norm(f"{at}.post", x, f"{module}.post_attention_layernorm.weight")
        return writer.node("Add", [x, self._mlp(layer, normed)], f"{at}.end"), fresh

    def _norm(self, name: str, x: str, weight: str) -> str:
        scale = self._writer.tensor(f"{name}.norm", self._weights.read(weight))
        return self._writer.node(
            "SimplifiedLayerNormalization",
            [x, scale],
            f"{name}.normed",
            axis=-1,
            epsilon=self._config.norm_eps,
            stash_type=1,
        )

    def _mlp(self, layer: int, x: str) -> str:
        writer, at = self._writer, f"l{layer}"
        read = self._weights.read
        module = f"encoder.layers.{layer}.mlp"
        joined = numpy.concatenate(
            [read(f"{module}.gate_proj.weight"), read(f"{module}.up_proj.weight")]
        )
        both = self._linear.write(f"{at}.gate_up", x, joined)
        del joined
        gate, up = f"{at}.gate", f"{at}.up"
        writer.node("Split", [both, "up_gate"], [gate, up], axis=1)
        silu = writer.node("QuickGelu", [gate], f"{at}.silu", domain=MICROSOFT, alpha=1.0)
        product = writer.node("Mul", [silu, up], f"{at}.product")
        return self._linear.write(f"{at}.down", product, read(f"{module}.down_proj.weight"))

    def _draft(self, layer: int, mixed: str, out: str) -> str:
        """o_proj's output with the drafter LoRA added at the rows that draft."""
        writer, at, drafter = self._writer, f"l{layer}.drafter", self._drafter
        assert drafter is not None
        down = writer.tensor(f"{at}.down", drafter.down[layer].T)
        scaled = drafter.up[layer].T * numpy.float32(drafter.alpha / drafter.rank)
        up = writer.tensor(f"{at}.up", scaled)
        low = writer.node("MatMul", [mixed, down], f"{at}.low")
        added = writer.node("MatMul", [low, up], f"{at}.full")
        masked = writer.node("Mul", [added, "drafter"], f"{at}.masked")
        return writer.node("Add", [out, masked], f"{at}.out")

    def _attention(self, layer: int, x: str, mask: str) -> tuple[str, str]:
        """Attention's result (R, H D), and the new keys and values (1, 2, Hkv, R, D)."""
        writer, config, at = self._writer, self._config, f"l{layer}"
        query, key, value = self._project(layer, x)
        keys = writer.node("Transpose", [key], f"{at}.k", perm=[1, 0, 2])
        values = writer.node("Transpose", [value], f"{at}.v", perm=[1, 0, 2])
        if self._plan.half_cache:
            keys, values = self._rounded(keys), self._rounded(values)
        pair = [writer.node("Unsqueeze", [part, "front"], f"{part}.new") for part in (keys, values)]
        fresh = writer.node("Concat", pair, f"{at}.new", axis=1)
        queries = writer.node("Transpose", [query], f"{at}.q", perm=[1, 0, 2])
        queries = writer.node("Reshape", [queries, "of_head"], f"{at}.q.grouped")
        names = range(config.kv_heads)
        parts: dict[str, list[str]] = {}
        for name, whole in (("q", queries), ("k", keys), ("v", values)):
            split = [f"{at}.{name}.{head}" for head in names]
            writer.node("Split", [whole, "ones"], split, axis=0)
            parts[name] = [
                writer.node("Squeeze", [part, "first"], f"{part}.flat") for part in split
            ]
        mixed = [
            self._head_attention(layer, head, parts["q"][head], parts["k"][head], parts["v"][head])
            for head in names
        ]
        whole = writer.node("Concat", mixed, f"{at}.mixed", axis=0)
        whole = writer.node("Reshape", [whole, "from_head"], f"{at}.mixed.heads")
        whole = writer.node("Transpose", [whole], f"{at}.mixed.rows", perm=[1, 0, 2])
        return writer.node("Reshape", [whole, "joined"], f"{at}.mixed.flat"), fresh

    def _head_attention(self, layer: int, head: int, query: str, key: str, value: str) -> str:
        """One K/V head and the query heads that share it, laid out as further rows: (G R, D)."""
        writer, at = self._writer, f"l{layer}.h{head}"
        cached_key, cached_value = f"key.{layer}.{head}", f"value.{layer}.{head}"
        scores = [
            writer.node(
                "FusedMatMul", [query, keys], f"{at}.{name}", domain=MICROSOFT, transB=1, alpha=1.0
            )
            for name, keys in (("cached", cached_key), ("fresh", key))
        ]
        all_scores = writer.node("Concat", scores, f"{at}.scores", axis=1)
        masked = writer.node("Add", [all_scores, "mask.tiled"], f"{at}.masked")
        probs = writer.node("Softmax", [masked], f"{at}.probs", axis=-1)
        split = [f"{at}.probs.cached", f"{at}.probs.fresh"]
        writer.node("Split", [probs, "past_rows"], split, axis=1)
        mixed = [
            writer.node("MatMul", [part, values], f"{part}.mixed")
            for part, values in zip(split, (cached_value, value), strict=True)
        ]
        return writer.node("Add", mixed, f"{at}.mixed")

    def _project(self, layer: int, x: str) -> tuple[str, str, str]:
        """Query (R, H, D) and key (R, Hkv, D), rotated, and value (R, Hkv, D)."""
        writer, config, at = self._writer, self._config, f"l{layer}"
        module, read = f"encoder.layers.{layer}.self_attn", self._weights.read
        names = [f"{module}.{part}_proj" for part in "qkv"]
        weight = numpy.concatenate([read(f"{name}.weight") for name in names])
        bias = None
        if config.family.qkv_bias:
            bias = numpy.concatenate([read(f"{name}.bias") for name in names])
        joined = self._linear.write(f"{at}.qkv", x, weight, bias)
        heads = writer.node("Reshape", [joined, "to_heads"], f"{at}.heads")
        if config.family.qk_norm:
            parts = [f"{at}.query.raw", f"{at}.key.raw", f"{at}.value"]
            writer.node("Split", [heads, "kinds"], parts, axis=1)
            normed = [
                self._norm(f"{at}.{part}", raw, f"{module}.{part}_norm.weight")
                for part, raw in zip("qk", parts, strict=False)
            ]
            plain = writer.node("Concat", normed, f"{at}.plain", axis=1)
        else:
            plain = f"{at}.plain"
            writer.node("Split", [heads, "rotated_kinds"], [plain, f"{at}.value"], axis=1)
        rotated = self._rotate(at, plain)
        query, key = f"{at}.query", f"{at}.key"
        writer.node("Split", [rotated, "query_key"], [query, key], axis=1)
        return query, key, f"{at}.value"

    def _rotate(self, at: str, x: str) -> str:
        """Rotate-half of (R, H + Hkv, D)."""
        writer = self._writer
        first, second = f"{at}.first", f"{at}.second"
        writer.node("Split", [x, "halves"], [first, second], axis=2)
        swapped = writer.node("Concat", [second, first], f"{at}.swapped", axis=2)
        along = writer.node("Mul", [x, "cos"], f"{at}.cos")
        across = writer.node("Mul", [swapped, "sin"], f"{at}.sin")
        return writer.node("Add", [along, across], f"{at}.rotated")

    def _rounded(self, x: str) -> str:
        half = self._writer.node("Cast", [x], f"{x}.half", to=_FLOAT16)
        return self._writer.node("Cast", [half], f"{x}.rounded", to=_FLOAT32)

    def _head(self, x: str) -> None:
        """Logits of the rows that are read."""
        writer, config = self._writer, self._config
        rows = writer.node("Gather", [x, "read"], "head.rows", axis=0)
        normed = self._norm("head", rows, "encoder.norm.weight")
        name = "encoder.embed_tokens" if config.tied_head else "diffusion_head"
        product = self._linear.write("head", normed, self._weights.read(f"{name}.weight"))
        writer.node("Identity", [product], "logits")
        writer.output("logits", ("N", config.vocabulary))
