"""The figures of a run on a card as one page and one plot, `gpu.md` and `gpu.svg`.

`python -m engine.lab.bench.gpu --report FOLDER` writes them again of `gpu.json` there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.lab.bench.conditions import to_sentence
from engine.lab.bench.gpu.published import YIELDS
from engine.lab.tables import to_table

Content = Mapping[str, Any]
_COLUMNS = 4  # of panels in the plot
_DOTTED = "dotted: the floor at the datasheet's rates"
_NO_CARD = (
    "**No figure of a card**: this run tried the code on {device}, at the shapes {shapes}. "
    "Nothing here says how fast anything is."
)
_STEPS = """\
A step is a causal chain of rows after cached tokens, with a reading of every row, by the engine's
own runner and cache: ms, and the bytes that it has to move by the roofline in GB/s as a share of
the measured copy bandwidth."""
_CYCLES = """\
A cycle is a forward that emits, or two for `linear_spec`. Random weights reject nearly every
draft, so that cycles per second show costs and not speed. `tokens/s` are **published yields,
replayed**: tokens per forward that others have published for a model of this shape (or that we
measured on a CPU) times the forwards per second measured here; the lowest and the highest of them.
Nobody has seen these speeds."""
_KERNELS = """\
Milliseconds with none of an operation's data in the card's cache (`cold`) and of calls one after
another (`warm`). GB/s are the bytes that any implementation has to move, at the cold time, as
shares of the measured copy bandwidth (read plus written) and of the datasheet's. `torch` is the
same in torch's own operations, cold."""
_TUNING = """\
Each kernel's own choice and the fastest of those that were tried, cold. Nothing was changed: what
gains here belongs into the tables of `engine/kernels`. All choices with their times are in
`gpu.json`."""


def write(folder: Path, content: Content) -> None:
    """Writes the page and the plot beside the JSON file."""
    (folder / "gpu.md").write_text("\n".join(to_markdown(content)) + "\n", encoding="utf-8")
    plot(folder / "gpu.svg", content)


def to_markdown(content: Content) -> list[str]:
    """The lines of the page; sections that a run did not reach are named."""
    conditions = content["conditions"]
    lines = ["# On a card", "", to_sentence(conditions)]
    if conditions["kind"] != "cuda":
        lines += ["", _NO_CARD.format(**conditions)]
    lines += ["", *_sections(content)]
    for rates in _entries(content, "rates"):
        lines += [
            "",
            f"Copy bandwidth {rates['copy'] / 1e9:,.0f} GB/s (read plus written), matrix rate "
            f"{rates['matrix'] / 1e12:,.1f} TFLOP/s in {rates['dtype']}.",
        ]
    lines += _checks(_entries(content, "checks"))
    lines += _part("Whole steps", _STEPS, _steps(content))
    if steps_of(content):
        lines += ["", "![ms per step over rows](gpu.svg)"]
    lines += _part("Cycles", _CYCLES, _cycles(content))
    lines += _part("Peers, in the same run", "", _peers(content))
    lines += _part("Kernels", _KERNELS, _kernels(_entries(content, "kernels")))
    lines += _part("Tuning", _TUNING, _tuning(_entries(content, "tuning")))
    lines += _part("Where a step of 32 rows spends its time", "", _profiles(content))
    return lines + _part("The bundled model on held-out holes", "", _bundled(content))


def steps_of(content: Content) -> dict[str, list[dict[str, Any]]]:
    """The steps of each shape that was reached."""
    return _by_shape(content, "steps")


