"""What an adapter is worth where it is served: tokens per forward of the CPU's engine.

Figures of training have misled others: of drafts that are right at their places in training, fewer
are accepted by the engine, which quantises, chooses where masks hang, and stops at the first wrong
draft. So the adapter is exported, its graph is built, and mode "pruned_spec" continues held-out
prompts with it. Copied drafts are switched off: on text that repeats itself they would flatter the
adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.api import Limits, Request
from engine.auto.step_times import built_in_times
from engine.config import EngineSettings
from engine.decoders import STRATEGIES
from engine.decoders.copying import CopyRecord
from engine.decoders.pruned_spec import PrunedSpec, PrunedState
from engine.decoders.strategy import Task, Traits
from engine.loop import decode
from engine.model.onnx.runtime import OnnxRuntime
from engine.model.source import CheckpointSource

TOKENS = 48  # of each continuation
_MODE = "pruned_spec"
# Copied tokens of which none was right: the chance of a further one is as good as 0.
_NEVER_RIGHT = CopyRecord(hits=0.0, expected=1e12)
_CACHE_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Served:
    """Figures over all prompts.

    Attributes:
        tokens: emitted after the one that a prompt's own forward gives.
        forwards: after those of the prompts.
    """

    tokens: int
    forwards: int

    @property
    def per_forward(self) -> float:
        """Tokens per forward; the accepted drafts are one less, since each has an exact token."""
        return self.tokens / max(self.forwards, 1)


class MasksAlone(PrunedSpec):
    """The strategy "pruned_spec" without copied drafts."""

    def start(self, task: Task) -> PrunedState:
        return replace(super().start(task), copies=_NEVER_RIGHT)


def measure_served(
    source: CheckpointSource,
    settings: EngineSettings,
    prompts: Sequence[Sequence[int]],
    end_ids: Sequence[int],
) -> Served:
    """Continues the prompts greedily with the adapter that the engine finds for the checkpoint.

    Where masks hang follows from the built-in step-time curve and not from this machine's, so that
    the figures of two machines can be compared. Without an adapter every forward gives one token.

    Args:
        settings: resolved settings of the CPU's engine; `adapters` is where the adapter is found.

    Raises:
        EngineError: the engine cannot be loaded.
    """
    runtime = OnnxRuntime.load(source, settings)
    cache = runtime.new_cache(_CACHE_TOKENS)
    traits = Traits(
        None,
        has_drafter=runtime.has_drafter,
        draft_masks=runtime.draft_masks,
        costs=built_in_times("cpu", has_masks=bool(runtime.draft_masks)),
    )
    mode = _MODE if runtime.draft_masks else "ar"
    tokens = forwards = 0
    for prompt in prompts:
        request = Request(
            tuple(prompt), mode, Limits(tokens_max=TOKENS), stop_token_ids=tuple(end_ids)
        )
        strategy = MasksAlone() if runtime.draft_masks else STRATEGIES["ar"]
        *_, last = decode(runtime, cache, strategy, request, traits)
        forwards += last.forwards
        # The token that ends a text is decided by a forward as well, and not emitted.
        ended = last.progress.finished == "end"
        tokens += len(last.progress.committed) + ended - 1
    return Served(tokens, forwards)


def adapters_beside(settings: EngineSettings, folder: Path) -> EngineSettings:
    """The settings of an engine whose adapters and graphs lie in a run's folder."""
    return replace(settings, adapters=folder / "adapters", graphs=folder / "graphs")
