"""The figures of a session's last requests, which `dlm.requests` answers with.

Holds no text of a document. Lives as long as the session; nothing of it is written anywhere.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

from dlm_lsp.client.messages import UsageBody

REQUESTS_MAX = 50


@dataclass(frozen=True, slots=True)
class RequestFigures:
    """One request.

    Attributes:
        time: when it ended, of `time.time`.
        mode: the mode that decoded the answer; None if none did.
        model: a name of the catalogue, or one that stands for a checkpoint of the user's own.
        outcome: "shown", "superseded", "cancelled", or the sentence that says why nothing is shown.
        lines, characters: the size of the first suggestion; 0 without one.
        probability: its joint probability; None if unknown.
        usage: the figures of the run that wrote the answer; None without one.
        first_ms, answer_ms: the milliseconds to the first text and to the end.
        source: where the answer comes from (`session/slots.py`).
    """

    time: float
    language: str
    automatic: bool
    mode: str | None
    model: str
    outcome: str
    lines: int
    characters: int
    probability: float | None
    usage: UsageBody | None
    first_ms: float | None
    answer_ms: float
    source: str

    def to_object(self) -> dict[str, object]:
        """Returns what the editor is sent."""
        usage = self.usage
        speed = round(usage.tokens / usage.forwards, 2) if usage and usage.forwards else None
        return {
            "time": datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds"),
            "language": self.language,
            "automatic": self.automatic,
            "mode": self.mode,
            "model": self.model,
            "outcome": self.outcome,
            "lines": self.lines,
            "characters": self.characters,
            "probability": None if self.probability is None else round(self.probability, 4),
            "promptTokens": usage and usage.prompt_tokens,
            "recomputedTokens": usage and max(0, usage.prompt_tokens - usage.cached_tokens),
            "generatedTokens": usage and usage.tokens,
            "tokensPerForward": speed,
            "firstMs": self.first_ms,
            "answerMs": self.answer_ms,
            "source": self.source,
        }


class RequestLog:
    """The last REQUESTS_MAX requests of a session."""

    def __init__(self) -> None:
        self._requests: deque[RequestFigures] = deque(maxlen=REQUESTS_MAX)

    def add(self, figures: RequestFigures) -> None:
        """Adds a request that has ended."""
        self._requests.append(figures)

    def to_objects(self, count: int = REQUESTS_MAX) -> list[dict[str, object]]:
        """Returns the last requests as the editor is sent them, the latest first."""
        return [one.to_object() for one in reversed(self._requests)][:count]
