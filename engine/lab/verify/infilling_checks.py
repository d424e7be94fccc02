"""Checks whether the checkpoint fills holes, and whether its infilling format helps."""

from __future__ import annotations

from collections.abc import Sequence

from engine.lab.verify.loading import Loaded
from engine.lab.verify.modes import Runner
from engine.lab.verify.probes import (
    Believed,
    Probe,
    Written,
    believe,
    similarity,
    untried_format,
    verdict,
    write,
)
from engine.lab.verify.report import Check, Section, passed, skipped
from engine.lab.verify.texts import PROBES
from engine.prompt import Infill


def examine_infilling(loaded: Loaded, holes_max: int) -> Section:
    """Fills the built-in holes, and checks whether the infilling format helps."""
    title = "infilling"
    probes = PROBES[:holes_max]
    if not probes:
        return Section(title, (skipped("format", "no holes were asked for"),))
    infill = loaded.tokenizer.infill
    alone = _written("prefix alone", _write(loaded, probes, None), by_line=True)
    if infill is not None:
        filled = _written("with the suffix", _write(loaded, probes, infill), by_line=False)
        believed = _believe(loaded, probes, infill)
        return Section(title, (filled, alone, _believed(believed), _verdict(believed)))
    untried = untried_format(loaded.tokenizer, loaded.config.end_ids)
    if untried is None:
        why = "the tokenizer has no infilling markers; only the text before a hole is used."
        return Section(title, (alone, skipped("format", why)))
    believed = _believe(loaded, probes, untried)
    return Section(title, (alone, _believed(believed), _untried(believed)))


def _write(loaded: Loaded, probes: Sequence[Probe], infill: Infill | None) -> list[Written]:
    runner = Runner(loaded.model)

    def decode(
        prompt: Sequence[int], stops: Sequence[int], tokens_max: int
    ) -> tuple[Sequence[int], bool]:
        decoded = runner.decode(runner.request(prompt, "ar", tokens_max, stops))
        return decoded.tokens, decoded.ended

    end_ids = loaded.config.end_ids
    return [write(probe, infill, loaded.tokenizer, end_ids, decode) for probe in probes]


def _believe(loaded: Loaded, probes: Sequence[Probe], infill: Infill) -> list[Believed]:
    others = (*probes[1:], probes[0])
    return [
        believe(probe, other, infill, loaded.network, loaded.tokenizer)
        for probe, other in zip(probes, others, strict=True)
    ]


def _written(name: str, written: Sequence[Written], *, by_line: bool) -> Check:
    """
    Args:
        by_line: whether only first lines are compared, since a continuation has no end.
    """
    count = len(written)
    exact = sum((each.first_line if by_line else each.text) == each.wanted for each in written)
    alike = sum(similarity(each.wanted, each.first_line) for each in written) / count
    ended = sum(each.has_ended for each in written)
    what = "first lines exact" if by_line else f"exact, {ended} end by themselves"
    return passed(
        name,
        f"{exact} of {count} {what}; similarity of first lines {alike:.2f}",
        holes=count,
        exact=exact,
        ended=ended,
        similarity=alike,
    )


def _believed(believed: Sequence[Believed]) -> Check:
    count = len(believed)
    own = sum(each.own for each in believed) / count
    other = sum(each.other for each in believed) / count
    alone = sum(each.alone for each in believed) / count
    end = sum(each.end for each in believed) / count
    return passed(
        "right fillings",
        f"{own:.2f} bits a token; {other:.2f} with another hole's suffix, {alone:.2f} with the "
        f"prefix alone; the end is expected at {end:.0%}",
        bits=own,
        bits_other_suffix=other,
        bits_prefix_alone=alone,
        end_probability=end,
    )


def _verdict(believed: Sequence[Believed]) -> Check:
    name = "format"
    works = verdict(believed)
    if works is None:
        why = f"{len(believed)} holes do not tell whether the infilling format works."
        return skipped(name, why, "Measure it on holes of your own: `dlm-lsp eval`.", works=None)
    if works:
        found = "works: the right filling is likelier with its own suffix than without"
        return passed(name, found, works=True)
    return Check(
        name,
        "failed",
        "does not work: the right filling is less likely with it than after the prefix alone.",
        "The checkpoint was not trained with these markers.",
        {"works": False},
    )


def _untried(believed: Sequence[Believed]) -> Check:
    """Markers that exist but are not used: a finding, never a failure."""
    told = {
        True: "would work on these holes: please report it",
        False: "would make fillings worse",
        None: "does not show an effect on these holes",
    }[verdict(believed)]
    why = f"only the text before a hole is used; [SUFFIX] ... [PREFIX] ..., not used, {told}."
    return skipped("format", why, works=verdict(believed))
