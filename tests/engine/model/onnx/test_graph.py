"""The graph computes the same as the torch network for any step, and a quantised graph the same as
plain numpy with the same integers."""

from __future__ import annotations

from functools import cache

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.cache.arrays import ArrayCache
from engine.cache.shape import CacheShape
from engine.cache.storage import KVCache
from engine.model.adapter import DrafterAdapter
from engine.model.config import ModelConfig
from engine.model.onnx.plan import Product
from engine.model.onnx.probe import is_exact
from engine.model.onnx.products import Linear
from engine.model.onnx.sessions import open_session
from engine.model.onnx.writer import GRAPH_FILE, GraphWriter
from engine.model.runner import ModelRunner
from engine.step import chain, group, joined
from tests.engine.graphs import GraphModel, NetworkWeights, graph_model
from tests.engine.model.onnx.families import FAMILIES, drafter_of, network_of
from tests.engine.model.onnx.oracle import oracle_logits, quantized_product
from tests.engine.seeded import CPU, MASK_ID, prompt_of
from tests.engine.steps import trees

EQUAL = 5e-5  # of a row's size, as the torch network equals transformers'
DRAFTING = "nemotron: YaRN and query scale"
QUANTIZED = ("int8", "uint8")


@cache
def both(family: str, has_drafter: bool = False) -> tuple[ModelRunner, GraphModel]:
    """The same network in torch and as a float32 graph."""
    network = network_of(family)
    if not has_drafter:
        return ModelRunner(network, device=CPU), graph_model(network)
    factors = drafter_of(network.config)
    adapter = DrafterAdapter(network.config, factors.rank, factors.alpha)
    for parameters, arrays in ((adapter.down, factors.down), (adapter.up, factors.up)):
        for parameter, array in zip(parameters, arrays, strict=True):
            parameter.data = torch.from_numpy(array)
    adapter.requires_grad_(False)
    return ModelRunner(network, device=CPU, adapter=adapter), graph_model(network, adapter=factors)


def stores(config: ModelConfig) -> tuple[KVCache, ArrayCache]:
    shape = CacheShape.of(config)
    torch_store = KVCache(shape, 1024, device=CPU, dtype=torch.float32)
    return torch_store, ArrayCache(shape, 1024, half=False)


def error(ours: Tensor, theirs: Tensor) -> float:
    """The relative root mean square error of the worst row."""
    assert ours.shape == theirs.shape
    difference = (ours - theirs).square().mean(-1).sqrt()
    return float((difference / theirs.square().mean(-1).sqrt()).max())


def compare(
    models: tuple[ModelRunner, GraphModel],
    data: st.DataObject,
    *,
    drafts: bool,
    exact: bool = False,
) -> None:
    """One random step of up to three sequences, after some of each was cached.

    Args:
        exact: whether some sequences are exact ones, whose causal rows are computed in tiles.
    """
    ours, theirs = models[1], models[0]
    torch_store, store = stores(ours.network.config)
    lengths: dict[int, int] = {}
    for seed in range(data.draw(st.integers(1, 3))):
        tokens = prompt_of(data.draw(st.integers(0, 40)), seed)
        is_exact = exact and data.draw(st.booleans())
        sequence, _ = store.open(tokens, 200, exact=is_exact)
        assert torch_store.open(tokens, 200, exact=is_exact)[0] == sequence
        lengths[sequence] = len(tokens)
        cut = data.draw(st.integers(0, len(tokens)))
        for start, part in ((0, tokens[:cut]), (cut, tokens[cut:])):
            if part:
                fed = chain(part, start, sequence=sequence)
                ours.logits(fed, store)
                theirs.logits(fed, torch_store)
                for each in (store, torch_store):
                    each.keep(fed, tuple(range(len(part))))
    drafters = (False, False, True) if drafts else (False,)
    gaps = (0,) if exact else (*[0] * 8, 1, 5, 70, 700)  # no strategy leaves positions out
    step = data.draw(trees(lengths, drafters=drafters, gaps=gaps))
    logits = ours.logits(step, store)
    assert logits.shape == (len(step.read), ours.network.config.vocabulary)
    expected = theirs.logits(step, torch_store)
    assert not step.read or error(logits, expected) < EQUAL


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_step_equals_torchs(family: str, data: st.DataObject) -> None:
    compare(both(family), data, drafts=False)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_rows_with_the_drafter_on_equal_torchs_beside_plain_ones(data: st.DataObject) -> None:
    compare(both(DRAFTING, has_drafter=True), data, drafts=True)


