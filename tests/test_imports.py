"""Who may import whom, as ARCHITECTURE.md states it, read from the source of every module.

Every rule is tried twice: on the modules that are here, and on one breach for each name that it
forbids, which it has to catch.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("engine", "dlm_lsp")
TORCH_FREE_ENGINE = (
    "engine.api",
    "engine.auto.mode_selection",
    "engine.auto.step_times",
    "engine.config",
    "engine.device",
    "engine.errors",
    "engine.lab.bench.conditions",
    "engine.lab.bench.sections",
    "engine.lab.bench.llamacpp",
    "engine.lab.evaluation",
    "engine.lab.tables",
    "engine.lab.training.options",
    "engine.model.gguf_tokenizer",
    "engine.model.onnx.probe",
    "engine.model.onnx.runtime",
    "engine.model.tokenizer",
    "engine.prompt",
    "engine.secrets",
)
# What downloads or measures; only the process of `dlm-lsp model` imports it, and no keystroke does.
DOWNLOADING = (
    "huggingface_hub",
    *(f"dlm_lsp.store.{name}" for name in ("hub", "proposal", "pull", "transfer", "wheels")),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """What modules may not import.

    Attributes:
        who: packages and modules that the rule holds for.
        never: packages and modules that they may not import.
        allowed: what of these they may import nevertheless.
        but: packages and modules that the rule does not hold for.
    """

    who: tuple[str, ...]
    never: tuple[str, ...]
    allowed: tuple[str, ...] = ()
    but: tuple[str, ...] = ()

    def holds_for(self, module: str) -> bool:
        return is_within(module, self.who) and not is_within(module, self.but)

    def breaches(self, imports: Mapping[str, Collection[str]]) -> list[str]:
        """One line for each import that breaks the rule.

        Args:
            imports: the names that each module imports.
        """
        return [
            f"{module} imports {name}"
            for module, names in imports.items()
            if self.holds_for(module)
            for name in names
            if is_within(name, self.never)
            and not is_within(name, self.allowed)
            # `from engine import api` imports `engine` as well as `engine.api`
            and not any(entry.startswith(name + ".") for entry in self.allowed)
        ]


LAB_USERS = ("dlm_lsp.cli", "dlm_lsp.evaluation")
PYGLS_USERS = ("dlm_lsp.lsp",)
RULES = {
    "the engine knows nobody who asks it": Rule(("engine",), ("dlm_lsp",)),
    "what serves does not know the lab": Rule(("engine",), ("engine.lab",), but=("engine.lab",)),
    "the server does not know the lab": Rule(("dlm_lsp",), ("engine.lab",), but=LAB_USERS),
    "only the host holds an engine": Rule(
        ("dlm_lsp",),
        ("engine",),
        (*TORCH_FREE_ENGINE, "engine.lab.verify"),
        but=("dlm_lsp.host",),
    ),
    "dlm_lsp has no torch": Rule(("dlm_lsp",), ("torch",)),
    "only the LSP side knows pygls": Rule(PACKAGES, ("pygls", "lsprotocol"), but=PYGLS_USERS),
    "only `dlm-lsp model` downloads": Rule(
        PACKAGES, DOWNLOADING, but=("dlm_lsp.store", "dlm_lsp.cli.model")
    ),
    "the store stands alone": Rule(
        ("dlm_lsp.store",),
        ("engine", "rich", "dlm_lsp"),
        ("dlm_lsp.store", "engine.model.onnx.probe"),
    ),
    "postprocess is about text alone": Rule(
        ("dlm_lsp.postprocess",), PACKAGES, ("dlm_lsp.postprocess",)
    ),
    "a session knows no LSP": Rule(
        ("dlm_lsp.session",), ("dlm_lsp.lsp", "dlm_lsp.cli", "dlm_lsp.host", "dlm_lsp.evaluation")
    ),
    "statistics are figures alone": Rule(
        ("dlm_lsp.statistics",), PACKAGES, ("dlm_lsp.statistics",)
    ),
    "the client knows no session": Rule(
        ("dlm_lsp.client", "dlm_lsp.settings"),
        ("dlm_lsp.session", "dlm_lsp.lsp", "dlm_lsp.cli", "dlm_lsp.host", "dlm_lsp.evaluation"),
    ),
    "the host knows no editor": Rule(
        ("dlm_lsp.host",),
        ("dlm_lsp.session", "dlm_lsp.lsp", "dlm_lsp.cli", "dlm_lsp.postprocess"),
    ),
    "strategies decide and do not compute": Rule(
        ("engine.decoders",), ("torch", "numpy", "engine.model", "engine.cache", "engine.engine")
    ),
    "the loop computes nothing": Rule(
        ("engine.loop",), ("torch", "numpy", "engine.model", "engine.cache")
    ),
    "sampling has no torch": Rule(("engine.sampling",), ("torch", "engine.model")),
    "a reading is plain": Rule(("engine.reading",), ("torch", "numpy", "engine")),
    "a runtime is a contract": Rule(("engine.runtime",), ("torch",)),
    "choosing a mode needs no model": Rule(
        ("engine.auto",), ("torch", "engine.model", "engine.cache", "engine.decoders")
    ),
    "the scheduler computes nothing": Rule(("engine.scheduler",), ("torch", "engine.model")),
    "a step is plain": Rule(("engine.step",), ("torch", "engine")),
    "pages are plain": Rule(("engine.cache.pages",), ("torch", "numpy")),
    "the CPU's cache has no torch": Rule(("engine.cache.arrays",), ("torch", "engine.model")),
    "the graph has no torch": Rule(
        ("engine.model.onnx",), ("torch", "engine.engine", "engine.decoders", "engine.kernels")
    ),
    "a kernel knows tensors alone": Rule(
        ("engine.kernels",), ("engine", "dlm_lsp", "numpy"), ("engine.kernels",)
    ),
    "only what computes in torch knows kernels": Rule(
        PACKAGES, ("engine.kernels",), but=("engine.kernels", "engine.model", "engine.lab.bench")
    ),
    "only kernels know Triton": Rule(
        PACKAGES, ("triton",), but=("engine.kernels", "engine.lab.bench.kernels_compiled")
    ),
    "data is the lab's common ground": Rule(
        ("engine.lab.data",),
        tuple(f"engine.lab.{room}" for room in ("training", "evaluation", "verify", "bench")),
    ),
    "whoever judges does not train": Rule(
        ("engine.lab.evaluation", "engine.lab.verify"),
        ("engine.lab.training", "engine.lab.bench"),
    ),
    "training does not know the benchmarks": Rule(("engine.lab.training",), ("engine.lab.bench",)),
    "benchmarks do not train": Rule(("engine.lab.bench",), ("engine.lab.training",)),
}
# What decides, and what runs it: none of these may need torch, nor pull it in.
DECIDING = (
    "engine.engine",
    "engine.loop",
    "engine.sampling",
    "engine.auto.measuring",
    "engine.reading",
    "engine.runtime",
    "engine.device",
    "engine.scheduler",
    "engine.transcript",
    "engine.model.onnx.runtime",
    *(f"engine.decoders.{path.stem}" for path in (ROOT / "engine" / "decoders").glob("[!_]*.py")),
)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def imports_of(source: str) -> Iterator[str]:
    """Every module that the source names in an import, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """Every module's source by its name."""
    paths = [path for top in PACKAGES for path in sorted((ROOT / top).rglob("*.py"))]
    return {module_name(path): path.read_text("utf-8") for path in paths}


