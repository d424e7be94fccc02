"""Trains the byte-level BPE vocabulary of the models that this project makes.

This module owns how text is split before merging. Line breaks and indentation are always separate
tokens, so that a hole after either of them looks in serving as it did in training.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from engine.model.tokenizer import Tokenizer
from engine.prompt import SPECIAL_TOKENS

# In order: a line break; a word with the blank before it; one digit; punctuation with the blank
# before it; a run of blanks. Without look-around, a part of a text is split as the whole text is,
# except for the token that is cut.
PATTERN = r"\n| ?[\p{L}\p{M}_]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}_]+|[^\S\n]+"


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer with `size` ids, of which SPECIAL_TOKENS are the first (padding is 0)."""
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
