"""The host's JSON answers and errors, which have one compact shape and name the field at fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from dlm_lsp.client.messages import ErrorBody


class ApiError(Exception):
    """An answer other than 200.

    Attributes:
        status: the HTTP status.
        body: the body of the answer.
        headers: further headers, such as Retry-After.
    """

    def __init__(
        self, status: int, body: ErrorBody, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(body.message)
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


def invalid(message: str, param: str | None = None, *, status: int = 400) -> ApiError:
    """Returns the error for an invalid request."""
    body = ErrorBody(
        code="invalid_request", message=message, type="invalid_request_error", param=param
    )
    return ApiError(status, body)


def unavailable(code: str, message: str, *, retry_seconds: int = 1) -> ApiError:
    """Returns the error for a valid request that cannot be served now."""
    body = ErrorBody(code=code, message=message, type="unavailable_error")
    return ApiError(503, body, headers={"Retry-After": str(retry_seconds)})


def reply(content: Mapping[str, Any], *, status: int = 200) -> web.Response:
    """Returns a JSON answer without spaces, because some clients reject a space after a colon."""
    text = json.dumps(content, separators=(",", ":"))
    return web.Response(text=text + "\n", status=status, content_type="application/json")


def error_reply(error: ApiError) -> web.Response:
    """Returns an error as an answer."""
    response = reply({"error": error.body.model_dump(by_alias=True)}, status=error.status)
    response.headers.update(error.headers)
    return response
