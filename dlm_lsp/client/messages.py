"""The messages between a client and the engine host: `POST /v1/generate` and its event lines.

Client and host share these definitions. Every event holds the whole state. Offsets count code
points; only `lsp/convert.py` converts them to an editor's encoding. Knows neither HTTP nor LSP.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from engine.api import AskedMode, LogProbs

PREFIX_CHARS_MAX = 200_000
SUFFIX_CHARS_MAX = 100_000
NAME_CHARS_MAX = 255
DOCUMENT_CHARS_MAX = 4096  # The limit of a document's name.
GIVEN_CHARS_MAX = 8_000
RELATED_CHARS_MAX, RELATED_FILES_MAX = 20_000, 16


class _Message(BaseModel):
    """Field names are snake_case here and camelCase on the wire; unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: (
            name.split("_")[0] + "".join(part.capitalize() for part in name.split("_")[1:])
        ),
    )


class Marks(_Message):
    """The offsets at which the prompt's pieces begin; they stay in place while the user types.

    `prefix_start` is the offset of a line start in the request's prefix; `far_suffix_start` is an
    offset into its suffix. None lets the host choose. The host answers with the marks it used; a
    client that sends them back, moved with its edits, keeps almost the whole prompt in the cache.
    """

    prefix_start: int | None = Field(default=None, ge=0)
    far_suffix_start: int | None = Field(default=None, ge=0)


class LimitsBody(_Message):
    """Limits of a completion; None means the host's default."""

    tokens_max: int | None = Field(default=None, ge=0, le=4096)  # 0 only fills the cache.
    steps_max: int | None = Field(default=None, ge=1)
    milliseconds_max: int | None = Field(default=None, ge=1)


class SamplingBody(_Message):
    """The fields of `engine.api.Sampling`."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**63)


class BlockBody(_Message):
    """The fields of `engine.api.BlockOptions`.

    A `length` of None means the checkpoint's block length, or for "quadratic_spec" the part of it
    that pays off on the host's machine.
    """

    length: int | None = Field(default=None, ge=2, le=256)
    threshold: float = Field(default=0.9, ge=0, le=2)
    revisions: int | None = Field(default=None, ge=0, le=65_536)


class BudgetBody(_Message):
    """The largest number of prompt tokens before and after the cursor, and of related files; None
    means the default."""

    prefix_tokens: int | None = Field(default=None, ge=16, le=1_000_000)
    suffix_tokens: int | None = Field(default=None, ge=0, le=1_000_000)
    related_tokens: int | None = Field(default=None, ge=0, le=1_000_000)


class RelatedFile(_Message):
    """Text of another file that may help: its path within the repository, and the text."""

    name: str = Field(max_length=NAME_CHARS_MAX)
    text: str = Field(max_length=RELATED_CHARS_MAX)


class GenerateBody(_Message):
    """A request for one completion at a cursor.

    Clients are served in turn, and of the requests of one client for one document that come `soon`
    after each other, only the newest goes on. `name` is the file's name, which tells a model the
    language of a short text. `related` are other files of the repository, the most useful one last.
    """

    client: str = Field(default="", max_length=200)
    document: str = Field(default="", max_length=DOCUMENT_CHARS_MAX)
    name: str = Field(default="", max_length=NAME_CHARS_MAX)
    prefix: str = Field(max_length=PREFIX_CHARS_MAX)
    suffix: str = Field(default="", max_length=SUFFIX_CHARS_MAX)
    marks: Marks = Marks()
    repository: str = Field(default="", max_length=NAME_CHARS_MAX)
    related: tuple[RelatedFile, ...] = Field(default=(), max_length=RELATED_FILES_MAX)
    budget: BudgetBody = BudgetBody()
    mode: AskedMode = "auto"
    limits: LimitsBody = LimitsBody()
    sampling: SamplingBody = SamplingBody()
    block: BlockBody = BlockBody()
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=(), max_length=16
    )
    draft: bool = True  # False leaves out draft events.
    exact: bool = False  # See `engine.api.Request.exact`; "auto" then picks an exact mode.
    # Whether the answer is wanted while the user types: as much of the prompt as possible then
    # comes from earlier requests, also a suffix before which slightly other text stood
    # (`engine.api.Request.reuses_suffix`), and a prompt of which little is cached is shortened.
    soon: bool = False
    # Text that would stand at the cursor; its tokens are scored instead of a completion decoded
    # (`engine.api.Request.given`).
    given: str = Field(default="", max_length=GIVEN_CHARS_MAX)


class UsageBody(_Message):
    """The fields of `engine.api.Usage`; times are milliseconds since the host got the request."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    forwards: int = 0
    prefill_ms: float = 0.0
    first_draft_ms: float | None = None
    total_ms: float = 0.0


class SpanBody(_Message):
    """The confidence of `draft[start:end]`; 0 for undecided places."""

    start: int
    end: int
    confidence: float


class StartedEvent(_Message):
    """The first line, which describes the prompt. `mode` is never "auto"."""

    event: Literal["started"] = "started"
    mode: str
    exact: bool = False
    marks: Marks
    usage: UsageBody


class DraftEvent(_Message):
    """The fields of `engine.api.Draft`; `sequence` counts from 1."""

    event: Literal["draft"] = "draft"
    sequence: int
    committed: str
    draft: str
    spans: tuple[SpanBody, ...]
    logprobs: LogProbs = ()  # Empty from hosts that do not tell them.
    usage: UsageBody


class FinishedEvent(_Message):
    """The last line of a request that finished."""

    event: Literal["finished"] = "finished"
    text: str
    finish_reason: Literal["end", "stop", "length", "steps", "time", "warm", "scored"]
    confidence: float
    logprobs: LogProbs = ()
    mode: str
    exact: bool = False
    usage: UsageBody


class StoppedEvent(_Message):
    """The last line of a cancelled request."""

    event: Literal["stopped"] = "stopped"
    text: str
    logprobs: LogProbs = ()
    usage: UsageBody


class ErrorBody(_Message):
    """An error, as an event or as the body of an HTTP error."""

    code: str
    message: str
    type: str = "error"
    param: str | None = None


class ErrorEvent(_Message):
    """The last line of a request that failed."""

    event: Literal["error"] = "error"
    error: ErrorBody


HostEvent = StartedEvent | DraftEvent | FinishedEvent | StoppedEvent | ErrorEvent
_EVENTS: TypeAdapter[HostEvent] = TypeAdapter(Annotated[HostEvent, Field(discriminator="event")])


def parse_event(line: bytes | str) -> HostEvent:
    """Reads one line of the event stream. Raises pydantic.ValidationError."""
    return _EVENTS.validate_json(line)


def to_line(message: BaseModel) -> bytes:
    """Returns a message as one JSON line without spaces, which some peers reject after a colon."""
    return message.model_dump_json(by_alias=True).encode() + b"\n"
