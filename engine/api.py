"""The engine's input and output: requests, limits and events.

Plain frozen types without torch, shared by the engine, the host and the tests. Prompts are token
ids, since the host turns text into tokens; all output is text and counts. Every event carries the
whole state, never a delta, so that a lost or stale event does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from engine.auto.checkpoint_stats import CheckpointStats
from engine.auto.step_times import StepTimes
from engine.errors import RequestError

# The modes that users may choose; "auto" is resolved before a request reaches the engine.
AskedMode = Literal[
    "auto", "ar", "block", "linear_spec", "quadratic_spec", "pruned_spec", "copy_spec"
]
ASKED_MODES: tuple[AskedMode, ...] = get_args(AskedMode)
MODES: tuple[str, ...] = ASKED_MODES[1:]
# The modes of a checkpoint that neither fills masks nor has a mask adapter.
CAUSAL_MODES = ("ar", "copy_spec")
# Modes that emit the same text as "ar"; in an exact request (`Request.exact`), the same tokens.
EXACT_MODES = ("ar", "linear_spec", "quadratic_spec", "pruned_spec", "copy_spec")
MASKED = "\u2591"  # an undecided place in `Draft.draft`; never part of a result


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy: the argmax, and the lowest id on ties.

    Attributes:
        temperature: the temperature, 0 to 2.
        top_p: the nucleus mass in (0, 1].
        seed: the only source of randomness besides the position (counter-based).
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
    """The limits at which decoding ends.

    Attributes:
        tokens_max: the most tokens to emit; 0 only brings the prompt into the cache.
        steps_max: the most forwards after the prompt; None means as many as the tokens need.
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
    """Options of block diffusion.

    Attributes:
        length: the tokens per block, including the bonus token.
        threshold: the confidence at which a masked place is decided. The most confident place
            always is, so that a value above 1 decides exactly one place per denoising step. With a
            mask adapter it is the joint confidence of the places up to it, and the first place
            always is decided.
        revisions: how many decided places a request may decide anew; see `engine.decoders.revision`
            and, with a mask adapter, `engine.decoders.shifted_block`. None is none where masks fill
            their own place, as in the reference algorithm, and without bound with a mask adapter.
    """

    length: int = 32
    threshold: float = 0.9
    revisions: int | None = None

    def __post_init__(self) -> None:
        """Raises RequestError naming the field."""
        _check_range("block.length", self.length, 2, 256)
        _check_range("block.threshold", self.threshold, 0.0, 2.0)
        if self.revisions is not None:
            _check_range("block.revisions", self.revisions, 0, 65_536)


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to decode.

    Attributes:
        prompt: the token ids, at least one.
        mode: one of MODES.
        stop: decoding ends before the first occurrence of any of these texts.
        stop_token_ids: decoding ends before the first of these tokens (end of text or middle).
        exact: whether a causal row's result must not depend on how the rows were cut into steps.
            All EXACT_MODES then emit the same tokens in every dtype, which takes more time.
        suffix: the part of the prompt, as the indices of its first token and of the token after it,
            that holds the text after the hole; (0, 0) if the prompt has none.
        reuses_suffix: whether the keys and values of this part may come from an earlier request
            in which slightly other text stood before it, moved to their new positions. This is an
            approximation that saves most of the prompt's time while a user types; see
            `engine.cache.suffixes`. An exact request never does.
        given: a continuation of the prompt whose tokens are scored; nothing is decoded then. The
            events' text is that of these tokens, and `logprobs` are theirs, or upper bounds where
            BEST_MAX other tokens are likelier. Mode, `tokens_max` and stops do not matter.
        owner: who asks, in any words. Owners whose requests wait are served in turn.
    """

    prompt: tuple[int, ...]
    mode: str = "block"
    limits: Limits = field(default_factory=Limits)
    sampling: Sampling = field(default_factory=Sampling)
    block: BlockOptions = field(default_factory=BlockOptions)
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    exact: bool = False
    suffix: tuple[int, int] = (0, 0)
    reuses_suffix: bool = False
    given: tuple[int, ...] = ()
    owner: str = ""

    @property
    def length_max(self) -> int:
        """The largest number of tokens after the prompt."""
        return len(self.given) or self.limits.tokens_max

    @property
    def is_preparation(self) -> bool:
        """Whether it only brings its prompt into the cache, so that nobody waits for a text."""
        return self.length_max == 0

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
        start, end = self.suffix
        if not (0 <= start <= end and (start == end or end < len(self.prompt))):
            raise RequestError(
                f"suffix is {self.suffix}; the prompt has {len(self.prompt)} tokens.",
                remedy="Use indices of the prompt in order, and leave a token after them.",
                param="suffix",
            )
        if any(not text for text in self.stop):
            raise RequestError("stop holds an empty text.", remedy="Remove it.", param="stop")


@dataclass(frozen=True, slots=True)
class Usage:
    """The costs of a request so far. Times are milliseconds since the engine started it.

    `tokens` counts the emitted tokens, `forwards` the forwards after the prefill, and `rows` the
    rows of these forwards.
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
    """The confidence of `draft[start:end]` (in code points), from 0 to 1; 0 if undecided."""

    start: int
    end: int
    confidence: float


