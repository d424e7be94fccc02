"""Fixtures that several parts share."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiny import write_tiny_checkpoint

# Before torch is imported: its threads wait for each other, which takes many times as long as one
# thread alone where anything else keeps the machine busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before triton is imported: its kernels are interpreted, unless the tests run on a card.
if os.environ.get("DLM_TEST_DEVICE", "cpu") == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Tests that are started in the background may ignore Ctrl-C. The processes that they start would
# inherit that, and some of those are to be interrupted.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No example fails for having taken long: on a shared machine any may.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def own_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty model store, also for processes that tests start: no test meets a model that the
    developer has pulled, asks a hub or an index elsewhere, or leaves anything behind."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_LSP_MODELS", str(folder))
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.delenv("DLM_LSP_CATALOGUE", raising=False)
        yield folder


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command that sets up logging does so for its own test: the stream is closed after it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.setLevel(level)
    root.handlers[:] = [each for each in root.handlers if each in handlers]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder that a real engine can load."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def real_model() -> Path:
    """A GGUF file of Qwen2.5-Coder, which is too large for the repository: DLM_TEST_GGUF names it.

    Without that variable the tests that ask are skipped; one that names no file is a mistake.
    """
    named = os.environ.get("DLM_TEST_GGUF")
    if not named:
        pytest.skip("no real model: DLM_TEST_GGUF names none (`make test` pulls one)")
    assert Path(named).is_file(), f"DLM_TEST_GGUF names {named}, which is no file"
    return Path(named)


@pytest.fixture
def private_runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory of the test's own, also for processes it starts: hosts found there are
    the test's alone, and are asked to end after it. Short, as a socket's path must be."""
    folder = Path(tempfile.mkdtemp(prefix="dlm-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.delenv("DLM_LSP_TOKEN", raising=False)
    yield folder
    for path in folder.glob("dlm-lsp/*.sock"):
        _shut_down(path)
    shutil.rmtree(folder)


def _shut_down(path: Path) -> None:
    request = b"POST /v1/shutdown HTTP/1.1\r\nHost: host\r\nConnection: close\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(str(path))
            connection.sendall(request)
            while connection.recv(4096):
                pass
        except OSError:
            pass  # a stale socket, left by a host that was killed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Captured text may hold file names that are no UTF-8, which a worker process cannot send."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report
