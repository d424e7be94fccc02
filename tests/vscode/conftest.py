"""One VS Code with the extension and the scripted server for each module."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.vscode.bridge import wait_for
from tests.vscode.editor import Editor
from tests.vscode.programs import EXTENSION, missing
from tests.vscode.stub import Stub

STUB_SERVER = Path(__file__).parent / "stub_server.py"
MACHINE_SETTINGS = {
    "dlm.server.path": sys.executable,
    "dlm.server.args": ["-I", "-S", str(STUB_SERVER)],
}
USER_SETTINGS = {"dlm.delay": 0}
PLACE = """
const { document, selection: { active } } = vscode.window.activeTextEditor;
return [active.line, active.character, document.lineAt(active).text.slice(0, active.character)];
"""


class Bench(Editor):
    """A VS Code in which the extension starts the scripted server, `stub`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(MACHINE_SETTINGS, {**USER_SETTINGS, **settings})
        self.stub = Stub(self.bridge)
        try:
            self.is_ready()
        except BaseException:
            self.close()
            raise

    def is_ready(self) -> None:
        """Waits until the extension talks with the server and is asked by the editor."""
        self.fresh()
        wait_for(self._is_asked, "the editor asks for suggestions", 60)

    def _is_asked(self) -> bool:
        # A window that has just opened may miss a key.
        self.type("x")
        with suppress(AssertionError):
            wait_for(self.stub.requests, "a request", 1)
        return bool(self.stub.requests())

    def fresh(self, text: str = "|", language: str = "", name: str = "", **settings: Any) -> None:
        """A new file, about which nothing was asked yet."""
        if self.stub.starts and not self.stub.is_up:
            self.command("dlm.restartServer")  # A test before this one has failed and left it so.
        self.stub.reset()
        super().fresh(text, language, name, **settings)
        self.stub.asked(method="textDocument/didOpen")
        self.stub.reset()

    def begin(self, text: str = "|", typed: str = "x", **options: Any) -> dict[str, Any]:
        """Types in a new file; returns the request for a suggestion that follows."""
        self.fresh(text, **options)
        return self.asked_after(typed)

    def asked_after(self, typed: str) -> dict[str, Any]:
        """Types; returns the request for a suggestion behind it."""
        count = len(self.stub.requests())
        self.type(typed)

        def found() -> dict[str, Any] | None:
            made = self.stub.requests()[count:]
            line, character, before = self.driver.run(PLACE)
            is_here = before.endswith(typed) and made
            place = {"line": line, "character": character}
            return made[-1] if is_here and made[-1]["params"]["position"] == place else None

        try:
            return wait_for(found, f"a request after {typed}")
        except AssertionError as error:
            made = [one["params"]["position"] for one in self.stub.requests()[count:]]
            raise AssertionError(f"{error}: {self.driver.run(PLACE)}, asked at {made}") from None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tries a test in the real editor again: on a busy machine a browser loses a key now and then,
    of which the extension never hears."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.flaky(reruns=2))


@pytest.fixture(scope="session")
def vscode() -> None:
    """Skips where there is no VS Code to test in, unless it is required."""
    reason = missing()
    if reason is None and not (EXTENSION / "dist" / "extension.js").is_file():
        reason = "The extension was not built: run 'make vsix'."
    if reason is not None:
        if os.environ.get("CI") or os.environ.get("DLM_REQUIRE_VSCODE"):
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def bench_with(**settings: Any) -> Iterator[Bench]:
    made = Bench(**settings)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def bench(vscode: None) -> Iterator[Bench]:
    with bench_with() as made:
        yield made
