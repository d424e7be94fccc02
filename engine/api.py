"""What goes into the engine and what comes out: requests, limits and events.

Plain frozen types without torch, shared by the engine, the host and the tests. Prompts are token
ids (laying text out as tokens is the host's work); everything that comes out is text plus counts.
Every event carries the whole state, never a delta, so that a lost or stale one does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from engine.auto.checkpoint_stats import CheckpointStats
from engine.auto.step_times import StepTimes
from engine.errors import RequestError

# What may be asked for; "auto" is resolved before a request reaches the engine.
AskedMode = Literal["auto", "ar", "block", "linear_spec", "quadratic_spec", "copy_spec"]
ASKED_MODES: tuple[AskedMode, ...] = get_args(AskedMode)
MODES: tuple[str, ...] = ASKED_MODES[1:]
CAUSAL_MODES = ("ar", "copy_spec")  # all that a checkpoint can do that fills no masks
# Modes that emit what "ar" emits: those that can be asked to do so to the token (`Request.exact`).
EXACT_MODES = ("ar", "linear_spec", "quadratic_spec", "copy_spec")
MASKED = "\u2591"  # how an undecided place is drawn in `Draft.draft`; never part of a result


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy: argmax, lowest id on ties.

    Attributes:
        temperature: 0 to 2.
        top_p: nucleus mass in (0, 1].
        seed: with the position, the only source of randomness (counter-based).
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises RequestError naming the field."""
        _check_range("sampling.temperature", self.temperature, 0.0, 2.0)
        _check_range("sampling.top_p", self.top_p, 1e-6, 1.0)
        _check_range("sampling.seed", self.seed, 0, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Limits:
    """When decoding ends at the latest.

    Attributes:
        tokens_max: most tokens emitted; 0 only brings the prompt into the cache.
        steps_max: most forwards after the prompt; None means as many as the tokens can need.
    """

    tokens_max: int = 128
    steps_max: int | None = None

    def __post_init__(self) -> None:
        """Raises RequestError naming the field."""
        _check_range("limits.tokens_max", self.tokens_max, 0, 65_536)
        if self.steps_max is not None:
            _check_range("limits.steps_max", self.steps_max, 1, 1_048_576)


@dataclass(frozen=True, slots=True)
class BlockOptions:
    """Knobs of block diffusion.

    Attributes:
        length: tokens per block, the seed included.
        threshold: a masked place is decided when its confidence reaches this; the most confident
            one always is, so that a value above 1 decides exactly one per denoising step.
    """

    length: int = 32
    threshold: float = 0.9

    def __post_init__(self) -> None:
        """Raises RequestError naming the field."""
        _check_range("block.length", self.length, 2, 256)
        _check_range("block.threshold", self.threshold, 0.0, 2.0)


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to decode.

    Attributes:
        prompt: token ids, at least one.
        mode: one of MODES.
        stop: decoding ends before the first occurrence of any of these texts.
        stop_token_ids: decoding ends before the first of these tokens (end of text, end of middle).
        exact: every mode of EXACT_MODES emits the same tokens in every dtype: a causal row's result
            does not depend on how the rows were cut into steps. Costs time.
    """

    prompt: tuple[int, ...]
    mode: str = "block"
    limits: Limits = field(default_factory=Limits)
    sampling: Sampling = field(default_factory=Sampling)
    block: BlockOptions = field(default_factory=BlockOptions)
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    exact: bool = False

    def __post_init__(self) -> None:
        """Raises RequestError naming the field."""
        if not self.prompt:
            raise RequestError(
                "prompt is empty.", remedy="Send at least one token.", param="prompt"
            )
        if self.mode not in MODES:
            raise RequestError(
                f"mode is {self.mode!r}.", remedy=f"Use one of {MODES}.", param="mode"
            )
        if self.exact and self.mode not in EXACT_MODES:
            raise RequestError(
                f"exact is set, but mode {self.mode!r} has no one-by-one twin to be equal to.",
                remedy=f"Use one of {EXACT_MODES}, or leave exact out.",
                param="exact",
            )
        if any(not text for text in self.stop):
            raise RequestError("stop holds an empty text.", remedy="Remove it.", param="stop")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost so far. Times are milliseconds since the engine took it up.

    `tokens` are emitted tokens, `forwards` the device calls after the prompt was prefilled, `rows`
    what those computed together.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    forwards: int = 0
    prefill_ms: float = 0.0
    first_draft_ms: float | None = None
    total_ms: float = 0.0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """`draft[start:end]` (in code points) has this confidence: 0 to 1; 0 where undecided."""

    start: int
    end: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Started:
    """The engine took the request up; `usage` holds the prompt's counts."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Draft:
    """The state after one forward.

    Attributes:
        committed: final text, whole characters only; a later event's starts with this one's.
        draft: text behind it that may still change; undecided places are MASKED; masks after the
            last decided place are left out.
        spans: confidence over `draft`, in order, without overlap.
    """

    committed: str
    draft: str
    spans: tuple[Span, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Finished:
    """The request ran to its end.

    Attributes:
        text: the whole completion; starts with every `committed` before it.
        reason: "end" (a stop token), "stop" (a stop text), "length" (tokens_max), "steps".
        confidence: geometric mean of the emitted tokens' probabilities; 1 for an empty text.
    """

    text: str
    reason: str
    confidence: float
    usage: Usage


@dataclass(frozen=True, slots=True)
class Stopped:
    """The request was cancelled; `text` is what was final by then."""

    text: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """The request could not be decoded; the engine goes on."""

    code: str
    message: str
    param: str | None = None


Event = Started | Draft | Finished | Stopped | Failed
LAST_EVENTS = (Finished, Stopped, Failed)
Emit = Callable[[Event], None]
# Told while a checkpoint is prepared for this machine, which is done once: the share that is done,
# 0 to 1, or None while another process is at it.
Preparing = Callable[[float | None], None]


class Handle(Protocol):
    """A submitted request."""

    def cancel(self) -> None:
        """Asks the engine to stop before its next forward. Any thread; idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is loaded, for status lines, `/health` and the choice of a mode.

    Attributes:
        step_times: the measured curve; None until it was measured.
        stats: what the checkpoint's `decoding.json` says, or is known of a released checkpoint.
        program: what computes, its version, and what of it was chosen for this machine, such as
            "onnxruntime 1.32.0, uint8".
    """

    checkpoint: str
    device: str
    dtype: str
    threads: int
    parameters: int
    context_max: int
    vocabulary: int
    modes: tuple[str, ...] = MODES
    infilling: bool = True
    step_times: StepTimes | None = None
    stats: CheckpointStats | None = None
    program: str = ""


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise RequestError(f"{name} is {value}.", remedy=f"Use {low} to {high}.", param=name)