@pytest.fixture(scope="module")
def imports(sources: dict[str, str]) -> dict[str, list[str]]:
    """What every module imports."""
    return {module: list(imports_of(source)) for module, source in sources.items()}


@pytest.mark.parametrize("name", RULES)
def test_imports_follow_the_rule(name: str, imports: dict[str, list[str]]) -> None:
    assert not RULES[name].breaches(imports)


@pytest.mark.parametrize("name", RULES)
def test_a_planted_breach_is_caught(name: str, imports: dict[str, list[str]]) -> None:
    """In every package that the rule names, of every name that it forbids, in both spellings."""
    rule = RULES[name]
    for package in rule.who:
        # Of a package where no exception applies: a rule that held for nobody could not fail.
        module = next(
            each for each in imports if is_within(each, (package,)) and rule.holds_for(each)
        )
        for forbidden in rule.never:
            for line in (
                f"import {forbidden}.planted",
                f"def f():\n    from {forbidden} import planted",
            ):
                planted = {**imports, module: list(imports_of(line))}
                assert rule.breaches(planted), f"{module}: {line}"


def test_rules_name_only_what_is_there(imports: dict[str, list[str]]) -> None:
    for name, rule in RULES.items():
        ours = [*rule.who, *rule.but, *rule.allowed, *rule.never]
        missing = [each for each in ours if is_within(each, PACKAGES) and each not in imports]
        assert not missing, f"{name}: {missing}"


