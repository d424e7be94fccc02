"""This engine beside llama.cpp on the same GGUF file: prompt, step, holes, memory, start, and both
beside a busy core.

Both run in their own processes with the same threads and are asked in turn, so that other load
affects both alike; the one that is not measured sleeps. Needs xllamacpp.
`python -m engine.lab.bench.llamacpp --checkpoint FILE.gguf --out benchmarks` writes a table and
JSON, in which the runs of other processors and models are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from engine.device import cpu_name
from engine.errors import CheckpointError, ConfigError, EngineError
from engine.lab.bench.conditions import busy_core, installed, machine
from engine.lab.bench.llamacpp.channel import Child, memory_mb
from engine.lab.bench.llamacpp.host import HostProcess
from engine.lab.bench.llamacpp.prompts import Prompts
from engine.lab.bench.llamacpp.report import Bar, ComparedRow, MachineSection, rows_table, write
from engine.model.source import open_checkpoint

_MODULE = "engine.lab.bench.llamacpp"
PROMPT_BAR = Bar("ratio", 2.3, is_least=True)
STEP_BAR = Bar("ratio", 1.0, is_least=False)
AUTO_BAR = Bar("ratio", 1.25, is_least=True)
MEMORY_BAR = Bar("ours", 1.8, is_least=False)
START_BAR = Bar("ours", 2.0, is_least=False)
BUSY_BAR = Bar("ours", 0.5, is_least=True)

_SECONDS_MAX = 600.0  # for an answer, and for the start of a child
_HASH_DIGITS = 12
_HOLE_TOKENS_MIN = 4
_SMALL_CPUS_MAX = 4  # larger machines get two busy cores
MODELS_VARIABLE = "DLM_LSP_MODELS"  # the model store; graphs are kept in its folder "graphs"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds, prompt, tokens: rounds of a prompt, its tokens, and the tokens decoded after it.
        holes, hole_rounds, hole_tokens: the holes, the rounds of each, and the most tokens of one.
        busy_rounds, busy_prompt, busy_tokens: the same for prompts idle and beside a busy core.
        starts: starts of each engine's process.
    """

    rounds: int = 3
    prompt: int = 500
    tokens: int = 32
    holes: int = 20
    hole_rounds: int = 2
    hole_tokens: int = 32
    busy_rounds: int = 2
    busy_prompt: int = 128
    busy_tokens: int = 12
    starts: int = 3


QUICK = Plan(
    rounds=1,
    prompt=48,
    tokens=4,
    holes=2,
    hole_rounds=1,
    hole_tokens=6,
    busy_rounds=1,
    busy_prompt=16,
    busy_tokens=4,
    starts=1,
)


@dataclass(slots=True)
class _Pair:
    """Both engines with one number of threads, each in its child.

    Attributes:
        loads: the machine's load average before each question.
    """

    threads: int
    ours: Child
    theirs: Child
    loads: list[float] = field(default_factory=list[float])

    def ask_ours(
        self, prompt: Sequence[int], tokens: int, *, mode: str = "ar", may_end: bool = False
    ) -> dict[str, float]:
        """The answer of `engine.lab.bench.llamacpp.ours`."""
        self.loads.append(os.getloadavg()[0])
        asked = {"prompt": prompt, "tokens": tokens, "mode": mode, "may_end": may_end}
        return self.ours.ask(asked, _SECONDS_MAX)

    def ask_theirs(
        self, prompt: Sequence[int], tokens: int, *, may_reuse: bool = False
    ) -> dict[str, float]:
        """The answer of `engine.lab.bench.llamacpp.theirs`."""
        asked = {"prompt": prompt, "tokens": tokens, "may_reuse": may_reuse}
        return self.theirs.ask(asked, _SECONDS_MAX)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--store",
        type=Path,
        help=f"prepared graphs are kept in FOLDER/graphs; default: {MODELS_VARIABLE}, else a "
        "temporary folder",
    )
    parser.add_argument("--name", help="name of the model in the report; default: the file's")
    parser.add_argument("--quick", action="store_true", help="try everything and measure little")
    parser.add_argument("--out", type=Path, help="folder for the results; default: only print them")
    options = parser.parse_args(arguments)
    try:
        check(options.checkpoint)
        with _store(options.store) as store:
            plan = QUICK if options.quick else Plan()
            name = options.name or options.checkpoint.name
            section = run(options.checkpoint, options.threads, plan, store, name)
        if options.out is not None:
            write(options.out, section)
    except EngineError as error:
        print(f"{_MODULE}: {error}", file=sys.stderr)
        return 1
    for threads in options.threads:
        print(f"\n{threads} thread{'s' * (threads > 1)}\n")
        print("\n".join(rows_table([row for row in section.rows if row.threads == threads])))
    return 0


def check(checkpoint: Path) -> None:
    """Raises EngineError if the file or xllamacpp is missing."""
    if not checkpoint.is_file():
        raise CheckpointError(
            f"{checkpoint} is not a file.",
            remedy="Give a GGUF file, such as that of `dlm-lsp model path NAME` after a pull.",
            param="checkpoint",
        )
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError(
            "xllamacpp, which brings llama.cpp, is not installed.",
            remedy="pip install xllamacpp",
            param="xllamacpp",
        )


