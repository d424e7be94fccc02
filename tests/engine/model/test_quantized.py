"""int8 weights: an entry comes back within half its row's scale, files have the layout of
compressed-tensors, and errors name what is wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.errors import CheckpointError
from engine.lab.verify.activations import compare, trace
from engine.lab.verify.peer import CLASSES, TransformersPeer
from engine.model import checkpoint, quantized
from engine.model.adapter import DrafterAdapter, load_adapter, save_adapter
from engine.model.checkpoint import load_network, save_checkpoint
from engine.model.config import read_config
from engine.model.families import LLAMA, QWEN2
from engine.model.network import Network
from engine.model.quantized import dequantize, quantize
from tests.engine.nld import WEIGHTS, write_nld
from tests.engine.seeded import CONFIG, CPU, causal_logits, prompt_of, seeded_network

DOWN = "encoder.layers.1.mlp.down_proj.weight"
SCALE = f"{DOWN}_scale"
NORM = "encoder.norm.weight"
# A rounding of fp32 in the division, and one in the product with 127.
HALF = 0.5 + 1e-4


def back_of(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The dequantised weights in float32, as a loader reads them."""
    return torch.from_numpy(dequantize(values.numpy(), scale.numpy()))


magnitudes = st.one_of(
    st.just(0.0),
    st.floats(min_value=2.0**-149, max_value=2.0**127, width=32),
    st.floats(min_value=2.0**-12, max_value=8.0, width=32),
)
entries = st.builds(lambda size, sign: size * sign, magnitudes, st.sampled_from((-1.0, 1.0)))
matrices = st.integers(1, 5).flatmap(
    lambda columns: st.lists(
        st.lists(entries, min_size=columns, max_size=columns), min_size=1, max_size=5
    )
)


@given(matrices)
def test_an_entry_comes_back_within_half_its_rows_scale(rows: list[list[float]]) -> None:
    weight = torch.tensor(rows)
    values, scale = quantize("w", weight)
    assert (values.dtype, scale.dtype) == (torch.int8, torch.float32)
    assert (values.shape, scale.shape) == (weight.shape, (len(rows), 1))
    assert (scale > 0).all()
    assert scale.isfinite().all()
    back = back_of(values, scale).double()
    assert ((back - weight.double()).abs() <= HALF * scale.double()).all()
    # No entry changes its sign, and the largest of a row, unless it is next to nothing, is ±127.
    assert (back * weight.double() >= 0).all()
    largest = weight.abs().amax(dim=1)
    plain = largest > 1e-27
    assert (values.abs().amax(dim=1)[plain] == 127).all()
    assert (values >= -127).all()


@given(matrices, st.integers(-20, 20))
def test_quantising_again_changes_nothing_and_a_power_of_two_only_the_scale(
    rows: list[list[float]], power: int
) -> None:
    weight = torch.tensor(rows).clamp(-1e20, 1e20)
    weight = torch.where(weight.abs() < 1e-15, 0.0, weight)
    values, scale = quantize("w", weight)
    again, _ = quantize("w", back_of(values, scale))
    assert torch.equal(again, values)
    scaled, larger = quantize("w", weight * 2.0**power)
    assert torch.equal(scaled, values)
    nonzero = weight.any(dim=1)
    assert torch.equal(larger[nonzero], scale[nonzero] * 2.0**power)


def test_rows_have_scales_of_their_own() -> None:
    weight = torch.tensor([[1e-6, -3e-6], [0.0, 0.0], [5e4, 1.0], [-2.0, 1.0]])
    values, scale = quantize("w", weight)
    assert values.tolist() == [[42, -127], [0, 0], [127, 0], [-127, 64]]
    assert torch.equal(back_of(values, scale)[1], torch.zeros(2))


