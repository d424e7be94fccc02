"""Tries the launch choices of each kernel, and says which are the fastest on this card.

Nothing is changed: the entries say what to write into the tables of `engine.kernels`. A search
begins at the table's entry and moves to the best neighbour, one field at a time, until no field
gains. What a choice computes is compared with what the table's entry computes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from engine.kernels.dispatch import Path, forced
from engine.lab.bench.gpu.kernels import Bench
from engine.lab.bench.gpu.operations import Call, build

_GAIN = 0.98  # a choice is better if it takes at most this share of the time
_FAR = 0.02  # how far a result may be from that of the table's entry, by its largest number
# A choice takes a second or two to be compiled: all operations are to have a turn.
_TABLE_TRIES_MAX = 10
_SPLITS = (1, 2, 4, 8, 16, 32)
# Choices that stand in no table: the name in the module, and its values. A function of the shape is
# replaced by one that always answers the value.
_CONSTANTS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "rms_norm": ("_warps", (1, 2, 4, 8, 16)),
    "swiglu": ("_BLOCK", (256, 512, 1024, 2048, 4096)),
}
_SMALLEST = {"warps": 1, "stages": 1}  # of other fields 16, which a tensor core's tile needs
_LARGEST = {"warps": 16, "stages": 6}


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to launch a kernel.

    Attributes:
        values: what is chosen, by its names.
        replacements: (name in the module, what stands there instead).
    """

    values: Mapping[str, int]
    replacements: tuple[tuple[str, Any], ...] = ()


class _Noted(dict[Any, Any]):
    """A table that notes which of its entries was asked for."""

    def __init__(self, table: Mapping[Any, Any]) -> None:
        super().__init__(table)
        self.asked: list[Any] = []

    def __getitem__(self, key: Any) -> Any:
        self.asked.append(key)
        return super().__getitem__(key)


class Search:
    """The search for the best choice of one case.

    Attributes:
        start, best: the module's own choice and the fastest one: `choice`, `ms`, and `why` if it
            has no time.
        tried: all of them.
    """

    def __init__(self, bench: Bench, operation: str, call: Call) -> None:
        self._module = import_module(f"engine.kernels.{operation}")
        self._operation, self._call = operation, call
        self._path: Path = bench.path or "triton"
        self._watch = bench.stopwatch()
        self.tried: list[dict[str, Any]] = []
        with forced(self._path):
            self._expected = [each.clone() for each in tensors_of(call.run())]
        self._config = self._entry()
        own = Choice({} if self._config is None else asdict(self._config))
        self.start = self.best = self._time(own)

    def run(self) -> None:
        """Tries the neighbours of the table's entry, then what stands in no table."""
        if self._config is not None:
            self._climb()
        for choice in [*self._others()]:
            self._try(choice)

    def _climb(self) -> None:
        """Moves the table's entry to better neighbours until there is none, or enough is tried."""
        seen, moved = {self._config}, True
        while moved:
            moved = False
            for candidate in neighbours(self._config):
                if candidate in seen:
                    continue
                if len(seen) > _TABLE_TRIES_MAX:
                    return
                seen.add(candidate)
                if self._try(Choice(asdict(candidate), self._table(candidate))):
                    self._config, moved = candidate, True

    def _others(self) -> Iterator[Choice]:
        """Splits, and constants, each with the best entry of the table."""
        table = () if self._config is None else self._table(self._config)
        values = {} if self._config is None else asdict(self._config)
        name = f"{self._operation}_triton"
        launcher = getattr(self._module, name)
        if "splits" in inspect.signature(launcher).parameters:
            for splits in _SPLITS:
                new = partial(launcher, splits=splits)
                yield Choice(values | {"splits": splits}, (*table, (name, new)))
        if self._operation in _CONSTANTS:
            name, numbers = _CONSTANTS[self._operation]
            is_function = callable(getattr(self._module, name))
            for number in numbers:
                new = partial(_always, number) if is_function else number
                label = name.strip("_").lower()
                yield Choice(values | {label: number}, (*table, (name, new)))

    def _table(self, config: Any) -> tuple[tuple[str, Any], ...]:
        """The module's table with this entry everywhere."""
        tables = self._module.CONFIGS.items()
        return (("CONFIGS", {number: dict.fromkeys(own, config) for number, own in tables}),)

    def _entry(self) -> Any:
        """The table's entry that the case takes; None if it takes none, as in fp32."""
        table = getattr(self._module, "CONFIGS", None)
        if table is None:
            return None
        noted = {number: _Noted(own) for number, own in table.items()}
        with forced(self._path), replaced(self._module, "CONFIGS", noted):
            self._call.run()
        asked = [(own, key) for own in noted.values() for key in own.asked]
        return None if not asked else asked[-1][0].get(asked[-1][1])

    def _try(self, choice: Choice) -> bool:
        """Whether a choice is better than the best one yet, which it then is."""
        found = self._time(choice)
        if found["ms"] is None or found["ms"] > self.best["ms"] * _GAIN:
            return False
        self.best = found
        return True

    def _time(self, choice: Choice) -> dict[str, Any]:
        """Times one choice. One that the card refuses, or that computes something else, has no
        time."""
        entry: dict[str, Any] = {"choice": dict(choice.values), "ms": None, "why": ""}
        self.tried.append(entry)
        try:
            with ExitStack() as stack:
                stack.enter_context(forced(self._path))
                for name, new in choice.replacements:
                    stack.enter_context(replaced(self._module, name, new))
                far = distance(tensors_of(self._call.run()), self._expected)
                if far > _FAR:
                    entry["why"] = f"off by {far:.1%} of the largest number"
                else:
                    entry["ms"] = self._watch.cold(self._call.run)
        except Exception as error:  # too much shared memory, for one
            entry["why"] = f"{type(error).__name__}: {error}"[:200]
        return entry


