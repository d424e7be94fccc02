"""The host's JSON answers and errors: compact, one shape, naming the field at fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from dlm_lsp.client.messages import ErrorBody


class ApiError(Exception):
    """An answer other than 200.

    Attributes:
        status: HTTP status.
        body: what the client reads.
        headers: more headers, such as Retry-After.
    """

    def __init__(
        self, status: int, body: ErrorBody, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(body.message)
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


def invalid(message: str, param: str | None = None, *, status: int = 400) -> ApiError:
    """The request itself is wrong."""
    body = ErrorBody(
        code="invalid_request", message=message, type="invalid_request_error", param=param
    )
    return ApiError(status, body)


def unavailable(code: str, message: str, *, retry_seconds: int = 1) -> ApiError:
    """The request is right but cannot be served now."""
    body = ErrorBody(code=code, message=message, type="unavailable_error")
    return ApiError(503, body, headers={"Retry-After": str(retry_seconds)})


def reply(content: Mapping[str, Any], *, status: int = 200) -> web.Response:
    """A JSON answer without spaces: some clients drop JSON with one after the colon."""
    text = json.dumps(content, separators=(",", ":"))
    return web.Response(text=text + "\n", status=status, content_type="application/json")


def error_reply(error: ApiError) -> web.Response:
    """An error as an answer."""
    response = reply({"error": error.body.model_dump(by_alias=True)}, status=error.status)
    response.headers.update(error.headers)
    return response