def test_a_large_matrix_is_multiplied_out_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, seeded_network(), weights="int8")
    stored = load_file(tmp_path / WEIGHTS)
    whole = stored[DOWN].float() * stored[SCALE]
    for chunk in (1, 48, 49, 200, 48 * 32, 10**6):
        monkeypatch.setattr(checkpoint, "_CHUNK", chunk)
        assert torch.equal(load(tmp_path).state_dict()[DOWN], whole)
        assert torch.equal(load(tmp_path, torch.bfloat16).state_dict()[DOWN], whole.bfloat16())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_what_int8_cannot_store_is_not_written(tmp_path: Path, wrong: float) -> None:
    network = seeded_network()
    network.state_dict()[DOWN][2, 3] = wrong
    with pytest.raises(CheckpointError, match=DOWN) as error:
        save_checkpoint(tmp_path / "new", network, weights="int8")
    assert error.value.remedy
    assert not (tmp_path / "new").exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path, seeded_network(), weights="int8")
    return tmp_path


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Network:
    return load_network(folder, read_config(folder), device=CPU, dtype=dtype)


def as_read(network: Network) -> dict[str, torch.Tensor]:
    """A network's weights after quantisation to int8, computed independently."""
    state = {}
    for name, tensor in network.state_dict().items():
        if tensor.dim() == 2:
            scale = tensor.abs().amax(dim=1, keepdim=True) / 127
            state[name] = torch.round(tensor / scale) * scale
        else:
            state[name] = tensor.bfloat16().float()
    return state


def test_files_hold_int8_with_a_scale_for_each_row_and_vectors_as_they_were(folder: Path) -> None:
    stored = load_file(folder / WEIGHTS)
    network = seeded_network()
    matrices = {name for name, tensor in network.state_dict().items() if tensor.dim() == 2}
    assert len(matrices) == 2 + 7 * CONFIG.layers
    assert stored.keys() == network.state_dict().keys() | {f"{name}_scale" for name in matrices}
    for name in matrices:
        assert stored[name].dtype == torch.int8
        assert stored[f"{name}_scale"].shape == (len(stored[name]), 1)
    assert stored[NORM].dtype == torch.bfloat16
    raw = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert raw["quant_method"] == "compressed-tensors"
    assert raw["format"] == "int-quantized"
    assert raw["config_groups"]["group_0"]["format"] == "int-quantized"
    weights = raw["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["strategy"], weights["symmetric"]) == (8, "channel", True)


@pytest.mark.parametrize("family", [CONFIG.family, LLAMA, QWEN2])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard_bytes", [None, 1500])
def test_what_is_read_is_what_int8_leaves(
    tmp_path: Path, family: Any, tied: bool, shard_bytes: int | None
) -> None:
    config = replace(CONFIG, tied_head=tied, family=family)
    network = seeded_network(config=config)
    save_checkpoint(tmp_path, network, shard_bytes=shard_bytes, weights="int8")
    files = [load_file(file) for file in tmp_path.glob("*.safetensors")]
    assert (len(files) > 5) == (shard_bytes is not None)
    apart = [
        name for file in files for name in file if name.endswith("_scale") and name[:-6] not in file
    ]
    assert bool(apart) == (shard_bytes is not None)  # a scale in another file than its weight
    expected = as_read(network)
    for name, tensor in load(tmp_path).state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=0)
    for name, tensor in load(tmp_path, torch.bfloat16).state_dict().items():
        torch.testing.assert_close(tensor.float(), expected[name], rtol=2.0**-8, atol=0)


