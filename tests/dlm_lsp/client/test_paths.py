"""Settings that share a host, and the privacy of its folder."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_lsp.client import paths as paths_module
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.paths import (
    SOCKET_PATH_BYTES_MAX,
    adapters_folder,
    graphs_folder,
    host_paths,
    identity,
)
from engine.config import EngineSettings


def test_identity_same_settings_same_host(tiny_checkpoint: Path) -> None:
    settings = EngineSettings(checkpoint=tiny_checkpoint)
    detour = tiny_checkpoint.parent / "." / tiny_checkpoint.name
    assert identity(settings) == identity(EngineSettings(checkpoint=detour))
    assert identity(settings) == identity(replace(settings, threads=2))


def test_identity_differs_where_a_host_must_not_be_shared(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EngineSettings(checkpoint=tiny_checkpoint)
    others = [
        EngineSettings(),
        EngineSettings(checkpoint=tiny_checkpoint.parent),
        replace(settings, device="cpu"),
        replace(settings, dtype="float32"),
        replace(settings, backend="torch"),
        replace(settings, steps="captured"),
    ]
    identities = {identity(settings), *(identity(other) for other in others)}
    monkeypatch.setattr(paths_module, "PROTOCOL", paths_module.PROTOCOL + 1)
    identities.add(identity(settings))
    assert len(identities) == 8


def test_identity_differs_once_the_weights_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"old")
    before = identity(EngineSettings(checkpoint=tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"newer")
    assert identity(EngineSettings(checkpoint=tmp_path)) != before


def test_identity_differs_once_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"old")
    before = identity(EngineSettings(checkpoint=path))
    path.write_bytes(b"newer")
    assert identity(EngineSettings(checkpoint=path)) != before


def test_paths_lie_in_the_runtime_directory_in_a_private_folder(private_runtime: Path) -> None:
    paths = host_paths(EngineSettings())
    assert paths.folder == private_runtime / "dlm-lsp"
    assert stat.S_IMODE(paths.folder.lstat().st_mode) == 0o700
    assert {paths.socket.parent, paths.lock.parent, paths.start_lock.parent} == {paths.folder}
    assert paths.log.parent.is_dir()
    assert private_runtime in paths.log.parents


@pytest.fixture
def fallback(private_runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in the temporary directory, used without a runtime directory."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(paths_module.tempfile, "gettempdir", lambda: str(private_runtime))
    if Path(f"/run/user/{os.getuid()}").exists():
        pytest.skip("this system has a runtime directory of its own")
    return private_runtime / f"dlm-lsp-{os.getuid()}"


def test_paths_without_a_runtime_directory_are_in_a_folder_of_the_user(fallback: Path) -> None:
    assert host_paths(EngineSettings()).folder == fallback
    assert stat.S_IMODE(fallback.lstat().st_mode) == 0o700


@pytest.mark.parametrize("value", ["relative", "/nonexistent", "shared"])
def test_paths_runtime_directory_that_is_not_ours_alone_is_not_used(
    fallback: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    if value == "shared":
        shared = fallback.parent / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        value = str(shared)
    monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert host_paths(EngineSettings()).folder == fallback


def test_paths_too_long_for_a_socket_are_not_used(
    private_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = private_runtime / ("x" * 90)
    long.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setattr(paths_module.tempfile, "gettempdir", lambda: str(private_runtime))
    socket = host_paths(EngineSettings()).socket
    assert long not in socket.parents
    assert len(os.fsencode(socket)) <= SOCKET_PATH_BYTES_MAX


@pytest.fixture
def only(private_runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for sockets, where there is no other place for them."""
    folder = private_runtime / "dlm-lsp"
    monkeypatch.setattr(paths_module, "_candidates", lambda: [folder])
    return folder


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o770, 0o2750])
def test_paths_folder_that_others_can_enter_is_refused_by_name(only: Path, mode: int) -> None:
    folder = only
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(HostError, match=f"{folder} has mode {mode:04o}") as caught:
        host_paths(EngineSettings())
    assert caught.value.remedy
    assert caught.value.code == "path"


@pytest.mark.parametrize("mode", [0o2700, 0o1700, 0o4700])
def test_paths_folder_with_an_inherited_bit_that_gives_nobody_access_is_used(
    only: Path, mode: int
) -> None:
    only.mkdir()
    only.chmod(mode)
    assert host_paths(EngineSettings()).folder == only


@pytest.mark.parametrize("fault", ["setgid parent", "read-only", "a file", "open to others"])
def test_paths_next_place_is_taken_where_one_cannot_be_used(
    private_runtime: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    first, second = private_runtime / "first" / "dlm-lsp", private_runtime / "second"
    first.parent.mkdir()
    if fault == "setgid parent":
        first.parent.chmod(0o2700)
    elif fault == "read-only":
        first = Path("/proc/dlm-lsp")  # Even root cannot make a folder there.
    elif fault == "a file":
        first.write_text("")
    else:
        first.mkdir()
        first.chmod(0o777)
    monkeypatch.setattr(paths_module, "_candidates", lambda: [first, second])
    used = first if fault == "setgid parent" else second
    assert host_paths(EngineSettings()).folder == used


def test_paths_folder_that_is_a_link_is_refused(private_runtime: Path, only: Path) -> None:
    target = private_runtime / "elsewhere"
    target.mkdir(mode=0o700)
    only.symlink_to(target)
    with pytest.raises(HostError, match="is a link"):
        host_paths(EngineSettings())


def test_paths_folder_that_is_a_file_is_refused(only: Path) -> None:
    only.write_text("")
    with pytest.raises(HostError, match="dlm-lsp"):
        host_paths(EngineSettings())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_paths_folder_of_another_user_is_refused(only: Path) -> None:
    only.mkdir(mode=0o700)
    os.chown(only, 12345, -1)
    with pytest.raises(HostError, match="belongs to user 12345"):
        host_paths(EngineSettings())


def test_paths_home_that_cannot_be_written_to_puts_the_log_beside_the_socket(
    private_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (private_runtime / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(private_runtime / "file"))
    paths = host_paths(EngineSettings())
    assert paths.log.parent == paths.folder


def test_graphs_lie_in_the_store_unless_it_is_others_who_prepared_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cache = tmp_path / "models", tmp_path / "cache"
    monkeypatch.setenv("DLM_LSP_MODELS", str(store))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert graphs_folder() == store / "graphs"
    assert adapters_folder() == store / "adapters"
    monkeypatch.setattr(paths_module.os, "access", lambda *_: False)
    assert graphs_folder() == cache / "dlm-lsp" / "graphs"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert adapters_folder() == tmp_path / "data" / "dlm-lsp" / "adapters"
    (store / "graphs" / "model" / "graph").mkdir(parents=True)
    assert graphs_folder() == store / "graphs"


def test_a_newly_trained_adapter_is_no_longer_what_a_running_host_serves(
    private_runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLM_LSP_MODELS", str(tmp_path / "models"))
    before = host_paths(EngineSettings()).socket
    assert host_paths(EngineSettings()).socket == before
    (tmp_path / "models" / "adapters" / "some-model").mkdir(parents=True)
    assert host_paths(EngineSettings()).socket != before