def test_looking_into_the_store_imports_nothing_that_downloads() -> None:
    code = (
        "import sys, dlm_lsp.session.session, dlm_lsp.cli.doctor;"
        "import dlm_lsp.store.choice, dlm_lsp.store.told;"
        f"heavy = set({DOWNLOADING!r}) & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)


def test_the_torch_runtime_on_a_processor_imports_no_triton() -> None:
    """Nor needs it: kernels are for cards."""
    code = (
        "import sys; sys.modules['triton'] = None;"
        "import engine.model.torch_runtime, engine.model.readout, engine.lab.bench.steps"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)


def test_torch_free_modules_import_no_torch() -> None:
    names = (
        *TORCH_FREE_ENGINE,
        *("engine.step", "engine.cache.pages"),
        *("engine.model.adapter_weights", "engine.model.source"),
    )
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"{{name}} imports torch")
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)


def test_what_decides_is_imported_without_torch() -> None:
    """On a machine where torch cannot be imported at all."""
    code = f"import sys; sys.modules['torch'] = None; import {', '.join(DECIDING)}"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)


MUTATING = frozenset(
    (
        "add",
        "append",
        "clear",
        "discard",
        "extend",
        "insert",
        "pop",
        "remove",
        "setdefault",
        "update",
    )
)
# A pool's worker process gets what it draws with as it starts, and has no other place for it.
STATEFUL = {"engine.lab.training.batch.prefetch"}
PLANTED_STATE = {
    "rebinds": "X = 1\ndef f():\n    global X\n    X = 2\n",
    "stores into": "_CACHE = {}\ndef f(key):\n    _CACHE[key] = 1\n",
    "deletes from": "_CACHE = {}\ndef f(key):\n    del _CACHE[key]\n",
    "calls": "_SEEN = []\ndef f(value):\n    _SEEN.append(value)\n",
    "names": "current = None\n",
}


def state_in(source: str) -> list[str]:
    """What a module keeps between calls: names rebound or changed in functions, and variables."""
    tree = ast.parse(source)
    names = {
        target.id
        for node in tree.body
        for target in (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        if isinstance(target, ast.Name)
    }
    found = [
        f"names {name}"
        for name in sorted(names)
        if name.islower() and not name.startswith("__") and name != "logger"
    ]
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        local = {node.id for node in ast.walk(function) if _is_stored(node)}
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                found.append(f"rebinds {node.names}")
            elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
                name, verb = node.value, "deletes from"
                verb = verb if isinstance(node.ctx, ast.Del) else "stores into"
                if isinstance(name, ast.Name) and name.id in names - local:
                    found.append(f"{verb} {name.id}")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = node.func.value
                if (
                    node.func.attr in MUTATING
                    and isinstance(name, ast.Name)
                    and name.id in names - local
                ):
                    found.append(f"calls {name.id}.{node.func.attr}")
    return found


def _is_stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def test_modules_keep_no_state(sources: dict[str, str]) -> None:
    """Module level holds constants, types, functions and loggers; nothing there ever changes."""
    kept = {module: found for module, source in sources.items() if (found := state_in(source))}
    assert set(kept) == STATEFUL, kept


@pytest.mark.parametrize("kind", PLANTED_STATE)
def test_planted_state_is_caught(kind: str) -> None:
    assert any(found.startswith(kind) for found in state_in(PLANTED_STATE[kind]))
