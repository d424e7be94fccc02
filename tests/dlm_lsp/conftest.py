"""A language server process that talks to a scripted host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.dlm_lsp.lsp_client import LspClient, lsp_client
from tests.dlm_lsp.scripted_host import ScriptedHost, scripted_host


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedHost]:
    """An engine host that follows the test's script."""
    async with scripted_host() as running:
        yield running


@pytest.fixture
async def editor(tmp_path: Path) -> AsyncIterator[LspClient]:
    """A server process, not yet initialised."""
    async with lsp_client(tmp_path) as client:
        yield client


@pytest.fixture
async def plain(scripted: ScriptedHost, editor: LspClient) -> LspClient:
    """A server that is initialised; the engine answers every request."""
    await editor.initialize({"engine": {"url": scripted.url}})
    scripted.script = ["a + b"] * 50
    return editor


@pytest.fixture(autouse=True)
def isolated(private_runtime: Path) -> None:
    """Isolates each test's hosts from those of the user and of other tests."""
    del private_runtime
