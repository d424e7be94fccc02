"""Forecasts what an engine host would load on this machine, without starting a host.

Runs the engine's own code, so that the forecast agrees with what a host would do. Writes nothing
into the store and measures nothing that a host would keep.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dlm_lsp.client.paths import adapters_folder, graphs_folder, times_file
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

TRIAL_BYTES_MAX = 2 << 30  # The largest size of weights that are loaded on trial.


@dataclass(frozen=True, slots=True)
class OnnxDryRun:
    """How ONNX Runtime would compute a checkpoint on this machine.

    Attributes:
        needs_probe: whether integer products are used, of which a measurement picks the fastest.
        probe: the result of the measurement; None before it.
        graphs: the folder of the graphs.
        graph: the graph's file; None while it is not known.
        needed_bytes: the estimated memory.
    """

    needs_probe: bool
    probe: MachineProbe | None
    graphs: Path
    graph: PreparedGraph | None
    needed_bytes: int


@dataclass(frozen=True, slots=True)
class DryRun:
    """The forecast of what would be loaded.

    Attributes:
        settings: the settings with "auto" resolved by the engine; as given if it cannot.
        why: the reasons for settings that were left open; see `engine.device.Decision`.
        parameters: the checkpoint's number of parameters; None if it cannot be read.
        onnx: the ONNX Runtime forecast; None if torch computes or the checkpoint is unreadable.
        load_seconds: the duration of a trial load; None without one.
        step_times: the times that an earlier host measured on this machine; None without one.
        auto: the mode that "auto" would choose before any request; None if nothing was loaded.
        problem: why loading would fail, with the remedy; None if it would succeed.
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
    """Returns what would be loaded for these settings.

    Args:
        tries: whether to load the checkpoint on trial, which takes seconds. There is no trial if
            it would build a large graph or the weights exceed TRIAL_BYTES_MAX.
    """
    try:
        # This import is slow, so only a dry run waits for it.
        from engine.device import decide
        from engine.engine import Engine
        from engine.model.source import open_checkpoint
    except (ImportError, OSError) as error:  # The package is missing or built for another system.
        return DryRun(settings, problem=f"{error}. Install dlm-lsp again with pip.")
    kept = times_file(settings)
    settings = replace(settings, adapters=adapters_folder())
    seen = DryRun(settings)
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
    """Adds the ONNX Runtime forecast. Raises ModelTooLarge."""
    from engine.model.mask_adapter import adapter_folder
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
    adapter = adapter_folder(source.config, source.weights, settings.adapters)
    onnx = OnnxDryRun(
        needs_probe=dtype != "float32",
        probe=probe,
        graphs=graphs,
        graph=plan and graph_of(source.path, plan, graphs, adapter),
        needed_bytes=memory_needed(source, settings),
    )
    return replace(seen, settings=replace(settings, dtype=dtype), why=why, onnx=onnx)


def _may_try(seen: DryRun, source: CheckpointSource) -> bool:
    onnx = seen.onnx
    if onnx is None:
        return source.bytes_estimate("bfloat16") <= TRIAL_BYTES_MAX
    return not onnx.needs_probe or (onnx.graph is not None and onnx.graph.is_built)


def _for_trial(seen: DryRun) -> EngineSettings:
    """Returns settings for a trial: an existing graph is used and no new graph is kept."""
    is_built = seen.onnx is not None and seen.onnx.graph is not None and seen.onnx.graph.is_built
    return replace(seen.settings, graphs=seen.onnx.graphs if seen.onnx and is_built else None)