def run(
    checkpoint: Path, threads: Sequence[int], plan: Plan, store: Path, name: str
) -> MachineSection:
    """Measures everything with each number of threads.

    Args:
        store: the folder in whose "graphs" prepared graphs are kept.

    Raises:
        EngineError: One of the engines cannot serve the file.
    """
    prompts = Prompts.of(open_checkpoint(checkpoint).tokenizer)
    digest = _digest(checkpoint)  # which also brings the file into the page cache
    rows: list[ComparedRow] = []
    steps, products, loads = {}, {}, []
    for count in threads:
        with ExitStack() as stack:
            pair = _Pair(
                count,
                stack.enter_context(_our_child(checkpoint, count, store)),
                stack.enter_context(_their_child(checkpoint, count)),
            )
            for part in (prompt_and_step, holes, beside_busy_core):
                rows += _shown(part(pair, prompts, plan))
            theirs_mb = memory_mb(pair.theirs.pid)
            steps[str(count)] = pair.ours.ready["steps"]
            products[str(count)] = pair.ours.ready["products"]
            loads += pair.loads
        rows += _shown(start_and_memory(checkpoint, count, plan, store, prompts, theirs_mb))
    conditions = {
        **{key: value for key, value in machine().items() if key not in ("cpu", "torch")},
        "file": f"{checkpoint.stat().st_size / 1e6:.0f} MB, SHA-256 {digest}…",
        "onnxruntime": installed("onnxruntime"),
        "xllamacpp": installed("xllamacpp"),
        "load average": f"{min(loads):.1f} to {max(loads):.1f}",
    }
    if plan == QUICK:
        conditions["measured"] = "hardly: --quick"
    return MachineSection(cpu_name(), name, conditions, rows, steps, products)


def prompt_and_step(pair: _Pair, prompts: Prompts, plan: Plan) -> list[ComparedRow]:
    """Prompts of which nothing is cached, and plain decoding after them."""
    ours, theirs = [], []
    for text in islice(prompts.code(plan.prompt), plan.rounds + 1):
        ours.append(pair.ask_ours(text, plan.tokens))
        theirs.append(pair.ask_theirs(text, plan.tokens))
        assert ours[-1]["cached"] == 0
    del ours[0], theirs[0]  # the first round warms up
    return [
        ComparedRow(
            pair.threads,
            f"prompt of {plan.prompt} tokens",
            "tokens/s",
            tuple(_prompt_rate(plan.prompt, answer) for answer in ours),
            tuple(_prompt_rate(plan.prompt, answer) for answer in theirs),
            bar=PROMPT_BAR,
        ),
        ComparedRow(
            pair.threads,
            f"one-row step after {plan.prompt} tokens",
            "ms",
            tuple(1000 / _rate([answer]) for answer in ours),
            tuple(1000 / _rate([answer]) for answer in theirs),
            more_is_better=False,
            bar=STEP_BAR,
        ),
    ]


def holes(pair: _Pair, prompts: Prompts, plan: Plan) -> list[ComparedRow]:
    """Decoding in holes: ours in "auto" and in "ar", theirs plainly, the same tokens of each hole.

    A round is all holes. Both compute a hole's prompt once before; all decode as many tokens as
    "ar" takes to its end.
    """
    rounds = range(plan.hole_rounds)
    auto: list[list[dict[str, float]]] = [[] for _ in rounds]
    plain: list[list[dict[str, float]]] = [[]]
    theirs: list[list[dict[str, float]]] = [[] for _ in rounds]
    for prompt, length in prompts.holes(plan.holes):
        most = max(min(length, plan.hole_tokens), _HOLE_TOKENS_MIN)
        plain[0].append(pair.ask_ours(prompt, most, may_end=True))
        # The first token comes with the prompt, and the end is decided as well.
        tokens = max(int(plain[0][-1]["decided"]) + 1, 2)
        pair.ask_theirs(prompt, 1, may_reuse=True)
        for number in rounds:
            auto[number].append(pair.ask_ours(prompt, tokens, mode="auto"))
            theirs[number].append(pair.ask_theirs(prompt, tokens, may_reuse=True))
    rates = [tuple(_rate(answers) for answers in each) for each in (auto, plain, theirs)]
    forwards = sum(answer["forwards"] for answers in auto for answer in answers)
    decided = sum(answer["decided"] for answers in auto for answer in answers)
    name = f"{plan.holes} holes"
    return [
        ComparedRow(
            pair.threads,
            f"{name}, auto ({decided / max(forwards, 1):.2f} tokens a forward)",
            "tokens/s",
            rates[0],
            rates[2],
            bar=AUTO_BAR,
        ),
        ComparedRow(pair.threads, f"{name}, ar", "tokens/s", rates[1], rates[2]),
    ]


