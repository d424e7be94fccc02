"""The roofline: exact counts, held against the real network, a real file and the committed page."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.lab.bench.gpu import roofline_report
from engine.lab.bench.gpu.__main__ import main
from engine.lab.bench.gpu.cards import CARDS, Card, card_named
from engine.lab.bench.gpu.published import STEPS, YIELDS
from engine.lab.bench.gpu.roofline import floor_of, kv_bytes, step_cost
from engine.lab.bench.gpu.stored import (
    EMBEDDING,
    HEAD,
    STORAGES,
    block_type,
    matrices,
    matrix_bytes,
    vector_bytes,
    vector_weights,
)
from engine.lab.bench.shapes import QWEN, SHAPES
from engine.model.config import ModelConfig
from engine.model.gguf_file import read_gguf
from engine.model.network import Network

ROOT = Path(__file__).parents[4]
OURS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
        "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
        "down": "mlp.down_proj"}  # fmt: skip
SIZES = st.builds(
    lambda shape, storage, rows, context: (SHAPES[shape], storage, rows, context),
    st.sampled_from([*SHAPES]),
    st.sampled_from(STORAGES),
    st.integers(1, 512),
    st.integers(0, 20_000),
)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_weight_of_the_network_is_counted_once(shape: str) -> None:
    """By name and shape, in the real module on torch's meta device."""
    config = SHAPES[shape]
    with torch.device("meta"):
        network = Network(config)
    ours = {
        f"encoder.layers.{each.layer}.{OURS[each.name]}.weight": (each.outputs, each.width)
        for each in matrices(config)
        if each.name in OURS
    }
    outside = {"encoder.embed_tokens.weight", "diffusion_head.weight"}
    found = {
        name: tuple(each.shape)
        for name, each in network.named_parameters(remove_duplicate=False)
        if each.dim() == 2
    }
    assert ours == {name: size for name, size in found.items() if name not in outside}
    assert {found[name] for name in outside} == {(config.vocabulary, config.hidden)}
    vectors = sum(each.numel() for each in network.parameters() if each.dim() == 1)
    assert vector_weights(config) == vectors
    every = sum(each.numel() for each in network.parameters())
    assert config.parameters() == every
    counted = sum(each.weights for each in matrices(config)) + vectors
    assert counted - config.tied_head * config.vocabulary * config.hidden == every


@pytest.mark.parametrize(
    ("shape", "billions"),
    [("3B", 3.83), ("8B", 8.49), ("14B", 13.51), ("qwen 0.5B", 0.49), ("qwen 1.5B", 1.54),
     ("qwen 7B", 7.61)],
)  # fmt: skip
def test_shapes_have_the_published_number_of_parameters(shape: str, billions: float) -> None:
    """Qwen's from the model cards of Qwen2.5-Coder, which cut the 7.616 of the 7B off."""
    assert SHAPES[shape].parameters() / 1e9 == pytest.approx(billions, abs=0.007)


@pytest.mark.parametrize(
    ("size", "types"),
    [
        ("0.5B", {"Q5_0": 133, "Q8_0": 13, "Q6_K": 12, "Q4_K": 12}),
        ("1.5B", {"Q4_K": 169, "Q6_K": 29}),
    ],
)
def test_q4_k_m_mixes_types_as_the_published_files(size: str, types: dict[str, int]) -> None:
    config = SHAPES[f"qwen {size}"]
    found = Counter(block_type(each, config.layers) for each in matrices(config))
    assert found == types


def test_a_real_file_has_the_types_and_bytes_that_are_counted(real_model: Path) -> None:
    file = read_gguf(real_model)
    layers = sum("attn_q.weight" in name for name in file.tensors)
    config = next(SHAPES[f"qwen {size}"] for size, own in QWEN.items() if own[0] == layers)
    names = {EMBEDDING: "token_embd", HEAD: "output"}
    theirs = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate",
              "up": "ffn_up", "down": "ffn_down"}  # fmt: skip
    expected, found = Counter[tuple[str, str, int]](), Counter[tuple[str, str, int]]()
    for each in matrices(config):
        name = names.get(each.name) or f"blk.{each.layer}.{theirs[each.name]}"
        tensor = file.tensors[f"{name}.weight"]
        # llama.cpp counts some tensors in the order of the file that it converts, not by layers.
        size = matrix_bytes(each, config, "Q4_K_M")
        expected[each.name, block_type(each, config.layers), size] += 1
        found[each.name, tensor.type.name, tensor.row_bytes * each.outputs] += 1
    assert found == expected
    rest = [each for each in file.tensors.values() if len(each.shape) == 1]
    assert found.total() + len(rest) == len(file.tensors)
    assert sum(each.row_bytes for each in rest) == vector_bytes(config, "Q4_K_M")


