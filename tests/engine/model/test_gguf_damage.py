"""Opening a GGUF file with any bytes ends soon in a config or a CheckpointError and takes little
memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import CheckpointError
from engine.model.gguf_config import gguf_config
from engine.model.gguf_file import read_gguf
from engine.model.gguf_weights import GGUFWeights
from engine.model.network import rotary_frequencies
from tests.engine.gguf_files import arrays_of, keys_of, seeded_peer, write_gguf

SECONDS, BYTES = 3.0, 8 << 20
FLOAT32, STRING, ARRAY, UINT8 = 6, 8, 9, 0
HUGE = (2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1)


@contextmanager
def soon() -> Iterator[None]:
    """Asserts that the block takes a few seconds and megabytes at most."""
    began = time.monotonic()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < BYTES
    assert time.monotonic() - began < SECONDS


def open_whole(path: Path) -> None:
    """Opens a file and reads every tensor of it."""
    file = read_gguf(path)
    weights = GGUFWeights(file, gguf_config(file))
    for name in weights.names():
        weights.read(name)


def refuse(path: Path, data: bytes, named: str) -> None:
    path.write_bytes(data)
    with soon(), pytest.raises(CheckpointError, match=named) as error:
        open_whole(path)
    assert str(path) in error.value.message
    assert error.value.remedy
    assert error.value.param


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def header(tensors: int = 0, keys: int = 0, *, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


PAD = bytes(4096)
STARTS = {
    "nothing": (b"", "cannot be read"),
    "other magic": (b"PK\x03\x04" + PAD, "not a GGUF file"),
    "magic alone": (b"GGUF", "header ends"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + PAD, "big-endian"),
    "version 1": (header(version=1) + PAD, "version 1"),
    "version 4": (header(version=4) + PAD, "version 4"),
    "no tensors and keys": (header() + PAD, "general.architecture is missing"),
    "unknown kind of value": (header(0, 1) + key("a", 13, PAD), "a is of the unknown type 13"),
    "nested arrays": (
        header(0, 1) + key("a", ARRAY, struct.pack("<IQ", ARRAY, 1) + PAD),
        "a is an array of the type 9",
    ),
    "key twice": (header(0, 2) + key("a", UINT8, b"1") * 2 + PAD, "a twice"),
    "key that is no text": (header(0, 1) + struct.pack("<Q", 2) + b"\xff\xfe" + PAD, "not UTF-8"),
    "alignment 0": (
        header(0, 1) + key("general.alignment", 4, struct.pack("<I", 0)) + PAD,
        "general.alignment is 0",
    ),
    "alignment 24": (
        header(0, 1) + key("general.alignment", 4, struct.pack("<I", 24)) + PAD,
        "general.alignment is 24",
    ),
    "no dimension": (header(1) + tensor("t", ()) + PAD, "t has 0 dimensions"),
    "five dimensions": (header(1) + tensor("t", (1,) * 5) + PAD, "t has 5 dimensions"),
    "an empty dimension": (header(1) + tensor("t", (4, 0)) + PAD, r"t has shape \[0, 4\]"),
    "unknown type": (header(1) + tensor("t", (4,), 36) + PAD, "t is of the type 36"),
    "half a block": (header(1) + tensor("t", (48,), 8) + PAD, "t has rows of 48"),
    "crooked offset": (header(1) + tensor("t", (4,), 0, 4) + PAD, "t is not aligned"),
    "tensor twice": (header(2) + tensor("t", (4,)) * 2 + PAD, "t twice"),
    "past the end": (header(1) + tensor("t", (4,), 0, 4096) + PAD, "t ends at byte"),
    "too wide": (header(1) + tensor("t", (1 << 20,)) + PAD, "t ends at byte"),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_wrong_header_is_named(tmp_path: Path, start: str) -> None:
    data, named = STARTS[start]
    refuse(tmp_path / "m.gguf", data, named)


@pytest.mark.parametrize("count", HUGE)
def test_huge_counts_are_refused_at_once(tmp_path: Path, count: int) -> None:
    path, number = tmp_path / "m.gguf", struct.pack("<Q", count)
    refuse(path, header(count) + PAD, f"{count} tensors")
    refuse(path, header(0, count) + PAD, f"{count} keys")
    refuse(path, header(0, 1) + number + PAD, "header ends")
    refuse(path, header(0, 1) + key("a", STRING, number) + PAD, "header ends in a")
    for kind in (UINT8, FLOAT32, STRING):
        array = struct.pack("<I", kind) + number
        refuse(path, header(0, 1) + key("a", ARRAY, array) + PAD, f"{count} entries")
    refuse(path, header(1) + number + PAD, "header ends")
    refuse(path, header(1) + tensor("t", (count,)) + PAD, "t ends at byte")
    refuse(path, header(1) + tensor("t", (count,) * 4) + PAD, "t ends at byte")
    refuse(path, header(1) + tensor("t", (4,), 0, count // 32 * 32) + PAD, "t ends at byte")
    refuse(path, header(1) + text("t") + struct.pack("<I", count % 2**32 or 9) + PAD, "dimensions")


def test_arrays_share_one_bound(tmp_path: Path) -> None:
    """Several long arrays cannot exceed the bound together either."""
    array = key("{}", ARRAY, struct.pack("<IQ", UINT8, 1 << 21) + bytes(1 << 21))
    data = header(0, 3) + b"".join(array.replace(b"{}", b"a%d" % number) for number in range(3))
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{1 << 21} entries") as error:
        read_gguf(path)
    assert error.value.param == "a2"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.gguf cannot be read"):
        read_gguf(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    "stated",
    [
        {"llama.attention.key_length": 2**31 - 2, "llama.rope.scaling.factor": 2.0},
        {"llama.block_count": 2**31 - 1},
        {"llama.attention.head_count": 2**31 - 1, "llama.attention.head_count_kv": 1},
    ],
)
def test_huge_shapes_are_refused_at_once(
    small: tuple[Path, bytes, int], stated: dict[str, Any]
) -> None:
    file = read_gguf(small[0])
    file = replace(file, metadata={**file.metadata, **stated})
    with soon(), pytest.raises(CheckpointError) as error:
        GGUFWeights(file, gguf_config(file))
    assert error.value.remedy


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, int]:
    """A small whole file, its bytes, and how many of them are the header."""
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    peer = seeded_peer("llama", **shape, num_key_value_heads=1, num_hidden_layers=1)
    arrays = arrays_of(peer, "llama")
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_gguf(path, "llama", arrays, keys_of(peer, "llama"))
    open_whole(path)
    data = path.read_bytes()
    return path, data, len(data) - sum(array.nbytes for array in arrays.values())


def test_version_2_is_read_alike(small: tuple[Path, bytes, int]) -> None:
    path, data, _ = small
    second = path.with_name("second.gguf")
    second.write_bytes(data[:4] + struct.pack("<I", 2) + data[8:])
    assert read_gguf(second).metadata == read_gguf(path).metadata
    open_whole(second)


def test_every_length_that_is_too_short_is_refused(small: tuple[Path, bytes, int]) -> None:
    path, data, size = small
    for length in (*range(0, size, 37), *range(size, len(data) - 32, 4001)):
        path.with_name("cut.gguf").write_bytes(data[:length])
        with soon(), pytest.raises(CheckpointError):
            open_whole(path.with_name("cut.gguf"))


numbers = st.one_of(
    st.sampled_from(HUGE).map(lambda number: struct.pack("<Q", number)),
    st.integers(0, 2**32 - 1).map(lambda number: struct.pack("<I", number)),
    st.binary(min_size=1, max_size=12),
)
edits = st.lists(st.tuples(st.integers(0, 2**16), numbers), min_size=1, max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(edits)
def test_any_damage_ends_in_a_config_or_an_error(
    small: tuple[Path, bytes, int], edits: list[tuple[int, bytes]]
) -> None:
    path, data, size = small
    damaged = bytearray(data)
    for position, value in edits:
        start = position % size
        damaged[start : start + len(value)] = value
    damaged_path = path.with_name("damaged.gguf")
    damaged_path.write_bytes(damaged[: len(data)])
    with soon(), suppress(CheckpointError):
        open_whole(damaged_path)


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_any_bytes_end_in_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + data)
    with soon(), pytest.raises(CheckpointError):
        open_whole(path)


KEYS = (
    "general.architecture",
    "general.type",
    "split.count",
    *(f"tokenizer.ggml.{key}" for key in ("tokens", "token_type", "eos_token_id", "bos_token_id")),
    *(
        f"llama.{key}"
        for key in (
            "block_count", "context_length", "embedding_length", "feed_forward_length",
            "attention.head_count", "attention.head_count_kv", "attention.key_length",
            "attention.value_length", "attention.layer_norm_rms_epsilon",
            "attention.sliding_window", "attention.causal", "expert_count", "rope.freq_base",
            "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
            "rope.scaling.original_context_length", "rope.scaling.yarn_log_multiplier",
            "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scale_linear",
        )
    ),
)  # fmt: skip
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.sampled_from(["model", "llama", "mistral3", "yarn", "linear", "none", "</s>", ""]),
)
values = st.one_of(scalars, st.lists(scalars, max_size=4))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=600)
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=4))
def test_any_values_of_keys_end_in_a_config_or_an_error(
    small: tuple[Path, bytes, int], stated: dict[str, Any]
) -> None:
    file = read_gguf(small[0])
    changed = {**file.metadata, **stated}
    kept = {key: value for key, value in changed.items() if value is not None}
    with suppress(CheckpointError):
        config = gguf_config(replace(file, metadata=kept))
        frequencies = rotary_frequencies(config.rope, config.head_dim)
        assert frequencies.shape == (config.head_dim // 2,)
        assert np.isfinite(np.asarray(frequencies)).all()
        assert all(0 <= end < config.vocabulary for end in config.end_ids)
        GGUFWeights(file, config)
