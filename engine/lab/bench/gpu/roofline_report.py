"""The roofline as `roofline.json` and `roofline.md`: arithmetic alone, the same on every machine.

python -m engine.lab.bench.gpu --roofline --out benchmarks
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.lab.bench.gpu.cards import CARDS, Card
from engine.lab.bench.gpu.published import STEPS, YIELDS
from engine.lab.bench.gpu.roofline import Floor, floor_of, kv_bytes, step_cost
from engine.lab.bench.gpu.stored import STORAGES
from engine.lab.bench.shapes import SHAPES
from engine.lab.bench.steps import CONTEXTS, ROWS
from engine.lab.tables import to_table

_REPLAYED_AFTER = CONTEXTS[0]  # cached tokens, of the replays of published yields
_TOP = """\
# The roofline: what a step takes at least

**Computed, not measured**: nothing on this page was run on a card. Written by `python -m
engine.lab.bench.gpu --roofline --out benchmarks`; a test holds the page against the code.

A step is a causal chain of rows of one request after cached tokens, with a reading of every row.
It reads the weights of all layers and of the head once, the embeddings of its rows, and the cached
keys and values, and writes those of its rows (keys and values in bf16). Its floor is the longer of
two times: these bytes at the datasheet's bandwidth, and its multiplications and additions at the
datasheet's rate of dense bf16 products, since quantised weights are multiplied in bf16 too. Logits
are never stored. What operations hand to each other (activations) fits into the cache of each of
these cards at every shape here and is not counted; `roofline.json` has its bytes. Nothing reaches
these rates: how near others have come stands at the end.

`bf16` has two bytes a weight, `int8` one and a scale in fp32 for each output, `Q4_K_M` ggml's
blocks as llama.cpp mixes them: 4-bit blocks (Q4_K, 4.5 bits a weight), 6-bit ones for the head and
for half of the value and down projections, and for Qwen 0.5B, whose rows are no multiples of 256,
Q5_0 and Q8_0 instead."""

_REPLAYED = """\
**Published, replayed**: tokens per forward that others have published, or that we measured on a
CPU, times the forwards per second at the floor after {context} cached tokens. These are ceilings,
and no measurements; rows of different tasks and countings are not to be compared. For each card:
bf16 / int8 / Q4_K_M. A yield with bf16 weights is taken for all three: what quantisation does to it
is not known."""


def write(folder: Path) -> None:
    """Writes both files into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f' "{name}": {_one_a_line(value)}' for name, value in to_json().items()]
    (folder / "roofline.json").write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")
    (folder / "roofline.md").write_text(to_markdown(), "utf-8")


def to_json() -> dict[str, Any]:
    """All figures: costs of steps in bytes and FLOPs, floors in milliseconds, tokens a second."""
    return {
        "format": 1,
        "label": "computed",
        "cards": [asdict(card) for card in CARDS],
        "steps": [
            {
                "shape": shape,
                "weights": storage,
                "rows": rows,
                "context": context,
                **asdict(cost := step_cost(config, storage, rows, context)),
                "floor_ms": {card.name: _rounded(floor_of(cost, card)) for card in CARDS},
            }
            for shape, config in SHAPES.items()
            for storage in STORAGES
            for context in CONTEXTS
            for rows in ROWS
        ],
        "replayed": [*replays()],
    }


def replays() -> Iterator[dict[str, Any]]:
    """Published yields at the floors of their steps: tokens a second by weights and card."""
    for each in YIELDS:
        limits: dict[str, dict[str, float]] = {}
        for storage in STORAGES:
            cost = step_cost(SHAPES[each.shape], storage, each.rows, _REPLAYED_AFTER)
            limits[storage] = {
                card.name: round(1000 * each.tokens / floor_of(cost, card).milliseconds, 1)
                for card in CARDS
            }
        yield {**asdict(each), "label": "published, replayed", "tokens_per_second": limits}


def to_markdown() -> str:
    """The page."""
    lines = [*_TOP.splitlines(), "", *_cards(), "", *_weights()]
    lines += ["", "## Floors, ms", "", *_floors_legend().splitlines()]
    for shape in SHAPES:
        lines += ["", f"### {shape}", "", *_floors(shape)]
    lines += ["", "## Tokens per second, published yields replayed", "", *_replays()]
    lines += ["", "## Published steps beside their floors", "", *_published_steps()]
    return "\n".join(lines) + "\n"


