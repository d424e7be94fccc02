"""`dlm-lsp complete` ends where a suggestion in an editor would, and ends the engine with it.

The engine is scripted and never finishes by itself: a command that waited for it would hang.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.dlm_lsp.scripted_host import SECONDS_MAX, scripted_host

FILE = "def add(a, b):\n    |\n\n\ndef sub(a, b):\n    return a - b\n"


@pytest.mark.parametrize(
    ("file", "drafts", "text"),
    [
        # The end of the scope, and another definition.
        (FILE, ["return a", "return a + b\n", "return a + b\n\n\ndef mul(a"], "return a + b"),
        # The text after the cursor begins again.
        ("x = [\n    |\n    2,\n]\n", ["1,\n", "1,\n    2,\n]\ny"], "1,"),
        # What is no code.
        ("x = |\n", ["1", "1\n", "1\n```\nThis sets x"], "1"),
        # Lines that repeat.
        (
            "def f():\n    |\n",
            ["a = 1\n", "a = 1\n    b(2)\n    b(2)\n", "a = 1\n" + "    b(2)\n" * 9],
            None,
        ),
    ],
)
@pytest.mark.parametrize("face", ["--json", "plain"])
async def test_the_engine_is_cancelled_at_the_first_event_that_shows_the_end(
    private_runtime: Path, tmp_path: Path, file: str, drafts: list[str], text: str | None, face: str
) -> None:
    before, after = file.split("|")
    (tmp_path / "a.py").write_text(before + after)
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    async with scripted_host() as host:
        config = tmp_path / "config" / "dlm-lsp" / "dlm-lsp.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f'[engine]\nurl = "{host.url}"\n')
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "dlm_lsp", "complete"),
            *(["--json"] if face == "--json" else []),
            f"{tmp_path / 'a.py'}:{line}:{column}",
            env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        job = await host.job()
        assert job.body.draft, "without drafts nothing tells the end"
        job.start()
        for committed in drafts[:-1]:
            job.draft(committed)
        await asyncio.sleep(0.2)
        is_early = job.is_cancelled  # Lines that repeat may show the end before the last draft.
        assert text is None or not is_early
        job.draft(drafts[-1])
        await job.cancelled()
        async with asyncio.timeout(SECONDS_MAX):
            out, errors = await process.communicate()
    assert process.returncode == 0, errors
    if face == "--json":
        answer = json.loads(out)
        assert answer["finish_reason"] == "scope"
        out = answer["text"].encode()
    shown = out.decode().rstrip("\n")
    if text is None:
        assert shown.count("b(2)") < 3
    else:
        assert shown == text
    del private_runtime
