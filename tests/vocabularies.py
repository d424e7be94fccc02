"""Small vocabularies of both kinds, trained on the spot, as the metadata of a GGUF file.

As large as needed for merges to matter: some 300 pieces of Python besides the single bytes.
"""

from __future__ import annotations

from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, trainers

from engine.model.spelling import BYTE_TOKENS, byte_alphabet

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

# As in Qwen2.5-Coder: end of text, FIM and repository tokens, one that has a text, and padding.
MARKERS = {
    "<|endoftext|>": CONTROL,
    "<|im_start|>": CONTROL,
    "<|im_end|>": CONTROL,
    "<tool_call>": USER_DEFINED,
    "</tool_call>": USER_DEFINED,
    "<|fim_prefix|>": CONTROL,
    "<|fim_middle|>": CONTROL,
    "<|fim_suffix|>": CONTROL,
    "<|fim_pad|>": CONTROL,
    "<|repo_name|>": CONTROL,
    "<|file_sep|>": CONTROL,
    "[PAD0]": UNUSED,
}

_LINES = (
    "def add(first, second):\n    return first + second\n",
    "    for index, value in enumerate(values):\n        if value is None:\n            continue\n",
    "class Größe(Exception):\n\tdef __init__(self, **kwargs):\n\t\tself.naïve = 12345\n\n\n",
    "x = {'key': [1, 22, 333], \"naïve\": \"don't\"}  # it's 😀 日本語 – §\r\n",
)


def byte_level_metadata(pre: str = "qwen2", *, markers: dict[str, int] | None = None) -> dict:
    """`tokenizer.ggml.*` of a byte-level vocabulary, markers behind its pieces.

    Args:
        pre: `tokenizer.ggml.pre`.
        markers: token types by name; None takes `MARKERS`.
    """
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=560, initial_alphabet=list(byte_alphabet().values()), show_progress=False
    )
    backend.train_from_iterator(_LINES * 3, trainer)
    tokens = [token for token, _ in sorted(backend.get_vocab().items(), key=lambda item: item[1])]
    merges = [f"{left} {right}" for left, right in _merges_of(backend)]
    marked = MARKERS if markers is None else markers
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *marked],
        "tokenizer.ggml.token_type": [*[NORMAL] * len(tokens), *marked.values()],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens),
        "tokenizer.ggml.add_bos_token": False,
    }


def sentencepiece_metadata(*, markers: dict[str, int] | None = None) -> dict:
    """`tokenizer.ggml.*` of a vocabulary like Llama 2's: three control tokens, 256 bytes, merged
    pieces by falling score, single characters last.

    Args:
        markers: token types by name, behind all the rest; None takes Code Llama's.
    """
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    backend.train_from_iterator(
        _LINES * 3, trainers.BpeTrainer(vocab_size=360, show_progress=False)
    )
    merged = ["".join(pair) for pair in _merges_of(backend)]
    characters = sorted(token for token in backend.get_vocab() if len(token) == 1)
    code_llama = dict.fromkeys(("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"), CONTROL)
    marked = code_llama if markers is None else markers
    pieces = [*merged, *characters]
    types = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL, **dict.fromkeys(BYTE_TOKENS, BYTE)}
    types |= {**dict.fromkeys(pieces, NORMAL), **marked}
    scores = {piece: -float(rank) for rank, piece in enumerate(pieces)}
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": list(types),
        "tokenizer.ggml.token_type": list(types.values()),
        "tokenizer.ggml.scores": [scores.get(token, 0.0) for token in types],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }


def _merges_of(backend: Backend) -> list[tuple[str, str]]:
    """The merges that were trained, in order; the library gives them in its JSON alone."""
    import json

    merges = json.loads(backend.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]
