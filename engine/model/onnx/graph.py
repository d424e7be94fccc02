"""The decoder of `engine.model.network` as an ONNX graph over the rows of one step.

Inputs, for R rows that see P cached tokens (Hkv heads of width D cached for each layer):

    x (R, hidden)                  the rows' embeddings
    cos.q, sin.q (R, D / 2)        of queries, scaled by 1 / sqrt(D); see `inputs`
    cos.k, sin.k (R, D / 2)        of keys
    mask (R, P + R)                added to the scores: 0 where visible, else `inputs.HIDDEN`
    read (N,) int64                the rows whose logits are wanted
    drafter (R, 1)                 1 for rows that run with the drafter LoRA or the mask adapter,
                                   where there is one
    key.{layer}.{head}, value.{layer}.{head} (P, D)

Each head's cached keys are a separate input, because they are then contiguous in memory, and the
cache passes them to the graph without copying. Outputs:

    new (layers, 2, Hkv, R, D)     the rows' own keys and values
    logits (N, V)                  of the rows that are read, fp32
"""

from __future__ import annotations

from typing import Protocol

import numpy
from numpy import ndarray

from engine.model.adapter_weights import AdapterWeights
from engine.model.config import ModelConfig
from engine.model.mask_adapter import MaskAdapterWeights
from engine.model.onnx.plan import GraphPlan
from engine.model.onnx.products import MICROSOFT, Linear
from engine.model.onnx.writer import GraphWriter

_FLOAT32, _FLOAT16 = 1, 10  # TensorProto.DataType


class WeightSource(Protocol):
    """The tensors of a checkpoint by the network's names, fp32."""

    def read(self, name: str) -> ndarray: ...


def write_graph(
    writer: GraphWriter,
    config: ModelConfig,
    weights: WeightSource,
    plan: GraphPlan,
    drafter: AdapterWeights | MaskAdapterWeights | None = None,
) -> None:
    """Writes the whole graph and its weights, with one tensor in memory at a time."""
    _Decoder(writer, config, weights, plan, drafter).write()


