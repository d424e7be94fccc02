"""What is trained is what is served: an exported adapter in the CPU's graph."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.api import Limits, Request, Sampling
from engine.auto.step_times import StepTimes
from engine.cache.arrays import ArrayCache
from engine.cache.shape import CacheShape
from engine.decoders import strategy_for
from engine.decoders.strategy import Traits
from engine.drafting import DraftHead
from engine.errors import CheckpointError
from engine.lab.training.mask_adapter.adapter import (
    AdapterOptions,
    MaskAdapter,
    run_clean,
    run_masks,
)
from engine.lab.training.mask_adapter.export import Base, export
from engine.lab.training.mask_adapter.groups import draw_groups
from engine.lab.training.mask_adapter.teacher import write
from engine.loop import decode
from engine.model.families import NEMOTRON
from engine.model.mask_adapter import (
    BUNDLED,
    MaskAdapterWeights,
    adapter_folder,
    adapter_stamp,
    find_adapter,
    read_mask_adapter,
)
from engine.model.mask_adapter import CONFIG as ADAPTER_CONFIG
from engine.model.network import Network
from engine.model.onnx.graph import write_graph
from engine.model.onnx.model import OnnxModel
from engine.model.onnx.plan import GraphPlan
from engine.model.onnx.runtime import MaskEmbedding, TokenEmbedding
from engine.model.onnx.sessions import open_session
from engine.model.onnx.writer import GRAPH_FILE, GraphWriter
from engine.step import Step
from tests.engine.graphs import NetworkWeights
from tests.engine.model.onnx.families import FAMILIES, network_of

FAMILY = "qwen2: biases, tied head"
SIZE = 3  # rows of a group


class Checkpoint:
    """The network's tensors as `engine.model.weights.Weights`."""

    def __init__(self) -> None:
        self.tensors = {
            name: tensor.detach().numpy().copy() for name, tensor in network().state_dict().items()
        }

    def names(self) -> frozenset[str]:
        return frozenset(self.tensors)

    def read(self, name: str) -> np.ndarray:
        return self.tensors[name].copy()

    def rows(self, name: str, rows: Sequence[int]) -> np.ndarray:
        return self.tensors[name][list(rows)]


@cache
def network() -> Network:
    return network_of(FAMILY).requires_grad_(False)


def trained(seed: int = 4) -> MaskAdapter:
    """An adapter large enough to change everything."""
    ids = np.arange(2, network().config.vocabulary, 2)
    adapter = MaskAdapter(network(), AdapterOptions(4, 6.0, masks=SIZE, markov_rank=4), ids)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return adapter


def exported(adapter: MaskAdapter, folder: Path) -> MaskAdapterWeights:
    base = Base("toy", network().config, Checkpoint())
    export(adapter, base, folder)
    return read_mask_adapter(folder, base.config, base.weights)


def served(weights: MaskAdapterWeights, folder: Path) -> OnnxModel:
    config, source = network().config, Checkpoint()
    with GraphWriter(folder) as writer:
        write_graph(writer, config, source, GraphPlan("float32", half_cache=False), weights)
    embedding = MaskEmbedding(TokenEmbedding(source), config.vocabulary, weights.mask_vectors)
    drafts = DraftHead(weights.draft_ids, weights.before, weights.after)
    session = open_session(folder / GRAPH_FILE, 1)
    return OnnxModel(session, embedding, config, has_drafter=True, drafts=drafts)


def as_read(adapter: MaskAdapter, weights: MaskAdapterWeights) -> MaskAdapter:
    """The trained adapter with the numbers that int8 has made of it."""
    scale = adapter.options.alpha / adapter.options.rank
    with torch.no_grad():
        for key in adapter.lowrank.down:
            factors = weights.factors("encoder.layers." + key.replace("/", "."))
            adapter.lowrank.down[key].copy_(torch.from_numpy(factors.down))
            adapter.lowrank.up[key].copy_(torch.from_numpy(factors.up / scale))
        adapter.mask_vectors.copy_(torch.from_numpy(weights.mask_vectors))
        adapter.before.copy_(torch.from_numpy(weights.before))
        adapter.after.copy_(torch.from_numpy(weights.after))
    return adapter