def _one_a_line(value: Any) -> str:
    """JSON with one entry of a list a line, so that a change shows as what it is."""
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in value) + "\n ]"


def _cards() -> list[str]:
    rows = [
        (
            card.name,
            f"{card.bandwidth / 1e12:.3g}",
            f"{card.matrix_rate / 1e12:.4g}",
            f"{card.cache / 2**20:.0f}",
            f"{card.matrix_rate / card.bandwidth:.0f}",
            card.source,
        )
        for card in CARDS
    ]
    names = ("card", "TB/s", "TFLOP/s", "L2, MiB", "FLOP per byte", "source")
    return to_table(names, rows)


def _weights() -> list[str]:
    rows: list[tuple[object, ...]] = []
    for shape, config in SHAPES.items():
        costs = [step_cost(config, storage, 1, 0) for storage in STORAGES]
        read = [f"{(cost.layers + cost.head) / 1e9:.3f}" for cost in costs]
        head = f"{costs[0].head / 1e9:.3f}"
        parameters = f"{config.parameters() / 1e9:.3f}"
        gflop = f"{costs[0].flops / 1e9:.2f}"
        rows.append((shape, parameters, *read, head, f"{kv_bytes(config) / 1e3:.1f}", gflop))
    read = [f"read per step, {storage}, GB" for storage in STORAGES]
    names = ("shape", "parameters, billions", *read, "of it the head in bf16", "K/V per token, kB")
    return to_table((*names, "GFLOP per row"), rows)


def _floors_legend() -> str:
    rows = ", ".join(map(str, ROWS[1:-1]))
    contexts = " / ".join(f"{context:,}" for context in CONTEXTS)
    return (
        f"Of a step of 1, {rows} and {ROWS[-1]} rows, after {contexts} cached tokens. "
        "**Bold**: bound by compute, not by memory."
    )


def _floors(shape: str) -> list[str]:
    lines: list[tuple[object, ...]] = []
    for storage in STORAGES:
        for rows in ROWS:
            costs = [step_cost(SHAPES[shape], storage, rows, context) for context in CONTEXTS]
            cells = (" / ".join(_cell(floor_of(cost, card)) for cost in costs) for card in CARDS)
            lines.append((storage, rows, *cells))
    return to_table(("weights", "rows", *(card.name for card in CARDS)), lines)


def _replays() -> list[str]:
    lines = [*_REPLAYED.format(context=_REPLAYED_AFTER).splitlines(), ""]
    rows = [
        (
            each["shape"],
            f"`{each['mode']}`",
            each["rows"],
            f"{each['tokens']:.2f}",
            each["task"],
            each["source"],
            *(
                " / ".join(
                    f"{each['tokens_per_second'][kind][card.name]:,.0f}" for kind in STORAGES
                )
                for card in CARDS
            ),
        )
        for each in replays()
    ]
    names = ("shape", "mode", "rows", "tokens per forward", "task", "source")
    return [*lines, *to_table((*names, *(card.name for card in CARDS)), rows)]


def _published_steps() -> list[str]:
    rows: list[tuple[object, ...]] = []
    for each in STEPS:
        cost = step_cost(SHAPES[each.shape], "bf16", each.rows, each.context)
        floor = floor_of(cost, _card(each.card)).milliseconds
        share = f"{floor / each.milliseconds:.0%}"
        rows.append(
            (
                each.shape,
                each.card,
                each.rows,
                each.milliseconds,
                f"{floor:.2f}",
                share,
                each.source,
            )
        )
    names = ("shape", "card", "rows", "published ms", "computed floor, ms", "floor / published")
    return to_table((*names, "source"), rows)


def _card(name: str) -> Card:
    return next(card for card in CARDS if card.name == name)


def _cell(floor: Floor) -> str:
    text = (
        f"{floor.milliseconds:.2f}" if floor.milliseconds >= 0.995 else f"{floor.milliseconds:.3f}"
    )
    return f"**{text}**" if floor.is_compute else text


def _rounded(floor: Floor) -> dict[str, float]:
    return {"memory": round(floor.memory, 5), "compute": round(floor.compute, 5)}
