"""The typing latencies of one model, from options to report.

Both engines run in their own processes with the same threads and are asked in turn, place by
place; the one that is not measured sleeps. Needs xllamacpp.
`python -m dlm_lsp.evaluation.latency --checkpoint FILE.gguf --out benchmarks` writes tables and
JSON, in which the runs of other processors and models are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from dlm_lsp.evaluation.latency.editor import Editor
from dlm_lsp.evaluation.latency.infill import infill
from dlm_lsp.evaluation.latency.keys import Visit, visits
from dlm_lsp.evaluation.latency.report import Kind, Sample, TypingSection, times_table, write
from dlm_lsp.store.folder import default_root
from engine.device import cpu_name
from engine.errors import EngineError, EngineFailure
from engine.lab.bench.conditions import busy_core, installed, machine
from engine.lab.bench.llamacpp.channel import Child
from engine.lab.bench.llamacpp.comparison import check
from engine.lab.bench.llamacpp.host import HostProcess

_MODULE = "dlm_lsp.evaluation.latency"
_THEIRS = "engine.lab.bench.llamacpp.theirs"
KEYS, KEYS_PER_VISIT = 40, 10
_WARM_UP_KEYS = 2
_SECONDS_MAX = 600.0


@dataclass(slots=True)
class _Bench:
    """Both engines, ready to be asked."""

    editor: Editor
    address: str
    peer_keys: int
    samples: list[Sample] = field(default_factory=list[Sample])
    loads: list[float] = field(default_factory=list[float])

    async def measure(self, places: Iterator[Visit], keys: int, is_busy: bool) -> None:
        """Types so many keys, at one place after the other, into both."""
        typed = number = 0
        with busy_core() if is_busy else nullcontext():
            for visit in places:
                if typed >= keys:
                    return
                kind: Kind = "rested" if number % 2 else "cold"
                found = await self.visit(visit, kind, is_busy, asks_peer=typed < self.peer_keys)
                self.samples += found
                typed, number = typed + len(visit.keys), number + 1
                print(f"{visit.name}: {len(visit.keys)} keys", file=sys.stderr, flush=True)

    async def visit(
        self, visit: Visit, kind: Kind, is_busy: bool, *, asks_peer: bool = True
    ) -> list[Sample]:
        """Types a place's keys into this server, then, unless it is left out, into llama.cpp.

        Raises: EngineFailure if either fails.
        """
        self.loads.append(os.getloadavg()[0])
        self.editor.open(visit)
        if kind == "rested":
            await self.editor.rest(visit.cursor)
        ours = [await self.editor.ask(visit.cursor)]
        ours += [await self.editor.type(key) for key in visit.keys]
        await self.editor.close_file()
        kinds: list[Kind] = [kind, *["warm" for _ in visit.keys]]
        if not asks_peer:
            return [Sample(is_busy, *one, None) for one in zip(kinds, ours, strict=True)]
        try:
            theirs = [infill(self.address, visit.text, visit.cursor)]
            theirs += [infill(self.address, key.text, key.cursor) for key in visit.keys]
        except (OSError, KeyError, ValueError) as error:
            raise EngineFailure(f"llama.cpp did not answer /infill: {error!r}.") from None
        return [Sample(is_busy, *one) for one in zip(kinds, ours, theirs, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--keys", type=int, default=KEYS, help="keys without and as many with a busy core"
    )
    parser.add_argument(
        "--peer-keys",
        type=int,
        metavar="N",
        help="ask llama.cpp, which takes ten times as long, after no more than about N of the keys",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the typist")
    parser.add_argument(
        "--store", type=Path, help="prepared graphs are kept in FOLDER/graphs; default: the store"
    )
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
    for is_busy in (False, True):
        print("\nbeside a busy core\n" if is_busy else "\nnothing else runs\n")
        samples = [sample for sample in section.samples if sample.is_busy == is_busy]
        print("\n".join(times_table(samples)))
    return 0


async def _run(options: argparse.Namespace) -> TypingSection:
    """Measures without and with a busy core. Raises EngineError if an engine cannot serve."""
    store = (options.store or default_root()).absolute()
    words = ["--checkpoint", str(options.checkpoint), "--threads", str(options.threads)]
    places = visits(min(KEYS_PER_VISIT, options.keys), options.seed)
    with (
        HostProcess(options.checkpoint, options.threads, store / "graphs") as host,
        Child("llama.cpp", _THEIRS, [*words, "--infill"], _SECONDS_MAX) as theirs,
        tempfile.TemporaryDirectory(prefix="dlm-lsp-bench-") as folder,
    ):
        host.measured()
        peer_keys = options.keys if options.peer_keys is None else options.peer_keys
        bench = _Bench(Editor(), theirs.ready["address"], peer_keys)
        own = {f"XDG_{name}_HOME": folder for name in ("CONFIG", "STATE", "CACHE")}
        try:
            await bench.editor.start({"engine": {"url": host.address, "token": host.token}}, own)
            first = next(places)
            first = Visit(first.name, first.text, first.cursor, first.keys[:_WARM_UP_KEYS])
            await bench.visit(first, "cold", is_busy=False)
            for is_busy in (False, True):
                await bench.measure(places, options.keys, is_busy)
        finally:
            await bench.editor.close()
    peers = sum(one.theirs is not None for one in bench.samples)
    conditions = {
        **{name: value for name, value in machine().items() if name not in ("cpu", "torch")},
        "onnxruntime": installed("onnxruntime"),
        "xllamacpp": installed("xllamacpp"),
        "keys": f"{options.keys} and {options.keys}, seed {options.seed}",
        "llama.cpp": f"asked {peers} of {len(bench.samples)} times",
        "load average": f"{min(bench.loads):.1f} to {max(bench.loads):.1f}",
    }
    name = options.name or options.checkpoint.name
    return TypingSection(cpu_name(), name, options.threads, conditions, bench.samples)
