"""`dlm-lsp eval` from its command line to its files: with a host that knows the answers, and with
a real one on a tiny checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from dlm_lsp.cli.main import main
from dlm_lsp.client.answers import Health
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_settings import HostSettings
from dlm_lsp.client.messages import (
    DraftEvent,
    ErrorBody,
    ErrorEvent,
    FinishedEvent,
    GenerateBody,
    HostEvent,
    UsageBody,
)
from dlm_lsp.evaluation import answers as answers_module
from dlm_lsp.evaluation import run as run_module
from dlm_lsp.evaluation.options import ModeOption
from dlm_lsp.evaluation.shown import read
from dlm_lsp.evaluation.variants import to_variants, with_confidences
from engine.errors import ConfigError
from engine.lab.evaluation.sandbox import Outcome, check_isolation
from tests.engine.lab.evaluation.problems import MULTI_LINES, PROBLEMS, SINGLE_LINES

ROOT = Path(__file__).parents[3]
ROWS = [
    {
        "task_id": f"SingleLineInfilling/Own/{name}/L0",
        "entry_point": name,
        "prompt": f"def {name}(a, b):\n",
        "canonical_solution": f"    return {expression}\n",
        "suffix": "\n# the end\n",
        "test": f"def check(candidate):\n    assert candidate(6, 3) == {result}\n",
    }
    for name, expression, result in (
        *(("add", "a + b", 9), ("divide", "a // b", 2), ("largest", "max(a, b)", 6)),
    )
]


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


class Host:
    """Answers each task with the text after its prefix; `failing` breaks after some answers."""

    def __init__(self, answers: dict[str, str], failing: int | None = None) -> None:
        self.answers = answers
        self.failing = failing
        self.bodies: list[GenerateBody] = []

    def __call__(self, settings: HostSettings) -> Host:
        return self

    async def health(self) -> Health:
        return Health("ready", "Ready.", {})

    async def ensure(self) -> None:
        pass

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        is_warm = body.limits.tokens_max == 0
        if not is_warm:
            self.bodies.append(body)
            if self.failing is not None and len(self.bodies) > self.failing:
                yield ErrorEvent(error=ErrorBody(code="lost", message="The engine is gone."))
                return
        usage = UsageBody(tokens=6, forwards=3, prefill_ms=7.0, total_ms=20.0)
        text = self.answers[body.prefix] if self.answers else ""
        yield FinishedEvent(
            text="" if is_warm else text,
            finish_reason="warm" if is_warm else "length" if text.strip() == "x" else "end",
            confidence=1,
            mode="ar",
            usage=usage,
        )

    async def close(self) -> None:
        pass


def isolation_or_skip() -> None:
    try:
        check_isolation()
    except ConfigError as error:
        pytest.skip(str(error))


Evaluate = Callable[..., dict[str, object]]


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    def call(host: Host, *arguments: str, code: int = 0) -> dict[str, object]:
        monkeypatch.setattr(run_module, "HostClient", host)
        assert main(["eval", "--json", *arguments]) == code
        shown = capsys.readouterr()
        return json.loads(shown.out) if code == 0 else {"error": shown.err}

    return call


def kinds(report: dict[str, object]) -> dict[str, dict[str, float]]:
    """Figures by mode of a report of one kind."""
    return {row["mode"]: row for row in report["kinds"]}  # type: ignore[index, attr-defined]


def test_canonical_solutions_are_right_and_pass(suite: Path, evaluate: Evaluate) -> None:
    isolation_or_skip()
    host = Host({row["prompt"]: row["canonical_solution"] for row in ROWS})
    found = kinds(evaluate(host, "--suite", str(suite), "--modes", "ar", "block"))
    assert set(found) == {"previous line", "frequent line", "ar", "block"}
    for mode in ("ar", "block"):
        row = found[mode]
        assert (row["exact"], row["passed"], row["similarity"], row["first_line"]) == (1, 1, 1, 1)
        assert (row["wrong_length"], row["endless"]) == (0, 0)
        assert (row["tokens_per_forward"], row["ms_p50"], row["prompt_ms_p50"]) == (2, 20, 7)
    assert found["previous line"]["passed"] == 0
    assert [body.mode for body in host.bodies] == ["ar", "block"] * 3
    assert host.bodies[0].suffix == "\n\n# the end\n"


def test_wrong_ones_are_not(suite: Path, evaluate: Evaluate) -> None:
    isolation_or_skip()
    answers = [  # Right in other words, wrong, and an attempt to exit.
        *("    return b + a\n", "    return 0\n", "    return 1\nimport os\nos._exit(0)\n"),
    ]
    host = Host({row["prompt"]: text for row, text in zip(ROWS, answers, strict=True)})
    row = kinds(evaluate(host, "--suite", str(suite), "--modes", "ar"))["ar"]
    assert row["passed"] == pytest.approx(1 / 3)
    assert row["exact"] == 0
    assert row["wrong_length"] == pytest.approx(2 / 3)  # "return 0" and the attempt to exit.
    host = Host({row["prompt"]: "    x" for row in ROWS})
    row = kinds(evaluate(host, "--suite", str(suite), "--modes", "ar", "--execute", "never"))["ar"]
    assert row["passed"] is None
    assert row["endless"] == 1


def test_post_processing_is_what_an_editor_inserts(suite: Path, evaluate: Evaluate) -> None:
    """The suffix's own first line, repeated by the model, is cut off."""
    host = Host({row["prompt"]: row["canonical_solution"] + "# the end\n" for row in ROWS})
    arguments = ("--suite", str(suite), "--modes", "ar", "--execute", "never")
    assert kinds(evaluate(host, *arguments, "--raw"))["ar"]["exact"] == 0
    assert kinds(evaluate(host, *arguments))["ar"]["exact"] == 1


