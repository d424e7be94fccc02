"""A real VS Code in a real browser; a test drives it by keys and reads its screen.

Owns how the editor is prepared between tests and how its page is read. Knows nothing of what the
extension should do.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.vscode.bridge import Bridge, Driver, wait_for
from tests.vscode.programs import CodeServer, browser_options

PAGE = (Path(__file__).parent / "page.js").read_text()
SIZE = {"width": 1000, "height": 560}
STATUS = '[id="dlm-lsp.dlm.dlm.status"]'

CLOSE_ALL = """
for (const document of vscode.workspace.textDocuments) {
  if (document.isDirty && !document.isUntitled) await document.save();
}
await vscode.commands.executeCommand('workbench.action.closeAllEditors');
await vscode.commands.executeCommand('notifications.clearAll');
"""
OPEN = """
const [path, language, line, character] = values;
let document = await vscode.workspace.openTextDocument(vscode.Uri.file(path));
if (language && document.languageId !== language) {
  document = await vscode.languages.setTextDocumentLanguage(document, language);
}
const editor = await vscode.window.showTextDocument(document);
editor.selection = new vscode.Selection(line, character, line, character);
"""
CHANGE_SETTINGS = """
const [changes, target] = values;
for (const [name, value] of Object.entries(changes)) {
  await vscode.workspace.getConfiguration().update(name, value ?? undefined, target);
}
"""
WRITE = """
const [path, text] = values;
await vscode.workspace.fs.writeFile(vscode.Uri.file(path), new TextEncoder().encode(text));
"""
TEXT = "return vscode.window.activeTextEditor?.document.getText() ?? null"
CURSOR = """
const { active } = vscode.window.activeTextEditor.selection;
return [active.line, active.character];
"""


@dataclass(frozen=True, slots=True)
class Frame:
    """What was visible from a moment on: the editor's ghost text and the extension's draft.

    Attributes:
        at: milliseconds of the page's clock.
        number: of the frame, counted from the beginning of the recording.
    """

    ghost: str
    draft: str
    at: float
    number: int

    @property
    def is_blank(self) -> bool:
        return not self.ghost and not self.draft


class Editor:
    """One VS Code with the extension; `fresh` gives each test its own file.

    Args:
        machine_settings: names the server's program, among others.
        user_settings: of every test, which `fresh` may add to.
    """

    def __init__(
        self,
        machine_settings: Mapping[str, Any],
        user_settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # Not pytest's folder: the path of a socket must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="dlm-code-")).resolve()
        self.workspace = self.folder / "work"
        self.workspace.mkdir()
        self._ends: list[Callable[[], Any]] = [lambda: shutil.rmtree(self.folder, True)]
        self._number = 0
        self._changed: set[str] = set()
        try:
            self.bridge = Bridge(self.folder / "socket")
            self._ends.append(self.bridge.close)
            self.driver = Driver(self.bridge)
            self.server = CodeServer(
                self.folder,
                machine_settings,
                user_settings or {},
                {**(environment or {}), "DLM_TEST_SOCKET": str(self.bridge.path)},
            )
            self._ends.append(self.server.close)
            playwright = sync_playwright().start()
            self._ends.append(playwright.stop)
            self._browser = playwright.chromium.launch(**browser_options(self.folder))
            self._ends.append(self._browser.close)
            self.page = self._new_page()
            self.load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the browser, the editor and all that they have started."""
        for end in reversed(self._ends):
            try:
                end()
            except Exception as error:  # The others are still to be ended.
                print(f"ending the editor: {error}")
        self._ends = []

    def _new_page(self) -> Page:
        page = self._browser.new_context(viewport=SIZE).new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(PAGE)
        return page

    def load(self) -> None:
        """Loads the window anew: a fresh extension host, whose extensions start again."""
        self.driver.forget()
        self.page.goto("about:blank")
        query = urllib.parse.urlencode({"folder": str(self.workspace)})
        self.page.goto(f"{self.server.url}/?{query}", wait_until="domcontentloaded")
        self.page.wait_for_selector(".monaco-workbench")
        wait_for(lambda: self.driver.is_connected, "the extension host runs", 60)

    # What the user does.

    def fresh(self, text: str = "|", language: str = "", name: str = "", **settings: Any) -> None:
        """Opens a new file, whose cursor stands where the text has a |, or at the end without one.

        Args:
            name: of the file, which gets a folder of its own.
            settings: names with __ for dots, for this test alone.
        """
        self.driver.run(CLOSE_ALL)
        changes: dict[str, Any] = dict.fromkeys(self._changed)
        changes |= {key.replace("__", "."): value for key, value in settings.items()}
        self._changed = {key.replace("__", ".") for key in settings}
        if changes:
            self.settings(changes)
        self._number += 1
        self.open(f"{self._number}/{name}" if name else f"file{self._number}.py", text, language)

    def open(self, name: str, text: str, language: str = "") -> Path:
        """Writes a file and opens it with the cursor at the |."""
        before = text.partition("|")[0] if "|" in text else text
        lines = before.replace("\r\n", "\n").split("\n")
        file = self.workspace / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.replace("|", "", 1).encode())
        character = len(lines[-1].encode("utf-16-le")) // 2
        self.driver.run(OPEN, str(file), language, len(lines) - 1, character)
        self.page.wait_for_selector(f'.tab.active[data-resource-name="{file.name}"]')
        self.page.wait_for_selector(".editor-instance .monaco-editor.focused")
        return file

    def settings(self, changes: Mapping[str, Any]) -> None:
        """Changes the user's settings; None takes one away."""
        self.driver.run(CHANGE_SETTINGS, dict(changes), 1)

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Writes the settings of the workspace as a text, whatever they are."""
        file = self.workspace / ".vscode" / "settings.json"
        self.driver.run(WRITE, str(file), json.dumps(settings))

    def press(self, *keys: str) -> None:
        """Presses keys by their names, such as `Tab` and `Control+ArrowRight`."""
        for key in keys:
            self.page.keyboard.press(key)

    def type(self, text: str) -> None:
        """Types, one key after another."""
        self.page.keyboard.type(text)

    def command(self, name: str, *values: Any) -> Any:
        """Runs a command of VS Code, as a key or a menu would."""
        code = "return await vscode.commands.executeCommand(values[0], ...values[1])"
        return self.driver.run(code, name, list(values))

    def start(self, name: str, *values: Any) -> None:
        """Runs a command without waiting for its end."""
        self.driver.run(
            "vscode.commands.executeCommand(values[0], ...values[1]).then(() => {}, () => {})",
            name,
            list(values),
        )

    # What the editor holds.

    def text(self) -> str:
        return self.driver.run(TEXT)

    def cursor(self) -> tuple[int, int]:
        line, character = self.driver.run(CURSOR)
        return line, character

    def has_text(self, text: str) -> None:
        """Waits until the document is this text."""
        self._becomes(self.text, text, 10.0)

    @staticmethod
    def _becomes(read: Callable[[], str], text: str, seconds: float) -> None:
        with contextlib.suppress(AssertionError):
            wait_for(lambda: read() == text, "", seconds)
        found = read()
        assert found == text, f"{found!r} stands there, not {text!r}"

    # What the screen shows.

    def call(self, function: str, *values: Any) -> Any:
        """Calls a function of page.js."""
        listed = ", ".join(json.dumps(value) for value in values)
        return self.page.evaluate(f"dlmPage.{function}({listed})")

    def ghost(self) -> str:
        """The editor's own ghost text."""
        return self.call("ghost")

    def draft(self) -> str:
        """What the extension draws itself beside the text."""
        return self.call("draft")

    def shows_ghost(self, text: str, seconds: float = 20.0) -> None:
        """Waits until the ghost text is this."""
        self._becomes(self.ghost, text, seconds)

    def shows_draft(self, text: str, seconds: float = 20.0) -> None:
        """Waits until the draft that is drawn is this."""
        self._becomes(self.draft, text, seconds)

    def settle(self) -> None:
        """Lets what is on its way arrive: at the editor, in its windows, and on the screen."""
        for _ in range(3):
            self.driver.run("await new Promise((resolve) => setTimeout(resolve, 30))")
            self.page.evaluate(
                "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))"
            )

    def record(self) -> None:
        """Begins to note what is visible in each frame."""
        self.call("record")

    def recorded(self) -> list[Frame]:
        """Ends the recording; returns its frames, of which each differs from the one before."""
        return [Frame(**frame) for frame in self.call("stop")["frames"]]

    def texts(self, selector: str) -> list[str]:
        """The texts of the visible elements that a CSS selector finds."""
        return self.call("texts", selector)

    def status(self) -> tuple[str, str]:
        """The extension's item in the status bar: its text, and what a screen reader says of it."""
        found = self.page.query_selector(f"{STATUS} .statusbar-item-label")
        if found is None:
            return "", ""
        return found.inner_text().strip(), found.get_attribute("aria-label") or ""

    def notifications(self) -> list[str]:
        return self.texts(".notifications-toasts .notification-list-item-message")

    def notified(self, part: str, seconds: float = 20.0) -> str:
        """Waits for a notification with this text; returns all of it.

        VS Code shows three in 800 ms at most; others are in its list of notifications alone.
        """
        seen: set[str] = set()
        listed_from = time.monotonic() + 1.0

        def found() -> str | None:
            seen.update(self.notifications())
            if time.monotonic() > listed_from:
                seen.update(self._listed_notifications())
            return next((one for one in seen if part in one), None)

        try:
            return wait_for(found, f"a notification with {part}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; there were {seen}") from None

    def _listed_notifications(self) -> list[str]:
        self.command("notifications.showList")
        try:
            return self.texts(".notifications-center .notification-list-item-message")
        finally:
            self.command("notifications.hideList")

    def choices(self) -> list[str]:
        """The entries of the list that is open."""
        return self.texts(".quick-input-widget .monaco-list-row .label-name")

    def choose(self, part: str) -> None:
        """Takes the entry with this text from the list that opens."""
        selector = f'.quick-input-widget .monaco-list-row:has-text("{part}")'
        self.page.click(selector)

    def screenshot(self, path: Path) -> None:
        self.page.screenshot(path=str(path))

    def sleep(self, seconds: float) -> None:
        """Only for what should not happen."""
        time.sleep(seconds)
