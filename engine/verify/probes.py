"""Holes whose right filling is beyond doubt, and whether a checkpoint's infilling format works.

Two questions. What does it write? Greedy fillings against the right ones, with the suffix in the
prompt and without. And what does it believe? Bits a token that the right filling costs behind three
prompts: with its own suffix, with another hole's, with the prefix alone. The second shows whether
the suffix is read at all, even in a model too weak to write a single line right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch

from engine.model.network import Network
from engine.model.tokenizer import Tokenizer
from engine.prompt import BEGIN, Infill
from engine.verify.activations import causal_attention

TOKENS_MAX = 48
_NEAR_LINES = 2  # of the suffix stand next to the hole; as the host lays prompts out
_ERRORS_MIN = 2.0  # standard errors that a mean must be away from 0 to be believed


@dataclass(frozen=True, slots=True)
class Probe:
    """A text with a hole, and the one line that belongs into it."""

    before: str
    middle: str
    after: str


@dataclass(frozen=True, slots=True)
class Filled:
    """What became of one probe.

    Attributes:
        infilled, continued: the first line written with the suffix and with the prefix alone.
        is_exact: the whole of what was written with the suffix is the right filling.
        has_ended: it ended by itself.
        bits_infill, bits_other, bits_prefix: of the right filling, a token, behind the prompt with
            its own suffix, with another probe's, and with the prefix alone.
        end_probability: that the filling ends where it should.
    """

    wanted: str
    infilled: str
    continued: str
    is_exact: bool
    has_ended: bool
    bits_infill: float
    bits_other: float
    bits_prefix: float
    end_probability: float


# (prompt, stop ids, most tokens) → emitted tokens, and whether a stop id ended them.
Decode = Callable[[Sequence[int], Sequence[int], int], tuple[Sequence[int], bool]]


def fill(
    probe: Probe,
    other: Probe,
    infill: Infill,
    network: Network,
    tokenizer: Tokenizer,
    decode: Decode,
) -> Filled:
    """Runs one probe; `other` lends its suffix."""
    end_ids = network.config.end_ids
    stops = (*infill.end_ids, *end_ids)
    own = infill_prompt(probe.before, probe.after, infill, tokenizer)
    alone = prefix_prompt(probe.before, tokenizer)
    tokens, has_ended = decode(own, stops, TOKENS_MAX)
    text = tokenizer.decode(tokens)
    continued, _ = decode(alone, end_ids, TOKENS_MAX)
    middle = tokenizer.encode(probe.middle)
    bits, end = bits_of(network, own, middle, stops)
    return Filled(
        wanted=probe.middle,
        infilled=text.split("\n", 1)[0],
        continued=tokenizer.decode(continued).split("\n", 1)[0],
        is_exact=text == probe.middle,
        has_ended=has_ended,
        bits_infill=bits,
        bits_other=bits_of(
            network, infill_prompt(probe.before, other.after, infill, tokenizer), middle, stops
        )[0],
        bits_prefix=bits_of(network, alone, middle, stops)[0],
        end_probability=end,
    )


def infill_prompt(before: str, after: str, infill: Infill, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The prompt of a hole, its suffix cut as the host cuts it."""
    lines = after.split("\n")
    near, far = lines[:_NEAR_LINES], lines[_NEAR_LINES:]
    near_text = "\n".join(near) + ("\n" if far else "")
    return infill.prompt(
        tokenizer.encode("\n".join(far)), tokenizer.encode(before), tokenizer.encode(near_text)
    )


def prefix_prompt(before: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The prompt of a checkpoint that knows no infilling."""
    begin = tokenizer.id_of(BEGIN)
    return (*(() if begin is None else (begin,)), *tokenizer.encode(before))


@torch.inference_mode()
def bits_of(
    network: Network, prompt: Sequence[int], middle: Sequence[int], stops: Sequence[int]
) -> tuple[float, float]:
    """Bits a token of `middle` behind `prompt`, and the probability that a stop id follows."""
    device = network.encoder.norm.weight.device
    ids = torch.tensor([*prompt, *middle], dtype=torch.int64, device=device)
    hidden = network(ids, torch.arange(len(ids), device=device), causal_attention)
    logits = network.logits(hidden[len(prompt) - 1 :]).float()
    likelihoods = logits.log_softmax(-1)
    of_middle = likelihoods[:-1].gather(-1, ids[len(prompt) :, None])
    end = likelihoods[-1, sorted(set(stops))].exp().sum()
    return -float(of_middle.mean()) / math.log(2), float(end)


def similarity(wanted: str, got: str) -> float:
    """0 to 1: twice the matching characters over all (Ratcliff and Obershelp)."""
    return SequenceMatcher(None, wanted, got, autojunk=False).ratio()


def verdict(filled: Sequence[Filled]) -> bool | None:
    """Whether the format works: True, False, or None where these holes do not tell.

    It works where the right filling is clearly likelier with its own suffix than with another's and
    than with none. It does not where the prompt makes it clearly less likely than the prefix alone.
    """
    own = [each.bits_prefix - each.bits_infill for each in filled]
    suffix = [each.bits_other - each.bits_infill for each in filled]
    if _standard_errors(own) > _ERRORS_MIN and _standard_errors(suffix) > _ERRORS_MIN:
        return True
    return False if _standard_errors(own) < -_ERRORS_MIN else None


def _standard_errors(differences: Sequence[float]) -> float:
    """The mean over its standard error; 0 where there are too few to tell."""
    count = len(differences)
    if count < 3:
        return 0.0
    mean = sum(differences) / count
    variance = sum((each - mean) ** 2 for each in differences) / (count - 1)
    return mean / max(math.sqrt(variance / count), 1e-12)
