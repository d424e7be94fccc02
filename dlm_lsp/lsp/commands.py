"""The server's own commands, run by `workspace/executeCommand`.

Owns the names of the commands and the checks of their arguments: each command takes one object,
and an error names the invalid field. The session does the work of the commands.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from lsprotocol import types
from pygls.exceptions import JsonRpcContentModified, JsonRpcException, JsonRpcInvalidParams

from dlm_lsp.lsp import convert
from dlm_lsp.session.document import Position
from dlm_lsp.session.requests import Answer, Ask, NextEditAsk, RefineAsk
from engine.api import ASKED_MODES, AskedMode

if TYPE_CHECKING:
    from dlm_lsp.lsp.server import Server

ACCEPTED_KINDS = ("full", "word", "line", "partial")
TOKENS_MAX = 4096
SNOOZE_MINUTES_MAX = 24 * 60
REQUESTS_MAX = 50  # As many as `session/request_log.py` keeps.

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Fields = dict[str, Any]
Token = str | int | None


class Commands:
    """Runs commands for one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._handlers: dict[str, Callable[[Fields, Token], Awaitable[object]]] = {
            convert.ACCEPTED: self._accepted,
            convert.FILL: self._fill,
            convert.REFINE: self._refine,
            convert.NEXT_EDIT: self._next_edit,
            "dlm.cancel": self._cancel,
            "dlm.pullModel": self._pull_model,
            "dlm.requests": self._requests,
            "dlm.setMode": self._set_mode,
            "dlm.restart": self._restart,
            "dlm.snooze": self._snooze,
            "dlm.stats": self._stats,
            "dlm.toggle": self._toggle,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the commands, which the server advertises."""
        return tuple(self._handlers)

    async def execute(self, params: types.ExecuteCommandParams) -> object:
        """Runs one command. Raises JsonRpcInvalidParams, which names the invalid field."""
        handler = self._handlers.get(params.command)
        if handler is None:
            known = ", ".join(self._handlers)
            raise JsonRpcInvalidParams(f"There is no command {params.command!r}; known: {known}.")
        arguments = params.arguments or [{}]
        if len(arguments) != 1 or not isinstance(arguments[0], dict):
            raise JsonRpcInvalidParams(f"{params.command} takes one object as its argument.")
        return await handler(cast("Fields", arguments[0]), params.work_done_token)

    async def _accepted(self, fields: Fields, _: Token) -> object:
        offer_id = _field(convert.ACCEPTED, fields, "id", str)
        kind = fields.get("kind", "full")
        if kind not in ACCEPTED_KINDS:
            raise _wrong(convert.ACCEPTED, "kind", f"one of {ACCEPTED_KINDS}")
        length = fields.get("length")
        is_count = isinstance(length, int) and not isinstance(length, bool) and length >= 0
        if length is not None and not is_count:
            raise _wrong(convert.ACCEPTED, "length", "a number of characters from 0, or left out")
        return {"known": self._server.session.accepted(offer_id, kind, length)}

    async def _cancel(self, fields: Fields, _: Token) -> object:
        token = fields.get("token")
        if not isinstance(token, str | int) or isinstance(token, bool):
            raise _wrong("dlm.cancel", "token", "a text or an integer")
        is_pull = self._server.pulls.cancel(token)
        return {"cancelled": self._server.session.cancel(token) or is_pull}

    async def _set_mode(self, fields: Fields, _: Token) -> object:
        mode = _mode("dlm.setMode", fields)
        self._server.session.set_mode(mode)
        return {"mode": mode}

    async def _pull_model(self, fields: Fields, token: Token) -> object:
        name = fields.get("name")
        if name is not None and (not isinstance(name, str) or not _MODEL_NAME.fullmatch(name)):
            raise _wrong("dlm.pullModel", "name", "a name of `dlm-lsp model list`, or left out")
        return await self._server.pulls.run(name, token)

    async def _restart(self, _: Fields, __: Token) -> object:
        await self._server.session.restart()
        return None

    async def _snooze(self, fields: Fields, _: Token) -> object:
        minutes = fields.get("minutes")
        wanted = f"a number of minutes up to {SNOOZE_MINUTES_MAX}; 0 ends a snooze"
        if not isinstance(minutes, int | float) or isinstance(minutes, bool):
            raise _wrong("dlm.snooze", "minutes", wanted)
        if not 0 <= minutes <= SNOOZE_MINUTES_MAX:
            raise _wrong("dlm.snooze", "minutes", wanted)
        self._server.session.switches.snooze(minutes)
        return {"minutes": minutes}

    async def _toggle(self, fields: Fields, _: Token) -> object:
        uri = _field("dlm.toggle", fields, "uri", str)
        on = fields.get("on")
        if on is not None and not isinstance(on, bool):
            raise _wrong("dlm.toggle", "on", "true, false or left out")
        return {"uri": uri, "on": self._server.session.switches.toggle(uri, on)}

    async def _stats(self, _: Fields, __: Token) -> object:
        return self._server.session.stats()

    async def _requests(self, fields: Fields, _: Token) -> object:
        limit = fields.get("limit", REQUESTS_MAX)
        is_number = isinstance(limit, int) and not isinstance(limit, bool)
        if not is_number or not 1 <= limit <= REQUESTS_MAX:
            raise _wrong("dlm.requests", "limit", f"1 to {REQUESTS_MAX}, or left out")
        return {"requests": self._server.session.record.requests.to_objects(limit)}

    async def _fill(self, fields: Fields, token: Token) -> object:
        """Fills the hole at a position.

        The client applies the edit; a client that shows drafts and inserts the text itself gets
        the edit as the answer.
        """
        uri = _field(convert.FILL, fields, "uri", str)
        ask = Ask(
            uri=uri,
            position=_position(convert.FILL, fields, "position"),
            automatic=False,
            token=token,
            tokens_max=_tokens_max(fields),
            mode=_mode(convert.FILL, fields) if "mode" in fields else None,
        )
        self._check_version(convert.FILL, uri, fields)
        answer = await self._server.complete(ask)
        return await self._deliver(convert.FILL, answer, "Fill here", "Nothing to fill here")

    async def _refine(self, fields: Fields, token: Token) -> object:
        """Refines a selection. The edit is delivered as that of `dlm.fill`."""
        name = convert.REFINE
        document = _document(name, fields)
        selection = _field(name, fields, "range", dict)
        threshold = fields.get("threshold")
        is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if threshold is not None and not (is_number and 0 <= threshold <= 1):
            raise _wrong(name, "threshold", "0 to 1, or left out")
        ask = RefineAsk(
            uri=document["uri"],
            start=_position(name, selection, "start", "range."),
            end=_position(name, selection, "end", "range."),
            token=_named(name, fields, token),
            threshold=threshold,
        )
        self._check_version(name, ask.uri, document)
        answer = await self._server.refine(ask)
        return await self._deliver(name, answer, "Refine selection", "Nothing is changed")

    async def _next_edit(self, fields: Fields, token: Token) -> object:
        """Returns the next edit, delivered as that of `dlm.fill`, with its range and text."""
        name = convert.NEXT_EDIT
        document = _document(name, fields)
        ask = NextEditAsk(
            uri=document["uri"],
            position=_position(name, fields, "position"),
            token=_named(name, fields, token),
        )
        self._check_version(name, ask.uri, document)
        answer = await self._server.next_edit(ask)
        result = await self._deliver(name, answer, "Next edit", "There is no next edit")
        place, text = None, None
        if answer is not None and answer.offers:
            offer, dialect = answer.offers[0], self._server.dialect
            place = convert.to_range(answer.document, offer.start, offer.end, dialect.encoding)
            text = dialect.written(offer.text)
        return {**result, "range": place, "text": text}

    def _check_version(self, command: str, uri: str, fields: Fields) -> None:
        """Raises an error if the document is not open or has another version than the fields."""
        documents = self._server.session.documents
        document = documents.get(uri)
        if document is None:
            raise JsonRpcInvalidParams(f"{command}: {uri}: {documents.problem(uri)}")
        if fields.get("version", document.version) not in (document.version, None):
            raise JsonRpcContentModified(
                f"{command}: version is {fields['version']!r}, the document's is "
                f"{document.version}."
            )

    async def _deliver(
        self, command: str, answer: Answer | None, label: str, without: str
    ) -> Fields:
        """Returns the result of a command that edits.

        Args:
            label: names the edit for the user.
            without: what the user is told where there is no edit, before the reason.
        """
        if answer is None:
            raise JsonRpcContentModified(f"{command}: a newer request or edit came between.")
        if answer.offers:
            return await self._edit(command, answer, label)
        if not self._server.session.settings.drafts:
            # The user ran the command in an editor that shows no status, so a message says why
            # nothing happens.
            message = f"{without}: {answer.reason}"
            self._server.window_show_message(
                types.ShowMessageParams(types.MessageType.Info, message)
            )
        return {"edit": None, "applied": False, "reason": answer.reason}

    async def _edit(self, command: str, answer: Answer, label: str) -> Fields:
        workspace = self._server.client_capabilities.workspace
        edits = workspace and workspace.workspace_edit
        edit = convert.to_workspace_edit(
            answer,
            answer.offers[0],
            self._server.dialect,
            versioned=bool(edits and edits.document_changes),
        )
        is_applied = False
        if workspace and workspace.apply_edit and not self._server.session.settings.drafts:
            params = types.ApplyWorkspaceEditParams(edit, label=label)
            try:
                result = await self._server.protocol.send_request_async(
                    types.WORKSPACE_APPLY_EDIT, params
                )
            except JsonRpcException as error:
                raise JsonRpcException(f"{command}: the client refused the edit: {error}") from None
            is_applied = isinstance(result, dict) and result.get("applied") is True
        return {"edit": edit, "applied": is_applied, "reason": None}


def _field(command: str, fields: Fields, name: str, kind: type) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind):
        raise _wrong(command, name, {str: "a text", dict: "an object"}[kind])
    return value


def _document(command: str, fields: Fields) -> Fields:
    """Returns the text document of the fields, whose uri is a text."""
    document = _field(command, fields, "textDocument", dict)
    if not isinstance(document.get("uri"), str):
        raise _wrong(command, "textDocument.uri", "a text")
    return document


def _named(command: str, fields: Fields, token: Token) -> Token:
    """Returns the token in the fields, or the message's if they have none."""
    named = fields.get("token", token)
    if named is not None and (isinstance(named, bool) or not isinstance(named, str | int)):
        raise _wrong(command, "token", "a text or a whole number, or left out")
    return named


def _position(command: str, fields: Fields, name: str, within: str = "") -> Position:
    """Returns the position in a field.

    Args:
        within: the path of the object that has the field, for the error.
    """
    position = fields.get(name)
    fields = cast(Fields, position) if isinstance(position, dict) else {}
    numbers: list[Any] = [fields.get("line"), fields.get("character")]
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
        wanted = "an object with line and character, both from 0"
        raise _wrong(command, within + name, wanted)
    return Position(*numbers)


def _mode(command: str, fields: Fields) -> AskedMode:
    asked = fields.get("mode")
    for mode in ASKED_MODES:
        if mode == asked:
            return mode
    raise _wrong(command, "mode", f"one of {ASKED_MODES}")


def _tokens_max(fields: Fields) -> int | None:
    limits = fields.get("limits") or {}
    tokens_max = limits.get("tokensMax") if isinstance(limits, dict) else -1
    if tokens_max is None:
        return None
    if not isinstance(tokens_max, int) or not 1 <= tokens_max <= TOKENS_MAX:
        raise _wrong(convert.FILL, "limits.tokensMax", f"1 to {TOKENS_MAX}")
    return tokens_max


def _wrong(command: str, name: str, wanted: str) -> JsonRpcInvalidParams:
    return JsonRpcInvalidParams(f"{command}: {name} must be {wanted}.")
