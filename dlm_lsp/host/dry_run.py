"""What an engine host would load on this machine, told without starting one.

Asks the engine's own code, so that the forecast is what would happen. Writes nothing into the
store and measures nothing that a host would keep. Owns nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dlm_lsp.client.paths import graphs_folder, times_file
from dlm_lsp.host.backend import in_the_stores_words
from dlm_lsp.host.modes import usual_choice
from engine.auto.mode_selection import ModeChoice
from engine.auto.step_times import StepTimes
from engine.config import EngineSettings
from engine.errors import EngineError, ModelTooLarge

if TYPE_CHECKING:
    from engine.model.onnx.prepared import PreparedGraph
    from engine.model.onnx.probe import MachineProbe
    from engine.model.source import CheckpointSource

TRIAL_BYTES_MAX = 2 << 30  # of weights that are loaded to see whether they can be


@dataclass(frozen=True, slots=True)
class OnnxDryRun:
    """How ONNX Runtime would compute a checkpoint here.

    Attributes:
        needs_probe: integer products are used, of which the right one is found by trying them.
        probe: what was found; None before anything was tried.
        graphs: where graphs are kept.
        graph: None while it is not known which one it will be.
        needed_bytes: of memory, estimated.
    """

    needs_probe: bool
    probe: MachineProbe | None
    graphs: Path
    graph: PreparedGraph | None
    needed_bytes: int


@dataclass(frozen=True, slots=True)
class DryRun:
    """What would be loaded.

    Attributes:
        settings: without "auto", as the engine resolves them; as given where it cannot.
        why: what decided where a setting was left open; see `engine.device.Decision`.
        parameters: of the checkpoint; None where it cannot be read.
        onnx: None where torch computes, or the checkpoint cannot be read.
        load_seconds: how long a trial took; None where none was made.
        step_times: measured by an earlier host on this machine; None where none was.
        auto: what "auto" would take, before any request; None where nothing was loaded.
        problem: why it would not load, with the remedy; None where it would.
    """

    settings: EngineSettings
    why: Mapping[str, str] = field(default_factory=dict[str, str])
    parameters: int | None = None
    onnx: OnnxDryRun | None = None
    load_seconds: float | None = None
    step_times: StepTimes | None = None
    auto: ModeChoice | None = None
    problem: str | None = None


def dry_run(settings: EngineSettings, *, tries: bool = True) -> DryRun:
    """What would be loaded for these settings.

    Args:
        tries: load it, which takes seconds; not where that would first build a large graph, or the
            weights are very large.
    """
    try:
        # what loading needs takes a while to import: only who asks for a dry run waits for it
        from engine.device import decide
        from engine.engine import Engine
        from engine.model.source import open_checkpoint
    except (ImportError, OSError) as error:  # missing, or a build that does not fit this system
        return DryRun(settings, problem=f"{error}. Install dlm-lsp again with pip.")
    seen = DryRun(settings)
    kept = times_file(settings)
    try:
        decision = decide(settings)
        seen = DryRun(decision.settings, decision.why)
        source = open_checkpoint(decision.settings.checkpoint_path())
        seen = replace(seen, parameters=source.config.parameters())
        if decision.settings.backend == "onnx":
            seen = _with_onnx(seen, source)
        if not tries or not _may_try(seen, source):
            return seen
        started = time.monotonic()
        engine = Engine.load(_for_trial(seen), kept)
        seconds = time.monotonic() - started
        engine.close()
        info = engine.info
        auto = usual_choice(info, {}, engine.block_length)
        return replace(seen, load_seconds=seconds, step_times=info.step_times, auto=auto)
    except ModelTooLarge as error:
        return replace(seen, problem=str(in_the_stores_words(error, settings.checkpoint)))
    except EngineError as error:
        return replace(seen, problem=str(error))


def _with_onnx(seen: DryRun, source: CheckpointSource) -> DryRun:
    """What ONNX Runtime would do. Raises ModelTooLarge."""
    from engine.model.onnx.plan import GraphPlan
    from engine.model.onnx.prepared import graph_of
    from engine.model.onnx.probe import known_probe
    from engine.model.onnx.runtime import check_memory, dtype_for, float_limit, memory_needed

    settings, graphs = seen.settings, graphs_folder()
    dtype = dtype_for(source.config, settings.dtype)
    why = {**seen.why, "dtype": float_limit(source.config)}
    probe, plan = None, GraphPlan("float32", half_cache=False)
    if dtype != "float32":
        probe = known_probe(settings.threads or 1, graphs)
        plan = probe and GraphPlan(probe.best.product, half_cache=True)
    check_memory(source, settings)
    onnx = OnnxDryRun(
        needs_probe=dtype != "float32",
        probe=probe,
        graphs=graphs,
        graph=plan and graph_of(source.path, plan, graphs),
        needed_bytes=memory_needed(source, settings),
    )
    return replace(seen, settings=replace(settings, dtype=dtype), why=why, onnx=onnx)


def _may_try(seen: DryRun, source: CheckpointSource) -> bool:
    onnx = seen.onnx
    if onnx is None:
        return source.bytes_estimate("bfloat16") <= TRIAL_BYTES_MAX
    return not onnx.needs_probe or (onnx.graph is not None and onnx.graph.is_built)


def _for_trial(seen: DryRun) -> EngineSettings:
    """Settings that use a graph which is there, and leave none behind."""
    is_built = seen.onnx is not None and seen.onnx.graph is not None and seen.onnx.graph.is_built
    return replace(seen.settings, graphs=seen.onnx.graphs if seen.onnx and is_built else None)