def measure_tuning(bench: Bench) -> Iterator[dict[str, Any]]:
    """Searches for every case, those that move the most bytes first, operations in turn.

    An entry has the case, the choice of the table and the best one with their milliseconds (nothing
    of the data in the cache), and all that were tried.
    """
    if bench.runs != "triton":
        return  # torch has nothing to choose
    for operation, name, call in _in_turn(bench):
        entry = {"operation": operation, "case": name}
        try:
            search = Search(bench, operation, call)
            search.run()
        except Exception as error:  # one kernel that does not run costs no other its search
            yield entry | {"error": f"{type(error).__name__}: {error}"[:300]}
            continue
        start, best = search.start, search.best
        if len(search.tried) == 1:
            continue  # there is nothing to choose
        yield entry | {
            "start": start["choice"],
            "start_ms": start["ms"],
            "best": best["choice"],
            "best_ms": best["ms"],
            "tried": search.tried,
        }


def _in_turn(bench: Bench) -> Iterator[tuple[str, str, Call]]:
    """The cases with their tensors, made when it is their turn."""
    by_operation: dict[str, list[tuple[int, str, Any]]] = {}
    for operation, name, case in bench.cases():
        if bench.is_small and operation in by_operation:
            continue  # one is enough to try the code
        try:
            call = build(operation, case, bench.device, bench.dtype)
        except Exception:  # said already where kernels are timed
            continue
        if call is not None:
            by_operation.setdefault(operation, []).append((call.bytes, name, case))
    for cases in by_operation.values():
        cases.sort(key=lambda each: -each[0])
    for turn in range(max(map(len, by_operation.values()), default=0)):
        order = [(cases[turn], name) for name, cases in by_operation.items() if turn < len(cases)]
        for (_, name, case), operation in sorted(order, key=lambda each: -each[0][0]):
            call = build(operation, case, bench.device, bench.dtype)
            assert call is not None
            yield operation, name, call


def neighbours(config: Any) -> Iterator[Any]:
    """A table's entry with one field halved or doubled; `stages` by one less or more."""
    for field in fields(config):
        value = getattr(config, field.name)
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        steps = (value - 1, value + 1) if field.name == "stages" else (value // 2, value * 2)
        low, high = _SMALLEST.get(field.name, 16), _LARGEST.get(field.name, 256)
        for new in steps:
            if low <= new <= high:
                yield replace(config, **{field.name: new})


def tensors_of(found: Any) -> list[Tensor]:
    """The tensors of numbers in an operation's result. Tokens are left out: of equal logits, which
    rounding makes, another may be first."""
    if isinstance(found, Tensor):
        return [found] if found.is_floating_point() else []
    parts = found
    if is_dataclass(found):
        parts = [getattr(found, field.name) for field in fields(found)]
    return [tensor for each in parts for tensor in tensors_of(each)]


def distance(ours: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, by the largest number of its tensor; infinite for NaN."""
    worst = 0.0
    for mine, theirs in zip(ours, expected, strict=True):
        if not theirs.numel():
            continue
        known = theirs.isfinite()
        if not torch.equal(mine.isfinite(), known):
            return float("inf")
        apart = (mine.float() - theirs.float()).masked_fill(~known, 0).abs().max()
        largest = theirs.float().masked_fill(~known, 0).abs().max().clamp(min=1e-30)
        worst = max(worst, float(apart / largest))
    return worst


@contextmanager
def replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Something of a module, replaced until the block ends."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _always(number: int, *_: object) -> int:
    return number
