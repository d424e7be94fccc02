"""What an engine host would load on this machine, told without starting one.

Asks the engine's own code, so that the forecast is what would happen. Owns nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from dlm_lsp.host.modes import usual_choice
from dlm_lsp.host.paths import times_file
from dlm_lsp.store.folder import GRAPHS, default_root
from engine.config import EngineSettings
from engine.errors import EngineError
from engine.forecast import Forecast
from engine.steptimes import StepTimes

TRIAL_BYTES_MAX = 2 << 30  # of weights that are loaded to see whether they can be


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would be loaded.

    Attributes:
        settings: without "auto", as the engine resolves them; as given where it cannot. A
            dtype that follows from the checkpoint's size is known once it was loaded.
        parameters: of the checkpoint; None where it cannot be read.
        load_seconds: how long a trial took; None where the weights were too large for one.
        step_times: measured by an earlier host on this machine; None where none was.
        auto: what "auto" would take, before any request; None where nothing was loaded.
        problem: why it would not load, with the remedy; None where it would.
    """

    settings: EngineSettings
    parameters: int | None = None
    load_seconds: float | None = None
    step_times: StepTimes | None = None
    auto: Forecast | None = None
    problem: str | None = None


def outlook(settings: EngineSettings) -> Outlook:
    """What would be loaded for these settings. Takes seconds: it tries."""
    try:
        # what loading needs takes a while to import: only who asks for an outlook waits for it
        from engine.device import resolve
        from engine.engine import Engine
        from engine.model.config import read_config
        from engine.model.tokenizer import read_tokenizer
    except (ImportError, OSError) as error:  # missing, or a build that does not fit this system
        return Outlook(settings, problem=f"{error}. Install dlm-lsp again with pip.")
    kept = times_file(settings)
    try:
        settings = resolve(settings)
        folder = settings.checkpoint_path()
        if folder.is_dir() and _weight_bytes(folder) > TRIAL_BYTES_MAX:
            read_tokenizer(folder)
            return Outlook(settings, read_config(folder).parameters())
        started = time.monotonic()
        engine = Engine.load(replace(settings, graphs=default_root() / GRAPHS), kept)
        seconds = time.monotonic() - started
        engine.close()
        info = engine.info
        auto = usual_choice(info, {}, engine.block_length)
        settings = replace(settings, dtype=info.dtype)
        return Outlook(settings, info.parameters, seconds, info.step_times, auto)
    except EngineError as error:
        return Outlook(settings, problem=str(error))


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.is_file())
