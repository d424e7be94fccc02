"""A stricter pygls protocol: it answers every request exactly once and survives invalid messages.

Handles a message between its bytes and its handler: JSON, the JSON-RPC envelope, the life cycle
(before `initialize`, after `shutdown`, `exit`) and parameters of a wrong type. pygls keeps the
handlers, the running requests and LSP's types; this module adds those of our own notification.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import attrs
import cattrs
from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.protocol import (
    JsonRPCNotification,
    JsonRPCRequestMessage,
    LanguageServerProtocol,
)

from dlm_lsp.lsp.framing import to_frame

if TYPE_CHECKING:
    from pygls.lsp.server import LanguageServer

logger = logging.getLogger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
NOT_INITIALIZED = -32002

# pygls applies these methods to its own copies of documents, which this server does not read.
_SYNC_METHODS = (
    types.TEXT_DOCUMENT_DID_OPEN,
    types.TEXT_DOCUMENT_DID_CHANGE,
    types.TEXT_DOCUMENT_DID_CLOSE,
    types.NOTEBOOK_DOCUMENT_DID_OPEN,
    types.NOTEBOOK_DOCUMENT_DID_CHANGE,
    types.NOTEBOOK_DOCUMENT_DID_CLOSE,
)


WARM = "dlm/warm"  # The cursor is at a new place, where suggestions may be wanted soon.


@attrs.define
class WarmNotification:
    """The message of `dlm/warm`."""

    params: types.TextDocumentPositionParams
    method: str = WARM
    jsonrpc: str = "2.0"


@dataclass(frozen=True, slots=True)
class Late:
    """A result that is made at the moment when it is sent: between the end of a handler and that
    moment other messages may be handled, such as an edit."""

    make: Callable[[], Any]


class StrictProtocol(LanguageServerProtocol):
    """One connection.

    Attributes:
        send: writes one framed message; set by the transport before the first `receive`.
        on_exit: called with the exit code of the process when the client sends `exit`.
        on_request: called with the parameters of a request when it comes; its handler may run only
            after later messages have been handled.
        on_broken: called with method, raw parameters and reason for a notification of a known
            method with invalid parameters.
    """

    def __init__(self, server: LanguageServer, converter: cattrs.Converter) -> None:
        super().__init__(server, converter)
        self.send: Callable[[bytes], None] = _no_transport
        self.on_exit: Callable[[int], None] = lambda code: None
        self.on_request: Callable[[Any], None] = lambda params: None
        self.on_broken: Callable[[str, Any, str], None] = lambda method, params, why: None
        self._initialized = False
        for method in _SYNC_METHODS:
            self.fm.builtin_features.pop(method)

    @property
    def is_shut_down(self) -> bool:
        """Whether `shutdown` has been answered."""
        return self._shutdown

    def receive(self, body: bytes) -> bytes:
        """Handles one message body. Never raises, whatever the body is.

        Returns the bytes after the message if the body held more than one message.
        """
        rest = b""
        try:
            message = json.loads(body)
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Extra data"):
                self.refuse(None, PARSE_ERROR, f"The message is not JSON: {error}.")
                return b""
            message, rest = json.loads(error.doc[: error.pos]), error.doc[error.pos :].encode()
            logger.warning("a message was shorter than its Content-Length")
        except (ValueError, RecursionError) as error:
            self.refuse(None, PARSE_ERROR, f"The message cannot be read: {error}.")
            return b""
        try:
            self._dispatch(message)
        except Exception:  # The boundary of a message: those behind it are handled all the same.
            logger.exception("a message could not be handled")
        return rest

    def refuse(self, message_id: str | int | None, code: int, why: str) -> None:
        """Answers a request with an error; its id is null if the request's id is unknown."""
        error = {"code": code, "message": why}
        self._send_data({"jsonrpc": "2.0", "id": message_id, "error": error})

    def _dispatch(self, message: Any) -> None:
        """Handles one JSON value as a response, request or notification; refuses others."""
        if isinstance(message, list):
            self.refuse(None, INVALID_REQUEST, "Batches are not part of LSP: send one message.")
            return
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            self.refuse(None, INVALID_REQUEST, 'A message is an object with "jsonrpc": "2.0".')
            return
        message_id = message.get("id")
        if not isinstance(message_id, str | int) or isinstance(message_id, bool):
            if "id" in message:
                self.refuse(None, INVALID_REQUEST, "id must be a string or an integer.")
                return
            message_id = None
        if "method" not in message:
            self._dispatch_response(message, message_id)
        elif not isinstance(message["method"], str):
            self.refuse(message_id, INVALID_REQUEST, "method must be a string.")
        elif message_id is None:
            self._dispatch_notification(message["method"], message)
        else:
            self._dispatch_request(message_id, message["method"], message)

    def _dispatch_request(self, message_id: str | int, method: str, message: dict) -> None:
        """Passes a request to its handler, or answers with an error."""
        if self._shutdown:
            self.refuse(message_id, INVALID_REQUEST, "The server is shutting down.")
        elif not self._initialized and method != types.INITIALIZE:
            self.refuse(message_id, NOT_INITIALIZED, "Send initialize first.")
        elif self._initialized and method == types.INITIALIZE:
            self.refuse(message_id, INVALID_REQUEST, "initialize was already sent.")
        elif message_id in self._request_futures:
            self.refuse(message_id, INVALID_REQUEST, f"A request with id {message_id!r} runs.")
        elif not self._handles(method):
            self.refuse(message_id, METHOD_NOT_FOUND, f"There is no method {method!r}.")
        else:
            if method == types.INITIALIZE:
                message = pruned_initialize(message)
            try:
                typed = self._structured(message, JsonRPCRequestMessage)
            except ValueError as error:
                self.refuse(message_id, INVALID_PARAMS, f"{method}: {error}.")
                return
            self._initialized = True
            self.on_request(typed.params)
            self.handle_message(typed)

    def _dispatch_notification(self, method: str, message: dict) -> None:
        """Passes a notification to its handler; an invalid one is reported or dropped."""
        if method == types.EXIT:
            self.on_exit(0 if self._shutdown else 1)
        elif not self._initialized or self._shutdown:
            logger.debug("%s outside of initialize and shutdown is dropped", method)
        elif method != types.CANCEL_REQUEST and not self._handles(method):
            logger.debug("no handler for the notification %s", method)
        else:
            try:
                typed = self._structured(message, JsonRPCNotification)
            except ValueError as error:
                logger.warning("%s was dropped: %s", method, error)
                self.on_broken(method, message.get("params"), str(error))
                return
            self.handle_message(typed)

    def _dispatch_response(self, message: dict, message_id: str | int | None) -> None:
        """Passes the client's answer to the code that waits for it."""
        if message_id is None or message_id not in self._request_futures:
            logger.warning("an answer to no request of ours was dropped")
            return
        if "error" in message:
            error = message["error"] if isinstance(message["error"], dict) else {}
            self._request_futures.pop(message_id).set_exception(
                JsonRpcException(str(error.get("message", "unknown error")))
            )
            return
        # The answer stays plain JSON and is checked where it is used.
        self._result_types.pop(message_id, None)
        self._request_futures.pop(message_id).set_result(message.get("result"))

    def _handles(self, method: str) -> bool:
        return method in self.fm.builtin_features or method in self.fm.features

    def _structured(self, message: dict, fallback: type) -> Any:
        """Returns the typed message. Raises ValueError, which names the invalid fields."""
        method = message["method"]
        message_type = WarmNotification if method == WARM else self.get_message_type(method)
        try:
            return self._converter.structure({"params": None} | message, message_type or fallback)
        except cattrs.BaseValidationError as error:
            raise ValueError("; ".join(cattrs.transform_error(error, path="message"))) from error
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # lsprotocol's hooks for unions assume objects, but a client may send anything.
            raise ValueError(f"the parameters have a wrong shape ({error!r})") from error

    def _handle_cancel_notification(self, msg_id: str | int) -> None:
        """Cancels a request. One that is just answered is no trouble: both crossed on the way."""
        if isinstance(msg_id, str | int) and msg_id in self._request_futures:
            super()._handle_cancel_notification(msg_id)
        else:
            logger.debug("%r was cancelled, but does not run", msg_id)

    def _send_handler_result(self, future: Future[Any], *, msg_id: str | int) -> None:
        """Sends a handler's result. An error that the client is told is none of the log's."""
        error = None if future.cancelled() else future.exception()
        if isinstance(error, JsonRpcException):
            self._request_futures.pop(msg_id, None)
            logger.info("request %r: %s", msg_id, error)
            self._send_response(msg_id, error=error.to_response_error())
            return
        super()._send_handler_result(future, msg_id=msg_id)

    def _send_response(self, msg_id: str | int, result: Any = None, error: Any = None) -> None:
        """Sends an answer; a late result is made now."""
        if isinstance(result, Late) and error is None:
            result = result.make()
        super()._send_response(msg_id, result, error)

    def _send_data(self, data: Any) -> None:
        """Writes one compact message, without pygls' logging, which would log the user's code."""
        text = json.dumps(data, default=self._serialize_message, separators=(",", ":"))
        self.send(to_frame(text.encode()))