class _Decoder:
    """Writes one decoder. The names of values begin with their layer."""

    def __init__(
        self,
        writer: GraphWriter,
        config: ModelConfig,
        weights: WeightSource,
        plan: GraphPlan,
        drafter: AdapterWeights | MaskAdapterWeights | None,
    ) -> None:
        self._writer = writer
        self._config = config
        self._weights = weights
        self._plan = plan
        self._drafter = drafter if isinstance(drafter, AdapterWeights) else None
        self._masks = drafter if isinstance(drafter, MaskAdapterWeights) else None
        self._linear = Linear(writer, plan.product)

    def write(self) -> None:
        writer, config = self._writer, self._config
        self._inputs()
        self._shapes()
        writer.node("Tile", ["mask", "repeats"], "mask.tiled")
        writer.node("Split", ["mask.tiled", "past_rows"], ["mask.cached", "mask.fresh"], axis=1)
        new: list[str] = []
        x = "x"
        for layer in range(config.layers):
            x, fresh = self._layer(layer, x)
            new.append(fresh)
        joined = writer.node("Concat", new, "new.rows", axis=0)
        writer.node("Reshape", [joined, "of_layers"], "new")
        shape = (config.layers, 2, config.kv_heads, "R", config.head_dim)
        writer.output("new", shape)
        self._head(x)
        writer.save()

    def _inputs(self) -> None:
        writer, config = self._writer, self._config
        writer.input("x", ("R", config.hidden))
        for name in ("cos.q", "sin.q", "cos.k", "sin.k"):
            writer.input(name, ("R", config.head_dim // 2))
        writer.input("mask", ("R", "T"))
        writer.input("read", ("N",), numpy.int64)
        if self._drafter is not None or self._masks is not None:
            writer.input("drafter", ("R", 1))
        for layer in range(config.layers):
            for head in range(config.kv_heads):
                writer.input(f"key.{layer}.{head}", ("P", config.head_dim))
                writer.input(f"value.{layer}.{head}", ("P", config.head_dim))

    def _shapes(self) -> None:
        """Writes constants and sizes that every layer uses."""
        writer, config = self._writer, self._config
        heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim
        sizes = {
            "repeats": (heads // kv_heads, 1),
            "to_heads": (1, -1, heads + 2 * kv_heads, width),
            "kinds": (heads, kv_heads, kv_heads),
            "of_rows": (-1, width),
            "of_layers": (config.layers, 2, kv_heads, -1, width),
            "from_head": (heads, -1, width),
            "joined": (0, heads * width),
            "from_first": (0,),
        }
        for name, size in sizes.items():
            writer.constant(name, numpy.array(size, dtype=numpy.int64))
        writer.node("Shape", ["x"], "rows", start=0, end=1)
        writer.node("Shape", ["key.0.0"], "past", start=0, end=1)
        writer.node("Concat", ["past", "rows"], "past_rows", axis=0)
        if self._masks is not None:
            writer.constant("none", numpy.float32(0))
            writer.node("ReduceMax", ["drafter"], "drafter.any", keepdims=0)
            writer.node("Greater", ["drafter.any", "none"], "drafts")

    def _layer(self, layer: int, x: str) -> tuple[str, str]:
        """The layer's output (R, hidden), and its new keys and values (2 Hkv R, D)."""
        writer, at = self._writer, f"l{layer}"
        module = f"encoder.layers.{layer}"
        normed = self._norm(f"{at}.in", x, f"{module}.input_layernorm.weight")
        mixed, fresh = self._attention(layer, normed)
        out = self._product(f"{at}.o", mixed, [f"{module}.self_attn.o_proj"])
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
        module = f"encoder.layers.{layer}.mlp"
        # Two products, because the halves of a single one would have to be copied.
        gate = self._product(f"{at}.gate", x, [f"{module}.gate_proj"])
        up = self._product(f"{at}.up", x, [f"{module}.up_proj"])
        silu = writer.node("QuickGelu", [gate], f"{at}.silu", domain=MICROSOFT, alpha=1.0)
        product = writer.node("Mul", [silu, up], f"{at}.product")
        return self._product(f"{at}.down", product, [f"{module}.down_proj"])

    def _product(self, name: str, x: str, linears: list[str]) -> str:
        """x times the linears' weights below each other, with what the mask adapter adds to it."""
        read = self._weights.read
        weights = [read(f"{linear}.weight") for linear in linears]
        weight = weights[0] if len(weights) == 1 else numpy.concatenate(weights)
        bias = None
        if self._config.family.qkv_bias and linears[0].endswith(".q_proj"):
            bias = numpy.concatenate([read(f"{linear}.bias") for linear in linears])
        out = self._linear.write(name, x, weight, bias)
        if self._masks is None:
            return out
        factors = [self._masks.factors(linear) for linear in linears]
        down = numpy.concatenate([each.down for each in factors])
        up = _below_each_other([each.up for each in factors])

        def adapted() -> str:
            writer = self._writer
            low = self._linear.write(f"{name}.masks.low", x, down)
            factor = writer.tensor(f"{name}.masks.up", numpy.ascontiguousarray(up.T))
            full = writer.node("MatMul", [low, factor], f"{name}.masks.full")
            masked = writer.node("Mul", [full, "drafter"], f"{name}.masks.masked")
            return writer.node("Add", [out, masked], f"{name}.masks.out")

        return self._writer.conditional("drafts", f"{name}.adapted", adapted, out)

    def _draft(self, layer: int, mixed: str, out: str) -> str:
        """o_proj's output, with the drafter LoRA's addition for rows that draft."""
        writer, at, drafter = self._writer, f"l{layer}.drafter", self._drafter
        assert drafter is not None
        down = writer.tensor(f"{at}.down", drafter.down[layer].T)
        scaled = drafter.up[layer].T * numpy.float32(drafter.alpha / drafter.rank)
        up = writer.tensor(f"{at}.up", scaled)
        low = writer.node("MatMul", [mixed, down], f"{at}.low")
        added = writer.node("MatMul", [low, up], f"{at}.full")
        masked = writer.node("Mul", [added, "drafter"], f"{at}.masked")
        return writer.node("Add", [out, masked], f"{at}.out")

    def _attention(self, layer: int, x: str) -> tuple[str, str]:
        """Attention's result (R, H D), and the new keys and values (2 Hkv R, D)."""
        writer, config, at = self._writer, self._config, f"l{layer}"
        query, fresh = self._project(layer, x)
        names = range(config.kv_heads)
        queries = [f"{at}.q.{head}" for head in names]
        writer.node("Split", [query], queries, axis=0, num_outputs=config.kv_heads)
        keys, values = ([f"{at}.{name}.{head}" for head in names] for name in "kv")
        writer.node("Split", [fresh], [*keys, *values], axis=0, num_outputs=2 * config.kv_heads)
        mixed = [
            self._head_attention(layer, head, queries[head], keys[head], values[head])
            for head in names
        ]
        whole = writer.node("Concat", mixed, f"{at}.mixed", axis=0)
        whole = writer.node("Reshape", [whole, "from_head"], f"{at}.mixed.heads")
        whole = writer.node("Transpose", [whole], f"{at}.mixed.rows", perm=[1, 0, 2])
        return writer.node("Reshape", [whole, "joined"], f"{at}.mixed.flat"), fresh

    def _head_attention(self, layer: int, head: int, query: str, key: str, value: str) -> str:
        """Attention of one K/V head; its G query heads become further rows: (G R, D)."""
        writer, at = self._writer, f"l{layer}.h{head}"
        scores = [
            writer.node("Gemm", [query, keys, f"mask.{name}"], f"{at}.{name}", transB=1)
            for name, keys in (("cached", f"key.{layer}.{head}"), ("fresh", key))
        ]
        whole = writer.node("Concat", scores, f"{at}.scores", axis=1)
        probs = writer.node("Softmax", [whole], f"{at}.probs", axis=-1)
        cached, fresh = f"{at}.probs.cached", f"{at}.probs.fresh"
        writer.node("Split", [probs, "past_rows"], [cached, fresh], axis=1)
        mixed = writer.node("MatMul", [cached, f"value.{layer}.{head}"], f"{at}.mixed.cached")
        return writer.node("Gemm", [fresh, value, mixed], f"{at}.mixed")

    def _project(self, layer: int, x: str) -> tuple[str, str]:
        """Queries (H R, D) and keys with values (2 Hkv R, D), head by head, rotated."""
        writer, config, at = self._writer, self._config, f"l{layer}"
        module = f"encoder.layers.{layer}.self_attn"
        joined = self._product(f"{at}.qkv", x, [f"{module}.{part}_proj" for part in "qkv"])
        rows = writer.node("Reshape", [joined, "to_heads"], f"{at}.rows")
        heads = writer.node("Transpose", [rows], f"{at}.heads", perm=[0, 2, 1, 3])
        parts = [f"{at}.query.plain", f"{at}.key.plain", f"{at}.value"]
        writer.node("Split", [heads, "kinds"], parts, axis=1)
        query, key = (
            self._rotate(
                part,
                self._norm(f"{at}.{part}", plain, f"{module}.{part}_norm.weight")
                if config.family.qk_norm
                else plain,
                f"{at}.{part}.rotated",
            )
            for part, plain in zip("qk", parts, strict=False)
        )
        fresh = writer.node("Concat", [key, f"{at}.value"], f"{at}.new.heads", axis=1)
        if self._plan.half_cache:
            fresh = self._rounded(fresh)
        query = writer.node("Reshape", [query, "of_rows"], f"{at}.query")
        return query, writer.node("Reshape", [fresh, "of_rows"], f"{at}.new")

    def _rotate(self, part: str, x: str, name: str) -> str:
        """Rotate-half of (1, heads, R, D): row i with the i-th row of cos and sin."""
        inputs = [x, "from_first", f"cos.{part}", f"sin.{part}"]
        return self._writer.node("RotaryEmbedding", inputs, name, domain=MICROSOFT)

    def _rounded(self, x: str) -> str:
        half = self._writer.node("Cast", [x], f"{x}.half", to=_FLOAT16)
        return self._writer.node("Cast", [half], f"{x}.rounded", to=_FLOAT32)

    def _head(self, x: str) -> None:
        """Writes the logits of the rows that are read."""
        writer, config = self._writer, self._config
        rows = writer.node("Gather", [x, "read"], "head.rows", axis=0)
        normed = self._norm("head", rows, "encoder.norm.weight")
        name = "encoder.embed_tokens" if config.tied_head else "diffusion_head"
        product = self._linear.write("head", normed, self._weights.read(f"{name}.weight"))
        writer.node("Identity", [product], "logits")
        writer.output("logits", ("N", config.vocabulary))


def _below_each_other(factors: list[ndarray]) -> ndarray:
    """(out_1 + …, r_1 + …) of matrices (out_i, r_i), zeros outside them."""
    rows, columns = (sum(each.shape[axis] for each in factors) for axis in (0, 1))
    whole = numpy.zeros((rows, columns), numpy.float32)
    row = column = 0
    for each in factors:
        whole[row : row + each.shape[0], column : column + each.shape[1]] = each
        row, column = row + each.shape[0], column + each.shape[1]
    return whole