def test_a_served_group_drafts_what_the_trained_one_does(tmp_path: Path) -> None:
    weights = exported(trained(), tmp_path)
    adapter, model = as_read(trained(), weights), served(weights, tmp_path)
    config = network().config
    prompts = torch.randint(
        5, config.vocabulary, (3, 9), generator=torch.Generator().manual_seed(1)
    )
    written = write(network(), prompts, 6, ())
    layout = (SIZE,) * 2
    batch = draw_groups(
        written, layout, torch.Generator().manual_seed(2), revealed_share=0.0, middles_only=True
    )
    hidden = run_masks(network(), adapter, run_clean(network(), written), batch, layout)
    for row in range(3):
        for start in range(0, SIZE * len(layout), SIZE):
            anchor = int(batch.anchors[row, start])
            tokens = written.tokens[row, : anchor + 1].tolist()
            step = _group(tokens, config.vocabulary)
            cache_ = _cache(tokens)
            logits = model.logits(step, cache_)
            expected = network().logits(hidden[row, start : start + SIZE]).detach().numpy()
            np.testing.assert_allclose(logits[1:], expected, atol=2e-4)
            drafted = [each.token for each in model(step, cache_, Sampling())][1:]
            previous = torch.tensor([int(written.greedy[row, anchor])])
            for offset in range(SIZE):
                scores = adapter.logits(hidden[row, start + offset][None], previous)
                previous = adapter.draft_ids[scores.argmax(dim=-1)]
                assert drafted[offset] == int(previous)


def test_pruned_speculation_with_an_adapter_emits_what_ar_emits(tmp_path: Path) -> None:
    model = served(exported(trained(), tmp_path), tmp_path)
    config = network().config
    masks = tuple(range(config.vocabulary, config.vocabulary + SIZE))
    flat = StepTimes((1, 64), (1.0, 1.1))
    drafting = 0
    for seed in range(4):
        prompt = tuple(
            torch.randint(5, config.vocabulary, (7,), generator=torch.Generator().manual_seed(seed))
            .numpy()
            .tolist()
        )
        texts = {}
        for mode in ("ar", "pruned_spec"):
            cache_ = ArrayCache(CacheShape.of(config), 96, half=False)
            request = Request(prompt=prompt, mode=mode, limits=Limits(tokens_max=24))
            traits = Traits(None, has_drafter=True, draft_masks=masks, costs=flat)
            states = list(
                decode(model, cache_, strategy_for(mode, traits), request, traits, lambda: False)
            )
            texts[mode] = states[-1].progress.committed
            drafting += mode == "pruned_spec" and states[-1].rows > states[-1].forwards
        assert texts["ar"] == texts["pruned_spec"]
    assert drafting  # masks did hang on the chain


def test_rows_without_the_adapter_are_the_checkpoints_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    model = served(exported(trained(), tmp_path), tmp_path)
    source = NetworkWeights(network())
    with GraphWriter(tmp_path / "plain") as writer:
        plan = GraphPlan("float32", half_cache=False)
        write_graph(writer, network().config, source, plan, None)
    session = open_session(tmp_path / "plain" / GRAPH_FILE, 1)
    plain = OnnxModel(session, source, network().config, has_drafter=False)
    tokens = [5, 9, 11, 7]
    mixed = _group(tokens, network().config.vocabulary)
    causal = Step(
        token=tuple(tokens),
        sequence=(0,) * 4,
        position=(0, 1, 2, 3),
        parent=(-1, 0, 1, 2),
        group=(0,) * 4,
        drafter=(False,) * 4,
        read=(3,),
    )
    caches = [_cache(tokens) for _ in range(3)]
    expected = plain.logits(causal, caches[0])
    assert np.array_equal(model.logits(causal, caches[1]), expected)
    np.testing.assert_allclose(model.logits(mixed, caches[2])[:1], expected, atol=1e-5)


def test_an_adapter_is_refused_for_other_weights(tmp_path: Path) -> None:
    exported(trained(), tmp_path / "toy")
    changed = Checkpoint()
    name = next(name for name in changed.tensors if name.endswith("q_proj.weight"))
    changed.tensors[name][0, 0] += 0.5
    with pytest.raises(CheckpointError, match="not of these weights"):
        read_mask_adapter(tmp_path / "toy", network().config, changed)
    assert find_adapter(network().config, changed, tmp_path) is None
    found = find_adapter(network().config, Checkpoint(), tmp_path)
    assert found is not None
    assert found.name == "toy"
    filling = replace(FAMILIES[FAMILY], family=NEMOTRON)
    assert find_adapter(filling, Checkpoint(), tmp_path) is None