def pruned_initialize(message: dict) -> dict:
    """Returns `initialize` with only those client capabilities that the server reads.

    Other capabilities contain value sets (symbol kinds, token types, …), and lsprotocol refuses the
    whole message for one unknown value. The client's name and version are not worth that, either.
    """
    params = message.get("params")
    if not isinstance(params, dict):
        return message
    pruned = dict(params)
    if isinstance(capabilities := params.get("capabilities"), dict):
        pruned["capabilities"] = _picked(capabilities, _READ)
    info = params.get("clientInfo")
    name = info.get("name") if isinstance(info, dict) else None
    pruned["clientInfo"] = {"name": name} if isinstance(name, str) else None
    return message | {"params": pruned}


_READ: dict[str, Any] = {
    "general": {"positionEncodings": None},
    "window": {"workDoneProgress": None},
    "workspace": {
        "applyEdit": None,
        "configuration": None,
        "workspaceEdit": {"documentChanges": None},
        "didChangeConfiguration": {"dynamicRegistration": None},
        "didChangeWatchedFiles": {"dynamicRegistration": None},
        "workspaceFolders": None,
    },
    "textDocument": {
        "inlineCompletion": {"dynamicRegistration": None},
        "codeAction": {"tagSupport": None, "codeActionLiteralSupport": None},
    },
}


def _picked(value: dict, wanted: dict[str, Any]) -> dict:
    """Returns the wanted keys of an object, recursively; other values stay as they are."""
    picked = {}
    for key in wanted.keys() & value.keys():
        nested = wanted[key] is not None and isinstance(value[key], dict)
        picked[key] = _picked(value[key], wanted[key]) if nested else value[key]
    return picked


def _no_transport(data: bytes) -> None:
    raise AssertionError("a message was sent before the transport was set")
