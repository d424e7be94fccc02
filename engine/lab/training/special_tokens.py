"""Gives a checkpoint the special tokens that it lacks: infilling markers and the mask.

A spare reserved id of the tokenizer is renamed; without one the vocabulary grows, first into the
padding of the embedding. This module owns which names are wanted and the initial values of their
rows. The checkpoint on disk is never changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend

from engine.errors import CheckpointError
from engine.model.config import ModelConfig
from engine.model.network import Network
from engine.model.tokenizer import Tokenizer, read_tokenizer
from engine.prompt import BEGIN, END, END_OF_MIDDLE, FAR, MASK, MIDDLE, NEAR, PREFIX

# The special tokens that `ExampleSampler` needs.
INFILLING = (BEGIN, END, FAR, PREFIX, NEAR, MIDDLE, END_OF_MIDDLE)
MASKING = (MASK,)

# As in <SPECIAL_20>, <|reserved_special_token_5|>, [control_12], <unused7>, <extra_id_3>.
_RESERVED = re.compile(
    r"[<\[]\|?(?:special|reserved|unused|control|extra|placeholder)[a-z_]*\d+\|?[>\]]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer with all requested special tokens.

    Attributes:
        json: the text of its `tokenizer.json`.
        added: the ids of the tokens that were new to it, by name.
        size: the rows that the embedding must have.
    """

    tokenizer: Tokenizer
    json: str
    added: Mapping[str, int]
    size: int


def with_tokens(checkpoint: Path, config: ModelConfig, names: Sequence[str]) -> Vocabulary:
    """The checkpoint's tokenizer, with these special tokens.

    Raises:
        CheckpointError: The tokenizer cannot be read or extended.
    """
    read_tokenizer(checkpoint)  # its errors name the file and the remedy
    text = (checkpoint / "tokenizer.json").read_text("utf-8")
    backend = Backend.from_str(text)
    missing = [name for name in names if backend.token_to_id(name) is None]
    raw: dict[str, Any] = json.loads(text)
    taken = {config.mask_id, config.begin_id, *config.end_ids}
    spare = sorted(
        (entry for entry in raw["added_tokens"] if _RESERVED.fullmatch(entry["content"])),
        key=lambda entry: entry["id"],
    )
    spare = [entry for entry in spare if entry["special"] and entry["id"] not in taken]
    added: dict[str, int] = {}
    following = max(backend.get_vocab(with_added_tokens=True).values()) + 1
    for name in missing:
        if spare:
            entry = spare.pop(0)
            _rename(raw, entry, name)
        else:
            entry = _new_entry(following, name)
            raw["added_tokens"].append(entry)
            following += 1
        added[name] = entry["id"]
    # The text stays the same if nothing was missing.
    text = json.dumps(raw, ensure_ascii=False) if added else text
    backend = Backend.from_str(text)
    wrong = [name for name, token_id in added.items() if backend.token_to_id(name) != token_id]
    if wrong:
        raise CheckpointError(
            f"{checkpoint}: tokenizer.json does not take {wrong[0]} as token {added[wrong[0]]}.",
            remedy="Its ids have gaps; add the token with the tokenizer's own tools.",
            param="tokenizer.json",
        )
    tokenizer = Tokenizer(backend)
    return Vocabulary(tokenizer, text, added, max(config.vocabulary, tokenizer.size))


def marker_ids(vocabulary: Vocabulary, names: Sequence[str]) -> list[int]:
    """The ids whose rows are trained: those of these names, but for begin and end of text if the
    checkpoint had them. (A marker that the tokenizer had may never have been trained.)"""
    known = [name for name in names if name not in (BEGIN, END)]
    ids = {vocabulary.tokenizer.id_of(name) for name in known} | set(vocabulary.added.values())
    return sorted(token_id for token_id in ids if token_id is not None)


def _rename(raw: dict[str, Any], entry: dict[str, Any], name: str) -> None:
    vocabulary = raw["model"].get("vocab")
    if isinstance(vocabulary, dict) and entry["content"] in vocabulary:
        vocabulary[name] = vocabulary.pop(entry["content"])
    entry["content"] = name


def _new_entry(token_id: int, name: str) -> dict[str, Any]:
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    return {"id": token_id, "content": name, **dict.fromkeys(flags, False), "special": True}


@torch.no_grad()
def grown(network: Network, vocabulary: Vocabulary) -> Network:
    """The network with a row for every token; a new token's row starts as the mean of all others.

    `<s>` and `</s>` start as the checkpoint's own begin and end of text. All other weights are
    shared with the given network.
    """
    config = replace(network.config, vocabulary=vocabulary.size)
    state = network.state_dict()
    names = ["encoder.embed_tokens.weight"]
    if not config.tied_head:
        names.append("diffusion_head.weight")
    for name in names:
        state[name] = _with_rows(state[name], network.config, vocabulary)
    if config.tied_head:
        state["diffusion_head.weight"] = state["encoder.embed_tokens.weight"]
    with torch.device("meta"):
        larger = Network(config)
    larger.load_state_dict(state, strict=True, assign=True)
    if config.tied_head:
        larger.diffusion_head.weight = larger.encoder.embed_tokens.weight
    return larger.requires_grad_(False).eval()


def _with_rows(table: torch.Tensor, config: ModelConfig, vocabulary: Vocabulary) -> torch.Tensor:
    mean = table.float().mean(dim=0).to(table.dtype)
    rows = mean.expand(vocabulary.size, -1).clone()
    rows[: len(table)] = table
    like = {BEGIN: config.begin_id, END: config.end_ids[0]}
    for name, token_id in vocabulary.added.items():
        example = like.get(name)
        rows[token_id] = mean if example is None else table[example]
    return rows
