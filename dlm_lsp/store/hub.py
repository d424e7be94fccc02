"""Files of a Hugging Face repository, through `huggingface_hub`.

Uses the library's client, endpoint, token, offline switch and cache: a file in the user's cache is
linked from there. Downloads go into the store's folder and not through the cache, whose downloads
cannot be resumed. Chooses a repository's files if the catalogue does not list them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from dlm_lsp.store.catalogue import File, Hub
from dlm_lsp.store.errors import StoreError, of_system
from dlm_lsp.store.sink import Sink
from dlm_lsp.store.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

LISTING = "listing.json"  # The hub's listing at the start of a pull, for resuming it.
NAME = "Hugging Face"

# Matches a checkpoint's files: weights, configuration and tokenizer, but no code and no pickles.
_WANTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map)\.json"
    r"|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|linear_spec_lora/(adapter_config\.json|adapter_model\.safetensors)"
)
_NEEDED = ("config.json", "tokenizer.json")
_FILES_MAX = 256
_READ_SECONDS_MAX = 10.0
_CHUNK_BYTES = 1 << 18
_TRIES_MAX = 3
_PAUSE_SECONDS = 1.0
_COMMIT = re.compile("[0-9a-f]{40}")


def fetch(source: Hub, files: Sequence[File], transfer: Transfer) -> tuple[tuple[File, ...], str]:
    """Downloads the files into the transfer's folder; returns the files and their commit.

    Args:
        files: the files with known hashes; if empty, those of the hub's listing.

    Raises: StoreError.
    """
    transfer.connecting(NAME)
    # Otherwise the library asks the hub for a list of programs, to name the one that runs it.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        revision, wanted = source.revision, tuple(files)
        if not wanted:
            revision, wanted = _listing(source, transfer)
        transfer.expect(sum(file.bytes for file in wanted))
        for file in wanted:
            if not transfer.has(file) and not _from_cache(source, revision, file, transfer):
                _download(source, revision, file, transfer, wanted)
            transfer.finished(file)
        return wanted, revision
    except StoreError:
        raise
    except Exception as error:  # The library's HTTP client decides the type.
        raise _explained(error, source) from None


def _download(
    source: Hub, revision: str, file: File, transfer: Transfer, files: Sequence[File]
) -> None:
    """Downloads or resumes one file; reconnects if the connection breaks."""
    with transfer.open(file) as sink:
        there = sum(_length(transfer.folder / each.name) for each in files)
        transfer.need(sum(each.bytes for each in files) - there)
        began = sink.size
        if sink.was_resumed:
            transfer.connecting(NAME)  # The check has ended.
        tries = 0
        while sink.size < file.bytes:
            before = sink.size
            try:
                _stream(source, revision, file, sink, transfer)
                tries = tries + 1 if sink.size == before else 0
                if tries >= _TRIES_MAX:
                    break  # The server ended early; `finish` reports what is missing.
            except (StoreError, HfHubHTTPError, OfflineModeIsEnabled):
                raise
            except Exception:
                tries = tries + 1 if sink.size == before else 0
                if sink.size == began or tries >= _TRIES_MAX:
                    raise
                transfer.pause(_PAUSE_SECONDS)
        sink.finish()


def _stream(source: Hub, revision: str, file: File, sink: Sink, transfer: Transfer) -> None:
    url = hf_hub_url(source.repo, file.name, revision=revision)
    headers = build_hf_headers(library_name="dlm-lsp") | {"Accept-Encoding": "identity"}
    if sink.size:
        headers["Range"] = f"bytes={sink.size}-"
    with ExitStack() as stack:
        # The client does not send the token to another host after a redirect.
        opened = get_session().stream(
            "GET", url, headers=headers, timeout=_READ_SECONDS_MAX, follow_redirects=True
        )
        response = transfer.soon(lambda: stack.enter_context(opened), _host())
        if response.status_code == 416:
            sink.restart()
            return
        hf_raise_for_status(response)
        starts_at = f"bytes {sink.size}-"
        is_rest = response.status_code == 206
        if sink.size and not (
            is_rest and response.headers.get("Content-Range", "").startswith(starts_at)
        ):
            if is_rest:
                raise StoreError(
                    f"{_host()} sent another part of {file.name} than was asked for.",
                    code="bad_content",
                )
            sink.restart()
        for chunk in response.iter_bytes():
            transfer.write(sink, chunk)


def _from_cache(source: Hub, revision: str, file: File, transfer: Transfer) -> bool:
    """Links or copies a file from the user's Hugging Face cache if it is there and right."""
    found = try_to_load_from_cache(source.repo, file.name, revision=revision)
    if not isinstance(found, str):
        return False
    cached, place = Path(found).resolve(), transfer.folder / file.name
    if not transfer.is_right(cached, file):
        return False
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # Without links between the disks, copied below.
            os.link(cached, place)
            return True
        with transfer.open(file) as sink, cached.open("rb") as content:
            transfer.need(file.bytes)
            while chunk := content.read(_CHUNK_BYTES):
                transfer.write(sink, chunk)
            sink.finish()
    except OSError as error:
        raise of_system(error, place) from None
    return True


