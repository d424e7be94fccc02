"""The messages between a client and the engine host: `POST /v1/generate` and its event lines.

One definition for both ends. Every event is whole state. Offsets count code points of the text
they are over; `lsp/convert.py` alone turns them into an editor's encoding. Knows neither HTTP nor
LSP.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from engine.api import AskedMode

PREFIX_CHARS_MAX = 200_000
SUFFIX_CHARS_MAX = 100_000
DOCUMENT_CHARS_MAX = 4096  # of a document's name


class _Message(BaseModel):
    """snake_case here, camelCase on the wire; unknown keys in a request are an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: (
            name.split("_")[0] + "".join(part.capitalize() for part in name.split("_")[1:])
        ),
    )


class Marks(_Message):
    """Where the prompt's pieces begin; the client keeps them in place while the user types.

    `prefix_start` is an offset into the request's prefix at which a line starts;
    `far_suffix_start` an offset into its suffix. None lets the host choose. The host answers with
    the marks it used; a client that sends them back (moved with its edits) keeps almost the whole
    prompt in the cache.
    """

    prefix_start: int | None = Field(default=None, ge=0)
    far_suffix_start: int | None = Field(default=None, ge=0)


class LimitsBody(_Message):
    """None takes the host's default."""

    tokens_max: int | None = Field(default=None, ge=0, le=4096)  # 0 only warms the cache
    steps_max: int | None = Field(default=None, ge=1)
    milliseconds_max: int | None = Field(default=None, ge=1)


class SamplingBody(_Message):
    """As `engine.api.Sampling`."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**63)


class BlockBody(_Message):
    """As `engine.api.BlockOptions`; None takes the checkpoint's block length, for "quadratic_spec"
    as much of it as pays on the host's machine."""

    length: int | None = Field(default=None, ge=2, le=256)
    threshold: float = Field(default=0.9, ge=0, le=2)


class BudgetBody(_Message):
    """Most prompt tokens for each side of the cursor; None takes the checkpoint's own."""

    prefix_tokens: int | None = Field(default=None, ge=16, le=1_000_000)
    suffix_tokens: int | None = Field(default=None, ge=0, le=1_000_000)


class GenerateBody(_Message):
    """One completion at a cursor. `client` and `document` name who asks, for logs alone."""

    client: str = Field(default="", max_length=200)
    document: str = Field(default="", max_length=DOCUMENT_CHARS_MAX)
    prefix: str = Field(max_length=PREFIX_CHARS_MAX)
    suffix: str = Field(default="", max_length=SUFFIX_CHARS_MAX)
    marks: Marks = Marks()
    budget: BudgetBody = BudgetBody()
    mode: AskedMode = "auto"
    limits: LimitsBody = LimitsBody()
    sampling: SamplingBody = SamplingBody()
    block: BlockBody = BlockBody()
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=(), max_length=16
    )
    draft: bool = True  # false: no draft events, only the end
    exact: bool = False  # as `engine.api.Request.exact`; "auto" then picks a mode that can be exact


class UsageBody(_Message):
    """As `engine.api.Usage`; times in milliseconds since the host took the request up."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    forwards: int = 0
    prefill_ms: float = 0.0
    first_draft_ms: float | None = None
    total_ms: float = 0.0


class SpanBody(_Message):
    """`draft[start:end]` has this confidence, 0 where undecided."""

    start: int
    end: int
    confidence: float


class StartedEvent(_Message):
    """First line: what the prompt became. `mode` is never "auto"."""

    event: Literal["started"] = "started"
    mode: str
    exact: bool = False
    marks: Marks
    usage: UsageBody


class DraftEvent(_Message):
    """As `engine.api.Draft`; `sequence` counts from 1."""

    event: Literal["draft"] = "draft"
    sequence: int
    committed: str
    draft: str
    spans: tuple[SpanBody, ...]
    usage: UsageBody


class FinishedEvent(_Message):
    """Last line of a request that ran to its end."""

    event: Literal["finished"] = "finished"
    text: str
    finish_reason: Literal["end", "stop", "length", "steps", "time", "warm"]
    confidence: float
    mode: str
    exact: bool = False
    usage: UsageBody


class StoppedEvent(_Message):
    """Last line of a cancelled request."""

    event: Literal["stopped"] = "stopped"
    text: str
    usage: UsageBody


class ErrorBody(_Message):
    """What every error answer carries, as an event or as the body of an HTTP error."""

    code: str
    message: str
    type: str = "error"
    param: str | None = None


class ErrorEvent(_Message):
    """Last line of a request that failed."""

    event: Literal["error"] = "error"
    error: ErrorBody


HostEvent = StartedEvent | DraftEvent | FinishedEvent | StoppedEvent | ErrorEvent
_EVENTS: TypeAdapter[HostEvent] = TypeAdapter(Annotated[HostEvent, Field(discriminator="event")])


def parse_event(line: bytes | str) -> HostEvent:
    """One line of the event stream. Raises pydantic.ValidationError."""
    return _EVENTS.validate_json(line)


def to_line(message: BaseModel) -> bytes:
    """One compact JSON line: some peers drop JSON with a space after the colon."""
    return message.model_dump_json(by_alias=True).encode() + b"\n"
