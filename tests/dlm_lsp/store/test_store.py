"""The store's folder, the catalogue, and the checkpoint of a setting."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import to_host_settings
from dlm_lsp.client.paths import identity
from dlm_lsp.settings.schema import load_settings
from dlm_lsp.store import memory as memory_module
from dlm_lsp.store import proposal
from dlm_lsp.store.catalogue import CATALOGUE, Entry, File, Hub, Wheels, find
from dlm_lsp.store.choice import as_given, choose
from dlm_lsp.store.errors import StoreError
from dlm_lsp.store.folder import Store, default_root
from dlm_lsp.store.further import entries
from dlm_lsp.store.memory import memory_problem, smaller_model
from dlm_lsp.store.progress import Meter, Progress, lasting, sized
from dlm_lsp.store.proposal import SPARE_BYTES, STEP_OVER_READ, measured_row_step_ms, propose
from dlm_lsp.store.told import tell_now
from engine.config import EngineSettings
from engine.model.onnx.probe import MachineProbe, ProductTimes
from tests.dlm_lsp.store_sources import HUB, entry, write_catalogue

SMALL, LARGE = (find(f"qwen2.5-coder-{size}", CATALOGUE) for size in ("0.5b", "1.5b"))


def put(store: Store, wanted: Entry) -> Path:
    """Puts a model with empty files of the right names into the store."""
    partial = store.make_partial(wanted.name)
    files = tuple(replace(file, bytes=0) for file in wanted.files)
    for file in files:
        (partial / file.name).write_bytes(b"")
    with store.lock(wanted.name, None):
        return store.keep(replace(wanted, files=files), files, "test", "").path


def hollow(*wanted: Entry) -> tuple[Entry, ...]:
    """Entries with empty files, as `put` makes them."""
    return tuple(
        replace(each, files=tuple(replace(file, bytes=0) for file in each.files)) for each in wanted
    )


# The catalogue


def test_every_entry_is_whole_and_its_parts_cover_its_file():
    names = [each.name for each in CATALOGUE]
    assert len(set(names)) == len(names)
    for each in CATALOGUE:
        assert each.sources
        assert each.licence
        assert each.memory_bytes > each.parameters
        for file in each.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        for source in each.sources:
            if isinstance(source, Hub):
                assert source.revision == "main" or re.fullmatch("[0-9a-f]{40}", source.revision)
                assert each.files or source.revision == "main"
            if isinstance(source, Wheels):
                (file,) = each.files
                whole = (source.count - 1) * source.part_bytes
                assert whole < file.bytes <= whole + source.part_bytes


def test_a_name_that_is_nearly_right_is_suggested():
    with pytest.raises(StoreError, match=r"Did you mean qwen2\.5-coder-0\.5b"):
        find("Qwen2.5-Coder-0.5", CATALOGUE)
    with pytest.raises(StoreError, match="model list") as caught:
        find("gpt", CATALOGUE)
    assert caught.value.code == "unknown_name"


def test_further_entries_are_read_and_cannot_weaken_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "catalogue.json"
    monkeypatch.setenv("DLM_LSP_CATALOGUE", str(write_catalogue(file)))
    assert entries()[:-1] == CATALOGUE
    assert entries()[-1].name == "tiny"
    good = json.loads(file.read_text())[0]
    wrong = [
        {**good, "name": SMALL.name},
        {**good, "name": "graphs"},
        {**good, "name": "nano"},
        {**good, "name": "../up"},
        {**good, "name": "x.partial"},
        {**good, "files": []},
        {**good, "files": [{"name": "a", "bytes": 1, "sha256": ""}]},
        {**good, "files": [{"name": "../a", "bytes": 1, "sha256": "0" * 64}]},
        {**good, "files": good["files"] * 2},
        {**good, "sources": [{**good["sources"][1], "prefix": "--index-url=http://x"}]},
        {"name": "x"},
    ]
    for item in wrong:
        file.write_text(json.dumps([item]))
        with pytest.raises(StoreError, match="DLM_LSP_CATALOGUE"):
            entries()


# The folder


def test_the_store_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DLM_LSP_MODELS", str(tmp_path / "here"))
    assert default_root() == tmp_path / "here"
    monkeypatch.delenv("DLM_LSP_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_root() == tmp_path / "data" / "dlm-lsp" / "models"


def test_a_model_whose_file_is_harmed_is_not_there(store: Store):
    (wanted,) = hollow(entry(HUB))
    path = put(store, entry(HUB))
    assert store.find(wanted) is not None
    path.write_bytes(b"more")
    assert store.find(wanted) is None
    path.unlink()
    assert store.find(wanted) is None
    put(store, entry(HUB))
    assert store.find(wanted) is not None
    other = replace(wanted, files=(File(wanted.files[0].name, 0, "0" * 64),))
    assert store.find(other) is None, "the catalogue has another hash by now"


def test_remove_deletes_all_of_a_model_and_follows_no_link(store: Store, tmp_path: Path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    put(store, entry(HUB))
    (store.folder("tiny") / "link").symlink_to(precious)
    (store.partial("tiny")).symlink_to(precious)
    store.graphs("tiny").mkdir(parents=True)
    (store.graphs("tiny") / "graph.onnx").write_bytes(bytes(100))
    assert store.remove("tiny") >= 100
    assert (precious / "file").read_text() == "mine"
    assert not list(store.root.glob("tiny*"))
    assert not store.graphs("tiny").exists()
    with pytest.raises(StoreError, match="not in the store"):
        store.remove("tiny")


def test_a_model_that_is_being_pulled_is_not_removed(store: Store):
    put(store, entry(HUB))
    with store.lock("tiny", None), pytest.raises(StoreError) as caught:
        store.remove("tiny")
    assert caught.value.code == "busy"


# Which checkpoint


def test_left_out_the_best_that_is_pulled_is_used(store: Store):
    known = hollow(SMALL, LARGE)
    nothing = choose(None, store, known)
    assert (nothing.path, nothing.name, nothing.is_open) == (None, "nano", True)
    assert nothing.hint
    small = put(store, SMALL)
    assert choose(None, store, known).path == small
    large = put(store, LARGE)
    choice = choose(None, store, known)
    assert (choice.path, choice.hint) == (large, None)
    assert choose(SMALL.name, store, known).path == small
    assert choose("nano", store, known).path is None
    assert choose("nano", store, known).hint is None


def test_a_name_that_is_not_pulled_names_the_command(store: Store):
    with pytest.raises(StoreError, match=f"dlm-lsp model pull {LARGE.name}"):
        choose(LARGE.name, store)


def test_paths_are_taken_as_they_are(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert choose("~/model", store).path == tmp_path / "model"
    assert choose("/x/y.gguf", store).path == Path("/x/y.gguf")
    assert choose("models/mine", store).path == Path("models/mine")
    assert choose("./qwen2.5-coder-0.5b", store).path == Path("qwen2.5-coder-0.5b")
    with pytest.raises(StoreError, match=r"Did you mean qwen2\.5-coder-0\.5b"):
        choose("qwen2.5-coder-0.5", store)


def test_a_command_lines_checkpoint_keeps_names_and_makes_paths_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert as_given(SMALL.name) == SMALL.name
    assert as_given("nano") == "nano"
    assert as_given("qwen2.5-coder-0.5") == "qwen2.5-coder-0.5"
    assert as_given("model.gguf") == str(tmp_path / "model.gguf")


def test_settings_mean_the_same_files_to_a_client_and_its_host(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    catalogue = write_catalogue(tmp_path / "catalogue.json")
    item = json.loads(catalogue.read_text())[0]
    item["files"][0]["bytes"] = 0
    catalogue.write_text(json.dumps([item]))
    monkeypatch.setenv("DLM_LSP_CATALOGUE", str(catalogue))
    before = to_host_settings(load_settings(None).settings)
    assert (before.engine.checkpoint, bool(before.hint)) == (None, True)
    path = put(store, entry(HUB))
    left_open = to_host_settings(load_settings(None).settings)
    by_name = to_host_settings(load_settings({"engine": {"checkpoint": "tiny"}}).settings)
    by_path = EngineSettings(checkpoint=path)
    assert left_open.engine == by_name.engine == by_path
    assert left_open.hint is None
    elsewhere = {"engine": {"url": "http://127.0.0.1:9", "checkpoint": "tiny"}}
    assert to_host_settings(load_settings(elsewhere).settings).engine.checkpoint is None


def test_a_gguf_file_has_an_identity_of_its_own(tmp_path: Path):
    file = tmp_path / "a.gguf"
    file.write_bytes(b"old")
    before = identity(EngineSettings(checkpoint=file))
    assert identity(EngineSettings(checkpoint=tmp_path / "." / "a.gguf")) == before
    file.write_bytes(b"newer")
    assert identity(EngineSettings(checkpoint=file)) != before


async def test_a_model_that_is_not_pulled_is_every_hosts_error(store: Store):
    settings = load_settings({"engine": {"checkpoint": SMALL.name}}).settings
    host = to_host_settings(settings)
    assert host.problem is not None
    client = HostClient(host)
    health = await client.health()
    assert health.state == "error"
    assert "dlm-lsp model pull" in health.message
    assert replace(host, problem=None) == host, "a new error object is no new host"
    await client.close()


# Memory, proposal, words


def test_memory_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000000 kB\nMemAvailable:    1000000 kB\n")
    monkeypatch.setattr(memory_module, "_MEMINFO", meminfo)
    assert memory_problem(SMALL) is None
    problem = memory_problem(LARGE)
    assert problem is not None
    assert LARGE.name in problem
    assert "1.0 GB are free" in problem
    meminfo.unlink()
    assert memory_problem(SMALL) is None, "asked of sysconf"


def test_where_a_model_does_not_fit_the_largest_that_does_is_proposed():
    small, large = "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"
    assert f"model pull {small}`" in smaller_model(2_100_000_000, 1_500_000_000)
    assert f"model pull {large}`" in smaller_model(9_000_000_000, 4_000_000_000)
    assert 'engine.checkpoint = "nano"' in smaller_model(900_000_000, 500_000_000)


def test_the_best_model_that_runs_well_is_proposed():
    def at(bytes_per_ms: float):
        return lambda weight_bytes: weight_bytes / bytes_per_ms

    plenty = LARGE.memory_bytes + SPARE_BYTES
    assert propose(CATALOGUE, at(40e6), plenty).entry == LARGE
    slow = propose(CATALOGUE, at(20e6), plenty)
    assert slow.entry == SMALL
    assert f"{LARGE.name} would take about 81 ms" in slow.reason
    tight = propose(CATALOGUE, at(40e6), plenty - 1)
    assert tight.entry == SMALL
    assert "memory" in tight.reason
    assert propose(CATALOGUE, at(1e6), 0).entry == SMALL


def test_a_step_takes_as_long_as_the_slower_of_reading_and_multiplying(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    found = MachineProbe("a CPU", (ProductTimes("uint8", True, (4.0, 5.0, 6.0), 65.0),))
    monkeypatch.setattr(proposal, "probe", lambda threads, graphs: found)
    for bytes_per_second, is_reading_slower in ((1e6, True), (1e15, False)):
        monkeypatch.setattr(proposal, "_read_bytes_per_second", lambda rate=bytes_per_second: rate)
        reading = 1_000_000 / (bytes_per_second / 1000) * STEP_OVER_READ
        multiplying = found.row_step_ms(1_000_000)
        assert (reading > multiplying) is is_reading_slower
        assert measured_row_step_ms(tmp_path)(1_000_000) == max(reading, multiplying)


def test_progress_reads_as_people_say_it():
    told = Progress("x", "downloading", 312_400_000, 491_400_000, 14_200_000.0, 12.4)
    assert told.text() == "312 of 491 MB, 14 MB/s, 12 s left"
    assert Progress("x", "downloading", 0, 17_000_000_000).text() == "0.0 of 17.0 GB"
    assert (sized(999), sized(1_500_000), lasting(200)) == ("999 bytes", "1.5 MB", "3 min")


def test_a_meter_never_counts_backwards_within_a_download():
    told: list[Progress] = []
    meter = Meter("x", 100, told.append)
    for done in (10, 50, 40, 100):
        meter.update("downloading", done)
    assert [each.done for each in told] == [10, 100]


def test_the_user_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert tell_now()
    assert not tell_now()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert not tell_now()
