"""The host's counters as Prometheus text, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dlm_lsp.client.messages import UsageBody

_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The counters of one host."""

    def __init__(self) -> None:
        own = CollectorRegistry()
        self._registry = own
        self._requests = Counter(
            "dlm_requests", "Completions by how they ended", ["mode", "outcome"], registry=own
        )
        self._errors = Counter("dlm_errors", "Refused or failed requests", ["code"], registry=own)
        self._tokens = Counter("dlm_tokens", "Tokens emitted", registry=own)
        self._forwards = Counter("dlm_forwards", "Forwards after the prompt", registry=own)
        self._prompt = Counter("dlm_prompt_tokens", "Prompt tokens", ["cached"], registry=own)
        self._seconds = Histogram(
            "dlm_request_seconds", "From request to last event", buckets=_SECONDS, registry=own
        )
        self._first_draft = Histogram(
            "dlm_first_draft_seconds", "From request to first draft", buckets=_SECONDS, registry=own
        )
        self.in_flight = Gauge("dlm_in_flight", "Requests the engine is at", registry=own)
        self.queued = Gauge("dlm_queued", "Requests waiting for the engine", registry=own)

    def count_error(self, code: str) -> None:
        """Counts a refused or failed request."""
        self._errors.labels(code).inc()

    def count_request(self, mode: str, outcome: str, usage: UsageBody) -> None:
        """Counts a request that the engine accepted."""
        self._requests.labels(mode, outcome).inc()
        self._tokens.inc(usage.tokens)
        self._forwards.inc(usage.forwards)
        self._prompt.labels("yes").inc(usage.cached_tokens)
        self._prompt.labels("no").inc(usage.prompt_tokens - usage.cached_tokens)
        self._seconds.observe(usage.total_ms / 1000)
        if usage.first_draft_ms is not None:
            self._first_draft.observe(usage.first_draft_ms / 1000)

    def text(self) -> bytes:
        """Returns all counters in Prometheus text format 0.0.4."""
        return generate_latest(self._registry)
