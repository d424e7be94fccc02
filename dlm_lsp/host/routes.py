"""The host's HTTP interface: its routes, authorisation and errors.

Maps every error to one JSON shape. `generate` handles completions; `lifecycle` starts and ends the
host.
"""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from dlm_lsp.client.messages import ErrorBody
from dlm_lsp.host.generate import generate
from dlm_lsp.host.modes import auto_body, times_body, usual_choice
from dlm_lsp.host.replies import ApiError, error_reply, invalid, reply, unavailable
from dlm_lsp.host.state import Host
from dlm_lsp.version import PROTOCOL, VERSION
from engine.errors import EngineError, RequestError

logger = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_runner(host: Host) -> web.AppRunner:
    """Returns the runner of a host's application; the caller adds a site to the runner."""
    return web.AppRunner(
        _application(host),
        handler_cancellation=True,  # Cancels when a client leaves during a long prefill.
        access_log=None,  # `generate` logs one line per completion.
        shutdown_timeout=host.limits.drain_seconds,
    )


def _application(host: Host) -> web.Application:
    app = web.Application(
        middlewares=[_errors(host), _authorisation(host)],
        client_max_size=host.limits.body_bytes_max,
    )

    async def post_generate(request: web.Request) -> web.StreamResponse:
        return await generate(request, host)

    async def get_health(request: web.Request) -> web.Response:
        host.last_seen = time.monotonic()  # Editors that are open look now and then.
        return _health(host)

    async def get_metrics(request: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=host.metrics.text(), headers=headers)

    async def post_shutdown(request: web.Request) -> web.Response:
        logger.info("asked to end")
        host.stop.set()
        return reply({"status": "stopping", "pid": os.getpid()}, status=202)

    app.router.add_post("/v1/generate", post_generate)
    app.router.add_get("/health", get_health)
    app.router.add_get("/metrics", get_metrics)
    app.router.add_post("/v1/shutdown", post_shutdown)
    return app


def _health(host: Host) -> web.Response:
    identity: dict[str, Any] = {"protocol": PROTOCOL, "version": VERSION, "pid": os.getpid()}
    error, backend = host.loader.error, host.loader.backend
    if host.stop.is_set():
        return _unhealthy("The host is ending.", "stopping", identity)
    if error is not None:
        return _unhealthy(error.message, "load_error", identity, remedy=error.remedy)
    if backend is None:
        return _unhealthy(host.loader.message, "unavailable_error", identity)
    info = backend.info
    return reply(
        {
            "status": "ok",
            **identity,
            "model": host.loader.name,
            "checkpoint": info.checkpoint,
            "program": info.program,
            "device": info.device,
            "dtype": info.dtype,
            "threads": info.threads,
            "parameters": info.parameters,
            "contextMax": info.context_max,
            "vocabulary": info.vocabulary,
            "modes": info.modes,
            "infilling": info.infilling,
            "requests": host.requests,
            "stepTimes": times_body(info.step_times),
            "auto": auto_body(usual_choice(info, host.records.by_mode, backend.block_length)),
        }
    )


def _unhealthy(
    message: str, kind: str, identity: dict[str, Any], *, remedy: str = ""
) -> web.Response:
    error = {"code": 503, "message": message, "type": kind}  # The shape of llama.cpp's errors.
    if remedy:
        error["remedy"] = remedy
    return reply({"error": error, **identity}, status=503)


def _authorisation(host: Host) -> Any:
    expected = None if host.token is None else f"Bearer {host.token}".encode()

    @web.middleware
    async def authorise(request: web.Request, handler: _Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if expected is not None and not hmac.compare_digest(given, expected):
            body = ErrorBody(
                code="unauthorized",
                message="The bearer token is missing or wrong. Set engine.token to the host's.",
                type="authentication_error",
            )
            raise ApiError(401, body, headers={"WWW-Authenticate": "Bearer"})
        return await handler(request)

    return authorise


def _errors(host: Host) -> Any:
    """Turns every exception of a handler into the one JSON shape."""

    @web.middleware
    async def answer(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as error:
            found = error
        except RequestError as error:
            found = invalid(str(error), error.param)
        except EngineError as error:
            found = unavailable(error.code, str(error))
        except web.HTTPRequestEntityTooLarge:
            limit = host.limits.body_bytes_max
            found = invalid(f"The body is larger than {limit} bytes.", status=413)
        except web.HTTPException as error:
            found = invalid(
                f"{request.method} {request.path}: {error.reason}.", status=error.status
            )
        except Exception as error:
            logger.exception("a request failed")
            message = f"The host failed: {type(error).__name__}. See its log."
            body = ErrorBody(code="host_failure", message=message, type="server_error")
            found = ApiError(500, body)
        host.metrics.count_error(found.body.code)
        return error_reply(found)

    return answer
