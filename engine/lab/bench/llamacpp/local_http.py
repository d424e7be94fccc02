"""Asking a server on this machine over HTTP. Imports nothing of the engine's."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

_SECONDS_MAX = 600


def ask(url: str, body: dict[str, Any] | None = None, *, token: str | None = None) -> bytes:
    """The answer to a GET, or to a POST of JSON where there is a body.

    No proxy that the environment names is used.

    Raises:
        OSError: nobody listens, or (as urllib.error.HTTPError) the answer is an error.
    """
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_SECONDS_MAX) as answer:
        return answer.read()
