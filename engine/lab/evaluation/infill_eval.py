"""How often a checkpoint fills a real hole exactly, in files that it was never trained on.

The real engine fills holes of fixed kinds (`engine.lab.data.holes`), and the texts are compared.
This is the short measurement before and after a training run; `dlm-lsp eval` is the long one. A
checkpoint that knows no infilling continues the prefix up to the line's end.
`python -m engine.lab.evaluation.infill_eval --corpus runs/nano/corpus` prints a table, or JSON with
--json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.api import Finished, Limits, Request
from engine.config import EngineSettings
from engine.engine import Engine
from engine.errors import ConfigError, EngineError, EngineFailure
from engine.lab.data.corpus import HELD, Source, read_sources
from engine.lab.data.examples import Pieces
from engine.lab.data.holes import (
    SEED,
    Cut,
    Hole,
    line_tail,
    mid_word,
    several_lines,
    whole_line,
)
from engine.lab.data.holes import draw_holes as draw
from engine.lab.data.languages import PYTHON
from engine.lab.data.sampler import prefix_tokens, prompt_tokens
from engine.lab.tables import to_table
from engine.model.config import read_config
from engine.prompt import FAR_TOKENS_MAX, PREFIX_TOKENS_MAX, prompt_of

MODES = ("ar", "block")
# The kinds of the published figures.
KINDS: dict[str, Cut] = {
    "whole_line": whole_line,
    "line_tail": line_tail,
    "mid_word": mid_word,
    "multi_line": several_lines(4),
}
SINGLE_LINE_KINDS = {kind: KINDS[kind] for kind in ("whole_line", "line_tail", "mid_word")}
ALL_KINDS = "all"  # the kind of figures over all kinds
_TOKENS_MAX, _TOKENS_MAX_SINGLE_LINE = 192, 64
_LINES_MIN = 8
_SHARES = ("holes", "exact", "first line", "endless")
_MODULE = "engine.lab.evaluation.infill_eval"


@dataclass(frozen=True, slots=True)
class InfillFigures:
    """Means over holes in one mode.

    Attributes:
        exact: the share whose text equals what stood there, to the last character.
        first_line: the share whose first line does.
        endless: the share that did not end by itself within its tokens.
        tokens_per_forward: all emitted tokens over all forwards.
        infilling: whether the text after the hole was in the prompt.
        kind: the kind of the holes, or ALL_KINDS.
        forwards: device calls after the prompt.
    """

    mode: str
    holes: int
    exact: float
    first_line: float
    endless: float
    tokens_per_forward: float
    infilling: bool = True
    kind: str = ALL_KINDS
    forwards: float = 0.0


def draw_holes(sources: Sequence[Source], per_kind: int, seed: int = SEED) -> list[Hole]:
    """`per_kind` holes of each of KINDS, spread evenly over the packages."""
    return draw(sources, per_kind, seed, KINDS)


def draw_single_lines(sources: Sequence[Source], per_kind: int) -> list[Hole]:
    """Holes within one line, in the files that can have them; none if no file can."""
    fit = [source for source in sources if _has_lines(source.text)]
    return draw(fit, per_kind, kinds=SINGLE_LINE_KINDS) if fit and per_kind > 0 else []


def measure(
    engine: Engine, holes: Sequence[Hole], modes: Sequence[str] = MODES
) -> list[InfillFigures]:
    """Fills every hole in every mode, greedily, one at a time; the figures by mode and kind.

    Raises:
        EngineError: The checkpoint knows no infilling, or decoding failed.
    """
    figures = []
    for mode in modes:
        for kind in KINDS:
            chosen = [hole for hole in holes if hole.kind == kind]
            if chosen:
                results = [
                    engine.generate(to_request(engine, hole.pieces, mode, _TOKENS_MAX))
                    for hole in chosen
                ]
                figures.append(_figures(mode, chosen, results, kind=kind))
    return figures


def measure_checkpoint(settings: EngineSettings, holes: Sequence[Hole]) -> list[InfillFigures]:
    """Fills single-line holes with a checkpoint, which need not know infilling, in `ar` and, if it
    fills masks, in `block`; the figures by mode.

    Raises:
        EngineError: The checkpoint cannot be loaded, or decoding failed.
    """
    if not holes:
        return []
    engine = Engine.load(settings)
    infilling = engine.tokenizer.infill is not None
    begin = read_config(settings.checkpoint_path()).begin_id
    figures = []
    try:
        for mode in (mode for mode in MODES if mode in engine.info.modes):
            results = [
                engine.generate(
                    to_request(engine, hole.pieces, mode, _TOKENS_MAX_SINGLE_LINE)
                    if infilling
                    else _prefix_request(engine, hole.pieces, mode, begin)
                )
                for hole in holes
            ]
            figures.append(_figures(mode, holes, results, infilling=infilling))
    finally:
        engine.close()
    return figures


def to_request(engine: Engine, pieces: Pieces, mode: str, tokens_max: int) -> Request:
    """A greedy request with the full token budgets.

    Raises:
        EngineFailure: The tokenizer has no infilling markers.
    """
    infill = engine.tokenizer.infill
    if infill is None:
        raise EngineFailure("The checkpoint's tokenizer has no infilling markers.")
    return Request(
        prompt=prompt_tokens(pieces, engine.tokenizer, PREFIX_TOKENS_MAX, FAR_TOKENS_MAX),
        mode=mode,
        limits=Limits(tokens_max=tokens_max),
        stop_token_ids=(*infill.end_ids, *engine.end_ids),
    )


def figures_table(figures: Sequence[InfillFigures]) -> str:
    """The figures as a Markdown table."""
    names = ("mode", "hole", *_SHARES, "forwards", "tokens/forward")
    rows = [
        (
            *(each.mode, each.kind.replace("_", " "), *_shares(each)),
            *(f"{each.forwards:.1f}", f"{each.tokens_per_forward:.2f}"),
        )
        for each in figures
    ]
    return "\n".join(to_table(names, rows))


def to_comparison(figures: Mapping[str, Sequence[InfillFigures]]) -> str:
    """The figures of several checkpoints, by their names, as one Markdown table."""
    rows = [
        (
            *(name, each.mode, "both sides" if each.infilling else "prefix"),
            *(*_shares(each), f"{each.tokens_per_forward:.2f}"),
        )
        for name, of_checkpoint in figures.items()
        for each in of_checkpoint
    ]
    return "\n".join(to_table(("checkpoint", "mode", "sees", *_SHARES, "tokens/forward"), rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures; returns 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.lab.evaluation.infill_eval", description=__doc__
    )
    parser.add_argument("--corpus", type=Path, required=True, help="the recipe's corpus folder")
    parser.add_argument("--checkpoint", type=Path, help="default: the bundled model")
    parser.add_argument("--holes", type=int, default=100, help="holes of each kind")
    parser.add_argument("--language", default=PYTHON, help="language of the files; default: python")
    parser.add_argument("--mode", choices=MODES, action="append", help="repeatable; default: all")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        sources = read_sources(options.corpus, HELD, options.language)
        if not sources:
            raise ConfigError(
                f"There are no held-out files in {options.language}.",
                remedy="Give another --language or --corpus.",
                param="language",
            )
        holes = draw_holes(sources, options.holes)
        engine = Engine.load(EngineSettings(checkpoint=options.checkpoint))
        try:
            figures = measure(engine, holes, options.mode or MODES)
        finally:
            engine.close()
    except EngineError as error:
        print(f"{_MODULE}: {error}", file=sys.stderr)
        return 1
    print(
        json.dumps([asdict(each) for each in figures]) if options.json else figures_table(figures)
    )
    return 0


def _figures(
    mode: str,
    holes: Sequence[Hole],
    results: Sequence[Finished],
    *,
    kind: str = ALL_KINDS,
    infilling: bool = True,
) -> InfillFigures:
    pairs = [(hole.pieces.middle, done.text) for hole, done in zip(holes, results, strict=True)]
    count = len(pairs)
    forwards = sum(done.usage.forwards for done in results)
    return InfillFigures(
        mode=mode,
        holes=count,
        exact=sum(wanted == got for wanted, got in pairs) / count,
        first_line=sum(_first_line(wanted) == _first_line(got) for wanted, got in pairs) / count,
        endless=sum(done.reason == "length" for done in results) / count,
        tokens_per_forward=sum(done.usage.tokens for done in results) / max(1, forwards),
        infilling=infilling,
        kind=kind,
        forwards=forwards / count,
    )


def _shares(each: InfillFigures) -> tuple[object, ...]:
    """The cells of the columns _SHARES."""
    shares = (each.exact, each.first_line, each.endless)
    return each.holes, *(f"{share:.1%}" for share in shares)


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]


def _prefix_request(engine: Engine, pieces: Pieces, mode: str, begin: int | None) -> Request:
    prefix = prefix_tokens(pieces.prefix, engine.tokenizer, PREFIX_TOKENS_MAX)
    return Request(
        prompt=prompt_of(None, begin, prefix=prefix),
        mode=mode,
        limits=Limits(tokens_max=_TOKENS_MAX_SINGLE_LINE),
        stop=("\n",),
        stop_token_ids=engine.end_ids,
    )


def _has_lines(text: str) -> bool:
    lines = text.split("\n")[_LINES_MIN:]
    return any(len(line.strip()) >= _LINES_MIN and re.search(r"\w{2,}", line) for line in lines)


if __name__ == "__main__":
    sys.exit(main())
