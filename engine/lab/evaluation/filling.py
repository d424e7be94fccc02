"""How often a checkpoint fills real holes of held-out files, before and after training it.

Single-line holes through the real engine. A checkpoint that knows no infilling continues the prefix
up to the line's end, which is all that can be had of it. Knows nothing of training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.api import Limits, Request
from engine.config import EngineSettings
from engine.engine import Engine
from engine.lab.data.corpus import Source
from engine.lab.data.examples import Pieces
from engine.lab.data.holes import KINDS, Hole, draw_holes
from engine.lab.data.sampler import prefix_tokens
from engine.lab.evaluation.infill_eval import decode, to_request
from engine.model.config import read_config
from engine.prompt import PREFIX_TOKENS_MAX

KINDS_MEASURED = ("whole_line", "line_tail", "mid_word")
_TOKENS_MAX = 64
_LINES_MIN = 8


@dataclass(frozen=True, slots=True)
class Filling:
    """Means over the holes in one mode.

    Attributes:
        exact: share whose text equals what stood there, to the character.
        first_line: share whose first line does.
        endless: share that did not end by itself within 64 tokens.
        infilling: whether the text behind the hole was in the prompt.
    """

    mode: str
    holes: int
    exact: float
    first_line: float
    endless: float
    tokens_per_forward: float
    infilling: bool


def held_out_holes(sources: Sequence[Source], per_kind: int) -> list[Hole]:
    """Holes in the files that can have some; none where no file can."""
    fit = [source for source in sources if _has_lines(source.text)]
    kinds = {kind: KINDS[kind] for kind in KINDS_MEASURED}
    return draw_holes(fit, per_kind, kinds=kinds) if fit and per_kind > 0 else []


def measure_filling(settings: EngineSettings, holes: Sequence[Hole]) -> list[Filling]:
    """Greedy, in `ar` and, where the checkpoint fills masks, in `block`.

    Raises:
        EngineError: the checkpoint cannot be loaded, or decoding failed.
    """
    if not holes:
        return []
    engine = Engine.load(settings)
    begin = read_config(settings.checkpoint_path()).begin_id
    try:
        modes = [mode for mode in ("ar", "block") if mode in engine.info.modes]
        return [_measured(engine, holes, mode, begin) for mode in modes]
    finally:
        engine.close()


def to_table(before: Sequence[Filling], after: Sequence[Filling]) -> str:
    """Markdown, the modes of both below each other."""
    rows = [
        "| checkpoint | mode | sees | holes | exact | first line | endless | tokens/forward |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in (("before", before), ("after", after)):
        for each in figures:
            sees = "both sides" if each.infilling else "prefix"
            rows.append(
                f"| {name} | {each.mode} | {sees} | {each.holes} | {each.exact:.1%} "
                f"| {each.first_line:.1%} | {each.endless:.1%} | {each.tokens_per_forward:.2f} |"
            )
    return "\n".join(rows)


def _measured(engine: Engine, holes: Sequence[Hole], mode: str, begin: int | None) -> Filling:
    infilling = engine.tokenizer.infill is not None
    requests = [
        to_request(engine, hole.pieces, mode, _TOKENS_MAX)
        if infilling
        else _prefix_request(engine, hole.pieces, mode, begin)
        for hole in holes
    ]
    done = [decode(engine, request) for request in requests]
    pairs = [(hole.pieces.middle, each.text) for hole, each in zip(holes, done, strict=True)]
    count = len(holes)
    forwards = sum(each.usage.forwards for each in done)
    return Filling(
        mode=mode,
        holes=count,
        exact=sum(wanted == text for wanted, text in pairs) / count,
        first_line=sum(wanted == text.split("\n", 1)[0] for wanted, text in pairs) / count,
        endless=sum(each.reason == "length" for each in done) / count,
        tokens_per_forward=sum(each.usage.tokens for each in done) / max(1, forwards),
        infilling=infilling,
    )


def _prefix_request(engine: Engine, pieces: Pieces, mode: str, begin: int | None) -> Request:
    prefix = prefix_tokens(pieces.prefix, engine.tokenizer, PREFIX_TOKENS_MAX)
    return Request(
        prompt=(*([] if begin is None else [begin]), *prefix),
        mode=mode,
        limits=Limits(tokens_max=_TOKENS_MAX),
        stop=("\n",),
        stop_token_ids=engine.end_ids,
    )


def _has_lines(text: str) -> bool:
    lines = text.split("\n")[_LINES_MIN:]
    return any(len(line.strip()) >= _LINES_MIN and re.search(r"\w{2,}", line) for line in lines)
