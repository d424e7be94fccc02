"""What a program that nobody has read can do: end well, and nothing else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.lab.evaluation import sandbox
from engine.lab.evaluation.sandbox import (
    ENDED,
    PASSED,
    TIMEOUT,
    Bounds,
    check_isolation,
    run_program,
)

SHORT = Bounds(seconds=1.0, memory_bytes=256 << 20)


@pytest.fixture(scope="module", autouse=True)
def isolation() -> None:
    """Skips by name where the kernel gives no namespaces; CI's gives them."""
    try:
        check_isolation()
    except ConfigError as error:
        pytest.skip(str(error))


def test_a_program_passes_only_by_reaching_its_end() -> None:
    assert run_program("def f(x):\n    return x\nassert f(1) == 1").reason == PASSED
    assert run_program("assert False").reason == "AssertionError"
    assert run_program("def f(:").reason == "SyntaxError"
    assert run_program("import numpy").reason == "ModuleNotFoundError"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(0)", ENDED),
        ("import os; os.kill(os.getpid(), 9)", ENDED),
        ("print('passed')\nimport os\nos.write(4, b'passed')\nos._exit(0)", ENDED),
        ("import os\nos.close(4)", ENDED),
    ],
)
def test_ending_early_is_no_pass(program: str, reason: str) -> None:
    assert run_program(program).reason == reason


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal, time\nfor n in range(1, 65):\n try: signal.signal(n, signal.SIG_IGN)\n"
        " except (OSError, ValueError): pass\nwhile True: pass",
        "while True: print('x' * 10_000)",
        "import os\nwhile True: os.write(4, b'x' * 10_000)",
        "import os\nos.setsid()\nif os.fork(): os._exit(0)\nwhile True: pass",
    ],
    ids=["loop", "sleep", "deaf", "printing", "answering", "daemon"],
)
def test_what_never_ends_is_ended(program: str) -> None:
    began = time.monotonic()
    assert run_program(program, SHORT).reason in (TIMEOUT, ENDED)
    assert time.monotonic() - began < 20  # not a measurement: it would have lasted for ever


def test_a_loop_is_told_from_an_early_end() -> None:
    assert run_program("while True: pass", SHORT).reason == TIMEOUT
    assert run_program("import time; time.sleep(60)", SHORT).reason == TIMEOUT


def test_memory_is_bounded() -> None:
    assert run_program("x = bytearray(300 << 20)", SHORT).reason == "MemoryError"
    for name in ("shmget", "memfd_create"):
        # shared memory that no limit of a process bounds
        arguments = {"shmget": "0, 1 << 20, 0o1600", "memfd_create": "b'x', 0"}[name]
        program = (
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            f"assert libc.{name}({arguments}) == -1\nassert ctypes.get_errno() == 1"
        )
        assert run_program(program, SHORT).reason == PASSED


def test_a_fork_bomb_stays_small() -> None:
    program = (
        "import os\ncount = 0\ntry:\n while True:\n  if os.fork() == 0:\n"
        "   import time; time.sleep(60)\n  count += 1\n"
        "except OSError:\n assert count <= 8, count"
    )
    assert run_program(program, SHORT).reason == PASSED
    bomb = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
    assert not run_program(bomb, SHORT).passed
    assert run_program("x = 1").reason == PASSED  # nothing of the bomb is left to hinder