def beside_busy_core(pair: _Pair, prompts: Prompts, plan: Plan) -> list[ComparedRow]:
    """The share of the idle rates that remains while other processes keep cores busy."""
    texts = islice(prompts.code(plan.busy_prompt), plan.rounds + 1, None)
    shares: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for _ in range(plan.busy_rounds):
        idle_text, busy_text = next(texts), next(texts)
        idle = _both(pair, idle_text, plan.busy_tokens)
        with ExitStack() as stack:
            for _ in range(1 if (os.cpu_count() or 1) <= _SMALL_CPUS_MAX else 2):
                stack.enter_context(busy_core())
            busy = _both(pair, busy_text, plan.busy_tokens)
        for engine, kept in shares.items():
            prompt = idle[engine]["prompt_seconds"] / busy[engine]["prompt_seconds"]
            kept.append((prompt, _rate([busy[engine]]) / _rate([idle[engine]])))
    return [
        ComparedRow(
            pair.threads,
            f"beside a busy core: {name}, share of idle",
            "",
            tuple(share[index] for share in shares["ours"]),
            tuple(share[index] for share in shares["theirs"]),
            bar=BUSY_BAR,
        )
        for index, name in enumerate(("prompt", "decoding"))
    ]


def start_and_memory(
    checkpoint: Path,
    threads: int,
    plan: Plan,
    store: Path,
    prompts: Prompts,
    theirs_mb: dict[str, float],
) -> list[ComparedRow]:
    """Starts of the real host and of llama.cpp's process, and the memory of both."""
    starts: list[float] = []
    their_starts: list[float] = []
    ours_mb: dict[str, float] = {}
    for number in range(plan.starts):
        with HostProcess(checkpoint, threads, store / "graphs") as host:
            starts.append(host.start_seconds)
            if number == plan.starts - 1:
                host.measured()
                for source in prompts.sources[:3]:
                    half = len(source.text) // 2
                    around = source.text[:half][-2000:], source.text[half:][:1000]
                    host.complete(*around, plan.tokens)
                ours_mb = memory_mb(host.pid)
        with _their_child(checkpoint, threads) as theirs:
            their_starts.append(theirs.start_seconds)
    rows = [
        ComparedRow(
            threads,
            "start until ready, warm",
            "s",
            tuple(starts),
            tuple(their_starts),
            more_is_better=False,
            bar=START_BAR,
        )
    ]
    return rows + _memory(threads, ours_mb, theirs_mb, checkpoint.stat().st_size / 1e6)


def _memory(
    threads: int, ours_mb: dict[str, float], theirs_mb: dict[str, float], file_mb: float
) -> list[ComparedRow]:
    """The memory of both; nothing if the system does not tell."""
    if not ours_mb:
        return []
    ours, theirs = ours_mb["resident"] / file_mb, theirs_mb["resident"] / file_mb
    name = "resident memory, times the file"
    rows = [
        ComparedRow(threads, name, "", (ours,), (theirs,), more_is_better=False, bar=MEMORY_BAR)
    ]
    for key, name in (("anonymous", "anonymous"), ("file", "of mapped files"), ("peak", "at most")):
        values = (ours_mb[key],), (theirs_mb[key],)
        rows.append(
            ComparedRow(threads, f"resident memory, {name}", "MB", *values, more_is_better=False)
        )
    return rows


def _shown(rows: list[ComparedRow]) -> list[ComparedRow]:
    """Prints the rows, since a run takes long on a busy machine, and returns them."""
    for line in rows_table(rows)[2:]:
        print(f"{rows[0].threads}: {line}", file=sys.stderr, flush=True)
    return rows


def _both(pair: _Pair, text: list[int], tokens: int) -> dict[str, dict[str, float]]:
    return {"ours": pair.ask_ours(text, tokens), "theirs": pair.ask_theirs(text, tokens)}


def _rate(answers: Sequence[dict[str, float]]) -> float:
    """Tokens per second of all answers together, after their prompts."""
    seconds = sum(answer["seconds"] for answer in answers)
    return sum(answer["decided"] for answer in answers) / max(seconds, 1e-9)


def _prompt_rate(tokens: int, answer: dict[str, float]) -> float:
    return tokens / max(answer["prompt_seconds"], 1e-9)


def _our_child(checkpoint: Path, threads: int, store: Path) -> Child:
    more = ("--graphs", str(store / "graphs"))
    return _child("this engine", "ours", checkpoint, threads, *more)


def _their_child(checkpoint: Path, threads: int) -> Child:
    return _child("llama.cpp", "theirs", checkpoint, threads)


def _child(name: str, module: str, checkpoint: Path, threads: int, *more: str) -> Child:
    words = ["--checkpoint", str(checkpoint), "--threads", str(threads), *more]
    return Child(name, f"{_MODULE}.{module}", words, _SECONDS_MAX)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:_HASH_DIGITS]


@contextmanager
def _store(named: Path | None) -> Iterator[Path]:
    """The folder in which prepared graphs are kept, a temporary one if none is named."""
    if named is None and os.environ.get(MODELS_VARIABLE):
        named = Path(os.environ[MODELS_VARIABLE]).expanduser()
    if named is not None:
        yield named.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="dlm-lsp-bench-") as folder:
        yield Path(folder)