def _listing(source: Hub, transfer: Transfer) -> tuple[str, tuple[File, ...]]:
    """Returns the revision's commit, and its files with the hashes that the hub states."""
    kept = transfer.folder / LISTING
    try:
        record = json.loads(kept.read_text("utf-8"))
        files = tuple(File(**item) for item in record["files"])
        if record["repo"] == source.repo and all(_WANTED.fullmatch(file.name) for file in files):
            return str(record["revision"]), files
    except (OSError, ValueError, KeyError, TypeError):
        pass  # The listing is missing or unusable.
    api = HfApi(library_name="dlm-lsp")
    revision = source.revision
    if not _COMMIT.fullmatch(revision):
        info = transfer.soon(
            lambda: api.model_info(source.repo, revision=revision, timeout=_READ_SECONDS_MAX),
            _host(),
        )
        revision = str(info.sha)
    tree = transfer.soon(
        lambda: list(api.list_repo_tree(source.repo, revision=revision, recursive=True)), _host()
    )
    files = tuple(
        _stated(item)
        for item in tree
        if isinstance(item, RepoFile) and _WANTED.fullmatch(item.path)
    )
    names = {file.name for file in files}
    has_weights = any(name.startswith("model") and name.endswith("safetensors") for name in names)
    if not has_weights or not names.issuperset(_NEEDED) or len(files) > _FILES_MAX:
        raise StoreError(
            f"{source.repo} at {revision[:12]} holds no checkpoint in safetensors.",
            code="bad_content",
        )
    record = {
        "repo": source.repo,
        "revision": revision,
        "files": [asdict(file) for file in files],
    }
    try:
        kept.unlink(missing_ok=True)
        kept.write_text(json.dumps(record), "utf-8")
    except OSError as error:
        raise of_system(error, kept) from None
    return revision, files


def _stated(item: RepoFile) -> File:
    """Returns a file with the hub's hash: SHA-256 for a large file, otherwise git's hash."""
    lfs: Any = item.lfs
    if lfs is not None:
        return File(item.path, int(item.size), str(lfs.sha256))
    return File(item.path, int(item.size), "", str(item.blob_id))


def _explained(error: Exception, source: Hub) -> StoreError:
    where = f"{_host()}/{source.repo}"
    if isinstance(error, OfflineModeIsEnabled):
        return StoreError(
            f"{where}: HF_HUB_OFFLINE is set, and the files are not in the Hugging Face cache.",
            remedy="Unset HF_HUB_OFFLINE.",
            code="offline",
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            remedy = f"Accept the licence on the page of {source.repo} and set HF_TOKEN."
        else:
            remedy = "Check HF_ENDPOINT." if status == 404 else "Try again later."
        return StoreError(f"{where} answered {status}.", remedy=remedy, code="refused")
    reason = str(error) or type(error).__name__
    return StoreError(
        f"{_host()} cannot be reached: {reason}.",
        remedy="Check the network, and HTTPS_PROXY and HF_ENDPOINT if you need them.",
        code="no_network",
    )


def _host() -> str:
    return urlsplit(constants.ENDPOINT).hostname or "Hugging Face"


def _length(place: Path) -> int:
    try:
        return place.lstat().st_size
    except OSError:
        return 0
