"""`dlm-lsp model`: lists, pulls, removes and finds the models of the store.

Owns the output (a live bar in a terminal, plain lines into a pipe, JSON for programs such as the
language server), the question before a pull without a name, and the exit codes. The store does the
work.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from dlm_lsp.store.catalogue import BUNDLED, Entry, find
from dlm_lsp.store.choice import choose
from dlm_lsp.store.errors import StoreError
from dlm_lsp.store.folder import ADAPTERS, GRAPHS, Kept, Store
from dlm_lsp.store.further import entries as all_entries
from dlm_lsp.store.memory import memory_problem
from dlm_lsp.store.progress import Progress, sized
from dlm_lsp.store.proposal import measured_row_step_ms, propose
from dlm_lsp.store.pull import pull
from engine.config import EngineSettings
from engine.device import resolve
from engine.errors import EngineError
from engine.model.onnx.runtime import prepare_checkpoint

LINE_SECONDS = 5.0  # Between two lines of progress in a pipe.
_USAGE_CODES = ("unknown_name",)
_INTERRUPTED = 130


def run(options: argparse.Namespace) -> int:
    """Runs `options.action`: "list", "pull", "remove" or "path"; returns the exit code.

    Raises: KeyboardInterrupt, also when the process is asked to end.
    """
    actions: dict[str, Callable[[argparse.Namespace, Store], int]] = {
        "list": _list,
        "pull": _pull,
        "remove": _remove,
        "path": _path,
    }
    try:
        return actions[options.action](options, Store())
    except StoreError as error:
        if options.json:
            print(json.dumps({"event": "error", **error.to_object()}), flush=True)
        print(f"dlm-lsp model: {error}", file=sys.stderr)
        return 2 if error.code in _USAGE_CODES else 1


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the list."""

    name: str
    title: str
    size: int
    memory: int
    licence: str
    state: str
    is_default: bool

    def to_object(self) -> dict[str, object]:
        """Returns the object that `--json` prints."""
        return {
            "name": self.name,
            "title": self.title,
            "bytes": self.size,
            "memoryBytes": self.memory,
            "licence": self.licence,
            "state": self.state,
            "default": self.is_default,
        }


def _list(options: argparse.Namespace, store: Store) -> int:
    default = choose(None, store).name
    rows = [Row(BUNDLED, "the bundled model", 0, 0, "Apache-2.0", "bundled", default == BUNDLED)]
    for entry in all_entries():
        kept = store.find(entry)
        begun = store.partial_bytes(entry.name)
        state = "pulled" if kept is not None else "not pulled"
        if kept is None and begun:
            state = f"{sized(begun)} so far"
        size = kept.bytes if kept is not None else entry.bytes
        is_default = entry.name == default
        memory, licence = entry.memory_bytes, entry.licence
        rows.append(Row(entry.name, entry.title, size, memory, licence, state, is_default))
    if options.json:
        models = [row.to_object() for row in rows]
        print(json.dumps({"folder": str(store.root), "models": models}, indent=2))
        return 0
    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("model", "size", "memory", "licence", "state"):
        table.add_column(title, justify="right" if title in ("size", "memory") else "left")
    for row in rows:
        state = f"{row.state}, used by default" if row.is_default else row.state
        sizes = [sized(number) if number else "" for number in (row.size, row.memory)]
        style = "green" if row.is_default else ""
        table.add_row(row.name, *sizes, row.licence, state, style=style)
    if console.is_terminal:
        console.print(table)
    else:  # At full width, because another program reads it.
        Console(highlight=False, width=200).print(table)
    print(f"\nThey lie in {store.root}. Memory is estimated, for serving in int8.")
    if default == BUNDLED:
        print("No real model is pulled: `dlm-lsp model pull` downloads one.")
    return 0


def _path(options: argparse.Namespace, store: Store) -> int:
    find(options.name, all_entries())
    path = choose(options.name, store).path
    print(json.dumps({"name": options.name, "path": str(path)}) if options.json else path)
    return 0


def _remove(options: argparse.Namespace, store: Store) -> int:
    find(options.name, all_entries())
    freed = store.remove(options.name)
    if options.json:
        print(json.dumps({"name": options.name, "bytes": freed}))
    else:
        print(f"{options.name} is removed; {sized(freed)} are free again.")
    return 0


def _pull(options: argparse.Namespace, store: Store) -> int:
    with _ended_gently():
        entry = _wanted(options, store)
        if entry is None:
            print("Nothing was pulled.")
            return 1
        if problem := memory_problem(entry):
            print(f"dlm-lsp model: warning: {problem}", file=sys.stderr)
        was_here = store.find(entry) is not None
        started = time.monotonic()
        try:
            with _shown(options.json) as show:
                kept = pull(entry, store, show)
        except KeyboardInterrupt:
            return _interrupted(options, store, entry)
        seconds = time.monotonic() - started
        _tell_result(options, kept, "is here already" if was_here else f"is here ({seconds:.0f} s)")
        _prepare(store, kept)
    return 0


