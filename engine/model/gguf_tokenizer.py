"""Builds a tokenizer from the metadata of a GGUF file.

GGUF stores the vocabulary in `tokenizer.ggml.*` but only the name of the pre-tokenizer. This module
lists the patterns of the models' own tokenizer.json files. A name that is not listed is refused,
because a model does not know text that is split in another way than in training. The tokenizer is
built from Python values without a detour through JSON, since a language server waits for it.
Torch-free; reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as _Backend

from engine.errors import CheckpointError
from engine.model.spelling import BLANK, BYTE_TOKENS, is_control, looks_like_control
from engine.model.tokenizer import Tokenizer
from engine.prompt import SENTINEL_NAMES, SENTINELS

# tokenizer.ggml.token_type
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = range(1, 6)
_REMEDY = "The file is damaged or was converted wrongly; get another copy."

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BREAKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _BREAKS
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _BREAKS
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")
# llama.cpp's default, for files that name no pre-tokenizer.
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")

# The patterns by tokenizer.ggml.pre. Each of them splits the parts that the previous one left.
_PATTERNS: dict[str, tuple[str, ...]] = {
    "default": _DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "mellum"), (_GPT2,)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe"), (_LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), (_QWEN2,)),
    **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell"), (r"\p{N}", _GPT2)),
    "tekken": (_TEKKEN,),
    "deepseek-coder": _DEEPSEEK_CODER,
}
# Vocabularies from tiktoken files: a word in the vocabulary is one token, whatever the merges say.
_WHOLE_WORDS = frozenset(("llama-bpe", "llama3", "llama-v3", "tekken"))

Item = TypeVar("Item", str, int, float)


def tokenizer_from_gguf(metadata: Mapping[str, object], source: str) -> Tokenizer:
    """The tokenizer that a GGUF file describes.

    Tokens of the types control, unknown and unused spell nothing. Neither does a marker that a
    converter called an ordinary token, if `engine.prompt` identifies it.

    Args:
        metadata: the file's key-value pairs as plain Python values (str, int, float, bool, list).
        source: the file's name in errors.

    Raises:
        CheckpointError: a key is missing, of a wrong type or inconsistent, or the kind of tokenizer
            (`tokenizer.ggml.model`, `tokenizer.ggml.pre`) is not supported.
    """
    fields = _Fields(metadata, source)
    model = fields.text("tokenizer.ggml.model")
    if model not in ("gpt2", "llama"):
        raise fields.error(
            "tokenizer.ggml.model",
            f"is {model!r}; only byte-level BPE ('gpt2') and SentencePiece BPE ('llama') are "
            "supported.",
            "Use a model of another family.",
        )
    ids, types = fields.vocabulary()
    is_gpt2 = model == "gpt2"
    backend = _byte_level(fields, ids) if is_gpt2 else _sentencepiece(fields, ids, types)
    _add_tokens(backend, ids, types)
    return Tokenizer(backend, f"{source}: tokenizer.ggml.tokens", ids)


class _Fields:
    """Typed access to the metadata; every error names the key."""

    def __init__(self, metadata: Mapping[str, object], source: str) -> None:
        self._metadata = metadata
        self._source = source

    def error(self, key: str, problem: str, remedy: str = _REMEDY) -> CheckpointError:
        """The error to raise about a key."""
        return CheckpointError(f"{self._source}: {key} {problem}", remedy=remedy, param=key)

    def text(self, key: str, default: str | None = None) -> str:
        """A text. `default` replaces a missing key; None means that the key is required."""
        value = self._metadata.get(key, default)
        if value is None:
            raise self.error(key, "is missing.")
        if not isinstance(value, str):
            raise self.error(key, f"is of type {type(value).__name__}, not a text.")
        return value

    def items(self, key: str, kind: type[Item], count: int | None = None) -> list[Item]:
        """A list of values of one type, with `count` items unless that is None."""
        value = self._metadata.get(key)
        if value is None:
            raise self.error(key, "is missing.")
        # Checks all types at once, because a list has some 150,000 items.
        if not isinstance(value, list) or not set(map(type, value)) <= {kind}:
            raise self.error(key, f"is not a list of {kind.__name__}.")
        if count is not None and len(value) != count:
            raise self.error(key, f"has {len(value)} items; tokenizer.ggml.tokens has {count}.")
        return value

    def vocabulary(self) -> tuple[dict[str, int], list[int]]:
        """The ids by token and the type of each id. Empty tokens get a name, as in llama.cpp."""
        tokens = self.items("tokenizer.ggml.tokens", str)
        if "" in tokens:
            tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
        ids = {token: index for index, token in enumerate(tokens)}
        if len(ids) != len(tokens):
            index, token = next((i, t) for i, t in enumerate(tokens) if ids[t] != i)
            raise self.error(
                "tokenizer.ggml.tokens", f"has {token!r} twice, as {index} and {ids[token]}."
            )
        if not tokens:
            raise self.error("tokenizer.ggml.tokens", "is empty.")
        key = "tokenizer.ggml.token_type"
        if key not in self._metadata:
            return ids, [_NORMAL] * len(tokens)
        return ids, self.items(key, int, len(tokens))


def _byte_level(fields: _Fields, ids: dict[str, int]) -> _Backend:
    """A byte-level tokenizer, with the pre-tokenizer that the file names."""
    name = fields.text("tokenizer.ggml.pre", "default")
    if name not in _PATTERNS:
        raise fields.error(
            "tokenizer.ggml.pre",
            f"is {name!r}, an unknown way of splitting text. These are known: "
            f"{', '.join(sorted(_PATTERNS))}.",
            "Use a model of another family.",
        )
    # A merge is two pieces with a blank between them; byte-level pieces contain no blanks.
    parts = (merge.partition(" ") for merge in fields.items("tokenizer.ggml.merges", str))
    merges = [(left, right) for left, _, right in parts]
    backend = _Backend(_bpe(ids, merges, fields, ignore_merges=name in _WHOLE_WORDS))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(each), "isolated") for each in _PATTERNS[name]),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _bpe(
    ids: dict[str, int],
    merges: list[tuple[str, str]],
    fields: _Fields,
    *,
    ignore_merges: bool = False,
    byte_fallback: bool = False,
) -> models.BPE:
    try:
        return models.BPE(ids, merges, ignore_merges=ignore_merges, byte_fallback=byte_fallback)
    except Exception:  # the library raises bare Exception, and names no merge
        for index, (left, right) in enumerate(merges):
            unknown = [piece for piece in (left, right, left + right) if piece not in ids]
            if unknown:
                raise fields.error(
                    "tokenizer.ggml.merges",
                    f"names {unknown[0]!r}, which is not a token, at {index}.",
                ) from None
        raise


def _sentencepiece(fields: _Fields, ids: dict[str, int], types: Sequence[int]) -> _Backend:
    """SentencePiece's BPE, in which pieces with the highest scores are merged first."""
    scores = fields.items("tokenizer.ggml.scores", float, len(ids))
    missing = [token for token in BYTE_TOKENS if token not in ids]
    if missing:
        raise fields.error("tokenizer.ggml.tokens", f"has no byte token {missing[0]}.")
    backend = _Backend(_bpe(ids, _merges(ids, types, scores), fields, byte_fallback=True))
    # No blank at the beginning (`tokenizer.ggml.add_space_prefix`); see `engine.model.tokenizer`.
    backend.normalizer = normalizers.Replace(" ", BLANK)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend


