"""`dlm-lsp complete --related`: what of other files reaches the engine, with a scripted host."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dlm_lsp.cli.main import main
from tests.dlm_lsp.scripted_host import ScriptedHost

TAX = "RATES = {}\n\n\ndef tax_of(price, country):\n    return price * RATES[country]\n"
USE = "from tax import tax_of\n\n\ndef total(price):\n    return price + tax_of(\n"


async def complete(scripted: ScriptedHost, folder: Path, *related: str) -> int:
    (folder / "app.py").write_text(USE)
    (folder / "tax.py").write_text(TAX)
    (folder / ".env").write_text("KEY=1\n")
    scripted.script = ["price, country)"]
    words = ["complete", "--url", scripted.url, str(folder / "app.py:5:27")]
    for name in related:
        words += ["--related", str(folder / name)]
    return await asyncio.to_thread(main, words)


async def test_what_may_help_of_a_named_file_is_part_of_the_question(
    scripted: ScriptedHost, tmp_path: Path
) -> None:
    assert await complete(scripted, tmp_path, "tax.py") == 0
    (body,) = scripted.bodies
    assert [file.name for file in body.related] == ["tax.py"]
    assert "def tax_of(price, country):" in body.related[0].text
    assert await complete(scripted, tmp_path) == 0
    assert scripted.bodies[-1].related == ()


@pytest.mark.parametrize(
    ("name", "reason"), [(".env", "secrets"), ("none.py", "none.py"), (".", "folder")]
)
async def test_a_file_that_must_not_or_cannot_be_read_is_named(
    scripted: ScriptedHost,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    reason: str,
) -> None:
    assert await complete(scripted, tmp_path, name) == 2
    assert not scripted.bodies
    assert reason in capsys.readouterr().err