@pytest.mark.parametrize("first", ["bf16", "int8"])
def test_one_kind_is_saved_over_the_other(tmp_path: Path, first: Any) -> None:
    second = "int8" if first == "bf16" else "bf16"
    for weights in (first, second):
        # As a training run that continues a checkpoint and keeps its config's keys.
        path = tmp_path / "config.json"
        before = json.loads(path.read_text()) if path.is_file() else {}
        save_checkpoint(tmp_path, seeded_network(), metadata=before, weights=weights)
    assert ("quantization_config" in json.loads(path.read_text())) == (second == "int8")
    logits = causal_logits(load(tmp_path), prompt_of(12))
    save_checkpoint(tmp_path / "alone", seeded_network(), weights=second)
    assert torch.equal(logits, causal_logits(load(tmp_path / "alone"), prompt_of(12)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_computes_the_same_of_an_int8_checkpoint(
    folder: Path, dtype: torch.dtype
) -> None:
    peer = TransformersPeer.read(folder, CPU, CLASSES["nemotron_labs_diffusion"][0])
    reference = peer.trace(prompt_of(40))
    peer.round_to(dtype)
    errors = compare(
        trace(load(folder, dtype), prompt_of(40)), peer.trace(prompt_of(40)), reference, dtype
    )
    assert not [error for error in errors if not error.is_ok]


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, str(folder / WEIGHTS))


def set_to(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda t: t.update({name: value(t[name]).contiguous()}))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda t: t.pop(name))


def entry(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(scale: torch.Tensor) -> torch.Tensor:
        scale[3] = value
        return scale

    return change


BREAKAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing scale": (without(SCALE), SCALE, "lacks 1 of 37 tensors"),
    "missing weight": (without(DOWN), SCALE, f"{DOWN} is not I8"),
    "flat scale": (set_to(SCALE, torch.flatten), SCALE, r"shape \[32\].* \[32, 1\]"),
    "scale of columns": (
        set_to(SCALE, lambda scale: scale.T.repeat(1, 2)),
        SCALE,
        r"shape \[1, 64\].* \[32, 1\]",
    ),
    "scale of integers": (set_to(SCALE, lambda scale: scale.int() + 1), SCALE, "is I32"),
    "scale of int8": (set_to(SCALE, lambda scale: scale.char() + 1), SCALE, "is I8"),
    "nan": (set_to(SCALE, entry(float("nan"))), SCALE, "is nan in row 3"),
    "infinite": (set_to(SCALE, entry(float("inf"))), SCALE, "is inf in row 3"),
    "zero": (set_to(SCALE, entry(0.0)), SCALE, "is 0.0 in row 3"),
    "negative": (set_to(SCALE, entry(-0.5)), SCALE, "is -0.5 in row 3"),
    "weight of another dtype": (set_to(DOWN, lambda w: w.bfloat16()), SCALE, f"{DOWN} is not I8"),
    "weight of unsigned bytes": (
        lambda folder: edit(folder, lambda t: (t.update({DOWN: t[DOWN].byte()}), t.pop(SCALE))),
        DOWN,
        "is U8",
    ),
    "weight of another shape": (set_to(DOWN, lambda w: w[:-1]), DOWN, "config.json says"),
    "scale of another shape": (set_to(SCALE, lambda s: s[:-1]), SCALE, "config.json says"),
    "norm of int8": (set_to(NORM, lambda norm: norm.char()), NORM, "is I8"),
    "scale of nothing": (
        lambda folder: edit(folder, lambda t: t.update({"lm_head.weight_scale": torch.ones(2, 1)})),
        "lm_head.weight_scale",
        "no place",
    ),
    "truncated": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-50]),
        WEIGHTS,
        "truncated or damaged",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_what_is_wrong_with_the_weights_is_named(folder: Path, breakage: str) -> None:
    break_it, param, named = BREAKAGES[breakage]
    load(folder)
    break_it(folder)
    with pytest.raises(CheckpointError, match=named) as error:
        load(folder)
    assert error.value.param == param
    assert error.value.remedy


SCHEME = quantized.CONFIG["config_groups"]["group_0"]["weights"]
# A key of config.json, and a value that means another quantisation.
REFUSED: list[tuple[str, object]] = [
    ("quantization_config", ["int8"]),
    ("quantization_config.quant_method", "bitsandbytes"),
    ("quantization_config.quant_method", "fp8"),
    ("quantization_config.format", "pack-quantized"),
    ("quantization_config.quantization_status", "frozen"),
    ("quantization_config.kv_cache_scheme", {"num_bits": 8}),
    ("quantization_config.config_groups", {}),
    ("quantization_config.config_groups.W8A16", ["Linear"]),
    ("quantization_config.config_groups.b.input_activations", {"num_bits": 8, "dynamic": True}),
    ("quantization_config.config_groups.b.format", "pack-quantized"),
    ("quantization_config.config_groups.b.weights", None),
    ("quantization_config.config_groups.b.weights.num_bits", 4),
    ("quantization_config.config_groups.b.weights.type", "float"),
    ("quantization_config.config_groups.b.weights.symmetric", False),
    ("quantization_config.config_groups.b.weights.strategy", "group"),
    ("quantization_config.config_groups.b.weights.group_size", 128),
]


