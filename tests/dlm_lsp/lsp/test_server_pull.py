"""`dlm.pullModel` and the hint to run it, with a real server process and a hub on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dlm_lsp.store.folder import Store
from tests.dlm_lsp.lsp_client import INLINE, URI, LspClient, LspError, lsp_client
from tests.dlm_lsp.scripted_host import ScriptedHost
from tests.dlm_lsp.store_sources import CONTENT, FILE, FakeHub, fake_hub, write_catalogue

PROGRESS: dict[str, Any] = INLINE | {"window": {"workDoneProgress": True}}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub for the processes that the test starts, whose catalogue has the tiny model."""
    catalogue = write_catalogue(tmp_path / "catalogue.json", wheels=False)
    monkeypatch.setenv("DLM_LSP_CATALOGUE", str(catalogue))
    monkeypatch.setenv("DLM_LSP_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with fake_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
async def client(tmp_path: Path, hub: FakeHub) -> AsyncIterator[LspClient]:
    """A server process that uses the hub."""
    async with lsp_client(tmp_path) as client:
        yield client


def ask(client: LspClient, *arguments: Any, **params: Any) -> int | str:
    return client.ask(
        "workspace/executeCommand",
        {"command": "dlm.pullModel", "arguments": list(arguments), **params},
    )


def values(client: LspClient) -> list[dict[str, Any]]:
    """Returns the reports of the pull's progress, without those of the engine's loading."""
    told = client.all_of("$/progress")
    return [each["value"] for each in told if "loading" not in str(each["token"])]


async def reported(client: LspClient) -> Any:
    """Waits until bytes are reported."""
    return await client.seen(
        "$/progress", lambda params: params["value"].get("percentage", 0) not in (0, None)
    )


async def test_a_pull_is_shown_as_progress_and_keystrokes_are_served_meanwhile(
    client: LspClient, scripted: ScriptedHost, hub: FakeHub
) -> None:
    await client.greet(scripted.url, capabilities=PROGRESS)
    hub.chunk_seconds = 0.15
    asking = ask(client, {"name": "tiny"})
    token = (await reported(client))["token"]
    scripted.script = ["a + b"]
    assert len(await client.inline(URI, 1, 11)) == 1
    second = await client.answer(ask(client, {"name": "tiny"}))
    assert (second["pulled"], second["running"]) == (False, True)
    assert "of 250 KB" in second["reason"]
    answer = await client.answer(asking)
    assert answer["pulled"] is True
    assert Path(answer["path"]).read_bytes() == CONTENT
    told = values(client)
    assert (told[0]["kind"], told[0]["cancellable"], told[-1]["kind"]) == ("begin", True, "end")
    percentages = [value["percentage"] for value in told if value["kind"] == "report"]
    assert percentages == sorted(percentages)
    assert any("of 250 KB" in value.get("message", "") for value in told)
    created = [each["params"]["token"] for each in client.requests if "create" in each["method"]]
    assert token in created
    assert client.all_of("window/showMessage") == []


@pytest.mark.parametrize("how", ["progress", "command", "request"])
async def test_a_pull_can_be_cancelled_and_goes_on_later(
    client: LspClient, scripted: ScriptedHost, hub: FakeHub, how: str
) -> None:
    await client.greet(scripted.url, capabilities=INLINE)
    hub.chunk_seconds = 0.2
    asking = ask(client, {"name": "tiny"}, workDoneToken="mine")
    assert (await reported(client))["token"] == "mine"
    if how == "progress":
        client.notify("window/workDoneProgress/cancel", {"token": "mine"})
    elif how == "command":
        cancel = {"command": "dlm.cancel", "arguments": [{"token": "mine"}]}
        assert await client.request("workspace/executeCommand", cancel) == {"cancelled": True}
    else:
        client.notify("$/cancelRequest", {"id": asking})
    if how == "request":
        with pytest.raises(LspError):
            await client.answer(asking)
    else:
        answer = await client.answer(asking)
        assert (answer["pulled"], answer["code"]) == (False, "cancelled")
    await client.seen("$/progress", lambda params: params["value"]["kind"] == "end")
    assert client.all_of("window/showMessage") == []
    assert 0 < Store().partial_bytes("tiny") < len(CONTENT)
    hub.chunk_seconds = 0
    again = await client.answer(ask(client, {"name": "tiny"}))
    assert again["pulled"] is True
    assert str(hub.gets[-1][1]).startswith("bytes=")


async def test_a_pull_that_fails_is_a_message_with_its_remedy(
    client: LspClient, scripted: ScriptedHost, hub: FakeHub
) -> None:
    await client.greet(scripted.url, capabilities=INLINE)
    hub.status = 403
    answer = await client.answer(ask(client, {"name": "tiny"}))
    assert (answer["pulled"], answer["code"]) == (False, "refused")
    shown = await client.seen("window/showMessage")
    assert (shown["type"], "HF_TOKEN" in shown["message"]) == (1, True)
    unknown = await client.answer(ask(client, {"name": "tinny"}))
    assert "Did you mean tiny?" in unknown["reason"]
    for wrong in ("--yes", "../x", 5):
        with pytest.raises(LspError, match="name must be"):
            await client.answer(ask(client, {"name": wrong}))


async def test_a_pull_ends_with_its_server(
    client: LspClient, scripted: ScriptedHost, hub: FakeHub
) -> None:
    await client.greet(scripted.url, capabilities=INLINE)
    hub.chunk_seconds = 0.2
    ask(client, {"name": "tiny"}, workDoneToken="mine")
    await reported(client)
    assert await client.leave() == 0
    await asyncio.sleep(0.5)
    store = Store()
    with store.lock("tiny", None):  # The lock is free again.
        assert store.partial_bytes("tiny") > 0


async def test_without_a_real_model_the_user_is_told_once_how_to_get_one(
    tmp_path: Path, hub: FakeHub
) -> None:
    async with lsp_client(tmp_path) as client:
        await client.initialize({"statusNotifications": True})
        shown = await client.seen("window/showMessage")
        assert (shown["type"], "dlm-lsp model pull" in shown["message"]) == (3, True)
        ready = await client.seen("dlm/status", lambda status: status["state"] == "ready")
        assert "dlm-lsp model pull" in ready["message"]
        assert hub.gets == [], "nothing is downloaded unasked"
        answer = await client.answer(ask(client, {"name": "tiny"}))
        assert answer["pulled"] is True
        # The model cannot be loaded, but the server switches to it.
        await client.seen("dlm/status", lambda status: FILE.name in status["message"])
    async with lsp_client(tmp_path) as client:
        Store().remove("tiny")
        await client.initialize({"statusNotifications": True})
        await client.seen("dlm/status", lambda status: status["state"] == "ready")
        assert client.all_of("window/showMessage") == []
