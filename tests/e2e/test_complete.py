"""`dlm-lsp complete` and `doctor` as commands, on a real file through a real engine host."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.api import EXACT_MODES, MASKED
from tests.e2e.conftest import ROOT, SOURCE, Home
from tests.e2e.terminal_child import SECONDS_MAX, run_in_terminal

FIGURES = {
    "text",
    "mode",
    "finish_reason",
    "tokens",
    "forwards",
    "tokens_per_forward",
    "first_draft_ms",
    "total_ms",
    "cached_tokens",
}
CURSOR = "‸"
LINE = SOURCE.split("\n").index("        return self.price * self.count") + 1
PLACE, NEXT_PLACE = f"shop.py:{LINE}:9", f"shop.py:{LINE}:16"


def run(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the program with its output into pipes."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "dlm_lsp", *arguments],
        env=home.environment,
        cwd=home.folder,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )


def objects(home: Home, *arguments: str) -> list[dict[str, object]]:
    """Returns the objects that `complete --json` prints, one per line."""
    done = run(home, "complete", "--json", "--max-tokens", "16", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_json_prints_one_object_per_place_from_one_host(home: Home):
    first, second, third = objects(home, PLACE, PLACE, NEXT_PLACE)
    assert first.keys() >= FIGURES
    assert first["text"] == second["text"]
    assert (second["line"], third["column"]) == (LINE, 16)
    assert isinstance(second["cached_tokens"], int)
    assert second["cached_tokens"] > 0, "the second request did not reuse the first one's prompt"
    assert first["mode"] in ("block", "copy_spec")  # The choices of "auto" with and without a GPU.
    assert first["total_ms"] >= first["first_draft_ms"] > 0  # type: ignore[operator]
    assert first["tokens_per_forward"] == pytest.approx(
        first["tokens"] / first["forwards"],  # type: ignore[operator]
        abs=1e-3,
    )


def test_mode_seed_and_stop_reach_the_engine(home: Home):
    (one_by_one,) = objects(home, "--mode", "ar", PLACE)
    assert one_by_one["mode"] == "ar"
    assert one_by_one["tokens"] <= one_by_one["forwards"] + 1  # type: ignore[operator]
    drawn = ["--temperature", "1.5", PLACE]
    texts = [objects(home, "--seed", seed, *drawn)[0]["text"] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]
    (whole,) = objects(home, "--mode", "ar", NEXT_PLACE)
    mark = next(character for character in str(whole["text"]) if "!" <= character <= "~")
    (stopped,) = objects(home, "--mode", "ar", "--stop", mark, NEXT_PLACE)
    assert mark not in str(stopped["text"])


def test_plain_output_is_the_text_alone(home: Home):
    (expected,) = objects(home, PLACE)
    done = run(home, "complete", "--max-tokens", "16", PLACE)
    assert done.stdout.removesuffix("\n") == str(expected["text"]).removesuffix("\n")
    assert re.search(r"\d+ tokens, \d+ forwards", done.stderr)


def test_a_terminal_shows_the_text_refining_in_its_surroundings(home: Home):
    command = [sys.executable, "-P", "-m", "dlm_lsp", "complete", "--mode", "block", PLACE]
    code, written = run_in_terminal(command, home)
    assert code == 0, written
    drawings = written.split(PLACE)[1:]
    assert len(drawings) > 2
    assert any(MASKED in drawing for drawing in drawings)
    assert MASKED not in drawings[-1]
    assert re.search(rf" {LINE - 1} │", drawings[-1])
    assert re.search(r"\d+ tokens, \d+ forwards", drawings[-1])


def test_a_workspace_cannot_shadow_the_program(home: Home, tmp_path: Path):
    for name in ("engine", "dlm_lsp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('shadowed')")
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "dlm_lsp",
            "complete",
            "--max-tokens",
            "4",
            str(home.folder / PLACE),
        ],
        env=home.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert done.returncode == 0, done.stderr


def test_doctor_reports_the_running_host_and_where_settings_come_from(home: Home):
    objects(home, PLACE)  # This starts the host.
    done = run(home, "doctor", "--json", "--threads", "1", PLACE)
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    assert report["ok"]
    assert report["problems"] == []
    sections = report["sections"]
    assert sections["engine host"]["state"]["value"] == "ready"
    assert sections["engine"]["device"]["value"] in ("cpu", "cuda")
    user_file = home.folder / "config" / "dlm-lsp" / "dlm-lsp.toml"
    assert sections["settings"]["engine.checkpoint"]["why"] == str(user_file)
    assert sections["settings"]["engine.threads"]["why"] == "the command line"
    assert sections["settings"]["mode"]["why"] == "default"
    assert sections["place"]["while typing"]["value"] == "suggests"


def test_a_truncated_checkpoint_is_named_by_complete_and_doctor(
    home: Home, tiny_checkpoint: Path, tmp_path: Path
):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for command in (["complete", PLACE], ["doctor"]):
        done = run(home, *command, "--checkpoint", str(broken))
        assert done.returncode == 1
        assert "model.safetensors" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def exact_places(home: Home) -> list[str]:
    """FILE:LINE:COL of the cursor in some of the fixtures, which are copied into the home."""
    places = []
    for name in ("python_body", "python_sum", "python_before", "python_typed"):
        text = (ROOT / "fixtures" / "documents" / f"{name}.py.txt").read_text("utf-8")
        before, _, after = text.partition(CURSOR)
        (home.folder / f"{name}.py").write_text(before + after, encoding="utf-8")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        places.append(f"{name}.py:{line}:{column}")
    return places


def test_exact_modes_give_the_same_texts(home: Home):
    """In the dtype that this machine serves, bf16 where it has it; at temperature 0 and above."""
    places = exact_places(home)
    for drawn in ((), ("--temperature", "0.9", "--seed", "3")):
        of_mode = {
            mode: objects(home, "--exact", "--mode", mode, *drawn, *places) for mode in EXACT_MODES
        }
        texts = {
            mode: [(answer["text"], answer["tokens"]) for answer in answers]
            for mode, answers in of_mode.items()
        }
        assert all(answer["exact"] is True for answers in of_mode.values() for answer in answers)
        assert all(given == texts["ar"] for given in texts.values()), texts
        assert any(text for text, _ in texts["ar"])


def test_exact_is_shown_and_auto_can_be_exact(home: Home):
    (answer,) = objects(home, "--exact", PLACE)
    assert answer["exact"] is True
    assert answer["mode"] in EXACT_MODES
    done = run(home, "complete", "--exact", "--max-tokens", "4", PLACE)
    assert ", exact, " in done.stderr
    (answer,) = objects(home, PLACE)
    assert answer["exact"] is False


def test_exact_with_block_diffusion_is_refused(home: Home):
    done = run(home, "complete", "--exact", "--mode", "block", PLACE)
    assert done.returncode == 2
    assert "exact" in done.stderr
    assert "Traceback" not in done.stderr