def _prepare(store: Store, kept: Kept) -> None:
    """Builds the engine's graph, so that the first suggestion does not wait for it.

    A failure is reported; the model stays, and the first start tries again.
    """
    settings = EngineSettings(
        checkpoint=kept.path, graphs=store.root / GRAPHS, adapters=store.root / ADAPTERS
    )
    try:
        settings = resolve(settings)
        if settings.backend == "onnx":
            with Console(stderr=True).status("Preparing it for this machine …") as status:
                prepare_checkpoint(settings, lambda share: status.update(_preparing(share)))
    except EngineError as error:
        print(f"dlm-lsp model: warning: {error}", file=sys.stderr)


def _preparing(share: float | None) -> str:
    done = "" if share is None else f" {share:.0%}"
    return f"Preparing it for this machine …{done}"


def _wanted(options: argparse.Namespace, store: Store) -> Entry | None:
    """Returns the named model, or the proposed model if the user agrees."""
    if options.name is not None:
        return find(options.name, all_entries())
    console = Console(highlight=False)
    with console.status("Looking at what this machine runs well …"):
        proposal = propose(all_entries(), measured_row_step_ms(store.root / GRAPHS))
    entry = proposal.entry
    if options.json:
        chosen = {"event": "chosen", "name": entry.name, "reason": proposal.reason}
        print(json.dumps(chosen), flush=True)
        return entry
    console.print(f"{entry.title}: {proposal.reason}.", soft_wrap=True)
    if options.yes or not (console.is_terminal and sys.stdin.isatty()):
        return entry
    try:
        answer = input(f"Pull {entry.name} ({sized(entry.bytes)}, {entry.licence})? [Y/n] ")
    except EOFError:
        return None
    return entry if answer.strip().lower() in ("", "y", "yes") else None


def _interrupted(options: argparse.Namespace, store: Store, entry: Entry) -> int:
    there = sized(store.partial_bytes(entry.name))
    sentence = f"Interrupted; {there} are kept. The same command goes on where this one ended."
    if options.json:
        event = {"event": "error", "code": "cancelled", "message": sentence, "remedy": ""}
        print(json.dumps(event), flush=True)
    else:
        print(f"dlm-lsp model: {sentence}", file=sys.stderr)
    return _INTERRUPTED


def _tell_result(options: argparse.Namespace, kept: Kept, what: str) -> None:
    if options.json:
        done = {"event": "done", "name": kept.name, "path": str(kept.path), "bytes": kept.bytes}
        print(json.dumps(done | {"source": kept.source}), flush=True)
        return
    stated = "" if all(file.sha256 for file in kept.files) else ", as the hub states them"
    revision = f" at {kept.revision[:12]}" if kept.revision else ""
    print(f"{kept.name} {what}: {sized(kept.bytes)}, hashes checked{stated}.")
    print(f"From {kept.source}{revision}. In {kept.path.parent}.")


@contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[Progress], None]]:
    """Yields a function that shows progress, as the output allows."""
    console = Console(highlight=False)
    if as_json:
        yield lambda progress: print(json.dumps(progress.to_object()), flush=True)
    elif console.is_terminal:
        with Bar(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"),
            console=console,
        ) as bar:  # fmt: skip
            yield _Live(bar)
    else:
        yield _Lines()


class _Live:
    """Shows progress as a bar."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def __call__(self, progress: Progress) -> None:
        if self._task is None:
            self._task = self._bar.add_task(progress.name, text="")
        if progress.note:
            self._bar.console.print(f"{progress.note}", markup=False, soft_wrap=True)
            return
        self._bar.update(
            self._task,
            completed=progress.done,
            total=progress.total,
            text=progress.text(),
        )


class _Lines:
    """Shows progress as occasional lines for a log."""

    def __init__(self) -> None:
        self._last = ("", 0.0)

    def __call__(self, progress: Progress) -> None:
        if progress.note:
            print(progress.note, flush=True)
            return
        now = time.monotonic()
        stage = f"{progress.phase} {progress.source}"
        if stage != self._last[0] or now - self._last[1] >= LINE_SECONDS:
            self._last = (stage, now)
            print(f"{progress.name}: {progress.percent} %, {progress.text()}", flush=True)


@contextmanager
def _ended_gently() -> Iterator[None]:
    """Treats a request to end like Ctrl-C, so that pip ends too and downloaded bytes are kept."""

    def on_signal(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