class RunningOn(Host):
    """Writes a character a forward, the right line and then more, up to a hundred forwards."""

    num_forwards = 0
    is_closed = False

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        if body.limits.tokens_max == 0 or not body.draft:
            async for event in super().generate(body):
                yield event
            return
        text = self.answers[body.prefix]
        try:
            for end in range(1, len(text) + 100):
                self.num_forwards += 1
                usage = UsageBody(tokens=end, forwards=end, total_ms=20.0)
                committed = (text + "x" * 100)[:end]
                yield DraftEvent(sequence=end, committed=committed, draft="", spans=(), usage=usage)
        finally:
            self.is_closed = True


def test_the_engine_ends_where_a_completion_ends(suite: Path, evaluate: Evaluate) -> None:
    host = RunningOn({row["prompt"]: row["canonical_solution"] + "\n# C" for row in ROWS})
    row = kinds(evaluate(host, "--suite", str(suite), "--modes", "ar", "--execute", "never"))["ar"]
    assert (row["exact"], row["endless"]) == (1, 0)
    assert host.num_forwards <= sum(len(text) for text in host.answers.values())
    assert host.is_closed


def test_a_run_goes_on_where_its_engine_failed(
    suite: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    answers = {row["prompt"]: row["canonical_solution"] for row in ROWS}
    arguments = ["--suite", str(suite), "--modes", "ar", "block", "--thresholds", "0.5", "0.9"]
    arguments += ["--execute", "never", "--out", str(tmp_path / "out")]
    broken = Host(answers, failing=4)
    failed = evaluate(broken, *arguments, code=1)
    assert "The engine is gone. The same command goes on" in str(failed["error"])
    whole = Host(answers)
    report = evaluate(whole, *arguments)
    assert len(whole.bodies) == 9 - 4
    modes = ["previous line", "frequent line", "ar", "block at 0.5", "block at 0.9"]
    assert sorted(kinds(report)) == sorted(modes)
    again = Host(answers)
    assert evaluate(again, *arguments) == report
    assert not again.bodies
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert "| block at 0.9 " in (tmp_path / "out" / "report.md").read_text()
    assert "block at 0.9" in (tmp_path / "out" / "quality.svg").read_text()
    refused = evaluate(again, *arguments, "--max-tokens", "9", code=2)
    assert "tokens_max was 256, now it is 9" in str(refused["error"])


@pytest.fixture
def problems(suite: Path) -> Path:
    """Whole problems in HumanEval's format."""
    path = suite.with_name("problems.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return path


class Knowing(Host):
    """Writes the missing lines, for an editor's cursor or verbatim."""

    def __init__(self, is_verbatim: bool) -> None:
        super().__init__({})
        self.is_verbatim = is_verbatim

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        texts = [row["prompt"] + row["canonical_solution"] for row in PROBLEMS]
        whole = next(t for t in texts if t.startswith(body.prefix) and t.endswith(body.suffix))
        self.answers[body.prefix] = whole[len(body.prefix) : len(whole) - len(body.suffix)]
        assert self.answers[body.prefix].endswith("\n") == self.is_verbatim
        async for event in super().generate(body):
            yield event


@pytest.mark.parametrize("is_verbatim", [False, True])
def test_problems_are_filled_as_an_editor_has_them_or_verbatim(
    is_verbatim: bool, problems: Path, evaluate: Evaluate
) -> None:
    isolation_or_skip()
    host = Knowing(is_verbatim)
    arguments = ["--suite", str(problems), "--modes", "ar", "--infilling", "multi-line"]
    arguments += ["single-line", "--raw", *(["--verbatim"] if is_verbatim else [])]
    report = evaluate(host, *arguments)
    rows = [row for row in report["kinds"] if row["mode"] == "ar"]  # type: ignore[attr-defined]
    assert [(row["suite"], row["group"], row["tasks"]) for row in rows] == [
        ("problems.jsonl multi-line", "MultiLineInfilling", MULTI_LINES),
        ("problems.jsonl single-line", "SingleLineInfilling", SINGLE_LINES),
    ]
    assert all((row["exact"], row["passed"]) == (1, 1) for row in rows)


@pytest.mark.parametrize("is_one_line", [False, True])
def test_whole_lines_may_be_asked_to_end_at_their_first_line_break(
    is_one_line: bool, problems: Path, evaluate: Evaluate
) -> None:
    host = Knowing(False)
    stops: set[tuple[str, ...]] = set()
    generate = host.generate

    async def watched(body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        if body.limits.tokens_max:  # and not only brings the prompt into the cache
            stops.add(tuple(body.stop))
            assert (body.block.revisions, body.block.length) == (3, 4)
        async for event in generate(body):
            yield event

    host.generate = watched  # type: ignore[method-assign]
    arguments = ["--suite", f"{problems}:3", "--modes", "block", "--execute", "never"]
    arguments += ["--revisions", "3", "--block-length", "4"]
    evaluate(host, *arguments, *(["--one-line"] if is_one_line else []))
    assert stops == {("\n",) if is_one_line else ()}


def test_a_program_is_run_once_for_all_modes_that_write_it(
    problems: Path, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs: list[str] = []

    def run_program(program: str, *rest: object, **named: object) -> Outcome:
        programs.append(program)
        return Outcome("passed" if "pass" in program else "NameError")

    monkeypatch.setattr(answers_module, "run_program", run_program)
    arguments = ["--suite", f"{problems}:3", "--out", str(tmp_path / "out"), "--modes"]
    evaluate(Knowing(False), *arguments, "ar", "block")
    assert len(programs) == len(set(programs)) == 3 * 3  # two baselines and the right lines
    found = kinds(evaluate(Knowing(False), *arguments, "ar", "block", "copy_spec"))
    assert len(programs) == 3 * 3  # an added mode writes the same
    assert found["copy_spec"]["exact"] == 1
    assert found["copy_spec"]["passed"] == 0


def test_limits_are_of_every_suite_or_of_one(
    suite: Path, problems: Path, evaluate: Evaluate
) -> None:
    def sizes(*arguments: str) -> dict[str, tuple[int, int]]:
        report = evaluate(Host({}), "--modes", "ar", "--execute", "never", *arguments)
        suites = report["arguments"]["suites"]  # type: ignore[index, call-overload]
        return {name: (each["tasks"], each["of"]) for name, each in suites.items()}

    own, made = str(suite), str(problems)
    name = "problems.jsonl single-line"
    both = ["--suite", own, "--suite", f"{made}:4"]
    assert sizes(*both) == {"own.jsonl": (3, 3), name: (4, SINGLE_LINES)}
    assert sizes(*both, "--limit", "2") == {"own.jsonl": (2, 3), name: (4, SINGLE_LINES)}
    odd = suite.rename("odd:4.jsonl")
    assert sizes("--suite", str(odd)) == {"odd:4.jsonl": (3, 3)}


def test_progress_says_what_was_found_before(
    problems: Path, evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["eval", "--suite", f"{problems}:3", "--out", str(tmp_path / "out")]
    arguments += ["--execute", "never", "--modes"]
    evaluate(Host({}), *arguments[1:], "ar")
    assert main([*arguments, "ar", "block"]) == 0
    shown = capsys.readouterr()
    assert "9 of 12 were found before." in shown.err
    assert "3 of 3 done after" in shown.err
    assert "3 of 10 tasks, drawn with seed 7; asked as in an editor" in shown.out
    assert main([*arguments, "ar"]) == 0
    assert "9 of 9 were found before." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--thresholds", "3"], "--thresholds has 3"),
        (["--modes", "ar", "--thresholds", "0.5"], "of the mode block"),
        (["--confidence", "2"], "--confidence has 2"),
        (["--log-shown"], "Add --out"),
        (["--max-tokens", "5000"], "--max-tokens is 5000"),
        (["--raw", "--automatic"], "--raw and --automatic exclude"),
        (["--corpus", "nowhere"], "holds no held_out"),
        (["--url", "ftp://x", "--suite", "own.jsonl"], "engine.url"),
        (["--suite", "own.jsonl", "--suite", "./own.jsonl"], "Two suites are called"),
        (["--suite", "replay:2", "--suite", "replay:3"], "Two suites are called replay"),
        (["--suite", "own.jsonl:0"], "own.jsonl:0 is not a suite"),
        (["--suite", "own.jsonl", "--infilling", "multi-line"], "and there is none"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    arguments: list[str], message: str, suite: Path, evaluate: Evaluate
) -> None:
    assert message in str(evaluate(Host({}), *arguments, code=2)["error"])


def test_without_isolation_nothing_is_run(
    suite: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.lab.evaluation.sandbox.platform.machine", lambda: "riscv64")
    refused = evaluate(Host({}), "--suite", str(suite), code=2)
    assert "cannot be run in isolation" in str(refused["error"])
    assert "--execute never" in str(refused["error"])


def test_variants_are_modes_and_thresholds_once_each() -> None:
    block = ModeOption("block")
    labels = [v.label for v in to_variants([block, ModeOption("ar"), block], [0.9, 0.5, 0.9])]
    assert labels == ["block at 0.5", "block at 0.9", "ar"]
    assert [v.label for v in to_variants([block], [])] == ["block"]
    sure = with_confidences(to_variants([block], []), [0.5, 0, 0.5])
    assert [v.label for v in sure] == ["block, sure to 0", "block, sure to 0.5"]


def test_a_mode_may_have_blocks_of_its_own(
    suite: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    host = Host({})
    report = evaluate(host, "--suite", str(suite), "--modes", "ar", "block:4", "quadratic_spec:2")
    asked = {(body.mode, body.block.length) for body in host.bodies if body.limits.tokens_max}
    assert asked == {("ar", None), ("block", 4), ("quadratic_spec", 2)}
    modes = {row["mode"] for row in report["kinds"]}
    assert {"block, blocks of 4", "quadratic_spec, blocks of 2"} <= modes
    for wrong, words in {"ar:4": "has no blocks", "block:0": "use 1", "fast": "use one of"}.items():
        with pytest.raises(SystemExit):
            main(["eval", "--modes", wrong])
        assert words in capsys.readouterr().err


def test_holes_may_be_of_one_language(corpus: Path, evaluate: Evaluate) -> None:
    with (corpus / "held_out.jsonl").open("a") as file:
        part = "export function side{0}(a) {{\n  const b = a + {0};\n  return b;\n}}\n\n"
        text = "".join(part.format(number) for number in range(40))
        row = {"package": "x", "path": "a.js", "text": text, "language": "javascript"}
        file.write(json.dumps(row) + "\n")
    host = Host({})
    of_all = ("--corpus", str(corpus), "--limit", "2", "--modes", "ar")
    evaluate(host, *of_all, "--language", "javascript")
    assert host.bodies
    assert all("export function" in body.prefix + body.suffix for body in host.bodies)
    refused = evaluate(host, *of_all, "--language", "fortran", code=2)
    assert "no held-out files of fortran" in str(refused["error"])
    assert "javascript, python" in str(refused["error"])


def test_holes_may_be_of_some_kinds_and_are_the_same_as_among_all(
    corpus: Path, evaluate: Evaluate
) -> None:
    every, some = Host({}), Host({})
    of_all = ("--corpus", str(corpus), "--limit", "3", "--modes", "ar")
    evaluate(every, *of_all)
    evaluate(some, *of_all, "--kinds", "whole_line", "line_tail")
    asked = {(body.prefix, body.suffix) for body in some.bodies}
    assert len(asked) == 6
    assert asked <= {(body.prefix, body.suffix) for body in every.bodies}
    refused = evaluate(some, *of_all, "--kinds", "poem", code=2)
    assert "no held-out holes of the kind poem" in str(refused["error"])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus folder with held-out files of this project."""
    rows = [
        {"package": "own", "path": name, "text": (ROOT / name).read_text("utf-8")}
        for name in ("dlm_lsp/lsp/convert.py", "engine/sampling.py")
    ]
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_real_engine_is_evaluated_in_every_suite(
    suite: Path,
    corpus: Path,
    tiny_checkpoint: Path,
    private_runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ["eval", "--checkpoint", str(tiny_checkpoint), "--corpus", str(corpus)]
    arguments += ["--suite", "holes", "--suite", "replay", "--suite", str(suite), "--limit", "1"]
    arguments += ["--max-tokens", "6", "--keystrokes", "6", "--execute", "never"]
    assert main([*arguments, "--out", "out"]) == 0
    shown = capsys.readouterr()
    for words in ("## holes", "## own.jsonl", "## replay", "| mid word ", "| block ", "tokens/for"):
        assert words in shown.out
    assert "26 of 26 done after" in shown.err
    assert "now replay" in shown.err
    report = json.loads(Path("out/report.json").read_text())
    assert {row["tasks"] for row in report["kinds"] if row["group"] == "whole_line"} == {1}
    assert all(row["asks"] > 0 for row in report["replays"])
    assert sum(row["ms_p50"] is not None for row in report["kinds"]) >= 2 * 6
    replay = [*arguments[:5], "--suite", "replay", "--limit", "1", "--keystrokes", "6"]
    replay += ["--modes", "ar", "--confidence", "0", "1", "--log-shown", "--out", "sure"]
    assert main(replay) == 0
    everything, nothing = read(Path("sure"))
    assert len(everything.shown) > 0
    assert all(one.logprobs for one in everything.shown)
    assert len(nothing.shown) == 0


def test_an_interrupted_run_can_be_taken_up(
    corpus: Path, tiny_checkpoint: Path, private_runtime: Path, tmp_path: Path
) -> None:
    """Ctrl-C in the middle: exit 130, and whole records only. Each hole is asked in forty ways, so
    that there is a middle on a fast machine too."""
    out = tmp_path / "out"
    command = [sys.executable, "-P", "-m", "dlm_lsp", "eval", "--checkpoint", str(tiny_checkpoint)]
    command += ["--corpus", str(corpus), "--limit", "40", "--out", str(out), "--modes", "ar"]
    command += [f"block:{length}" for length in range(2, 41)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, cwd=ROOT)
    records = out / "records.jsonl"
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and not (records.exists() and '"ar"' in records.read_text()):
        time.sleep(0.05)
    process.send_signal(2)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert b"The same command goes on" in error
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    assert any(row["mode"] == "ar" for row in rows)


def test_host_errors_are_told(suite: Path, evaluate: Evaluate) -> None:
    class Absent(Host):
        async def ensure(self) -> None:
            raise HostError("No host.", code="host_lost")

    failed = evaluate(Absent({}), "--suite", str(suite), "--execute", "never", code=1)
    assert "No host." in str(failed["error"])
