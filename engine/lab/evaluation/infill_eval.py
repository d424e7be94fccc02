"""How often the model fills a real hole exactly, on files of packages it was never trained on.

Runs holes of fixed kinds (engine.lab.data.holes) through the real engine, compares texts: the
short measurement of a training run; `dlm-lsp eval` is the long one. Owns the figures; knows nothing
of how an engine decodes.
`python -m engine.lab.evaluation.infill_eval --corpus runs/nano/corpus` prints a table, or JSON with
--json.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.api import LAST_EVENTS, Event, Finished, Limits, Request
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
from engine.lab.data.sampler import prompt_tokens
from engine.prompt import FAR_TOKENS_MAX, PREFIX_TOKENS_MAX

MODES = ("ar", "block")
_TOKENS_MAX = 192
_MODULE = "engine.lab.evaluation.infill_eval"


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over the holes of one kind in one mode.

    Attributes:
        exact: share whose text equals what stood there, to the character.
        first_line: share whose first line does.
        endless: share that did not end by itself within 192 tokens.
        forwards: device calls after the prompt.
        tokens_per_forward: all emitted tokens over all forwards.
    """

    mode: str
    kind: str
    holes: int
    exact: float
    first_line: float
    endless: float
    forwards: float
    tokens_per_forward: float


# Those that the published figures are of.
KINDS: dict[str, Cut] = {
    "whole_line": whole_line,
    "line_tail": line_tail,
    "mid_word": mid_word,
    "multi_line": several_lines(4),
}


def draw_holes(sources: Sequence[Source], per_kind: int, seed: int = SEED) -> list[Hole]:
    """`per_kind` holes of each kind, spread evenly over the packages."""
    return draw(sources, per_kind, seed, KINDS)


def measure(engine: Engine, holes: Sequence[Hole], modes: Sequence[str] = MODES) -> list[Figures]:
    """Runs every hole in every mode, greedily, one at a time.

    Raises:
        EngineError: the checkpoint knows no infilling, or decoding failed.
    """
    figures = []
    for mode in modes:
        for kind in KINDS:
            chosen = [hole for hole in holes if hole.kind == kind]
            if chosen:
                results = [complete(engine, hole.pieces, mode) for hole in chosen]
                figures.append(_figures(mode, kind, chosen, results))
    return figures


def complete(engine: Engine, pieces: Pieces, mode: str) -> Finished:
    """One completion by the real engine under the full token budgets.

    Raises:
        EngineError: as `measure`.
    """
    return decode(engine, to_request(engine, pieces, mode, _TOKENS_MAX))


def to_request(engine: Engine, pieces: Pieces, mode: str, tokens_max: int) -> Request:
    """A greedy request under the full token budgets.

    Raises:
        EngineFailure: the checkpoint knows no infilling.
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


def decode(engine: Engine, request: Request) -> Finished:
    """Runs a request to its end.

    Raises:
        EngineFailure: it failed.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(request, events.put)
    event = events.get()
    while not isinstance(event, LAST_EVENTS):
        event = events.get()
    if not isinstance(event, Finished):
        raise EngineFailure(f"The engine answered {event}.")
    return event


def to_table(figures: Sequence[Figures]) -> str:
    """Markdown."""
    rows = [
        "| mode | hole | holes | exact | first line | endless | forwards | tokens/forward |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in figures:
        rows.append(
            f"| {each.mode} | {each.kind.replace('_', ' ')} | {each.holes} | {each.exact:.1%} "
            f"| {each.first_line:.1%} | {each.endless:.1%} | {each.forwards:.1f} "
            f"| {each.tokens_per_forward:.2f} |"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures; 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.lab.evaluation.infill_eval", description=__doc__
    )
    parser.add_argument("--corpus", type=Path, required=True, help="the recipe's corpus folder")
    parser.add_argument("--checkpoint", type=Path, help="default: the bundled model")
    parser.add_argument("--holes", type=int, default=100, help="holes of each kind")
    parser.add_argument("--language", default=PYTHON, help="of the files; default: python")
    parser.add_argument("--mode", choices=MODES, action="append", help="repeatable; default: all")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        sources = read_sources(options.corpus, HELD, options.language)
        if not sources:
            raise ConfigError(
                f"The held-out files hold no {options.language}.",
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
    print(json.dumps([asdict(each) for each in figures]) if options.json else to_table(figures))
    return 0


def _figures(mode: str, kind: str, holes: Sequence[Hole], results: Sequence[Finished]) -> Figures:
    pairs = [(hole.pieces.middle, done.text) for hole, done in zip(holes, results, strict=True)]
    count = len(pairs)
    forwards = sum(done.usage.forwards for done in results)
    return Figures(
        mode=mode,
        kind=kind,
        holes=count,
        exact=sum(wanted == got for wanted, got in pairs) / count,
        first_line=sum(_first_line(wanted) == _first_line(got) for wanted, got in pairs) / count,
        endless=sum(done.reason != "end" for done in results) / count,
        forwards=forwards / count,
        tokens_per_forward=sum(done.usage.tokens for done in results) / max(1, forwards),
    )


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]


if __name__ == "__main__":
    sys.exit(main())
