"""The examples run unchanged on the bundled model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, Home

EXAMPLES = ROOT / "examples"
TEXT = "self.start = start"
SECONDS_MAX = 120


def lines_of(home: Home, *command: str, **environment: str) -> list[str]:
    done = subprocess.run(
        command,
        env={**home.environment, **environment},
        cwd=home.folder,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["complete.py", "client.py"])
def test_a_program_prints_drafts_and_then_the_answer(name: str, home: Home) -> None:
    *drafts, answer = lines_of(home, sys.executable, str(EXAMPLES / name))
    assert answer == f"answer: {TEXT}"
    assert drafts  # Their number depends on the machine's load.
    assert all(draft.startswith("draft:") for draft in drafts)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_one_call_by_http_ends_with_the_whole_text(home: Home) -> None:
    command = [sys.executable, "-P", "-m", "dlm_lsp", "serve", "--port", "0"]
    engine = subprocess.Popen(
        command, env=home.environment, cwd=home.folder, stdout=subprocess.PIPE, text=True
    )
    try:
        assert engine.stdout is not None
        url, token = (engine.stdout.readline().split()[-1] for _ in range(2))
        script = str(EXAMPLES / "http_call.sh")
        events = [json.loads(line) for line in lines_of(home, "sh", script, URL=url, TOKEN=token)]
    finally:
        engine.terminate()
        engine.communicate(timeout=SECONDS_MAX)
    assert [event["event"] for event in events[:2]] == ["started", "draft"]
    assert (events[-1]["event"], events[-1]["text"]) == ("finished", TEXT)
