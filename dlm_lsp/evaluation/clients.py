"""How long suggestions take where several people type on one engine, beside llama.cpp's server.

    python -m dlm_lsp.evaluation.clients --checkpoint FILE.gguf --out benchmarks

Each typist has a file, a simulated editor and a language server process of their own; all share
one engine host. A typist presses a key, waits for the answer and presses the next one after a
pause. The same typists then ask llama.cpp's `/infill` as llama.vim does, with as many slots. Needs
xllamacpp.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dlm_lsp.evaluation.latency.editor import Editor
from dlm_lsp.evaluation.latency.infill import infill
from dlm_lsp.evaluation.latency.keys import Visit, visits
from dlm_lsp.store.folder import default_root
from engine.device import cpu_name, default_threads
from engine.errors import EngineError, EngineFailure
from engine.lab.bench.conditions import installed, machine, to_sentence
from engine.lab.bench.llamacpp.channel import Child
from engine.lab.bench.llamacpp.comparison import check
from engine.lab.bench.llamacpp.host import HostProcess
from engine.lab.bench.sections import read_sections
from engine.lab.tables import to_table

_MODULE = "dlm_lsp.evaluation.clients"
_THEIRS = "engine.lab.bench.llamacpp.theirs"
FORMAT = 1
JSON_FILE, TABLE_FILE = "clients.json", "clients.md"
COUNTS, SECONDS, PAUSE = (1, 4, 16), 60.0, 0.3
KEYS_PER_VISIT = 12
_START_SECONDS_MAX = 600.0
_HEADER = """\
# Several people on one engine

