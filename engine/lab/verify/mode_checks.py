"""Whether every decoding mode runs, how fast, and whether it emits what it should: by `modes`."""

from __future__ import annotations

from collections.abc import Sequence

from engine.api import CAUSAL_MODES, MODES
from engine.lab.verify.loading import Loaded
from engine.lab.verify.modes import (
    LOSSLESS,
    Decoded,
    Difference,
    Reference,
    Runner,
    first_difference,
)
from engine.lab.verify.probes import hole_prompt
from engine.lab.verify.report import OUR_FAULT, Check, Figure, Section, skipped
from engine.lab.verify.texts import PROBES

_MODE_PROMPTS = 3
_MODE_TOKENS = 32


def examine_modes(loaded: Loaded) -> Section:
    """Checks every mode of the checkpoint on the same prompts."""
    runner = Runner(loaded.model)
    infill = loaded.tokenizer.infill
    prompts = [
        hole_prompt(probe.before, probe.after, infill, loaded.tokenizer)
        for probe in PROBES[:_MODE_PROMPTS]
    ]
    # The first forward sets things up that must not be measured.
    runner.decode(runner.request(prompts[0], "ar", 2))
    references = [
        runner.reference(runner.request(prompt, "ar", _MODE_TOKENS)) for prompt in prompts
    ]
    checks = [_mode("ar", [reference.decoded for reference in references], references)]
    for mode in MODES:
        if mode == "ar":
            continue
        if not loaded.config.family.fills_masks and mode not in CAUSAL_MODES:
            checks.append(skipped(mode, f"{loaded.config.family.model_type} fills no masks"))
            continue
        decoded = [runner.decode(runner.request(prompt, mode, _MODE_TOKENS)) for prompt in prompts]
        checks.append(_mode(mode, decoded, references))
    return Section("modes", tuple(checks))


def _mode(mode: str, decoded: Sequence[Decoded], references: Sequence[Reference]) -> Check:
    tokens = sum(len(each.tokens) for each in decoded)
    later = sum(max(len(each.tokens) - 1, 0) for each in decoded)
    per_forward = later / max(1, sum(each.forwards for each in decoded))
    speed = later / max(1e-9, sum(each.seconds for each in decoded))
    figures: dict[str, Figure] = {
        "tokens": tokens,
        "tokens_per_forward": per_forward,
        "tokens_per_second": speed,
    }
    found = f"{tokens} tokens, {per_forward:.2f} a forward, {speed:.0f} a second"
    wanted = sum(len(reference.decoded.tokens) for reference in references)
    if tokens != wanted:
        return Check(mode, "failed", f"{found}; asked for {wanted}", OUR_FAULT, figures)
    if mode == "ar":
        return Check(mode, "ok", found, figures=figures)
    differences = [
        difference
        for each, reference in zip(decoded, references, strict=True)
        if (difference := first_difference(each.tokens, reference)) is not None
    ]
    figures |= {"prompts": len(decoded), "differ": len(differences)}
    if not differences:
        return Check(mode, "ok", f"{found}; the tokens of ar", figures=figures)
    worst = max(differences, key=lambda difference: difference.gap)
    figures |= {"gap": worst.gap, "noise": worst.noise, "at": worst.index}
    return _differing(mode, found, worst, len(differences), figures)


def _differing(
    mode: str, found: str, worst: Difference, count: int, figures: dict[str, Figure]
) -> Check:
    where = f"after {worst.index} tokens, logits {worst.gap:.2g} apart"
    if mode not in LOSSLESS:
        return Check(mode, "ok", f"{found}; other tokens than ar {where}", figures=figures)
    told = f"{found}; {count} differ from ar, {where} (rounding: {worst.noise:.2g})"
    if worst.is_near_tie:
        return Check(mode, "ok", f"{told}: a near-tie", figures=figures)
    return Check(mode, "failed", told, OUR_FAULT, figures)