# For each token of a text, in order, the offset in code points at which it ends, and the natural
# logarithm of its probability. A token that completes no character ends where the one before it
# does. The token that ends a text is not among them: its probability told nothing.
LogProbs = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Started:
    """The engine started the request; `usage` holds the prompt's counts."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Draft:
    """The state after one forward.

    Attributes:
        committed: the final text in whole characters; that of a later event starts with it.
        draft: the text after it that may still change. Undecided places are MASKED; masks after
            the last decided place are left out.
        spans: the confidence of the parts of `draft`, in order and without overlap.
        logprobs: the tokens of the committed text; the last one may reach into `draft`.
    """

    committed: str
    draft: str
    spans: tuple[Span, ...]
    usage: Usage
    logprobs: LogProbs = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The request ran to its end.

    Attributes:
        text: the whole completion; starts with the `committed` of every earlier event.
        reason: "end" (a stop token), "stop" (a stop text), "length" (tokens_max), "steps", or
            "scored" (`Request.given`).
        confidence: the geometric mean of the tokens' probabilities; 1 for an empty text.
        logprobs: the tokens of `text`.
    """

    text: str
    reason: str
    confidence: float
    usage: Usage
    logprobs: LogProbs = ()


@dataclass(frozen=True, slots=True)
class Stopped:
    """The request was cancelled; `text` is the text that was final by then, `logprobs` its
    tokens."""

    text: str
    usage: Usage
    logprobs: LogProbs = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The request could not be decoded; the engine goes on with others."""

    code: str
    message: str
    param: str | None = None


Event = Started | Draft | Finished | Stopped | Failed
LAST_EVENTS = (Finished, Stopped, Failed)
Emit = Callable[[Event], None]
# Called while a checkpoint is prepared for this machine, which happens once, with the finished
# share from 0 to 1, or None while another process prepares it.
Preparing = Callable[[float | None], None]


class Handle(Protocol):
    """A submitted request."""

    def cancel(self) -> None:
        """Asks the engine to stop before its next forward. Idempotent; any thread may call it."""
        ...


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The loaded checkpoint, for status lines, `/health` and the choice of a mode.

    Attributes:
        step_times: the measured curve; None until it has been measured.
        stats: the figures of `decoding.json`, or the published ones of a released checkpoint.
        program: the library, its version, and what was chosen for this machine, such as
            "onnxruntime 1.32.0, uint8".
        mask_adapter: whether a mask adapter drafts.
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
    mask_adapter: bool = False


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise RequestError(f"{name} is {value}.", remedy=f"Use {low} to {high}.", param=name)
