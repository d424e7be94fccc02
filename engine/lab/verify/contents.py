"""What a checkpoint folder holds: config, tensors, drafter LoRA and tokenizer.

No weights are read, so that a wrong folder of any size is reported in a moment. All offending
tensors are counted, and the first ones are named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import CheckpointError, EngineError
from engine.lab.verify.report import Check, Section, failed, passed, skipped
from engine.model.adapter_weights import FOLDER, read_adapter
from engine.model.config import ModelConfig, read_config
from engine.model.quantized import read_quantization
from engine.model.safetensors_file import (
    Header,
    check_dtype,
    read_headers,
    stored_tensors,
    weight_files,
)
from engine.model.tokenizer import Tokenizer, read_tokenizer
from engine.model.weights import expected_tensors
from engine.prompt import InfillFormat

NAMED_MAX = 3  # offending tensors that are named; the others are only counted
_SAMPLE = 'def héllo(x):\n\tif x >= 10:\r\n        return f"{x!r} → ✓ [MASK] </s>"\n'


def examine_config(folder: Path) -> tuple[Section, ModelConfig | None]:
    """Whether `config.json` can be read and names a known family, and what it says."""
    title = "config"
    if not folder.is_dir():
        error = CheckpointError(
            f"{folder} is not a folder.",
            remedy="Give the folder that holds config.json and the weights.",
            param="engine.checkpoint",
        )
        return Section(title, (failed("folder", error),)), None
    try:
        config = read_config(folder)
    except EngineError as error:
        return Section(title, (failed("config.json", error),)), None
    rope = config.rope
    positions = f"yarn x{rope.factor:g} over {rope.original_positions}" if rope.yarn else "plain"
    heads = f"{config.heads}/{config.kv_heads} heads of {config.head_dim}"
    checks = (
        passed("family", config.family.model_type, family=config.family.model_type),
        passed(
            "shape",
            f"{config.layers} layers, hidden {config.hidden}, feed-forward {config.intermediate}, "
            f"{heads}, vocabulary {config.vocabulary}, {'tied' if config.tied_head else 'own'} "
            "head",
            layers=config.layers,
            hidden=config.hidden,
            vocabulary=config.vocabulary,
        ),
        passed(
            "parameters",
            f"{config.parameters():,}: {size(config.parameters() * 2)} in bfloat16",
            parameters=config.parameters(),
        ),
        passed(
            "positions",
            f"{config.positions_max}, rotary {positions}",
            positions_max=config.positions_max,
        ),
    )
    return Section(title, checks), config


def examine_tensors(folder: Path, config: ModelConfig) -> Section:
    """Compares names, shapes and dtypes in the safetensors headers with the config."""
    title = "tensors"
    try:
        files = weight_files(folder)
        headers = read_headers(files)
    except EngineError as error:
        return Section(title, (failed("files", error),))
    weights = expected_tensors(config)
    expected = stored_tensors(weights, headers)
    total = sum(file.stat().st_size for file in files)
    kinds = Counter(header.dtype for header in headers.values())
    checks = [
        passed(
            "files",
            f"{len(files)} safetensors, {size(total)}, "
            + ", ".join(f"{count} tensors {kind}" for kind, count in kinds.most_common()),
            files=len(files),
            bytes=total,
        ),
        _offending("missing", sorted(expected.keys() - headers.keys()), len(expected)),
        _offending("unexpected", sorted(headers.keys() - expected.keys()), len(headers)),
        _offending(
            "misshapen",
            [
                f"{name} {list(header.shape)}, config.json says {list(expected[name])}"
                for name, header in sorted(headers.items())
                if name in expected and header.shape != expected[name]
            ],
            len(headers),
        ),
        _stored_as(folder, headers, len(expected) - len(weights)),
    ]
    held = sum(math.prod(header.shape) for name, header in headers.items() if name in weights)
    if all(check.state == "ok" for check in checks):
        checks.append(passed("parameters", f"{held:,} held, as config.json says", parameters=held))
    return Section(title, tuple(checks))


def _stored_as(folder: Path, headers: Mapping[str, Header], int8: int) -> Check:
    """Whether all tensors have dtypes that can be read."""
    name = "stored as"
    try:
        quantized = read_quantization(folder)
        for tensor, header in headers.items():
            check_dtype(tensor, header, quantized=quantized)
    except EngineError as error:
        return failed(name, error)
    found = f"int8 with a scale per row, {int8} matrices" if int8 else "not quantised"
    return passed(name, found, int8=int8)


def examine_adapter(folder: Path, config: ModelConfig) -> Section:
    """Whether there is a drafter LoRA, and whether it is whole."""
    title, name = "drafter LoRA", FOLDER
    if not config.family.fills_masks:
        return Section(title, (skipped(name, f"{config.family.model_type} fills no masks"),))
    try:
        # It is read as a whole: it has megabytes, unlike the weights.
        adapter = read_adapter(folder, config)
    except EngineError as error:
        return Section(title, (failed(name, error),))
    if adapter is None:
        found = "not found: speculation drafts with the plain weights"
        return Section(title, (passed(name, found, found=False),))
    count = sum(factor.size for factor in (*adapter.down, *adapter.up))
    found = f"found: rank {adapter.rank}, scale {adapter.alpha / adapter.rank:g}, {count:,} weights"
    return Section(title, (passed(name, found, found=True, rank=adapter.rank),))


def examine_tokenizer(folder: Path, config: ModelConfig) -> tuple[Section, Tokenizer | None]:
    """Whether `tokenizer.json` fits the config and keeps text, and its infilling format."""
    title = "tokenizer"
    try:
        tokenizer = read_tokenizer(folder)
        if tokenizer.size > config.vocabulary:
            raise CheckpointError(
                f"{folder}: tokenizer.json has {tokenizer.size} ids, config.json vocab_size "
                f"{config.vocabulary}.",
                remedy="Check that both belong to the same checkpoint.",
                param="vocab_size",
            )
    except EngineError as error:
        return Section(title, (failed("tokenizer.json", error),)), None
    return Section(
        title,
        (
            passed("ids", f"{tokenizer.size} of {config.vocabulary}", ids=tokenizer.size),
            _round_trip(tokenizer),
            _mask(tokenizer, config),
            _ends(tokenizer, config),
            _infilling(tokenizer),
        ),
    ), tokenizer


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 2**10:.1f} KiB"


def _offending(name: str, offenders: Sequence[str], total: int) -> Check:
    figures = {"count": len(offenders)}
    if not offenders:
        return Check(name, "ok", f"none of {total}", figures=figures)
    named = "; ".join(offenders[:NAMED_MAX])
    more = f"; {len(offenders) - NAMED_MAX} more" if len(offenders) > NAMED_MAX else ""
    remedy = (
        "The checkpoint is incomplete, or its config.json is another model's."
        if name == "missing"
        else "Check that config.json belongs to these weights."
    )
    return Check(name, "failed", f"{len(offenders)} of {total}: {named}{more}.", remedy, figures)


def _round_trip(tokenizer: Tokenizer) -> Check:
    ids = tokenizer.encode(_SAMPLE)
    text = tokenizer.decode(ids)
    if text == _SAMPLE:
        return passed("text", f"{len(_SAMPLE)} characters come back from {len(ids)} tokens")
    return Check(
        "text",
        "failed",
        f"{_SAMPLE!r} comes back as {text!r}.",
        "The tokenizer normalises text; use the checkpoint's own tokenizer.json.",
    )


def _mask(tokenizer: Tokenizer, config: ModelConfig) -> Check:
    if config.mask_id is None:
        return skipped("mask id", f"{config.family.model_type} fills no masks")
    spelled = tokenizer.to_bytes([config.mask_id])
    if spelled:  # such text in a prompt would be taken for masks
        return Check(
            "mask id",
            "failed",
            f"{config.mask_id} is the ordinary token {spelled!r}.",
            "Check mask_token_id in config.json, and that tokenizer.json is the checkpoint's own.",
            {"mask_id": config.mask_id},
        )
    return passed("mask id", f"{config.mask_id}, no ordinary text", mask_id=config.mask_id)


def _ends(tokenizer: Tokenizer, config: ModelConfig) -> Check:
    ends = ", ".join(map(str, config.end_ids))
    wrong = [end for end in config.end_ids if end >= config.vocabulary or tokenizer.to_bytes([end])]
    if not wrong:
        return passed("end ids", ends, end_ids=ends)
    return Check(
        "end ids",
        "failed",
        f"{wrong[0]} is an ordinary token, or no token at all.",
        "Check eos_token_id in config.json, and that tokenizer.json is the checkpoint's own.",
        {"end_ids": ends},
    )


def _infilling(tokenizer: Tokenizer) -> Check:
    infill = tokenizer.infill
    if infill is None:
        found = "no known markers: only the text before the cursor is used"
        return passed("infilling format", found, format=None)
    known = isinstance(infill, InfillFormat)
    found = "this project's own markers" if known else f"sentinels, {type(infill).__name__}"
    ends = ", ".join(map(str, infill.end_ids))
    return passed(
        "infilling format", f"{found}; a middle ends at {ends}", format=type(infill).__name__
    )
