"""The decoder in plain numpy without cache, steps or ONNX, quantised like an int8 graph."""

from __future__ import annotations

import math

import numpy
from numpy import ndarray

from engine.model.config import ModelConfig
from engine.model.rotary import query_scale, rotary_frequencies
from tests.engine.graphs import NetworkWeights


def quantized_rows(x: ndarray) -> tuple[ndarray, ndarray]:
    """Integers (R, n) of -127 to 127 as int64, and the rows' scales (R, 1) fp32."""
    scales = numpy.maximum(numpy.abs(x).max(axis=1, keepdims=True), numpy.float32(1e-12))
    scales = (scales * numpy.float32(1 / 127)).astype(numpy.float32)
    return numpy.rint(x / scales).astype(numpy.int64), scales


def quantized_product(x: ndarray, weight: ndarray) -> ndarray:
    """x (R, in) times weight (out, in), both quantised by row: (R, out) fp32."""
    integers, scales = quantized_rows(x)
    largest = numpy.abs(weight).max(axis=1, keepdims=True)
    weight_scales = (largest / 127).astype(numpy.float32)
    weight_integers = numpy.rint(weight / weight_scales).astype(numpy.int64)
    sums = integers @ weight_integers.T
    return (sums.astype(numpy.float32) * weight_scales.T * scales).astype(numpy.float32)


def oracle_logits(
    config: ModelConfig, weights: NetworkWeights, tokens: tuple[int, ...], visible: ndarray
) -> ndarray:
    """(T, V) fp32 of rows at positions 0..T-1.

    Args:
        visible: (T, T) bool.
    """
    read = weights.read

    def norm(x: ndarray, name: str) -> ndarray:
        mean = numpy.square(x).mean(axis=-1, keepdims=True)
        return (x / numpy.sqrt(mean + config.norm_eps) * read(name)).astype(numpy.float32)

    angles = numpy.arange(len(tokens), dtype=numpy.float32)[:, None]
    angles = angles * rotary_frequencies(config.rope, config.head_dim)
    cos, sin = (
        numpy.concatenate((part, part), axis=1)[:, None] * config.rope.attention_factor
        for part in (numpy.cos(angles), numpy.sin(angles))
    )

    def rotated(x: ndarray) -> ndarray:
        first, second = numpy.split(x, 2, axis=-1)
        return (x * cos + numpy.concatenate((-second, first), axis=-1) * sin).astype(numpy.float32)

    def attention(layer: int, x: ndarray) -> ndarray:
        at = f"encoder.layers.{layer}.self_attn"
        parts = {}
        for part in "qkv":
            out = quantized_product(x, read(f"{at}.{part}_proj.weight"))
            if config.family.qkv_bias:
                out = out + read(f"{at}.{part}_proj.bias")
            parts[part] = out.reshape(len(x), -1, config.head_dim)
        query, key, value = parts["q"], parts["k"], parts["v"]
        if config.family.qk_norm:
            query, key = norm(query, f"{at}.q_norm.weight"), norm(key, f"{at}.k_norm.weight")
        query = rotated(query) * query_scale(config.rope, range(len(x)))[:, None, None]
        # Keys and values are rounded to fp16 before they are used, as in the graph.
        key, value = (p.astype(numpy.float16).astype(numpy.float32) for p in (rotated(key), value))
        repeats = config.heads // config.kv_heads
        key, value = (numpy.repeat(part, repeats, axis=1) for part in (key, value))
        scores = numpy.einsum("qhd,khd->hqk", query, key) / math.sqrt(config.head_dim)
        scores = numpy.where(visible, scores, -numpy.inf)
        exponentials = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
        mixed = numpy.einsum("hqk,khd->qhd", probabilities, value).reshape(len(x), -1)
        return quantized_product(mixed.astype(numpy.float32), read(f"{at}.o_proj.weight"))

    def mlp(layer: int, x: ndarray) -> ndarray:
        at = f"encoder.layers.{layer}.mlp"
        gate = quantized_product(x, read(f"{at}.gate_proj.weight"))
        up = quantized_product(x, read(f"{at}.up_proj.weight"))
        hidden = (gate / (1 + numpy.exp(-gate)) * up).astype(numpy.float32)
        return quantized_product(hidden, read(f"{at}.down_proj.weight"))

    x = weights.rows(tokens)
    for layer in range(config.layers):
        at = f"encoder.layers.{layer}"
        x = x + attention(layer, norm(x, f"{at}.input_layernorm.weight"))
        x = x + mlp(layer, norm(x, f"{at}.post_attention_layernorm.weight"))
    head = "encoder.embed_tokens" if config.tied_head else "diffusion_head"
    return quantized_product(norm(x, "encoder.norm.weight"), read(f"{head}.weight"))
