"""Texts of other open documents reach the engine where they may, over a real server process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dlm_lsp.lsp_client import INLINE, INVOKED, LspClient
from tests.dlm_lsp.scripted_host import ScriptedHost

TAX = "RATES = {}\n\n\ndef tax_of(price, country):\n    return price * RATES[country]\n"
USE = "from prices.tax import tax_of\n\n\ndef total(price):\n    return price + tax_of("


async def asked(
    editor: LspClient, scripted: ScriptedHost, folder: Path, name: str = "tax.py", **dlm: Any
) -> list[str]:
    """The names of related files in a request by hand, with a second document of this name."""
    await editor.initialize({"engine": {"url": scripted.url}, **dlm}, INLINE)
    editor.open((folder / name).as_uri(), TAX)
    editor.open((folder / "app.py").as_uri(), USE)
    scripted.script = ["price, country)"] * 3
    await editor.inline((folder / "app.py").as_uri(), 4, 26, INVOKED)
    assert scripted.bodies
    return [file.name for file in scripted.bodies[0].related]


async def test_another_open_document_is_part_of_the_question(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path
) -> None:
    assert await asked(editor, scripted, tmp_path) == ["tax.py"]
    (first, *_) = scripted.bodies
    assert "def tax_of" in first.related[0].text
    assert (first.repository, first.name) == (tmp_path.name, "app.py")


@pytest.mark.parametrize("name", [".env", "secrets.yaml", "id_rsa"])
async def test_a_secret_document_never_is(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path, name: str
) -> None:
    assert await asked(editor, scripted, tmp_path, name) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".gitignore", "tax.py\n"),
        (".dlmignore", "t*\n"),
        ("dlm-lsp.toml", '[silence]\nglobs = ["tax.py"]\n'),
        ("dlm-lsp.toml", "[context]\nrelatedTokens = 0\n"),
    ],
)
async def test_an_excluded_document_never_is(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path, file: str, text: str
) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / file).write_text(text)
    assert await asked(editor, scripted, tmp_path) == []


async def test_a_document_that_is_switched_off_or_closed_never_is(
    editor: LspClient, scripted: ScriptedHost, tmp_path: Path
) -> None:
    assert await asked(editor, scripted, tmp_path) == ["tax.py"]
    other, here = (tmp_path / "tax.py").as_uri(), (tmp_path / "app.py").as_uri()
    off = {"command": "dlm.toggle", "arguments": [{"uri": other, "on": False}]}
    await editor.request("workspace/executeCommand", off)
    scripted.script = ["price)"] * 3
    await editor.inline(here, 4, 26, INVOKED)
    assert scripted.bodies[-1].related == ()
    on = {"command": "dlm.toggle", "arguments": [{"uri": other, "on": True}]}
    await editor.request("workspace/executeCommand", on)
    editor.notify("textDocument/didClose", {"textDocument": {"uri": other}})
    scripted.script = ["price)"] * 3
    await editor.inline(here, 4, 26, INVOKED)
    assert scripted.bodies[-1].related == ()


async def test_two_buffers_without_names_stay_apart(
    editor: LspClient, scripted: ScriptedHost
) -> None:
    """Neovim calls both of them `file://`, so that one could be the other."""
    await editor.initialize({"engine": {"url": scripted.url}}, INLINE)
    editor.open("file://", TAX)
    editor.open("file:///w/app.py", USE)
    scripted.script = ["price)"] * 3
    await editor.inline("file:///w/app.py", 4, 26, INVOKED)
    assert scripted.bodies[0].related == ()
