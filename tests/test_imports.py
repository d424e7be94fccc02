"""Who may import whom, as ARCHITECTURE.md states it, read from the source of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path.relative_to(ROOT) for top in ("engine", "dlm_lsp") for path in (ROOT / top).rglob("*.py")
)
TORCH_FREE_ENGINE = (
    "engine.advice",
    "engine.api",
    "engine.config",
    "engine.device",
    "engine.errors",
    "engine.evaluation",
    "engine.forecast",
    "engine.prompt",
    "engine.secrets",
    "engine.training.options",
    "engine.steptimes",
    "engine.model.gguf_tokenizer",
    "engine.model.tokenizer",
    "engine.onnx.probe",
    "engine.onnx.runtime",
)

# (which modules, what they may not import, unless it is one of these)
RULES: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    ("engine/*", ("dlm_lsp",), ()),
    *(
        (f"dlm_lsp/{place.name}*", ("engine",), TORCH_FREE_ENGINE)
        for place in sorted((ROOT / "dlm_lsp").iterdir())
        if place.name != "host"
    ),
    ("dlm_lsp/*", ("torch",), ()),
    ("dlm_lsp/store/*", ("engine", "rich", "dlm_lsp"), ("dlm_lsp.store", "engine.onnx.probe")),
    (
        "engine/decoders/*",
        ("torch", "numpy", "engine.model", "engine.cache", "engine.kernels", "engine.engine"),
        (),
    ),
    ("engine/loop.py", ("torch", "numpy", "engine.model", "engine.cache"), ()),
    ("engine/sampling.py", ("torch", "engine.model"), ()),
    ("engine/reading.py", ("torch", "numpy", "engine"), ()),
    ("engine/runtime.py", ("torch",), ()),
    ("engine/measuring.py", ("torch", "engine.model"), ()),
    ("engine/kernels/*", ("engine", "dlm_lsp"), ("engine.kernels",)),
    ("engine/scheduler.py", ("torch", "engine.model"), ()),
    ("engine/step.py", ("torch", "engine"), ()),
    ("engine/cache/pages.py", ("torch", "numpy"), ()),
    ("engine/cache/arrays.py", ("torch", "engine.model"), ()),
    ("engine/onnx/*", ("torch", "engine.engine", "engine.decoders"), ()),
]
# What decides, and what runs it: none of these may need torch, nor pull it in.
DECIDING = (
    "engine.engine",
    "engine.loop",
    "engine.sampling",
    "engine.measuring",
    "engine.reading",
    "engine.runtime",
    "engine.device",
    "engine.scheduler",
    "engine.transcript",
    "engine.onnx.runtime",
    *(f"engine.decoders.{path.stem}" for path in (ROOT / "engine" / "decoders").glob("[!_]*.py")),
)
PYGLS_MODULES = ("dlm_lsp/lsp/*.py",)
# What downloads or measures, and who may: the process of `dlm-lsp model`, which no keystroke meets.
DOWNLOADING = (
    "huggingface_hub",
    *(f"dlm_lsp.store.{name}" for name in ("hub", "proposal", "pull", "transfer", "wheels")),
)
DOWNLOADERS = ("dlm_lsp/store/*.py", "dlm_lsp/cli/model.py")


def imports_of(path: Path) -> Iterator[str]:
    """Every module that the file names in an import, the ones inside functions too."""
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_follow_the_rules(path: Path) -> None:
    names = list(imports_of(path))
    for pattern, forbidden, allowed in RULES:
        if fnmatch(str(path), pattern):
            bad = [
                name
                for name in names
                if is_within(name, forbidden)
                and not is_within(name, allowed)
                and not any(entry.startswith(name + ".") for entry in allowed)
            ]
            assert not bad, f"{path} imports {bad}"
    if not any(fnmatch(str(path), pattern) for pattern in PYGLS_MODULES):
        assert not [name for name in names if is_within(name, ("pygls", "lsprotocol"))]
    if not any(fnmatch(str(path), pattern) for pattern in DOWNLOADERS):
        assert not [name for name in names if is_within(name, DOWNLOADING)]


def test_looking_into_the_store_imports_nothing_that_downloads() -> None:
    code = (
        "import sys, dlm_lsp.session.session, dlm_lsp.cli.doctor;"
        "import dlm_lsp.store.choice, dlm_lsp.store.told;"
        f"heavy = set({DOWNLOADING!r}) & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)


def test_the_rules_catch_what_they_forbid(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from engine.engine import Engine\n")
    names = list(imports_of(path))
    assert is_within(names[0], ("engine",))
    assert not is_within(names[0], TORCH_FREE_ENGINE)


@pytest.mark.parametrize(
    "module",
    [
        *TORCH_FREE_ENGINE,
        "engine.step",
        "engine.cache.pages",
        "engine.model.adapter_weights",
        "engine.model.source",
    ],
)
def test_torch_free_modules_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)


def test_what_decides_is_imported_without_torch() -> None:
    """On a machine where torch cannot be imported at all."""
    code = f"import sys; sys.modules['torch'] = None; import {', '.join(DECIDING)}"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_keep_no_state(path: Path) -> None:
    """Module level holds constants, types, functions and loggers; nothing mutable is rebound."""
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        assert not isinstance(node, ast.Global), f"{path}:{node.lineno} rebinds module state"
