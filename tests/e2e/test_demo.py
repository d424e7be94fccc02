"""The command of `make demo`: into a pipe, in a terminal, and where it cannot work."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise

import pytest

from dlm_lsp.cli.demo import BUNDLED_SCRIPT, FILES, HOLE, SCRIPT, DemoScript
from engine.api import MASKED
from tests.e2e.conftest import Home
from tests.e2e.terminal_child import SECONDS_MAX, run_in_terminal

DEMO = [sys.executable, "-P", "-m", "dlm_lsp", "demo"]
STYLE = re.compile(r"\x1b\[([\d;]*)m([^\x1b\r\n]*)")


def picture_rows(drawing: str) -> str:
    """The numbered rows of a drawing; the legend below them also holds every shade."""
    return "\n".join(row for row in drawing.split("\n") if "│" in row)


@pytest.mark.parametrize("script", [SCRIPT, BUNDLED_SCRIPT], ids=lambda script: script.name)
def test_holes_stand_where_the_file_has_marks(script: DemoScript):
    text, places = script.open()
    assert HOLE not in text
    assert len(places) > 3
    marked = (FILES / script.file).read_text("utf-8")
    for place in reversed(places):
        text = text[:place] + HOLE + text[place:]
    assert text == marked


def test_demo_into_a_pipe_prints_the_text_and_figures_without_control_codes(home: Home):
    done = subprocess.run(
        DEMO, env=home.environment, cwd=home.folder, capture_output=True, timeout=SECONDS_MAX
    )
    assert done.returncode == 0, done.stderr.decode()
    printed = done.stdout.decode()
    text, places = BUNDLED_SCRIPT.open()
    assert "\x1b" not in printed
    edges = [0, *places, len(text)]
    for start, end in pairwise(edges):
        assert text[start:end].split("\n")[-2] in printed
    assert re.search(rf"{len(places)} holes filled in \d+ ms · first drafts after \d+", printed)


def test_demo_in_a_terminal_draws_drafts_in_shades_until_the_text_stands(home: Home):
    # Only blocks have undecided places. How many of them are drawn depends on how busy the machine
    # is, and none need be: `test_terminal.py` tells their shade from the others.
    code, written = run_in_terminal([*DEMO, "--mode", "block"], home)
    assert code == 0, written
    drawings = written.split(f"{BUNDLED_SCRIPT.name}:")[1:]
    assert len(drawings) > 2, "it did not refine"
    styles: dict[str, str] = {}
    for style, text in STYLE.findall("".join(map(picture_rows, drawings))):
        styles[style] = styles.get(style, "") + text
    masks = {style for style, text in styles.items() if MASKED in text}
    committed = {style for style in styles if style in ("1;32", "32;1")}  # bold green
    drafts = {style for style in styles if "36" in style}  # cyan
    assert committed
    assert drafts
    assert not masks & (committed | drafts)
    last = picture_rows(drawings[-1])
    assert MASKED not in last
    assert any(text.strip() for style, text in STYLE.findall(last) if style in committed)
    assert re.search(r"holes filled in \d+ ms", drawings[-1])


def test_demo_with_a_broken_checkpoint_says_why_and_fails(home: Home):
    done = subprocess.run(
        [*DEMO, "--checkpoint", str(home.folder / "nowhere")],
        env=home.environment,
        cwd=home.folder,
        capture_output=True,
        timeout=SECONDS_MAX,
    )
    assert done.returncode == 1
    assert b"nowhere is not a folder" in done.stderr
    assert b"Traceback" not in done.stderr