@pytest.mark.parametrize("has_drafter", [False, True], ids=["plain", "drafter"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_step_of_exact_sequences_equals_torchs(has_drafter: bool, data: st.DataObject) -> None:
    """The steps have tiles, children of their rows, and other sequences."""
    compare(both(DRAFTING, has_drafter), data, drafts=has_drafter, exact=True)


def test_the_drafter_changes_its_own_rows_alone() -> None:
    _, model = both(DRAFTING, has_drafter=True)
    store = stores(model.network.config)[1]
    sequence, _ = store.open((5,), 100)
    plain = chain((7, 8, 9), 0, read=(0, 1, 2), sequence=sequence)
    drafting = group((7, MASK_ID, MASK_ID), 0, read=(0, 1, 2), sequence=sequence, drafter=True)
    off = group((7, MASK_ID, MASK_ID), 0, read=(0, 1, 2), sequence=sequence)
    other, _ = store.open((5,), 100)
    beside = joined([chain((7, 8, 9), 0, read=(0, 1, 2), sequence=other), drafting])
    together = model.logits(beside, store)
    assert error(together[:3], model.logits(plain, store)) < EQUAL
    assert error(together[3:], model.logits(drafting, store)) < EQUAL
    assert error(together[3:], model.logits(off, store)) > 0.01


@pytest.fixture(params=QUANTIZED, scope="module")
def product(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Product:
    """The products that are exact on this processor; the engine uses no others."""
    if not is_exact(request.param, tmp_path_factory.mktemp("probe"), threads=1):
        pytest.skip(f"{request.param} products saturate on this processor")
    return request.param


@pytest.mark.parametrize("rows", [1, 2, 8, 33])
@pytest.mark.parametrize(("width", "out"), [(1, 1), (3, 5), (64, 48), (300, 97)])
def test_a_quantised_product_is_the_one_of_its_integers(
    product: Product, rows: int, width: int, out: int, tmp_path
) -> None:
    """Includes rows of zeros, of any size, and with a repeated largest entry."""
    generator = numpy.random.default_rng(rows * width)
    weight = generator.standard_normal((out, width)).astype(numpy.float32)
    bias = generator.standard_normal(out).astype(numpy.float32)
    x = generator.standard_normal((rows, width)).astype(numpy.float32)
    x *= 10.0 ** generator.integers(-6, 6, (rows, 1))
    x[0] = 0 if rows > 1 else 127.0
    with GraphWriter(tmp_path) as writer:
        writer.input("x", ("R", width))
        linear = Linear(writer, product)
        for name, given_bias in (("plain", None), ("biased", bias)):
            writer.output(linear.write(name, "x", weight, given_bias), ("R", out))
        writer.save()
    session = open_session(tmp_path / GRAPH_FILE, 1)
    plain, biased = (numpy.asarray(value) for value in session.run(None, {"x": x}))
    expected = quantized_product(x, weight)
    numpy.testing.assert_allclose(plain, expected, rtol=2e-6, atol=0)
    numpy.testing.assert_allclose(biased, expected + bias, rtol=2e-6, atol=1e-6)


def test_a_weight_of_zeros_gives_zeros(product: Product, tmp_path) -> None:
    with GraphWriter(tmp_path) as writer:
        writer.input("x", ("R", 16))
        weight = numpy.zeros((4, 16), numpy.float32)
        writer.output(Linear(writer, product).write("zero", "x", weight), ("R", 4))
        writer.save()
    session = open_session(tmp_path / GRAPH_FILE, 1)
    (out,) = session.run(None, {"x": numpy.ones((3, 16), numpy.float32)})
    assert not numpy.asarray(out).any()


@cache
def quantized_model(family: str, product: Product) -> GraphModel:
    return graph_model(network_of(family), product)


def in_steps(model: GraphModel, tokens: tuple[int, ...], block: tuple[int, ...]) -> Tensor:
    """Logits of all rows: tokens as causal chains, then a block in which all see each other."""
    store = ArrayCache(CacheShape.of(model.network.config), 1024, half=True)
    sequence, _ = store.open(tokens, 300)
    logits = []
    for start in range(0, len(tokens), 9):
        part = tokens[start : start + 9]
        read = tuple(range(len(part)))
        step = chain(part, start, read=read, sequence=sequence)
        logits.append(model.logits(step, store))
        store.keep(step, read)
    read = tuple(range(len(block)))
    step = group(block, len(tokens), read=read, sequence=sequence)
    return torch.cat([*logits, model.logits(step, store)])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantised_graph_is_the_decoder_with_quantised_rows(
    family: str, product: Product
) -> None:
    """Now and then the last bits of a sum move an activation to the next integer, and rows that see
    its row are then off by a rounding; all other rows are equal. The fp32 graph differs by a few
    per cent, which is the cost of eight bits in a network of 32 columns."""
    network, weights = network_of(family), NetworkWeights(network_of(family))
    off, away = [], []
    block = (11, MASK_ID, MASK_ID, 12)
    visible = numpy.tri(24, dtype=bool)
    visible[20:, 20:] = True
    for seed in range(8):
        tokens = prompt_of(20, seed)
        logits = in_steps(quantized_model(family, product), tokens, block)
        oracle = oracle_logits(network.config, weights, tokens + block, visible)
        expected, unrounded = torch.from_numpy(oracle), in_steps(both(family)[1], tokens, block)
        size = expected.square().mean(-1).sqrt()
        off.append((logits - expected).square().mean(-1).sqrt() / size)
        away.append((logits - unrounded).square().mean(-1).sqrt() / size)
    assert float((torch.cat(off) < EQUAL).float().mean()) > 0.8
    assert float(torch.cat(off).max()) < 0.1
    assert 0.005 < float(torch.cat(away).mean()) < 0.1
