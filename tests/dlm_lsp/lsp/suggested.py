"""Short questions of the tests of the language server."""

from __future__ import annotations

from typing import Any

from tests.dlm_lsp.lsp_client import INVOKED, TEXT, LspClient


async def is_suggested(editor: LspClient, uri: str, language: str = "python") -> bool:
    """Opens a document and tells whether something is suggested in it, asked in both ways."""
    editor.open(uri, TEXT, language=language)
    automatic = await editor.inline(uri, 1, 11)
    invoked = await editor.inline(uri, 1, 11, INVOKED)
    assert bool(automatic) == bool(invoked)
    editor.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
    return bool(automatic)


async def run(editor: LspClient, command: str, **fields: Any) -> Any:
    """Runs a command with one object as its argument."""
    return await editor.request(
        "workspace/executeCommand", {"command": command, "arguments": [fields]}
    )
