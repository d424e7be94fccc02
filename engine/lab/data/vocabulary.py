"""Trains the byte-level BPE vocabulary of a model that we make ourselves.

Owns how text is split before merging. A newline is always a token of its own and indentation a
token of its own, so that a hole that starts after a line break or after the indentation looks in
serving as it did in training. Knows nothing of examples or models.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from engine.model.tokenizer import Tokenizer
from engine.prompt import SPECIAL_TOKENS

# In order: a line break; a word with the one blank before it; one digit; punctuation likewise; a
# run of blanks. No look-around: a piece that starts anywhere is split as the whole text would be,
# but for the token that is cut.
PATTERN = r"\n| ?[\p{L}\p{M}_]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}_]+|[^\S\n]+"


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer with `size` ids, SPECIAL_TOKENS first (padding is 0)."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)
