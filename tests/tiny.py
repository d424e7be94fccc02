"""A tiny seeded checkpoint on disk, in the layout of a real one, for whatever needs a whole engine.

512 ids at most, 2 layers, 32 wide: loads in milliseconds, answers in microseconds, knows nothing.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from engine.model.spelling import byte_alphabet
from engine.model.tokenizer import Tokenizer
from engine.prompt import SPECIAL_TOKENS

# Pieces in the order in which they merge: indentation, words of Python, a character of two bytes.
_MERGES = (
    ("Ġ", "Ġ"),
    ("ĠĠ", "ĠĠ"),
    ("r", "e"),
    ("re", "t"),
    ("u", "r"),
    ("ret", "ur"),
    ("retur", "n"),
    ("d", "e"),
    ("de", "f"),
    ("s", "e"),
    ("se", "l"),
    ("sel", "f"),
    ("Ã", "©"),
)


def byte_tokenizer(*, infilling: bool = True) -> Tokenizer:
    """Byte-level BPE with the special tokens first (id 0 on), then 256 bytes, then a few merges.

    Args:
        infilling: whether it has the markers of an infilling prompt.
    """
    special = SPECIAL_TOKENS if infilling else SPECIAL_TOKENS[:4]
    pieces = [*special, *byte_alphabet().values(), *(left + right for left, right in _MERGES)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return Tokenizer(_byte_level(vocabulary, list(special)))


def tekken_tokenizer() -> Tokenizer:
    """Byte-level BPE with the ids of the tokenizer that Nemotron-Labs-Diffusion is released with.

    A thousand special tokens come first; of them 1 begins and 11 ends a text, 14 to 16 are markers
    that the model is not known to have been trained with, and 100 is the mask.
    """
    named = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]"}
    named |= {14: "[PREFIX]", 15: "[MIDDLE]", 16: "[SUFFIX]"}
    special = [named.get(index, f"<SPECIAL_{index}>") for index in range(1000)]
    pieces = [*special, *byte_alphabet().values(), *(left + right for left, right in _MERGES)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return Tokenizer(_byte_level(vocabulary, special))


def sentinel_tokenizer() -> Tokenizer:
    """Byte-level BPE with Qwen2.5-Coder's infilling sentinels, and 2 as the end of a text."""
    fim = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>")
    special = ["<pad>", "<|im_start|>", "<|endoftext|>", *fim]
    pieces = [*special, *byte_alphabet().values(), *(left + right for left, right in _MERGES)]
    return Tokenizer(_byte_level({piece: index for index, piece in enumerate(pieces)}, special))


def _byte_level(vocabulary: dict[str, int], special: list[str]) -> Backend:
    backend = Backend(models.BPE(vocab=vocabulary, merges=list(_MERGES)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    return backend


def write_tiny_checkpoint(folder: Path, *, seed: int = 0, infilling: bool = True) -> Path:
    """Writes config.json, model.safetensors and tokenizer.json; returns the folder."""
    # Here and not above: whoever only wants the tokenizer should not wait for torch.
    import torch

    from engine.model.checkpoint import save_checkpoint
    from engine.model.config import ModelConfig, RopeConfig
    from engine.model.network import Network

    tokenizer = byte_tokenizer(infilling=infilling)
    config = ModelConfig(
        vocabulary=-(-tokenizer.size // 8) * 8,
        hidden=32,
        intermediate=64,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=16,
        norm_eps=1e-5,
        positions_max=2048,
        tied_head=False,
        mask_id=SPECIAL_TOKENS.index("[MASK]"),
        begin_id=SPECIAL_TOKENS.index("<s>"),
        end_ids=(SPECIAL_TOKENS.index("</s>"),),
        block_length=16,
        rope=RopeConfig(1e4, False, 1.0, 2048, 32.0, 1.0, 1.0, 0.0),
    )
    generator = torch.Generator().manual_seed(seed)
    network = Network(config)
    for parameter in network.parameters():
        if parameter.dim() == 2:
            shape = parameter.shape
            parameter.data = torch.randn(shape, generator=generator) * 1.5 / shape[1] ** 0.5
    save_checkpoint(folder, network)
    tokenizer.save(folder)
    return folder
