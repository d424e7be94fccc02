"""`dlm-lsp doctor` names every problem and every setting's source, and shows no secret."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dlm_lsp.cli import doctor
from dlm_lsp.cli.doctor import DoctorReport, Fact, examine
from dlm_lsp.host.dry_run import DryRun, dry_run
from engine.config import EngineSettings
from engine.engine import Engine
from engine.model.onnx import runtime
from engine.model.onnx.probe import MachineProbe, ProductTimes

SECRET = "correct-horse-battery"


@pytest.fixture
def project(tmp_path: Path, private_runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder for running doctor, without user settings and without a host."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "project"
    (folder / ".git").mkdir(parents=True)
    (folder / "app.py").write_text("x = 1\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the trial load in tests of other facts."""
    monkeypatch.setattr(doctor, "dry_run", lambda settings: DryRun(settings))


def values(report: DoctorReport, section: str) -> dict[str, tuple[str, str]]:
    return {fact.name: (fact.value, fact.why) for fact in report.sections[section]}


async def test_a_sound_installation_has_no_problems(
    project: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DLM_LSP_MODELS", str(tmp_path / "models"))  # where nobody built a graph yet
    report = await examine("app.py:1:5", {"engine": {"checkpoint": str(tiny_checkpoint)}})
    assert report.problems == []
    assert values(report, "engine host")["state"] == ("absent", "the first request starts it")
    engine = values(report, "engine")
    assert engine["checkpoint"][0] == str(tiny_checkpoint)
    assert engine["checkpoint"][1].startswith("would be loaded: a trial took")
    assert engine["device"][0] in ("cpu", "cuda")
    assert engine["dtype"] == ("float32", "no more than 50 million parameters")
    assert engine["backend"][0] == "onnx"
    assert engine["backend"][1].startswith("the CPU computes with ONNX Runtime ")
    assert engine["graph"][1] == "not built yet: built at the first start"
    assert engine["memory"][1].endswith(" free")
    assert "bf16" not in json.dumps(report.to_object()["sections"]["engine"])  # pyright: ignore
    assert values(report, "place")["while typing"] == ("suggests", "")
    assert all(value != "missing" for value, _ in values(report, "program").values())


async def test_what_auto_takes_and_why_is_told_with_its_figures(
    project: Path, tiny_checkpoint: Path
):
    given = {"engine": {"checkpoint": str(tiny_checkpoint), "device": "cpu"}}
    engine = values(await examine(None, given), "engine")
    assert engine["step times"][0] == "not measured yet"
    mode, why = engine["auto"]
    assert mode in ("ar", "copy_spec")
    assert f"{mode} " in why
    assert "ar " in why
    assert "not measured" in why


def test_a_running_hosts_curve_and_choice_are_shown():
    detail = {
        "stepTimes": {"rows": [1, 32], "milliseconds": [4.1, 8.05], "context": 256},
        "auto": {"mode": "copy_spec", "why": "per token copy_spec 3.6, ar 4.1 ms"},
    }
    times, auto = doctor._mode_facts(detail["stepTimes"], detail["auto"])
    masked = {**detail["stepTimes"], "withMasks": [5.0, 9.5]}
    _, drafting, _ = doctor._mode_facts(masked, detail["auto"])
    assert (drafting.name, drafting.value) == ("drafting steps", "1: 5.0, 32: 9.5 ms")
    assert times == Fact("step times", "1: 4.1, 32: 8.05 ms", "by rows, 256 tokens cached")
    assert auto == Fact("auto", "copy_spec", "per token copy_spec 3.6, ar 4.1 ms")
    assert [fact.name for fact in doctor._mode_facts(None, None)] == ["step times"]  # an older host


async def test_a_missing_checkpoint_is_a_problem_with_a_remedy(project: Path):
    report = await examine(None, {"engine": {"checkpoint": "/nowhere"}})
    assert len(report.problems) == 1
    assert "/nowhere is not a folder" in report.problems[0]
    assert values(report, "engine")["checkpoint"] == ("/nowhere", "cannot be loaded")


@pytest.mark.parametrize(
    "name",
    ["x" * 4000, "x\0y", "~nobody-of-this-name/x", "loop", "folder", "empty", "pipe", "a\nb/c"],
    ids=lambda name: ascii(name)[:12],
)
async def test_whatever_a_checkpoint_is_called_there_is_one_problem(project: Path, name: str):
    (project / "loop").symlink_to("pool")
    (project / "pool").symlink_to("loop")
    (project / "folder").mkdir()
    (project / "empty").touch()
    os.mkfifo(project / "pipe")
    report = await examine(None, {"engine": {"checkpoint": name}})
    (problem,) = report.problems
    assert name[:40] in problem or ascii(name)[1:-1] in problem


@pytest.mark.usefixtures("no_trial")
async def test_each_setting_is_told_with_its_source(project: Path, tmp_path: Path):
    user_file = tmp_path / "config" / "dlm-lsp" / "dlm-lsp.toml"
    user_file.parent.mkdir(parents=True)
    user_file.write_text('mode = "ar"\n[engine]\nthreads = 2\ndevice = "cpu"\n')
    project_file = project / "dlm-lsp.toml"
    project_file.write_text('mode = "block"\n[engine]\nthreads = 99\n')
    report = await examine(None, {"engine": {"dtype": "float32"}})
    settings = values(report, "settings")
    assert settings["mode"] == ('"block"', str(project_file))
    assert settings["engine.threads"] == ("2", str(user_file))
    assert settings["engine.dtype"] == ('"float32"', "the command line")
    assert settings["limits.tokensMax"][1] == "default"
    engine = values(report, "engine")
    assert engine["device"][1] == f"set by {user_file}"
    assert engine["dtype"][1] == "set by the command line"
    assert [problem for problem in report.problems if "engine.threads" in problem]
    assert values(report, "settings files")["project"] == (str(project_file), "read")


@pytest.mark.usefixtures("no_trial")
async def test_a_broken_settings_file_is_named_with_its_line(project: Path):
    (project / "dlm-lsp.toml").write_text('mode = "ar"\nmode = = 1\n')
    report = await examine(None, {})
    assert any("dlm-lsp.toml" in problem and "line 2" in problem for problem in report.problems)


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (".env", "KEY=1\n", "silence.secretFiles"),
        ("notes.md", "text\n", "silence.languages"),
        ("data.py", "a\0b\n", "does not look like text"),
    ],
)
async def test_a_silent_place_is_explained(project: Path, name: str, text: str, reason: str):
    (project / name).write_text(text)
    report = await examine(f"{name}:1:1", {"silence": {"languages": ["markdown"]}})
    assert reason in values(report, "place")["while typing"][1]
    assert any(reason in problem for problem in report.problems)


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize("place", ["nowhere.py:1:1", "app.py:7:1", "app.py"])
async def test_a_place_that_is_not_there_is_a_problem(project: Path, place: str):
    report = await examine(place, {})
    assert any(place.partition(":")[0] in problem for problem in report.problems)


