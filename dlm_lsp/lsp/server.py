"""The handlers of LSP methods, which read a message, ask the session and answer.

Owns the connection's capabilities and the exchanges of LSP itself: configuration, loading progress
and edits that the client applies. The session decides what to suggest; it is imported only after
`initialize` is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from dlm_lsp.lsp import convert
from dlm_lsp.lsp.commands import Commands
from dlm_lsp.lsp.progress import LoadProgress
from dlm_lsp.lsp.protocol import WARM, Late, StrictProtocol
from dlm_lsp.lsp.pull import Pulls
from dlm_lsp.session.document import Document, DocumentError, Encoding
from dlm_lsp.session.requests import (
    Answer,
    Ask,
    DraftNotice,
    NextEditAsk,
    RefineAsk,
    RefinementNotice,
    Status,
)
from dlm_lsp.version import VERSION

if TYPE_CHECKING:
    from dlm_lsp.session.session import Session

logger = logging.getLogger(__name__)

INVOKED_COUNT = 3  # The largest number of answers to an explicit request.
CONFIGURATION_SECONDS_MAX = 2.0  # A request waits this long for the client's settings.
_ASKED_MAX = 64
WATCHED = ("dlm-lsp.toml", ".dlmignore", ".gitignore")
SECTION = "dlm"


class Server(LanguageServer):
    """One editor's language server, which is also the `Editor` of its session.

    Attributes:
        on_process_id: called with the editor's process id from `initialize`.
    """

    protocol: StrictProtocol  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self) -> None:
        super().__init__(
            "dlm-lsp",
            VERSION,
            protocol_cls=StrictProtocol,
            converter_factory=convert.make_converter,
        )
        self._client: types.InitializeParams | None = None
        self._later_options: object = None  # what the client has sent since `initialize`
        self._num_asked = 0  # Questions for the client's settings that it has not answered yet.
        self._has_settings = asyncio.Event()
        self._folders: tuple[Path, ...] = ()
        self._is_zero_based = False
        self.on_process_id: Callable[[int | None], None] = lambda process_id: None
        self._progress = LoadProgress(self.protocol)
        self.pulls = Pulls(self)
        self._commands = Commands(self)
        self._asked: dict[int, Document | None] = {}
        self.protocol.on_request = self._on_request
        self.protocol.on_broken = self._on_broken
        self._register()

    def _register(self) -> None:
        features, options = self.protocol.fm.features, self.protocol.fm.feature_options
        self.protocol.fm.builtin_features.pop(types.WORKSPACE_EXECUTE_COMMAND)
        features |= {
            types.INITIALIZE: self._initialize,
            types.INITIALIZED: self._initialized,
            types.TEXT_DOCUMENT_DID_OPEN: self._did_open,
            types.TEXT_DOCUMENT_DID_CHANGE: self._did_change,
            types.TEXT_DOCUMENT_DID_CLOSE: self._did_close,
            types.TEXT_DOCUMENT_INLINE_COMPLETION: self._inline_completion,
            WARM: self._warm,
            types.TEXT_DOCUMENT_CODE_ACTION: self._code_action,
            types.WORKSPACE_EXECUTE_COMMAND: self._commands.execute,
            types.WORKSPACE_DID_CHANGE_CONFIGURATION: self._did_change_configuration,
            types.WORKSPACE_DID_CHANGE_WATCHED_FILES: self._did_change_watched_files,
            types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS: self._did_change_workspace_folders,
            types.WINDOW_WORK_DONE_PROGRESS_CANCEL: self._progress_cancel,
        }
        options |= {
            # Without options pygls would not advertise this method.
            types.TEXT_DOCUMENT_INLINE_COMPLETION: types.InlineCompletionOptions(),
            types.TEXT_DOCUMENT_CODE_ACTION: types.CodeActionOptions(
                code_action_kinds=[types.CodeActionKind.RefactorRewrite]
            ),
        }
        # These names are advertised; `Commands.execute` runs the commands.
        self.protocol.fm.commands.update(dict.fromkeys(self._commands.names))

    @functools.cached_property
    def session(self) -> Session:
        """The session, with the client's settings that are known so far."""
        # Imported late, because pydantic and the settings take 90 ms, which would delay the answer
        # to `initialize`.
        from dlm_lsp.session.engine_link import EngineLink
        from dlm_lsp.session.session import Session
        from dlm_lsp.settings.files import user_file
        from dlm_lsp.statistics.recorder import Recorder, default_path

        return Session(
            self,
            self.encoding,
            EngineLink(self),
            self._editor_options(),
            self._folders,
            user_file(),
            are_settings_known=self._has_settings.is_set,
            recorder=Recorder(default_path()),
        )

    @property
    def encoding(self) -> Encoding:
        return Encoding(self.server_capabilities.position_encoding or Encoding.UTF16)

    @functools.cached_property
    def dialect(self) -> convert.Dialect:
        """How the client writes text, which `initialize` tells."""
        return convert.dialect_of(self._client, self.encoding)

    async def close(self) -> None:
        """Stops all work for the editor."""
        await self.pulls.close()
        if "session" in self.__dict__:
            await self.session.close()

    # The methods of `Editor`.

    def draft(self, notice: DraftNotice) -> None:
        self.protocol.notify("dlm/draft", convert.to_draft_params(notice, self.dialect))

    def refinement(self, notice: RefinementNotice) -> None:
        self.protocol.notify("dlm/refinement", convert.to_refinement_params(notice, self.dialect))

    def status(self, status: Status) -> None:
        if self.session.settings.status_notifications:
            self.protocol.notify("dlm/status", convert.to_status_params(status))

    def log(self, message: str) -> None:
        logger.warning("%s", message)
        self.window_log_message(types.LogMessageParams(types.MessageType.Warning, message))

    def show_error(self, message: str) -> None:
        logger.error("%s", message)
        self.window_show_message(types.ShowMessageParams(types.MessageType.Error, message))

    def loading(self, message: str | None) -> None:
        window = self.client_capabilities.window
        if window is not None and window.work_done_progress:
            self._progress.tell(message)

    def report_server_error(self, error: Exception, source: object) -> None:
        """Logs an internal error; pygls answers the request with it."""
        logger.error("a handler failed: %r", error)

    # LSP's own exchanges.

    def _initialize(self, params: types.InitializeParams) -> None:
        self._client = params
        self._folders = _folders_of(params)
        workspace = params.capabilities.workspace
        if workspace is None or not workspace.configuration:
            self._has_settings.set()  # They have come with this message.
        self.on_process_id(params.process_id)
        text_document = params.capabilities.text_document
        if text_document is None or text_document.inline_completion is None:
            # An editor with inline completions would show the same text twice.
            features, options = self.protocol.fm.features, self.protocol.fm.feature_options
            features[types.TEXT_DOCUMENT_COMPLETION] = self._completion
            options[types.TEXT_DOCUMENT_COMPLETION] = types.CompletionOptions(
                trigger_characters=[".", "("]
            )

    async def _initialized(self, _: types.InitializedParams) -> None:
        registrations = self._registrations()
        if registrations:
            self.protocol.send_request(
                types.CLIENT_REGISTER_CAPABILITY, types.RegistrationParams(registrations)
            )
        await self._configure()
        self._tell_of_models()

    def _registrations(self) -> list[types.Registration]:
        """Returns what the client can tell the server of: its settings, and files that change."""
        workspace = self.client_capabilities.workspace
        found: list[types.Registration] = []
        configuration = workspace and workspace.did_change_configuration
        if configuration is not None and configuration.dynamic_registration:
            options = types.DidChangeConfigurationRegistrationOptions(section=SECTION)
            method = types.WORKSPACE_DID_CHANGE_CONFIGURATION
            found.append(types.Registration("dlm-configuration", method, options))
        files = workspace and workspace.did_change_watched_files
        if files is not None and files.dynamic_registration:
            watchers = [types.FileSystemWatcher(f"**/{name}") for name in WATCHED]
            options = types.DidChangeWatchedFilesRegistrationOptions(watchers)
            method = types.WORKSPACE_DID_CHANGE_WATCHED_FILES
            found.append(types.Registration("dlm-files", method, options))
        return found

    async def _configure(self) -> None:
        """Asks for the client's settings and uses them."""
        await self._pull_configuration()
        await self.session.configure(self._editor_options())
        if not self._num_asked:
            self._has_settings.set()

    async def _settings_known(self) -> bool:
        """Waits for the client's settings, and returns whether they have come.

        Until then it is not known what they silence, so that nothing may be suggested.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIGURATION_SECONDS_MAX):
                await self._has_settings.wait()
        return self._has_settings.is_set()

    def _tell_of_models(self) -> None:
        """Tells the user once on a machine how to get a real model if there is none."""
        from dlm_lsp.store.told import tell_now  # Imported late because of platformdirs.

        hint = self.session.model_hint
        if hint is not None and tell_now():
            self.window_show_message(types.ShowMessageParams(types.MessageType.Info, hint))

    async def _did_change_configuration(self, params: types.DidChangeConfigurationParams) -> None:
        if isinstance(params.settings, dict) and SECTION in params.settings:
            self._later_options = params.settings[SECTION]
        await self._configure()

    def _did_change_watched_files(self, _: types.DidChangeWatchedFilesParams) -> None:
        self.session.files_changed()

    def _did_change_workspace_folders(self, params: types.DidChangeWorkspaceFoldersParams) -> None:
        removed = {_path_of(folder.uri) for folder in params.event.removed}
        kept = [folder for folder in self._folders if folder not in removed]
        added = [path for folder in params.event.added if (path := _path_of(folder.uri))]
        self._folders = tuple(dict.fromkeys((*kept, *added)))
        self.session.use_folders(self._folders)

    async def _pull_configuration(self) -> None:
        """Requests the client's settings if the client supports that, and waits for them."""
        workspace = self.client_capabilities.workspace
        if workspace is None or not workspace.configuration:
            return
        wanted = types.ConfigurationParams([types.ConfigurationItem(section=SECTION)])
        self._num_asked += 1
        self._has_settings.clear()
        try:
            answer = await self.protocol.send_request_async(types.WORKSPACE_CONFIGURATION, wanted)
        except JsonRpcException as error:
            logger.warning("the client does not tell its settings: %r", error)
            return
        finally:
            self._num_asked -= 1
        if isinstance(answer, list) and answer and answer[0] is not None:
            self._later_options = answer[0]

    def _editor_options(self) -> object:
        """The client's settings: its initial ones, overridden by those it has sent since."""
        first = self._client.initialization_options if self._client is not None else None
        return first if self._later_options is None else merged(first, self._later_options)

    def _progress_cancel(self, params: types.WorkDoneProgressCancelParams) -> None:
        self.session.cancel(params.token)
        self.pulls.cancel(params.token)

    # Documents.

    def _did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        item = params.text_document
        self.session.open(Document(item.uri, str(item.language_id), item.version, item.text))

    def _did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        item = params.text_document
        self.session.change(item.uri, item.version, convert.to_changes(params.content_changes))

    def _did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        self.session.close_document(params.text_document.uri)

    def _on_broken(self, method: str, params: Any, why: str) -> None:
        """Handles an unreadable notification; after an edit, its document is out of step."""
        document = params.get("textDocument") if isinstance(params, dict) else None
        uri = document.get("uri") if isinstance(document, dict) else None
        if method.startswith("textDocument/did") and isinstance(uri, str):
            self.session.lose(uri, f"{method}: {why}.")

    # Completions.

    async def _inline_completion(self, params: types.InlineCompletionParams) -> Late:
        kind = int(params.context.trigger_kind)
        self._is_zero_based |= kind == convert.KIND_ZERO
        is_automatic = kind + self._is_zero_based == types.InlineCompletionTriggerKind.Automatic
        ask = Ask(
            uri=params.text_document.uri,
            position=convert.to_position(params.position),
            automatic=is_automatic,
            count=1 if is_automatic else INVOKED_COUNT,
            selected=convert.to_selected(params.context.selected_completion_info),
            token=params.work_done_token,
        )
        answer = await self.complete(ask, params)

        def make() -> list[types.InlineCompletionItem] | None:
            if answer is None or not self.session.stands(ask, answer):
                return None
            self.session.record.shown(answer)
            return convert.to_inline_items(answer, self.dialect)

        return Late(make)

    def _warm(self, params: types.TextDocumentPositionParams) -> None:
        """Prepares for a request at the cursor's new place."""
        try:
            self.session.rest_at(params.text_document.uri, convert.to_position(params.position))
        except DocumentError as error:
            logger.warning("%s was dropped: %s", WARM, error)

    async def _completion(self, params: types.CompletionParams) -> Late:
        """Returns at most one item, in an incomplete list, because each keystroke changes it.

        While the engine loads the list is empty, because other servers' entries may wait for it.
        """
        ask = Ask(params.text_document.uri, convert.to_position(params.position))
        answer = None
        if self._has_settings.is_set():
            await self.session.start()
        if (
            self._has_settings.is_set()
            and self.session.settings.completion
            and self.session.is_ready
        ):
            answer = await self.complete(ask, params)
        else:
            self._asked.pop(id(params), None)

        def make() -> types.CompletionList:
            items: list[types.CompletionItem] = []
            if answer is not None and self.session.stands(ask, answer):
                self.session.record.shown(answer)
                offers = answer.offers[:1]
                items = [convert.to_completion_item(answer, one, self.dialect) for one in offers]
            return types.CompletionList(is_incomplete=True, items=items)

        return Late(make)

    def _on_request(self, params: Any) -> None:
        """Remembers the text that the position of a request refers to."""
        if isinstance(params, types.InlineCompletionParams | types.CompletionParams):
            document = self.session.documents.get(params.text_document.uri)
            self._asked[id(params)] = document
            if len(self._asked) > _ASKED_MAX:  # Requests that were cancelled before they began.
                del self._asked[next(iter(self._asked))]

    async def complete(self, ask: Ask, params: object = None) -> Answer | None:
        """Returns the session's answer. Raises JsonRpcInvalidParams on an impossible position.

        Args:
            params: the parameters of the request, if edits may have come after it.
        """
        known = self.session.documents.get(ask.uri)
        document = self._asked.pop(id(params), known)
        return await self._answered(ask, document, lambda: self.session.complete(ask))

    async def refine(self, ask: RefineAsk) -> Answer | None:
        """Returns the session's answer. Raises JsonRpcInvalidParams on an impossible position."""
        document = self.session.documents.get(ask.uri)
        return await self._answered(ask, document, lambda: self.session.refine(ask))

    async def next_edit(self, ask: NextEditAsk) -> Answer | None:
        """Returns the session's answer. Raises JsonRpcInvalidParams on an impossible position."""
        document = self.session.documents.get(ask.uri)
        return await self._answered(ask, document, lambda: self.session.next_edit(ask))

    async def _answered(
        self,
        ask: Ask | RefineAsk | NextEditAsk,
        document: Document | None,
        answer: Callable[[], Awaitable[Answer | None]],
    ) -> Answer | None:
        """Returns an answer once the settings are known, if the document is still this one."""
        if not self._has_settings.is_set() and not await self._settings_known():
            return self.session.unanswered(ask.uri, "The editor has not told its settings yet.")
        if document is not None and self.session.documents.get(ask.uri) is not document:
            return None  # The position is one in a text that is no more.
        try:
            return await answer()
        except DocumentError as error:
            raise JsonRpcInvalidParams(str(error)) from None
        except Exception as error:  # The boundary of a request.
            logger.exception("a request failed")
            why = f"The request failed in the server: {error!r}."
            return self.session.unanswered(ask.uri, why)

    def _code_action(self, params: types.CodeActionParams) -> list[types.CodeAction]:
        """Returns `Fill here` at a cursor, with `Next edit` after a change, and `Refine selection`
        for a selection, but none for the light bulb, which would always be on."""
        document = self.session.documents.get(params.text_document.uri)
        only = params.context.only
        kind = types.CodeActionKind.RefactorRewrite.value
        is_wanted = (
            any(kind == wanted or kind.startswith(f"{wanted}.") for wanted in only)
            if only is not None
            else params.context.trigger_kind != types.CodeActionTriggerKind.Automatic
        )
        if document is None or not is_wanted:
            return []
        text_document = self.client_capabilities.text_document
        support = (
            text_document and text_document.code_action and text_document.code_action.tag_support
        )
        tags = support.value_set if support is not None else ()
        start, end = convert.to_position(params.range.start), convert.to_position(params.range.end)
        is_tagged = types.CodeActionTag.LlmGenerated in tags
        if start != end:
            return [convert.to_refine_action(document, start, end, tagged=is_tagged)]
        actions = [convert.to_fill_action(document, start, tagged=is_tagged)]
        if self.session.edits.may_follow(document.uri):
            actions.append(convert.to_next_edit_action(document, start, tagged=is_tagged))
        return actions


def merged(first: object, second: object) -> object:
    """Returns client settings overridden by later ones, section by section."""
    if not isinstance(first, dict) or not isinstance(second, dict):
        return second
    first = first.get(SECTION, first)
    if not isinstance(first, dict):
        return second
    return first | {key: merged(first.get(key), value) for key, value in second.items()}


def _folders_of(params: types.InitializeParams) -> tuple[Path, ...]:
    """Returns the workspace folders, which may contain settings."""
    uris = [folder.uri for folder in params.workspace_folders or ()]
    if not uris and params.root_uri is not None:
        uris = [params.root_uri]
    if not uris:
        return (Path(params.root_path),) if params.root_path else ()
    return tuple(path for uri in uris if (path := _path_of(uri)) is not None)


def _path_of(uri: str) -> Path | None:
    path = to_fs_path(uri)
    return Path(path) if path else None