def plot(path: Path, content: Content) -> None:
    """Plots milliseconds per step over rows: a panel for each shape, a line for each context, and
    the floor of the datasheet where the card is known."""
    shapes = steps_of(content)
    columns = min(_COLUMNS, max(1, len(shapes)))
    lines = -(-max(1, len(shapes)) // columns)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dlm-lsp", "font.size": 9}):
        figure = Figure(figsize=(2 + 3.0 * columns, 3.4 * lines), layout="constrained")
        panels: list[Axes] = [*figure.subplots(lines, columns, squeeze=False).flat]
        for panel in panels[len(shapes) :]:
            panel.set_axis_off()
        for panel, (name, steps) in zip(panels, shapes.items(), strict=False):
            _panel(panel, name, steps)
        is_card = content["conditions"]["kind"] == "cuda"
        figure.suptitle(_DOTTED if is_card else "no figure of a card: tried on a processor")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(panel: Axes, name: str, steps: Sequence[Mapping[str, Any]]) -> None:
    for context in dict.fromkeys(step["context"] for step in steps):
        chosen = [step for step in steps if step["context"] == context]
        rows = [step["rows"] for step in chosen]
        times = [step["milliseconds"] for step in chosen]
        (line,) = panel.plot(rows, times, "o-", markersize=3, label=f"{context:,} cached")
        if all(step["floor_ms"] is not None for step in chosen):
            floors = [step["floor_ms"] for step in chosen]
            panel.plot(rows, floors, ":", color=line.get_color(), linewidth=1)
    panel.set(title=name, xlabel="rows", ylabel="ms per step", ylim=(0, None))
    panel.legend(fontsize=7)


def _part(title: str, legend: str, table: Sequence[str]) -> list[str]:
    if not table:
        return []
    return ["", f"## {title}", "", *([*legend.splitlines(), ""] if legend else []), *table]


def _sections(content: Content) -> list[str]:
    rows = [
        (each["name"], each["state"], f"{each.get('seconds', 0):.0f}", each["why"])
        for each in content["sections"]
    ]
    return to_table(("section", "state", "s", "why"), rows)


def _entries(content: Content, name: str) -> list[dict[str, Any]]:
    found = (each["entries"] for each in content["sections"] if each["name"] == name)
    return next(found, [])


def _by_shape(content: Content, kind: str) -> dict[str, list[dict[str, Any]]]:
    return {
        each["name"].removeprefix(f"{kind} "): each["entries"]
        for each in content["sections"]
        if each["name"].startswith(f"{kind} ") and each["entries"]
    }


def _checks(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    lines: list[str] = []
    for each in entries:
        ended = "to the end" if each["is_whole"] else "until their time was up"
        lines += ["", f"Checks, run {ended}: {each['passed']} passed, {each['failed']} failed."]
        lines += [f"* `{name}`" for name in each["failures"]]
    return lines


def _steps(content: Content) -> list[str]:
    lines: list[tuple[object, ...]] = []
    contexts: dict[int, None] = {}
    for entries in steps_of(content).values():
        contexts |= dict.fromkeys(each["context"] for each in entries)
    for shape, entries in steps_of(content).items():
        for rows in dict.fromkeys(each["rows"] for each in entries):
            cells = [
                next(
                    (
                        f"{each['milliseconds']:.3g} ({each['of_copy']:.0%})"
                        for each in entries
                        if (each["rows"], each["context"]) == (rows, context)
                    ),
                    "",
                )
                for context in contexts
            ]
            lines.append((shape, rows, *cells))
    names = (f"{context:,} cached: ms (of copy)" for context in contexts)
    return to_table(("shape", "rows", *names), lines) if lines else []


def _cycles(content: Content) -> list[str]:
    rows = [
        (
            shape,
            f"`{each['mode']}`",
            each["length"] if each["mode"] != "ar" else "",
            f"{each['cycles_per_second']:.1f}",
            f"{each['forwards_per_second']:.1f}",
            _replayed(shape, each),
        )
        for shape, entries in _by_shape(content, "cycles").items()
        for each in entries
    ]
    names = ("shape", "mode", "block", "cycles/s", "forwards/s", "tokens/s, published, replayed")
    return to_table(names, rows) if rows else []


def _replayed(shape: str, cycle: Mapping[str, Any]) -> str:
    """The range of tokens per second at the published yields of the same mode and rows."""
    name = shape.split(", ")[0]  # the rest says how steps were run
    found = sorted(
        each.tokens * cycle["forwards_per_second"]
        for each in YIELDS
        if (each.shape, each.mode, each.rows) == (name, cycle["mode"], _rows_of(cycle))
    )
    if not found:
        return ""
    low, high = f"{found[0]:,.0f}", f"{found[-1]:,.0f}"
    return low if low == high else f"{low} to {high}"


def _rows_of(cycle: Mapping[str, Any]) -> int:
    """The rows of a mode's steps."""
    length = cycle["length"]
    return {"ar": 1, "quadratic_spec": length * (length + 1)}.get(cycle["mode"], length)


def _peers(content: Content) -> list[str]:
    rows = [
        (shape, each["peer"], f"{each['ms']:.3g}" if each["ms"] is not None else each["why"])
        for shape, entries in _by_shape(content, "peers").items()
        for each in entries
    ]
    return to_table(("shape", "peer", "ms"), rows) if rows else []


def _kernels(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    rows: list[tuple[object, ...]] = []
    for each in entries:
        title = (each["operation"], each["case"], each["path"])
        if "error" in each:
            rows.append((*title, each["error"], "", "", "", "", ""))
            continue
        peer = "" if each["peer_cold"] is None else f"{each['peer_cold']:.4f}"
        times = (f"{each['cold']:.4f}", f"{each['warm']:.4f}", f"{each['gb_per_s']:,.0f}")
        rows.append((*title, *times, *_shares(each), peer))
    names = ("operation", "case", "ran", "cold, ms", "warm, ms", "GB/s", "of copy", "of datasheet")
    return to_table((*names, "torch, ms"), rows) if rows else []


def _shares(entry: Mapping[str, Any]) -> Iterator[str]:
    for name in ("of_copy", "of_datasheet"):
        yield "" if entry[name] is None else f"{entry[name]:.0%}"


def _tuning(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    rows: list[tuple[object, ...]] = []
    for each in entries:
        if "error" in each:
            rows.append((each["operation"], each["case"], each["error"], "", "", "", ""))
            continue
        start, best = (_values(each[name]) for name in ("start", "best"))
        times = (f"{each['start_ms']:.4f}", f"{each['best_ms']:.4f}")
        rows.append((each["operation"], each["case"], start, times[0], best, times[1],
                     len(each["tried"])))  # fmt: skip
    names = ("operation", "case", "now", "ms", "fastest", "ms", "tried")
    return to_table(names, rows) if rows else []


def _values(choice: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in choice.items()) or "as it is"


def _profiles(content: Content) -> list[str]:
    rows = [
        (shape, f"`{each['name']}`", f"{each['milliseconds']:.3f}", each["calls"])
        for shape, entries in _by_shape(content, "profile").items()
        for each in entries
        if "calls" in each
    ]
    return to_table(("shape", "kernel", "ms", "calls"), rows) if rows else []


def _bundled(content: Content) -> list[str]:
    rows = [
        (
            row["variant"],
            f"{row['tokens_per_second']:.0f}",
            f"{row['against_ar']:.2f}",
            f"{row['tokens_per_forward']:.2f}",
            f"{row['same_as_ar']:.0%}",
        )
        for row in _entries(content, "bundled")
    ]
    names = ("mode", "tokens/s", "against ar", "tokens per forward", "same text")
    return to_table(names, rows) if rows else []
