"""A third-party client library that imitates real editors, with the real server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from lsprotocol import types
from pytest_lsp import ClientServerConfig, LanguageClient, client_capabilities

from tests.e2e.conftest import Home

SECONDS_MAX = 240.0
# Recorded capabilities: each of these editors prefers another position encoding.
EDITORS = {"neovim@0.11": "utf-8", "visual-studio-code": "utf-16", "emacs@29": "utf-32"}
UNITS = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}
URI = "file:///project/greeting.py"
SOURCE = """\
class Greeting:
    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count

    def text(self) -> str:
        return "🙂é" + \n

    def __repr__(self) -> str:
        return f"Greeting({self.name!r})"
"""
AUTOMATIC = types.InlineCompletionTriggerKind.Automatic
LINE = SOURCE[: SOURCE.index("🙂")].count("\n")


@pytest.fixture(params=EDITORS)
def editor(request: pytest.FixtureRequest) -> str:
    """The editor that the client imitates."""
    return request.param


@pytest_asyncio.fixture
async def client(home: Home) -> AsyncIterator[LanguageClient]:
    """Yields a client with the server as its child; the server must end well."""
    config = ClientServerConfig(
        [sys.executable, "-P", "-m", "dlm_lsp", "--stdio"], server_env=home.environment
    )
    started = await config.start()
    assert isinstance(started, LanguageClient)

    @started.feature(types.CLIENT_REGISTER_CAPABILITY)
    def register_capability(_: types.RegistrationParams) -> None:
        """Adds a capability that the real editors have and the library lacks."""

    yield started
    async with asyncio.timeout(SECONDS_MAX):
        await started.shutdown_session()
    assert started._server is not None
    assert started._server.returncode == 0
    await started.stop()


async def open_and_change(client: LanguageClient, editor: str) -> types.Position:
    """Starts a session, opens the file and types `self.`; returns the cursor's position."""
    capabilities = client_capabilities(editor)
    result = await client.initialize_session(types.InitializeParams(capabilities=capabilities))
    assert result.capabilities.inline_completion_provider is not None
    assert result.capabilities.completion_provider is not None
    assert result.capabilities.position_encoding == EDITORS[editor]
    client.text_document_did_open(
        types.DidOpenTextDocumentParams(types.TextDocumentItem(URI, "python", 1, SOURCE))
    )
    codec, width = UNITS[EDITORS[editor]]
    line = SOURCE.split("\n")[LINE]
    end = types.Position(LINE, len(line.encode(codec)) // width)
    client.text_document_did_change(
        types.DidChangeTextDocumentParams(
            types.VersionedTextDocumentIdentifier(version=2, uri=URI),
            [types.TextDocumentContentChangePartial(types.Range(end, end), "self.")],
        )
    )
    return types.Position(LINE, end.character + len("self."))


def inline_params(
    position: types.Position, kind: types.InlineCompletionTriggerKind, uri: str = URI
) -> types.InlineCompletionParams:
    return types.InlineCompletionParams(
        context=types.InlineCompletionContext(trigger_kind=kind),
        text_document=types.TextDocumentIdentifier(uri),
        position=position,
    )


async def inline_items(
    client: LanguageClient, position: types.Position, kind: types.InlineCompletionTriggerKind
) -> list[types.InlineCompletionItem]:
    """Returns the server's answer to a request at the cursor."""
    answer = await client.text_document_inline_completion_async(inline_params(position, kind))
    assert isinstance(answer, list)
    return answer


async def test_inline_completion_in_the_clients_own_encoding(client: LanguageClient, editor: str):
    async with asyncio.timeout(SECONDS_MAX):
        position = await open_and_change(client, editor)
        items = await inline_items(client, position, AUTOMATIC)
    assert len(items) == 1
    assert isinstance(items[0].insert_text, str)
    assert items[0].insert_text.strip()
    assert items[0].range is not None
    assert items[0].range.start == position
    assert items[0].range.end.line == position.line


async def test_an_explicit_request_is_answered_with_distinct_texts(client: LanguageClient):
    async with asyncio.timeout(SECONDS_MAX):
        position = await open_and_change(client, "visual-studio-code")
        items = await inline_items(client, position, types.InlineCompletionTriggerKind.Invoked)
    texts = [item.insert_text for item in items]
    assert 1 <= len(texts) <= 3
    assert len(set(map(str, texts))) == len(texts)


async def test_completion_for_editors_without_inline_completion(
    client: LanguageClient, editor: str
):
    async with asyncio.timeout(SECONDS_MAX):
        position = await open_and_change(client, editor)
        # Waits for the engine; plain completion does not, as other servers' entries wait for it.
        await inline_items(client, position, AUTOMATIC)
        answer = await client.text_document_completion_async(
            types.CompletionParams(types.TextDocumentIdentifier(URI), position)
        )
    assert isinstance(answer, types.CompletionList)
    assert len(answer.items) == 1
    edit = answer.items[0].text_edit
    assert isinstance(edit, types.TextEdit)
    assert edit.new_text.strip()
    assert edit.range.start.line == edit.range.end.line == position.line


async def test_an_unknown_document_gets_nothing_and_the_server_lives_on(client: LanguageClient):
    async with asyncio.timeout(SECONDS_MAX):
        position = await open_and_change(client, "emacs@29")
        answer = await client.text_document_inline_completion_async(
            inline_params(position, AUTOMATIC, "file:///project/never-opened.py")
        )
        assert not answer
        items = await inline_items(client, position, AUTOMATIC)
    assert len(items) == 1
