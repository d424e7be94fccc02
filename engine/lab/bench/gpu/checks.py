"""The tests that only a card can answer, run in a process of their own within a limit of time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_OUTCOME = re.compile(r"^(\S+::.*?) (PASSED|FAILED|ERROR)\b", re.M)
_ROOT = Path(__file__).parents[4]


def run_checks(tests: Sequence[str], device: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Runs tests on a device; one entry with what passed and what failed by then.

    Args:
        tests: files and folders, from the repository's root.
    """
    # Compiled kernels are what is to be checked on a card; elsewhere they are interpreted.
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-vv", "-m", "not slow"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            [*command, *tests],
            env=clean | {"DLM_TEST_DEVICE": device},
            cwd=_ROOT,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        text = said.read()
    outcomes = _OUTCOME.findall(text)
    failures = [name for name, outcome in outcomes if outcome != "PASSED"]
    passed = len(outcomes) - len(failures)
    if status not in (None, 0) and not failures:  # pytest is not installed, for one
        failures.append(f"pytest ended with {status}: {' '.join(text.split()[-40:])}")
    yield {
        "passed": passed,
        "failed": len(failures),
        "failures": failures,
        "is_whole": status is not None,
    }