@pytest.mark.parametrize(("size", "gigabytes"), [("3B", 6.86), ("8B", 15.9), ("14B", 25.67)])
def test_a_step_reads_layers_and_head(size: str, gigabytes: float) -> None:
    cost = step_cost(SHAPES[size], "bf16", 1, 0)
    assert (cost.layers + cost.head) / 1e9 == pytest.approx(gigabytes, abs=0.006)


def test_one_step_by_hand() -> None:
    """Qwen 0.5B, 3 rows after 10 tokens, each term written out."""
    cost = step_cost(SHAPES["qwen 0.5B"], "bf16", 3, 10)
    matrix = 896 * 896 * 2 + 896 * 128 * 2 + 3 * 896 * 4864
    vector = 2 * 896 + 896 + 2 * 128
    assert cost.layers == 2 * (24 * (matrix + vector) + 896)
    assert cost.head == 2 * 151_936 * 896
    assert cost.embedding == 2 * 3 * 896
    assert kv_bytes(SHAPES["qwen 0.5B"]) == 2 * 2 * 24 * 2 * 64
    assert cost.kv_read == 10 * kv_bytes(SHAPES["qwen 0.5B"])
    assert cost.kv_written == 3 * kv_bytes(SHAPES["qwen 0.5B"])
    products = 2 * 3 * (24 * matrix + 151_936 * 896)
    assert cost.flops == products + 4 * 24 * 896 * (11 + 12 + 13)
    assert cost.widest == 2 * 3 * 3 * 4864


@given(SIZES)
def test_a_longer_step_or_context_never_costs_less(size: tuple[ModelConfig, str, int, int]) -> None:
    config, storage, rows, context = size
    cost = step_cost(config, storage, rows, context)
    for more in (
        step_cost(config, storage, rows + 1, context),
        step_cost(config, storage, rows, context + 1),
    ):
        assert more.flops > cost.flops
        for card in CARDS:
            assert more.bytes_on(card) > cost.bytes_on(card)
            assert floor_of(more, card).milliseconds >= floor_of(cost, card).milliseconds


@given(SIZES)
def test_fewer_bits_never_cost_more_and_compute_the_same(
    size: tuple[ModelConfig, str, int, int],
) -> None:
    config, _, rows, context = size
    costs = [step_cost(config, storage, rows, context) for storage in STORAGES]
    for card in CARDS:
        floors = [floor_of(cost, card) for cost in costs]
        assert sorted(floors, key=lambda floor: -floor.memory) == floors
        assert len({floor.compute for floor in floors}) == 1


def test_activations_count_where_they_do_not_fit_into_the_cache() -> None:
    cost = step_cost(SHAPES["8B"], "bf16", 272, 304)
    roomy, small = (
        Card(name="", bandwidth=1.0, matrix_rate=1.0, cache=cache, source="")
        for cache in (cost.widest, cost.widest - 1)
    )
    assert cost.bytes_on(small) - cost.bytes_on(roomy) == cost.activations
    assert all(cost.widest < card.cache for card in CARDS)  # as the page says of every shape here
    assert step_cost(SHAPES["14B"], "bf16", 272, 304).widest < min(card.cache for card in CARDS)


def test_no_published_step_is_faster_than_its_floor() -> None:
    cards = {card.name: card for card in CARDS}
    for each in STEPS:
        cost = step_cost(SHAPES[each.shape], "bf16", each.rows, each.context)
        assert floor_of(cost, cards[each.card]).milliseconds < each.milliseconds


def test_yields_name_their_source_and_our_own_are_the_recorded_ones() -> None:
    assert {each.shape for each in YIELDS} <= SHAPES.keys()
    assert all(each.source for each in YIELDS)
    page = (ROOT / "benchmarks" / "mask_adapter.md").read_text("utf-8")
    for each in YIELDS:
        if "mask_adapter.md" in each.source:
            assert f"| {each.tokens} |" in page


def test_replays_are_the_yield_times_the_forwards_at_the_floor() -> None:
    for each in roofline_report.replays():
        cost = step_cost(SHAPES[each["shape"]], "int8", each["rows"], 304)
        for card in CARDS:
            expected = each["tokens"] / floor_of(cost, card).milliseconds * 1000
            assert each["tokens_per_second"]["int8"][card.name] == pytest.approx(expected, abs=0.06)
        assert each["label"] == "published, replayed"


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("a processor", None),
    ],
)
def test_a_card_is_known_by_its_name_and_its_slower_siblings_are_not(
    device: str, card: str | None
) -> None:
    found = card_named(device)
    assert (found and found.name) == card


def test_the_committed_page_is_what_the_code_writes(tmp_path: Path) -> None:
    assert main(["--roofline", "--out", str(tmp_path)]) == 0
    for name in ("roofline.md", "roofline.json"):
        committed = (ROOT / "benchmarks" / name).read_text("utf-8")
        assert (tmp_path / name).read_text("utf-8") == committed, name
    page = (tmp_path / "roofline.md").read_text("utf-8")
    assert "**Computed, not measured**" in page
    assert json.loads((tmp_path / "roofline.json").read_text("utf-8"))["label"] == "computed"
