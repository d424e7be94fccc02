"""The whole path of the CPU, from files to text, works without torch and transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DECODE = """
import sys
sys.modules["torch"] = None  # an import raises ImportError
sys.modules["transformers"] = None
from pathlib import Path
from engine.api import BlockOptions, Limits, Request
from engine.config import EngineSettings
from engine.engine import Engine
from engine.auto.step_times import TimesFile

kept, dtype = Path(sys.argv[1]), sys.argv[2]
settings = EngineSettings(device="cpu", dtype=dtype, threads=1, graphs=kept)
engine = Engine.load(settings, TimesFile(kept / "times.json", "nano", "test"))
infill = engine.tokenizer.infill
encode = engine.tokenizer.encode
prompt = infill.prompt((), encode("def add(first, second):\\n    return "), encode("\\n"))
for mode in ("ar", "block", "linear_spec", "copy_spec", "quadratic_spec", "pruned_spec"):
    for exact in {False, mode != "block"}:
        request = Request(
            prompt, mode, Limits(12), block=BlockOptions(8), exact=exact,
            stop_token_ids=(*infill.end_ids, *engine.end_ids),
        )
        print(mode, exact, engine.info.dtype, engine.generate(request).text.strip())
engine.close()
assert not [name for name in sys.modules if name.startswith(("torch.", "transformers."))]
"""


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_bundled_model_decodes_in_every_mode_without_torch(tmp_path: Path, dtype: str) -> None:
    command = [sys.executable, "-c", DECODE, str(tmp_path), dtype]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    lines = [line.split(maxsplit=3) for line in run.stdout.splitlines()]
    assert len(lines) == 11
    assert {line[2] for line in lines} == {dtype}
    assert len({tuple(line[3:]) for line in lines if line[1] == "True"}) == 1
    assert all(line[3:] for line in lines if line[1] == "True")


def test_loading_for_a_cpu_imports_no_torch_though_it_is_installed() -> None:
    code = (
        "import sys\n"
        "from engine.config import EngineSettings\n"
        "from engine.engine import Engine\n"
        "engine = Engine.load(EngineSettings(device='cpu'))\n"
        "engine.close()\n"
        "print(*sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "torch" not in run.stdout
    assert "transformers" not in run.stdout