@pytest.mark.parametrize(
    ("engine", "remedy"),
    [
        ({"url": f"http://user:{SECRET}@127.0.0.1:9"}, "engine.token"),
        ({"url": "http://127.0.0.1:9", "token": SECRET}, "dlm-lsp serve"),
    ],
)
async def test_a_host_elsewhere_that_does_not_answer_is_a_problem_and_no_secret_is_shown(
    project: Path, engine: dict[str, object], remedy: str
):
    report = await examine(None, {"engine": engine})
    assert any(remedy in problem for problem in report.problems)
    assert values(report, "engine host")["url"][0].endswith("127.0.0.1:9")
    assert "engine" not in report.sections, "nothing would be loaded on this machine"
    assert SECRET not in json.dumps(report.to_object())


@pytest.mark.usefixtures("no_trial")
async def test_a_package_that_is_missing_is_a_problem(
    project: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setattr(doctor, "OPTIONAL", (("no-such-extra", "does nothing", "none"),))
    report = await examine(None, {})
    assert any("no-such-package is not installed" in problem for problem in report.problems)
    assert not any("no-such-extra" in problem for problem in report.problems)
    optional = values(report, "program")["no-such-extra"]
    assert optional == ("not installed", "optional: does nothing; pip install dlm-lsp[none]")


def test_the_report_prints_every_fact_and_problem():
    report = DoctorReport(
        {"engine": [Fact("device", "cpu", "set by you")]}, ["All is [bold]lost[/]."]
    )
    console = Console(file=io.StringIO(), width=40, soft_wrap=True)
    doctor._print(report, console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "device  cpu  (set by you)" in printed
    assert "problem: All is [bold]lost[/]." in printed
    assert "All is well" not in printed


@pytest.mark.usefixtures("no_trial")
async def test_the_model_and_how_to_get_a_real_one_are_told(project: Path):
    model = values(await examine(None, {}), "model")
    assert model["model"][0] == "nano"
    assert "dlm-lsp model pull" in model["model"][1]
    assert model["pulled"][0] == "none"
    report = await examine(None, {"engine": {"checkpoint": "qwen2.5-coder-0.5b"}})
    assert values(report, "model")["model"][0] == "none"
    assert report.problems == [
        "The model qwen2.5-coder-0.5b is not pulled yet. Run `dlm-lsp model pull "
        "qwen2.5-coder-0.5b`."
    ]
    elsewhere = await examine(None, {"engine": {"url": "http://127.0.0.1:9"}})
    assert "model" not in elsewhere.sections


async def test_a_model_too_large_for_the_memory_is_a_problem(
    project: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runtime, "available_memory_bytes", lambda: 50_000_000)
    report = await examine(None, {"engine": {"checkpoint": str(tiny_checkpoint), "device": "cpu"}})
    assert values(report, "engine")["checkpoint"][1] == "cannot be loaded"
    (problem,) = report.problems
    assert problem.startswith(f"{tiny_checkpoint} needs about 10")
    assert "50 MB are free" in problem
    assert 'engine.checkpoint = "nano"' in problem


def test_the_integer_product_is_told_with_the_figures_that_it_was_chosen_by():
    assert doctor._product_fact(None).value == "not measured yet"
    found = MachineProbe(
        "A CPU (avx2), 1 threads",
        (
            ProductTimes("int8", False, (1.0, 2.0, 3.0), 65.0),
            ProductTimes("uint8", True, (4.0, 5.0, 6.04), 65.0),
        ),
    )
    assert doctor._product_fact(found) == Fact(
        "integers",
        "uint8",
        "for 1/8/64 rows int8 1.0/2.0/3.0 ms, not exact; uint8 4.0/5.0/6.0 ms, exact; "
        "A CPU (avx2), 1 threads",
    )


async def test_a_large_model_is_not_prepared_by_looking(
    project: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first start builds a graph; the doctor only reports that there is none."""
    monkeypatch.setenv("DLM_LSP_MODELS", str(tmp_path / "models"))
    engine = {"checkpoint": str(tiny_checkpoint), "device": "cpu", "dtype": "int8"}
    seen = values(await examine(None, {"engine": engine}), "engine")
    assert seen["checkpoint"][1].startswith("would be loaded, once it is prepared")
    assert seen["integers"][0] == "not measured yet"
    assert seen["dtype"] == ("int8", "set by the command line")
    assert not (tmp_path / "models").exists()
    Engine.load(
        EngineSettings(tiny_checkpoint, "cpu", "int8", graphs=tmp_path / "models" / "graphs")
    ).close()
    seen = values(await examine(None, {"engine": engine}), "engine")
    assert seen["graph"][1].endswith(", built")
    assert seen["integers"][0] in ("int8", "uint8")
    assert seen["checkpoint"][1].startswith("would be loaded: a trial took")


def test_a_dry_run_tells_what_a_host_would_run(tiny_checkpoint: Path):
    seen = dry_run(EngineSettings(tiny_checkpoint, device="cpu", dtype="float32", threads=1))
    assert seen.problem is None
    assert seen.parameters
    assert seen.load_seconds is not None
    assert seen.settings.dtype == "float32"


def test_a_dry_run_without_a_usable_torch_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "engine.engine", None)
    problem = dry_run(EngineSettings()).problem
    assert problem is not None
    assert "Install dlm-lsp again" in problem
