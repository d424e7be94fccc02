"""The drafter LoRA: the same as a merged o_proj, on the rows that draft and on no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import CheckpointError
from engine.model.adapter import DrafterAdapter, load_adapter, save_adapter
from engine.model.runner import ModelRunner
from engine.step import Step, group
from tests.engine.seeded import CONFIG, CPU, MASK_ID, empty_cache, seeded_network

BLOCK = (7, MASK_ID, MASK_ID, 9)


def seeded_adapter(rank: int = 4, alpha: float = 16.0) -> DrafterAdapter:
    generator = torch.Generator().manual_seed(3)
    adapter = DrafterAdapter(CONFIG, rank, alpha)
    for parameter in adapter.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return adapter.requires_grad_(False)


def logits(model: ModelRunner, drafter: bool) -> torch.Tensor:
    cache = empty_cache()
    sequence, _ = cache.open((1,), 10)
    step = group(BLOCK, 0, read=(0, 1, 2, 3), sequence=sequence, drafter=drafter)
    return model.logits(step, cache)


def test_drafter_rows_equal_a_merged_projection() -> None:
    adapter = seeded_adapter()
    merged = seeded_network()
    for layer, block in enumerate(merged.encoder.layers):
        block.self_attn.o_proj.weight.data += 4.0 * adapter.up[layer] @ adapter.down[layer]
    drafted = logits(ModelRunner(seeded_network(), device=CPU, adapter=adapter), drafter=True)
    expected = logits(ModelRunner(merged, device=CPU), drafter=False)
    torch.testing.assert_close(drafted, expected, rtol=1e-4, atol=1e-4)
    plain = logits(ModelRunner(seeded_network(), device=CPU), drafter=False)
    assert not torch.allclose(drafted, plain, rtol=1e-2, atol=1e-2)


def test_other_rows_of_the_same_step_are_untouched() -> None:
    """Two sequences in one step: one drafts, one verifies."""
    model = ModelRunner(seeded_network(), device=CPU, adapter=seeded_adapter())
    cache = empty_cache()
    first, _ = cache.open((1,), 10)
    second, _ = cache.open((1,), 10)
    step = Step(
        token=BLOCK * 2,
        sequence=(first,) * 4 + (second,) * 4,
        position=(0, 1, 2, 3) * 2,
        parent=(-1,) * 8,
        group=(1,) * 8,
        drafter=(True,) * 4 + (False,) * 4,
        read=tuple(range(8)),
    )
    both = model.logits(step, cache)
    torch.testing.assert_close(both[:4], logits(model, drafter=True), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[4:], logits(model, drafter=False), rtol=1e-4, atol=1e-4)


def test_an_adapter_is_saved_in_peft_layout_and_read_back(tmp_path: Path) -> None:
    adapter = seeded_adapter()
    save_adapter(tmp_path, adapter)
    names = load_file(tmp_path / "linear_spec_lora" / "adapter_model.safetensors")
    first = "base_model.model.encoder.layers.0.self_attn.o_proj.lora_A.weight"
    assert names[first].shape == (4, 64)
    assert len(names) == 2 * CONFIG.layers
    loaded = load_adapter(tmp_path, CONFIG, device=CPU, dtype=torch.float32)
    assert loaded is not None
    assert (loaded.rank, loaded.alpha) == (4, 16.0)
    for one, other in zip(adapter.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one.bfloat16().float(), other)


def test_a_checkpoint_without_an_adapter_has_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "model.gguf"):
        assert load_adapter(path, CONFIG, device=CPU, dtype=torch.float32) is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"r": 0}, "r is 0"),
        ({"r": 5}, "has shape"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"target_modules": ["q_proj", "o_proj"]}, "target_modules"),
    ],
)
def test_foreign_adapters_are_named(tmp_path: Path, change: dict, named: str) -> None:
    save_adapter(tmp_path, seeded_adapter())
    path = tmp_path / "linear_spec_lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=named):
        load_adapter(tmp_path, CONFIG, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    save_adapter(tmp_path, seeded_adapter())
    (tmp_path / "linear_spec_lora" / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        load_adapter(tmp_path, CONFIG, device=CPU, dtype=torch.float32)
