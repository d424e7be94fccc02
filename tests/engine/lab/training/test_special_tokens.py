"""New tokens: reserved ids first, then padding, then growth; everything old stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.lab.training.special_tokens import INFILLING, MASKING, grown, marker_ids, with_tokens
from engine.model.checkpoint import load_network
from engine.model.config import read_config
from engine.model.network import Network
from engine.model.tokenizer import read_tokenizer
from engine.prompt import BEGIN, END, InfillFormat
from tests.engine.lab.training.small_checkpoints import CODE, write_llama, write_qwen3
from tests.engine.seeded import CPU, causal_logits

NEW = {"[FAR]", "[PREFIX]", "[NEAR]", "[MIDDLE]", "[EOM]"}


def loaded(folder: Path) -> Network:
    return load_network(folder, read_config(folder), device=CPU, dtype=torch.float32)


def test_reserved_ids_are_taken_but_never_the_mask(tmp_path: Path):
    folder = write_llama(tmp_path / "llama", reserved=8)
    config = replace(read_config(folder), mask_id=4)  # <SPECIAL_1>
    vocabulary = with_tokens(folder, config, INFILLING)
    assert set(vocabulary.added) == NEW
    assert sorted(vocabulary.added.values()) == [3, 5, 6, 7, 8]
    assert vocabulary.size == config.vocabulary
    assert vocabulary.tokenizer.id_of("<SPECIAL_1>") == 4
    assert marker_ids(vocabulary, INFILLING) == [3, 5, 6, 7, 8]
    assert vocabulary.tokenizer.id_of("<SPECIAL_0>") is None


def test_without_enough_reserved_ids_the_vocabulary_grows(tmp_path: Path):
    folder = write_llama(tmp_path / "llama", reserved=2)
    config = read_config(folder)
    vocabulary = with_tokens(folder, config, (*INFILLING, *MASKING))
    assert vocabulary.size == config.vocabulary + 4
    ids = sorted(vocabulary.added.values())
    assert ids == [3, 4, *range(config.vocabulary, config.vocabulary + 4)]


def test_padding_of_the_embedding_is_used_before_it_grows(tmp_path: Path):
    folder = write_qwen3(tmp_path / "qwen")
    config = read_config(folder)
    tokens = read_tokenizer(folder).size
    assert config.vocabulary == tokens + 5
    vocabulary = with_tokens(folder, config, (*INFILLING, *MASKING))
    assert sorted(vocabulary.added.values()) == list(range(tokens, tokens + 6))
    assert vocabulary.size == tokens + 6


def test_the_extended_tokenizer_knows_our_layout_and_reads_text_as_before(tmp_path: Path):
    folder = write_llama(tmp_path / "llama", reserved=2)
    vocabulary = with_tokens(folder, read_config(folder), INFILLING)
    assert isinstance(vocabulary.tokenizer.infill, InfillFormat)
    text = CODE + "[FAR] is text, <SPECIAL_0> too"
    assert vocabulary.tokenizer.encode(text) == read_tokenizer(folder).encode(text)
    assert vocabulary.tokenizer.decode(vocabulary.tokenizer.encode(text)) == text
    (tmp_path / "tokenizer.json").write_text(vocabulary.json)
    assert read_tokenizer(tmp_path).infill == vocabulary.tokenizer.infill


def test_nothing_changes_where_nothing_is_missing(tmp_path: Path):
    folder = write_llama(tmp_path / "llama")
    vocabulary = with_tokens(folder, read_config(folder), (BEGIN, END))
    assert not vocabulary.added
    assert vocabulary.json == (folder / "tokenizer.json").read_text("utf-8")


@pytest.mark.parametrize("tied", [True, False])
def test_a_grown_network_computes_as_before_for_the_old_tokens(tmp_path: Path, tied: bool):
    folder = write_llama(tmp_path / "llama", tied=tied)
    network = loaded(folder)
    vocabulary = with_tokens(folder, network.config, (*INFILLING, *MASKING))
    larger = grown(network, vocabulary)
    tokens = tuple(vocabulary.tokenizer.encode(CODE)[:60])
    with torch.inference_mode():
        before, after = causal_logits(network, tokens), causal_logits(larger, tokens)
    assert after.shape[1] == vocabulary.size > before.shape[1]
    torch.testing.assert_close(after[:, : before.shape[1]], before)
    names = [name for name, _ in larger.named_parameters()]
    assert ("diffusion_head.weight" in names) is not tied


def test_new_rows_start_as_the_mean_and_begin_as_begin(tmp_path: Path):
    folder = write_qwen3(tmp_path / "qwen")
    network = loaded(folder)
    table = network.encoder.embed_tokens.weight.clone()
    vocabulary = with_tokens(folder, network.config, ("[FAR]", "<begin>"))
    rows = grown(network, vocabulary).encoder.embed_tokens.weight
    for token_id in vocabulary.added.values():
        torch.testing.assert_close(rows[token_id], table.mean(dim=0))


def test_rows_of_markers_that_were_there_are_trained_too(tmp_path: Path):
    folder = write_llama(tmp_path / "llama", reserved=2)
    text = (folder / "tokenizer.json").read_text("utf-8").replace("<SPECIAL_0>", "[PREFIX]")
    (folder / "tokenizer.json").write_text(text)
    vocabulary = with_tokens(folder, read_config(folder), INFILLING)
    assert "[PREFIX]" not in vocabulary.added
    assert marker_ids(vocabulary, INFILLING)[0] == 3  # its id; <s> and </s> stay as they are
