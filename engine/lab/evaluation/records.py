"""The records of an evaluation, which are kept on disk so that an interrupted run can resume.

A folder holds `run.json`, the arguments, and `records.jsonl`, one line for each answered task and
each replayed file, written at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.lab.run_folder import check_options

RUN, RECORDS = "run.json", "records.jsonl"


@dataclass(frozen=True, slots=True)
class Record:
    """One judged completion of one task.

    Attributes:
        mode: the mode that was asked for, or the name of a baseline.
        bucket: the bucket of the reference's length.
        text: the completion.
        ended: whether it ended by itself within its tokens.
        outcome: the outcome of its program; None if none was run.
        tokens, forwards: emitted tokens, and device calls after the prompt.
        prompt_ms: the time to compute the prompt with an empty cache.
        ms: the time from the request to the whole text with the prompt in the cache.
        took: the mode that the engine decoded in; "" for a baseline.
    """

    suite: str
    id: str
    mode: str
    kind: str
    bucket: str
    text: str
    exact: bool
    first_line: bool
    similarity: float
    wrong_length: bool
    ended: bool
    outcome: str | None
    tokens: int = 0
    forwards: int = 0
    prompt_ms: float | None = None
    ms: float | None = None
    took: str = ""


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """The counts of one file typed in one mode; `dlm_lsp.evaluation.replay` has the rules.

    Attributes:
        asks: requests while the text so far was that of the file.
        right, partly, wrong, silent: how the requests were answered; their sum is `asks`.
        keys: the pressed keys, with those that accept a suggestion.
        keys_without: the keys of the same text without suggestions, with no typos where one was
            accepted.
        elsewhere, unwanted: requests without anything to type, and how many showed something.
        ms: the time from each request to its answer.
        new: suggestions that were not the rest of one that was shown before, so that each counts
            once, and not once for each key while it is typed through.
        new_right: those that were right, or partly, which is to the end of their line.
    """

    suite: str
    id: str
    mode: str
    asks: int
    right: int
    partly: int
    wrong: int
    silent: int
    accepted: int
    keys: int
    keys_without: int
    elsewhere: int
    unwanted: int
    ms: tuple[float, ...]
    new: int = 0
    new_right: int = 0


AnyRecord = Record | ReplayRecord
Key = tuple[str, str, str]


def key_of(record: AnyRecord) -> Key:
    """The key of a record, which is unique in a run."""
    return record.suite, record.id, record.mode


class Records:
    """The records of one run, in memory and, if it has a folder, on disk."""

    def __init__(self, folder: Path | None, arguments: Mapping[str, object]) -> None:
        """Begins a run, or resumes that of the folder.

        Raises:
            ConfigError: The folder cannot be used, or holds a run with other arguments, of which
                the first is named.
        """
        self.all: dict[Key, AnyRecord] = {}
        self._tasks: dict[tuple[str, str], list[Record]] = {}
        self._path = None if folder is None else folder / RECORDS
        if folder is None:
            return
        try:
            check_options(folder / RUN, arguments)
            for record in _read(folder / RECORDS):
                self._keep(record)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be used: {error.strerror or error}.",
                remedy="Give another --out.",
                param="out",
            ) from None

    def add(self, record: AnyRecord) -> None:
        """Adds a record, also to the file, so that it survives the process."""
        self._keep(record)
        if self._path is not None:
            kind = "replay" if isinstance(record, ReplayRecord) else "task"
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"record": kind, **asdict(record)}) + "\n")

    def _keep(self, record: AnyRecord) -> None:
        self.all[key_of(record)] = record
        if isinstance(record, Record):
            self._tasks.setdefault((record.suite, record.id), []).append(record)

    def of_task(self, suite: str, task_id: str) -> list[Record]:
        """The records of a task, in every mode and of every baseline."""
        return self._tasks.get((suite, task_id), [])

    def has(self, suite: str, task_id: str, mode: str) -> bool:
        """Whether there is such a record."""
        return (suite, task_id, mode) in self.all


def _read(path: Path) -> list[AnyRecord]:
    """The records of a file; an incomplete last line of a killed process is cut off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
    records: list[AnyRecord] = []
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            row = json.loads(line)
            kind = row.pop("record")
            if kind == "replay":
                records.append(ReplayRecord(**{**row, "ms": tuple(row["ms"])}))
            else:
                records.append(Record(**row))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConfigError(
                f"{path}, line {number} is damaged.",
                remedy="Remove its folder or give another --out.",
                param="out",
            ) from None
    return records
