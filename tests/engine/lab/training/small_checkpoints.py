"""Tiny checkpoints and repositories, for the commands that train a user's own model."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CODE = '''def area_{0}(width, height):
    if width < 0 or height < 0:
        raise ValueError("a side is negative")
    return width * height * {0}


def volume_{0}(width, height, depth):
    base = area_{0}(width, height)
    return base * depth


class Shape{0}:
    """A shape with two sides."""

    def __init__(self, width, height):
        self.width = width
        self.height = height
'''

FILL = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|endoftext|>")
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_llama(folder: Path, *, reserved: int = 0, tied: bool = False) -> Path:
    """A Llama checkpoint of transformers, with so many reserved tokens in its tokenizer."""
    size = _write_tokenizer(folder, reserved)
    torch.manual_seed(0)
    config = LlamaConfig(**_SHAPE, vocab_size=size, tie_word_embeddings=tied)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_qwen3(folder: Path) -> Path:
    """A Qwen 3 checkpoint of transformers: norms on queries and keys, a tied head."""
    size = _write_tokenizer(folder, 0)
    torch.manual_seed(0)
    config = Qwen3Config(**_SHAPE, vocab_size=size + 5, head_dim=16, tie_word_embeddings=True)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def write_qwen2_coder(folder: Path) -> Path:
    """A Qwen 2 checkpoint of transformers, whose tokenizer has Qwen2.5-Coder's infilling tokens.

    Its weights are large enough that what it writes depends on the prompt.
    """
    size = _write_tokenizer(folder, 0, FILL)
    torch.manual_seed(0)
    config = Qwen2Config(**_SHAPE, vocab_size=size, tie_word_embeddings=True)
    network = Qwen2ForCausalLM(config)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.0 if "embed" in name else 0.3)
    network.save_pretrained(folder)
    return folder


def write_repository(folder: Path, files: int = 24) -> Path:
    """A git repository of a few Python files, with an ignored one and a secret one."""
    (folder / "build").mkdir(parents=True)
    for index in range(files):
        (folder / f"shape_{index}.py").write_text(CODE.format(index))
    (folder / "build" / "made.py").write_text(CODE.format("ignored"))
    (folder / ".gitignore").write_text("build/\n")
    (folder / "secrets.json").write_text('{\n  "password": "' + "hunter2 " * 20 + '"\n}\n')
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return folder


def _write_tokenizer(folder: Path, reserved: int, more: tuple[str, ...] = ()) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<s>", "</s>", *(f"<SPECIAL_{i}>" for i in range(reserved)), *more]
    trainer = trainers.BpeTrainer(
        vocab_size=340 + reserved + len(more),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([CODE], trainer)
    backend.save(str(folder / "tokenizer.json"))
    return backend.get_vocab_size()
