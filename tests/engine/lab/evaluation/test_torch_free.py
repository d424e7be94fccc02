"""An evaluation is a client of the engine host: it does not pull torch into its own process."""

from __future__ import annotations

import subprocess
import sys


def test_evaluating_imports_no_torch() -> None:
    code = "import sys, dlm_lsp.cli.eval; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)


def test_reading_the_command_line_imports_neither_numpy_nor_matplotlib() -> None:
    code = "import sys, dlm_lsp.cli.main; sys.exit(bool({'numpy', 'matplotlib'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)