Each typist has a file of Python's standard library, a simulated editor and a language server
process of their own, and all share one engine host. A typist presses a key, waits for the answer,
rests for {pause} s and presses the next one; nothing is accepted. After them, the same typists ask
llama.cpp's `/infill` as llama.vim does, in a server with as many slots and threads and the same
GGUF file. Only answers of the engine are counted, not those whose text was shown already and is
typed through; the first ones of each typist, which read the file, are left out. "Answers in a
second" are those of all typists; times are milliseconds from the key to the answer."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What typists got in a time.

    Attributes:
        milliseconds: of each answer of the engine.
        seconds: how long they typed.
        typed_through: answers without the engine.
    """

    milliseconds: tuple[float, ...]
    seconds: float
    typed_through: int = 0

    def share(self, percent: int) -> float:
        """The time within which this share of the answers came; nan without any."""
        ordered = sorted(self.milliseconds)
        return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else math.nan

    @property
    def rate(self) -> float:
        """Answers in a second."""
        return len(self.milliseconds) / self.seconds


@dataclass(frozen=True, slots=True)
class Crowd:
    """The answers that so many typists got."""

    typists: int
    ours: Answers
    theirs: Answers


@dataclass(frozen=True, slots=True)
class ClientsSection:
    """One run."""

    cpu: str
    model: str
    threads: int
    conditions: dict[str, Any]
    crowds: list[Crowd] = field(default_factory=list[Crowd])


def _of_typist(number: int, seed: int) -> itertools.chain[Visit]:
    """The places of one typist, who begins in another file than the others."""
    return itertools.chain(itertools.islice(visits(KEYS_PER_VISIT, seed), 3 * number, None))


async def _type_ours(editor: Editor, places: itertools.chain[Visit], until: float) -> Answers:
    """Types until a time of `time.monotonic()`. Raises EngineFailure if the server fails."""
    found: list[float] = []
    through = 0
    for visit in places:
        editor.open(visit)
        await editor.ask(visit.cursor)  # reads the file
        for key in visit.keys:
            if time.monotonic() >= until:
                return Answers(tuple(found), 0, through)
            answer = await editor.type(key)
            if answer.recomputed is None:
                through += 1
            else:
                found.append(answer.final)
            await asyncio.sleep(PAUSE)
        await editor.close_file()
    raise AssertionError("there are visits without end")


async def _type_theirs(
    address: str, slot: int, places: itertools.chain[Visit], until: float
) -> Answers:
    """As `_type_ours`, for llama.cpp."""
    found: list[float] = []
    for visit in places:
        await asyncio.to_thread(infill, address, visit.text, visit.cursor, slot)
        for key in visit.keys:
            if time.monotonic() >= until:
                return Answers(tuple(found), 0)
            answer = await asyncio.to_thread(infill, address, key.text, key.cursor, slot)
            if answer is not None:
                found.append(answer.final)
            await asyncio.sleep(PAUSE)
    raise AssertionError("there are visits without end")


def _joined(answers: Sequence[Answers], seconds: float) -> Answers:
    times = tuple(itertools.chain.from_iterable(one.milliseconds for one in answers))
    return Answers(times, round(seconds, 1), sum(one.typed_through for one in answers))


async def _ours(options: argparse.Namespace, host: HostProcess, count: int) -> Answers:
    """Raises EngineFailure if a server fails."""
    with tempfile.TemporaryDirectory(prefix="dlm-lsp-bench-") as folder:
        own = {f"XDG_{name}_HOME": folder for name in ("CONFIG", "STATE", "CACHE", "DATA")}
        editors = [Editor() for _ in range(count)]
        try:
            settings = {"engine": {"url": host.address, "token": host.token}}
            for editor in editors:
                await editor.start(settings, own)
            began = time.monotonic()
            answers = await asyncio.gather(
                *(
                    _type_ours(editor, _of_typist(number, options.seed), began + options.seconds)
                    for number, editor in enumerate(editors)
                )
            )
            return _joined(answers, time.monotonic() - began)
        finally:
            for editor in editors:
                await editor.close()


async def _theirs(options: argparse.Namespace, count: int) -> Answers:
    """Raises EngineFailure if the server fails."""
    words = ["--checkpoint", str(options.checkpoint), "--threads", str(options.threads)]
    words += ["--infill", "--slots", str(count)]
    seconds = options.seconds if options.peer_seconds is None else options.peer_seconds
    with Child("llama.cpp", _THEIRS, words, _START_SECONDS_MAX) as child:
        address, began = child.ready["address"], time.monotonic()
        try:
            answers = await asyncio.gather(
                *(
                    _type_theirs(address, slot, _of_typist(slot, options.seed), began + seconds)
                    for slot in range(count)
                )
            )
        except (OSError, KeyError, ValueError) as error:
            raise EngineFailure(f"llama.cpp did not answer /infill: {error!r}.") from None
        return _joined(answers, time.monotonic() - began)


async def _run(options: argparse.Namespace) -> ClientsSection:
    """Raises EngineError if an engine cannot serve."""
    conditions = {
        **{name: value for name, value in machine().items() if name not in ("cpu", "torch")},
        "onnxruntime": installed("onnxruntime"),
        "xllamacpp": installed("xllamacpp"),
        "seconds each": options.seconds,
        "seconds each of llama.cpp": options.peer_seconds or options.seconds,
        "seed": options.seed,
    }
    name = options.name or options.checkpoint.name
    section = ClientsSection(cpu_name(), name, options.threads, conditions)
    graphs = (options.store or default_root()).absolute() / "graphs"
    for count in options.clients:
        with HostProcess(options.checkpoint, options.threads, graphs) as host:
            host.measured()
            ours = await _ours(options, host, count)
        section.crowds.append(Crowd(count, ours, await _theirs(options, count)))
        print("\n".join(table(section)), file=sys.stderr, flush=True)
    return section


def table(section: ClientsSection) -> list[str]:
    """The figures of a run as lines of a table."""

    def times(answers: Answers) -> str:
        return " / ".join(f"{answers.share(percent):.0f}" for percent in (50, 95))

    one = next((crowd for crowd in section.crowds if crowd.typists == 1), None)
    rows = [
        [
            f"{crowd.typists}",
            f"{len(crowd.ours.milliseconds)}",
            times(crowd.ours),
            "" if one is None else f"{crowd.ours.share(95) / one.ours.share(95):.1f}",
            f"{crowd.ours.rate:.2f}",
            f"{len(crowd.theirs.milliseconds)}",
            times(crowd.theirs),
            f"{crowd.theirs.rate:.2f}",
            f"{crowd.ours.rate / crowd.theirs.rate:.1f}" if crowd.theirs.rate else "",
        ]
        for crowd in section.crowds
    ]
    return to_table(
        [
            "typists",
            "answers of ours",
            "p50 / p95",
            "p95 by one typist's",
            "answers in a second",
            "of llama.cpp",
            "p50 / p95",
            "answers in a second",
            "ours by theirs",
        ],
        rows,
    )


def write(folder: Path, section: ClientsSection) -> None:
    """Writes the JSON and the tables. Raises ConfigError if the JSON there cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    others = [
        one
        for one in read_sections(folder / JSON_FILE, FORMAT, _to_section)
        if (one.cpu, one.model, one.threads) != (section.cpu, section.model, section.threads)
    ]
    sections = sorted([*others, section], key=lambda one: (one.cpu, one.model, one.threads))
    content = {"format": FORMAT, "sections": [asdict(one) for one in sections]}
    (folder / JSON_FILE).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    lines = [_HEADER.format(pause=PAUSE)]
    for one in sections:
        threads = f"{one.threads} thread{'s' if one.threads > 1 else ''}"
        lines += ["", f"## {one.model} on {one.cpu}, {threads}", "", to_sentence(one.conditions)]
        lines += ["", *table(one)]
    (folder / TABLE_FILE).write_text("\n".join(lines) + "\n", "utf-8")


def _to_section(entry: Any) -> ClientsSection:
    crowds = [
        Crowd(one["typists"], _to_answers(one["ours"]), _to_answers(one["theirs"]))
        for one in entry["crowds"]
    ]
    return ClientsSection(
        entry["cpu"], entry["model"], entry["threads"], entry["conditions"], crowds
    )


def _to_answers(entry: Any) -> Answers:
    return Answers(tuple(entry["milliseconds"]), entry["seconds"], entry["typed_through"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--clients", type=int, nargs="+", default=list(COUNTS), metavar="COUNT")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each count and engine")
    parser.add_argument(
        "--peer-seconds",
        type=float,
        help="for each count of llama.cpp, which reads the files first, a thousand tokens each",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the typists")
    parser.add_argument("--store", type=Path, help="prepared graphs are kept in FOLDER/graphs")
    parser.add_argument("--name", help="name of the model in the report; default: the file's")
    parser.add_argument("--out", type=Path, help="folder for the results; default: only print them")
    options = parser.parse_args(arguments)
    try:
        check(options.checkpoint)
        section = asyncio.run(_run(options))
        if options.out is not None:
            write(options.out, section)
    except EngineError as error:
        print(f"{_MODULE}: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(section)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