def restate(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_another_quantisation_is_refused_by_the_key_that_says_so(
    folder: Path, key: str, value: object
) -> None:
    def change(raw: dict[str, Any]) -> None:
        groups = raw["quantization_config"]["config_groups"]
        groups["b"] = copy.deepcopy(groups["group_0"])
        *path, last = key.split(".")
        for name in path:
            raw = raw[name]
        raw[last] = value

    restate(folder, change)
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert error.value.param == key
    assert f"{key} is " in error.value.message
    assert "int8 weights with one scale per output channel" in error.value.remedy


def test_what_the_librarys_own_config_says_besides_is_read(folder: Path) -> None:
    """The keys that llm-compressor writes, with their usual values."""
    group = quantized.CONFIG["config_groups"]["group_0"]
    scheme = {**SCHEME, "group_size": None, "block_structure": None, "actorder": None}
    scheme.update(observer="minmax", observer_kwargs={})
    stated = {
        **quantized.CONFIG,
        "config_groups": {"group_0": {**group, "weights": scheme}},
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "transform_config": {},
        "moe_sparsity_config": None,
        "version": "0.12.2",
    }
    before = causal_logits(load(folder), prompt_of(9))
    restate(folder, lambda raw: raw.update(quantization_config=stated))
    assert torch.equal(causal_logits(load(folder), prompt_of(9)), before)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_scales_of_any_float_dtype_are_read(folder: Path, kind: torch.dtype) -> None:
    stored = load_file(folder / WEIGHTS)
    edit(folder, lambda t: t.update({SCALE: t[SCALE].to(kind)}))
    weight = load(folder).state_dict()[DOWN]
    assert torch.equal(weight, stored[DOWN].float() * stored[SCALE].to(kind).float())


def test_int8_without_a_word_of_it_in_the_config_is_named(folder: Path) -> None:
    restate(folder, lambda raw: raw.pop("quantization_config"))
    with pytest.raises(CheckpointError, match=r"is I8, but config\.json has no quantization_c"):
        load(folder)


def test_some_matrices_may_stay_as_they_are(folder: Path) -> None:
    """This happens if a config's `ignore` names the head."""
    plain = seeded_network().state_dict()[DOWN].bfloat16()
    edit(folder, lambda t: (t.update({DOWN: plain}), t.pop(SCALE)))
    assert torch.equal(load(folder).state_dict()[DOWN], plain.float())


def test_a_drafter_lora_of_integers_is_refused_and_one_beside_int8_weights_read(
    folder: Path,
) -> None:
    save_adapter(folder, DrafterAdapter(CONFIG, rank=4, alpha=8.0))
    config = read_config(folder)
    adapter = load_adapter(folder, config, device=CPU, dtype=torch.float32)
    assert adapter is not None
    path = folder / "linear_spec_lora" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    save_file({**tensors, name: tensors[name].char()}, str(path))
    with pytest.raises(CheckpointError, match="is I8") as error:
        load_adapter(folder, config, device=CPU, dtype=torch.float32)
    assert error.value.param == name


def test_float8_without_scales_is_not_taken_for_numbers(tmp_path: Path) -> None:
    folder = write_nld(tmp_path, "3B")
    name = "encoder.layers.0.mlp.up_proj.weight"
    edit(folder, lambda t: t.update({name: t[name].to(torch.float8_e4m3fn)}))
    with pytest.raises(CheckpointError, match=f"{name} is F8_E4M3"):
        load(folder)