def test_the_users_newest_adapter_comes_first_and_the_bundled_ones_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, source = network().config, Checkpoint()
    own, bundled = tmp_path / "own", tmp_path / "bundled"
    monkeypatch.setattr("engine.model.mask_adapter.BUNDLED", bundled)
    assert adapter_folder(config, source, own) is None
    exported(trained(), bundled / "toy")
    assert adapter_folder(config, source) == bundled / "toy"
    assert adapter_folder(config, source, own) == bundled / "toy"
    for index, name in enumerate(("older", "newer", "oldest")):
        exported(trained(), own / name)
        os.utime(own / name / ADAPTER_CONFIG, (1000, 1000 - abs(index - 1)))
    assert adapter_folder(config, source, own) == own / "newer"
    shutil.copytree(own / "newer", own / ".newest.partial")
    assert adapter_folder(config, source, own) == own / "newer"


@pytest.mark.parametrize("text", ["{}", '{"r": 8, "lora_alpha": 16}', "not JSON"])
def test_a_folder_that_is_no_mask_adapter_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    own = tmp_path / "own"
    exported(trained(), own / "toy")
    (own / "foreign").mkdir()
    (own / "foreign" / ADAPTER_CONFIG).write_text(text, "utf-8")
    assert adapter_folder(network().config, Checkpoint(), own) == own / "toy"
    assert "foreign is left out" in caplog.text


def test_a_stamp_tells_trained_numbers_from_others(tmp_path: Path) -> None:
    for name, seed in (("one", 4), ("same", 4), ("other", 5)):
        exported(trained(seed), tmp_path / name)
    one, same, other = (adapter_stamp(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other
    assert adapter_stamp(None) == ""
    # One that was written before configs had a digest.
    path = tmp_path / "one" / ADAPTER_CONFIG
    raw = json.loads(path.read_text("utf-8"))
    del raw["dlm"]["sha256"]
    path.write_text(json.dumps(raw), "utf-8")
    before = adapter_stamp(tmp_path / "one")
    os.utime(tmp_path / "one" / "adapter_model.safetensors", (5, 5))
    assert adapter_stamp(tmp_path / "one") != before


def test_the_bundled_digests_are_those_of_the_bundled_tensors() -> None:
    folders = [path.parent for path in BUNDLED.glob(f"*/{ADAPTER_CONFIG}")]
    assert folders
    for folder in folders:
        raw = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
        data = (folder / "adapter_model.safetensors").read_bytes()
        assert raw["dlm"]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("key", "value"), [("r", 0), ("r", "x"), ("dlm", None), ("lora_alpha", "x")]
)
def test_a_damaged_config_names_its_field(tmp_path: Path, key: str, value: object) -> None:
    exported(trained(), tmp_path)
    path = tmp_path / ADAPTER_CONFIG
    raw = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**raw, key: value}), "utf-8")
    with pytest.raises(CheckpointError, match="adapter_config"):
        read_mask_adapter(tmp_path, network().config, Checkpoint())


def _cache(tokens: list[int]) -> ArrayCache:
    """An empty store with sequence 0 open for these tokens."""
    cache_ = ArrayCache(CacheShape.of(network().config), 64, half=False)
    assert cache_.open(tuple(tokens), 32) == (0, 0)
    return cache_


def _group(tokens: list[int], first_mask: int) -> Step:
    """A causal chain whose last row has a group of masks; that row and the group are read."""
    length = len(tokens)
    return Step(
        token=(*tokens, *range(first_mask, first_mask + SIZE)),
        sequence=(0,) * (length + SIZE),
        position=tuple(range(length + SIZE)),
        parent=(*range(-1, length - 1), *(length - 1,) * SIZE),
        group=(0,) * length + (1,) * SIZE,
        drafter=(False,) * length + (True,) * SIZE,
        read=tuple(range(length - 1, length + SIZE)),
        follows=(-1, *range(SIZE)),
    )