def _merges(
    ids: Mapping[str, int], types: Sequence[int], scores: Sequence[float]
) -> list[tuple[str, str]]:
    """Every way to build a piece from two others, the best score first.

    SentencePiece merges the neighbours whose piece has the highest score, and of several ways to
    the same piece the leftmost one in the text. Here these ways have a fixed order, the longest
    left part last. Both differ only if the ways meet in one run of equal characters.
    """
    misnamed = _misnamed(ids)
    pieces = {
        token
        for token, token_id in ids.items()
        if types[token_id] == _NORMAL and token not in misnamed
    }
    found = [
        (-scores[ids[piece]], ids[piece], left, right)
        for piece in pieces
        for at in range(1, len(piece))
        if (left := piece[:at]) in pieces and (right := piece[at:]) in pieces
    ]
    # The ids make the order independent of the set's; the shorter left part of a piece is first.
    found.sort()
    return [(left, right) for _, _, left, right in found]


def _add_tokens(backend: _Backend, ids: Mapping[str, int], types: Sequence[int]) -> None:
    """Makes markers of the tokens that are not ordinary pieces; they keep their ids."""
    misnamed = _misnamed(ids)
    special, others = [], []
    # Few tokens are not ordinary, and looking at the types only takes a tenth of the time.
    marked = {number for number, kind in enumerate(types) if kind != _NORMAL}
    marked |= {ids[token] for token in misnamed}
    tokens = list(ids)
    for number in sorted(marked):
        token, kind = tokens[number], types[number]
        if kind in (_UNKNOWN, _CONTROL, _UNUSED) or token in misnamed:
            special.append(AddedToken(token, special=True, normalized=False))
        elif kind == _USER_DEFINED:
            is_special = is_control(token, special=False)
            others.append(AddedToken(token, special=is_special, normalized=False))
    backend.add_special_tokens(special)
    backend.add_tokens(others)


def _misnamed(ids: Mapping[str, int]) -> set[str]:
    """The tokens that are markers whatever their type is: a family's sentinels if all of them are
    present, and other names that cannot be program text. "</s>" alone proves nothing, because
    Qwen's vocabulary has it as an ordinary piece."""
    found = {name for name in SENTINEL_NAMES if name in ids and looks_like_control(name)}
    for family in SENTINELS:
        names = {entry for entry in family.order if isinstance(entry, str)}
        if names <= ids.keys():
            found |= names
    return found