def test_files_outside_cannot_be_read_or_written(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    home = str(Path.home() / ".profile")
    for path in (str(secret), home, __file__, "/etc/passwd", "/proc/self/environ", "/home"):
        program = f"import os\nassert not os.path.exists({path!r})\nopen({path!r})"
        assert run_program(program).reason in ("FileNotFoundError", "PermissionError"), path
    for path in ("/x", "/tmp/../x", "/program.py", os.__file__, sys.executable, "/dev/x"):
        assert run_program(f"open({path!r}, 'w')").reason in (
            "OSError",
            "PermissionError",
            "FileNotFoundError",
        ), path
    assert secret.read_text() == "mine"
    assert run_program("open('mine', 'w').write('x')\nassert open('mine').read()").passed


def test_writing_is_bounded() -> None:
    program = "for n in range(9):\n with open(str(n), 'wb') as f: f.write(bytes(4 << 20))"
    assert run_program(program).reason == "OSError"


def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"
        assert run_program(program).reason in ("OSError", "TimeoutError")
        name = "\0dlm-eval-test"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
            listener.listen()
            program = f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})"
            assert run_program(program).reason == "ConnectionRefusedError"


def test_other_processes_are_out_of_reach() -> None:
    for pid in (os.getpid(), os.getppid(), -1):
        program = f"import os\nos.kill({pid}, 9)"
        outcome = run_program(program).reason
        # -1 means everybody who may be reached: nobody but the program itself, which is spared.
        assert outcome in ("ProcessLookupError", "PermissionError", PASSED), pid
    assert run_program("import os\nos.kill(os.getppid(), 9)\nos.kill(1, 9)").reason in (
        "PermissionError",
        PASSED,
    )


def test_rights_cannot_be_had_back() -> None:
    for call in ("os.setuid(0)", "os.chroot('/tmp')", "os.mknod('x', 0o20666, 0x105)"):
        assert run_program(f"import os\n{call}").reason in ("PermissionError", "OSError"), call
    for call in ("unshare(0x10000000)", "mount(b'a', b'/tmp', b'tmpfs', 0, 0)", "setns(0, 0)"):
        program = (
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            f"assert libc.{call} == -1\nassert ctypes.get_errno() == 1"
        )
        assert run_program(program).reason == PASSED, call


def test_nothing_of_the_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_SECRET", "mine")
    assert run_program("import os\nassert 'DLM_SECRET' not in os.environ").passed


def test_no_folder_and_no_process_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    run_program("x = 1")
    run_program("while True: pass", SHORT)
    assert not list(tmp_path.iterdir())


def test_the_program_ends_with_whoever_runs_it() -> None:
    """Killed outright, the supervisor leaves nothing behind."""
    code = (
        "from engine.lab.evaluation.sandbox import run_program, Bounds\n"
        "print('started', flush=True)\n"
        "run_program('import time; time.sleep(3600)', Bounds(seconds=3600))"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    supervisor.stdout.readline()
    found: list[int] = []
    give_up = time.monotonic() + 20
    while len(found) < 3 and time.monotonic() < give_up:  # script, process 1, program
        found = _descendants(supervisor.pid)
        time.sleep(0.05)
    assert len(found) >= 3
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    supervisor.stdout.close()
    while any(_is_running(pid) for pid in found) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not [pid for pid in found if _is_running(pid)]


def test_programs_run_side_by_side() -> None:
    reasons: list[str] = []
    threads = [
        threading.Thread(target=lambda: reasons.append(run_program("x = 1").reason))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reasons == [PASSED] * 3


def test_without_isolation_the_bounds_still_hold() -> None:
    assert run_program("assert 1", is_isolated=False).reason == PASSED
    assert run_program("while True: pass", SHORT, is_isolated=False).reason == TIMEOUT
    assert run_program("bytearray(300 << 20)", SHORT, is_isolated=False).reason == "MemoryError"


def test_where_isolation_is_not_to_be_had_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "child.py"
    text = sandbox._CHILD.read_text()
    # As a kernel would that gives no namespaces: the flags are of no possible combination.
    broken.write_text(text.replace("NEW_NAMESPACES = ", "NEW_NAMESPACES = 1 | "))
    monkeypatch.setattr(sandbox, "_CHILD", broken)
    with pytest.raises(ConfigError, match=r"isolation here: .*unshare.*--execute never"):
        check_isolation()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            found += [child, *_descendants(child)]
    return found


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
