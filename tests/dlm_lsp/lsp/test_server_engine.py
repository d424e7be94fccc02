"""The language server and a real engine host on a tiny checkpoint: started, killed, restarted."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from tests.dlm_lsp.lsp_client import INVOKED, TEXT, URI, LspClient, lsp_client


def settings(checkpoint: Path, **dlm: Any) -> dict[str, Any]:
    engine = {"checkpoint": str(checkpoint), "device": "cpu", "dtype": "float32", "threads": 1}
    return {
        "engine": engine,
        "drafts": True,
        "statusNotifications": True,
        "limits": {"tokensMax": 24, "tokensMaxInvoked": 24},
        **dlm,
    }


async def ready(editor: LspClient, after: int = 0) -> dict[str, Any]:
    """Returns the status with a running engine, from notification number `after` on."""
    return await editor.seen(
        "dlm/status",
        lambda status: (
            status["state"] == "ready"
            and any(m["params"] is status for m in editor.notifications[after:])
        ),
    )


def host_process(runtime: Path) -> int:
    """Returns the process id of the started host, found by its environment."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if f"XDG_RUNTIME_DIR={runtime}".encode() in environment and b"\0serve\0" in command:
                return int(folder.name)
    raise AssertionError("no host runs")


async def test_first_request_starts_the_host_and_drafts_lead_to_the_answer(
    tmp_path: Path, tiny_checkpoint: Path, private_runtime: Path
) -> None:
    async with lsp_client(tmp_path) as editor:
        await editor.initialize(settings(tiny_checkpoint))
        editor.open(URI, TEXT)
        items = await editor.inline(URI, 1, 11, INVOKED, workDoneToken="t")
        status = await ready(editor)
        assert status["model"] == str(tiny_checkpoint)
        assert editor.all_of("window/showMessage") == []
        drafts = editor.all_of("dlm/draft")
        if items:  # An untrained model may suggest nothing.
            assert drafts[-1]["committed"] == items[0]["insertText"]
        stats = await editor.request("workspace/executeCommand", {"command": "dlm.stats"})
        assert stats["last"]["forwards"] > 0
        assert await editor.leave() == 0


async def test_killed_host_is_back_with_nothing_but_a_status(
    tmp_path: Path, tiny_checkpoint: Path, private_runtime: Path
) -> None:
    async with lsp_client(tmp_path) as editor:
        await editor.initialize(settings(tiny_checkpoint))
        editor.open(URI, TEXT)
        await ready(editor)
        first = host_process(private_runtime)
        os.kill(first, signal.SIGKILL)
        editor.insert(URI, 2, 0, 0, "# again\n")
        assert await editor.inline(URI, 2, 11, INVOKED) is not None
        stats = await editor.request("workspace/executeCommand", {"command": "dlm.stats"})
        assert stats["last"]["forwards"] > 0
        assert host_process(private_runtime) != first
        assert editor.all_of("window/showMessage") == []


async def test_restart_command_brings_up_another_process(
    tmp_path: Path, tiny_checkpoint: Path, private_runtime: Path
) -> None:
    async with lsp_client(tmp_path) as editor:
        await editor.initialize(settings(tiny_checkpoint))
        editor.open(URI, TEXT)
        await ready(editor)
        first = host_process(private_runtime)
        count = len(editor.notifications)
        await editor.request("workspace/executeCommand", {"command": "dlm.restart"})
        await ready(editor, count)
        assert host_process(private_runtime) != first
        assert editor.all_of("window/showMessage") == []


async def test_checkpoint_that_cannot_be_loaded_is_named_once_and_the_server_lives_on(
    tmp_path: Path, tiny_checkpoint: Path, private_runtime: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    async with lsp_client(tmp_path) as editor:
        await editor.initialize(settings(broken))
        editor.open(URI, TEXT)
        shown = await editor.seen("window/showMessage")
        assert "model.safetensors" in shown["message"]
        status = await editor.seen("dlm/status", lambda status: status["state"] == "error")
        assert "model.safetensors" in status["message"]
        for _ in range(3):
            assert await editor.inline(URI, 1, 11) == []
        assert len(editor.all_of("window/showMessage")) == 1
        # Another checkpoint is the remedy.
        count = len(editor.notifications)
        params = {"settings": {"dlm": settings(tiny_checkpoint)}}
        editor.notify("workspace/didChangeConfiguration", params)
        await ready(editor, count)
        assert await editor.leave() == 0


async def test_missing_tensor_is_named(
    tmp_path: Path, tiny_checkpoint: Path, private_runtime: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    config = json.loads((broken / "config.json").read_text())
    config["num_hidden_layers"] += 1
    (broken / "config.json").write_text(json.dumps(config))
    async with lsp_client(tmp_path) as editor:
        await editor.initialize(settings(broken))
        shown = await editor.seen("window/showMessage")
        assert "layers.2" in shown["message"]
        assert await editor.leave() == 0
