"""What the editor of a campaign says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.dlm_lsp.campaign.wires import Message


def initialize_params(
    folder: Path, encoding: str, client: Any, is_popup: bool, pulls_settings: bool
) -> Message:
    """The parameters of `initialize`, without settings.

    Args:
        client: its name and version, or None.
        is_popup: whether it shows suggestions in its popup menu.
        pulls_settings: whether the server may ask it for its settings.
    """
    workspace = {
        "configuration": pulls_settings,
        "applyEdit": True,
        "workspaceEdit": {"documentChanges": True},
        "didChangeConfiguration": {"dynamicRegistration": True},
        "didChangeWatchedFiles": {"dynamicRegistration": True},
    }
    return {
        "processId": None,
        "rootUri": None,
        "clientInfo": client,
        "workspaceFolders": [{"uri": folder.as_uri(), "name": "all"}],
        "capabilities": {
            "general": {"positionEncodings": [encoding]},
            "workspace": workspace,
            "textDocument": {} if is_popup else {"inlineCompletion": {}},
            "window": {"workDoneProgress": True},
        },
    }
