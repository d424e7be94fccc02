"""Holes with one obvious filling, and whether a checkpoint's infilling format works.

Two things are measured. Greedy fillings are compared with the right ones, with the suffix in the
prompt and without it. And the right filling costs some bits a token after three prompts: with its
own suffix, with another hole's suffix, and with the prefix alone. That shows whether the model
reads the suffix, even if it is too weak to write a single line right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch

from engine.lab.verify.activations import causal_attention
from engine.model.network import Network
from engine.model.tokenizer import Tokenizer
from engine.prompt import AFTER, BEFORE, BEGIN, NEAR_LINES, Infill, SentinelFormat, prompt_of

TOKENS_MAX = 48
_ERRORS_MIN = 2.0  # standard errors between 0 and a significant mean


@dataclass(frozen=True, slots=True)
class Probe:
    """A text with a hole, and the part of a line that belongs into it."""

    before: str
    middle: str
    after: str


@dataclass(frozen=True, slots=True)
class Written:
    """What was written greedily into one hole.

    Attributes:
        wanted: the right filling.
        has_ended: whether the text ended by itself.
    """

    wanted: str
    text: str
    has_ended: bool

    @property
    def first_line(self) -> str:
        return self.text.split("\n", 1)[0]


@dataclass(frozen=True, slots=True)
class Believed:
    """What the right filling of one hole costs, in bits a token.

    Attributes:
        own, other, alone: after the prompt with its own suffix, with another hole's suffix, and
            with the prefix alone.
        end: the probability that the filling ends where it should.
    """

    own: float
    other: float
    alone: float
    end: float


def untried_format(tokenizer: Tokenizer, end_ids: tuple[int, ...]) -> SentinelFormat | None:
    """`<s> [SUFFIX] suffix [PREFIX] prefix`, Codestral's order, if a tokenizer has the markers.

    The tokenizers of released NLD have them, but nothing public says that the models were trained
    with them, so that they are only tried.
    """
    begin, suffix, prefix = (tokenizer.id_of(name) for name in (BEGIN, "[SUFFIX]", "[PREFIX]"))
    if begin is None or suffix is None or prefix is None:
        return None
    return SentinelFormat((begin, suffix, AFTER, prefix, BEFORE), end_ids, end_texts=())


# (prompt, stop ids, most tokens) → the emitted tokens, and whether a stop id ended them.
Decode = Callable[[Sequence[int], Sequence[int], int], tuple[Sequence[int], bool]]


def write(
    probe: Probe,
    infill: Infill | None,
    tokenizer: Tokenizer,
    end_ids: tuple[int, ...],
    decode: Decode,
) -> Written:
    """Fills one hole, or continues its prefix if `infill` is None."""
    prompt = hole_prompt(probe.before, probe.after, infill, tokenizer)
    stops = end_ids if infill is None else (*infill.end_ids, *end_ids)
    tokens, has_ended = decode(prompt, stops, TOKENS_MAX)
    return Written(probe.middle, tokenizer.decode(tokens), has_ended)


def believe(
    probe: Probe, other: Probe, infill: Infill, network: Network, tokenizer: Tokenizer
) -> Believed:
    """Measures one right filling; `other` provides the other suffix."""
    stops = (*infill.end_ids, *network.config.end_ids)
    middle = tokenizer.encode(probe.middle)
    own = hole_prompt(probe.before, probe.after, infill, tokenizer)
    exchanged = hole_prompt(probe.before, other.after, infill, tokenizer)
    alone = hole_prompt(probe.before, "", None, tokenizer)
    bits, end = bits_of(network, own, middle, stops)
    return Believed(
        own=bits,
        other=bits_of(network, exchanged, middle, stops)[0],
        alone=bits_of(network, alone, middle, stops)[0],
        end=end,
    )


def hole_prompt(
    before: str, after: str, infill: Infill | None, tokenizer: Tokenizer
) -> tuple[int, ...]:
    """The prompt of a hole with its suffix cut as in the host, or of the prefix alone if `infill`
    is None."""
    prefix = tokenizer.encode(before)
    if infill is None:
        return prompt_of(None, tokenizer.id_of(BEGIN), prefix=prefix)
    lines = after.split("\n")
    near, far = lines[:NEAR_LINES], lines[NEAR_LINES:]
    near_text = "\n".join(near) + ("\n" if far else "")
    return infill.prompt(tokenizer.encode("\n".join(far)), prefix, tokenizer.encode(near_text))


@torch.inference_mode()
def bits_of(
    network: Network, prompt: Sequence[int], middle: Sequence[int], stops: Sequence[int]
) -> tuple[float, float]:
    """Bits a token of `middle` after `prompt`, and the probability that a stop id follows."""
    device = network.encoder.norm.weight.device
    ids = torch.tensor([*prompt, *middle], dtype=torch.int64, device=device)
    hidden = network(ids, torch.arange(len(ids), device=device), causal_attention)
    logits = network.logits(hidden[len(prompt) - 1 :]).float()
    likelihoods = logits.log_softmax(-1)
    of_middle = likelihoods[:-1].gather(-1, ids[len(prompt) :, None])
    end = likelihoods[-1, sorted(set(stops))].exp().sum()
    return -float(of_middle.mean()) / math.log(2), float(end)


def similarity(wanted: str, got: str) -> float:
    """From 0 to 1: twice the matching characters over all (Ratcliff and Obershelp)."""
    return SequenceMatcher(None, wanted, got, autojunk=False).ratio()


def verdict(believed: Sequence[Believed]) -> bool | None:
    """Whether the format works: True, False, or None if these holes do not tell.

    It works if the right filling is clearly likelier with its own suffix than with another one and
    than without. It does not work if the filling is clearly likelier after the prefix alone.
    """
    gain = _standard_errors([each.alone - each.own for each in believed])
    suffix = _standard_errors([each.other - each.own for each in believed])
    if gain > _ERRORS_MIN and suffix > _ERRORS_MIN:
        return True
    return False if gain < -_ERRORS_MIN else None


def _standard_errors(differences: Sequence[float]) -> float:
    """The mean over its standard error; 0 for fewer than three values."""
    count = len(differences)
    if count < 3:
        return 0.0
    mean = sum(differences) / count
    variance = sum((each - mean) ** 2 for each in differences) / (count - 1)
    return mean / max(math.sqrt(variance / count), 1e-12)
