"""`dlm-lsp doctor`: reports what is installed, what would run, and why there is no suggestion.

Owns the report: facts by section, and problems with their remedies. Starts nothing. Each fact comes
from the part of the program that uses it, so that the report is consistent with the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.text import Text

import dlm_lsp
from dlm_lsp.cli.place import PlaceError, open_place, to_place
from dlm_lsp.client.answers import Health
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.host_client import HostClient
from dlm_lsp.client.host_settings import HostSettings, to_host_settings
from dlm_lsp.client.paths import host_paths
from dlm_lsp.host.dry_run import DryRun, OnnxDryRun, dry_run
from dlm_lsp.host.modes import auto_body, times_body
from dlm_lsp.postprocess.syntax import installed_languages
from dlm_lsp.session.gate import why_not
from dlm_lsp.session.record import recorded_name
from dlm_lsp.settings.files import project_file, user_file
from dlm_lsp.settings.schema import (
    CLIENT,
    SECRET_FIELDS,
    LoadedSettings,
    load_settings,
)
from dlm_lsp.statistics.recorder import default_path
from dlm_lsp.store.choice import choose
from dlm_lsp.store.errors import StoreError
from dlm_lsp.store.folder import Store
from dlm_lsp.store.further import entries as all_entries
from dlm_lsp.store.memory import available_bytes
from dlm_lsp.store.progress import sized
from dlm_lsp.version import PROTOCOL, VERSION
from engine.model.onnx.probe import ROWS, MachineProbe

PACKAGES = (
    "pygls",
    "lsprotocol",
    "aiohttp",
    "pydantic",
    "tokenizers",
    "safetensors",
    "numpy",
    "onnxruntime",
    "onnx",
    "gguf",
    "filelock",
    "rich",
    "huggingface_hub",
    "tree-sitter",
)
# The packages of the extras: the purpose of each, and how to install it.
OPTIONAL = (
    ("torch", "computes on cards, trains and verifies", "gpu] or dlm-lsp[train"),
    ("pyarrow", "reads parquet suites for dlm-lsp eval", "eval"),
    ("matplotlib", "draws the plot of dlm-lsp eval", "eval"),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the report; `why` gives the source or the meaning of the value."""

    name: str
    value: str
    why: str = ""


@dataclass(slots=True)
class DoctorReport:
    """The facts by section, and the problems with their remedies."""

    sections: dict[str, list[Fact]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_object(self) -> dict[str, object]:
        """Returns the object that `--json` prints."""
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "sections": {
                title: {
                    fact.name: {"value": fact.value, **({"why": fact.why} if fact.why else {})}
                    for fact in facts
                }
                for title, facts in self.sections.items()
            },
        }


def run(place: str | None, client_settings: Mapping[str, object], as_json: bool) -> int:
    """Prints the report; returns 0 if all is well, 1 with problems."""
    report = asyncio.run(examine(place, client_settings))
    if as_json:
        print(json.dumps(report.to_object(), indent=2))
    else:
        _print(report, Console(highlight=False, soft_wrap=True))
    return 1 if report.problems else 0


async def examine(place: str | None, client_settings: Mapping[str, object]) -> DoctorReport:
    """Makes the report. Takes seconds if no host runs, because a trial load is needed."""
    report = DoctorReport()
    _add_program(report)
    found = project_file(Path.cwd() / "file")
    if place is not None:
        with contextlib.suppress(PlaceError):
            found = project_file(to_place(place).path)
    loaded = load_settings(client_settings, (found,) if found else (), user_file())
    await _add_engine(report, loaded)
    _add_settings(report, loaded, found)
    _add_statistics(report, loaded)
    if place is not None:
        _add_place(report, place, loaded)
    return report


def _add_program(report: DoctorReport) -> None:
    facts = [
        Fact("dlm-lsp", VERSION, str(Path(dlm_lsp.__file__).parent)),
        Fact("python", platform.python_version(), sys.executable),
        Fact("system", f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} CPUs"),
    ]
    for package in PACKAGES:
        try:
            facts.append(Fact(package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            facts.append(Fact(package, "missing"))
            report.problems.append(f"{package} is not installed. Install dlm-lsp again with pip.")
    for package, use, extra in OPTIONAL:
        try:
            facts.append(Fact(package, metadata.version(package), f"optional: {use}"))
        except metadata.PackageNotFoundError:
            how = f"optional: {use}; pip install dlm-lsp[{extra}]"
            facts.append(Fact(package, "not installed", how))
    languages = ", ".join(installed_languages())
    facts.append(Fact("syntax gate", languages or "off", "" if languages else "no grammar is here"))
    report.sections["program"] = facts


async def _add_engine(report: DoctorReport, loaded: LoadedSettings) -> None:
    """Adds the state of a running host, or the forecast for a host if none runs."""
    settings = to_host_settings(loaded.settings)
    client = HostClient(settings)
    try:
        health = await client.health()
    finally:
        await client.close()
    if settings.url is not None:  # The URL may contain a password, which is not shown.
        bare = settings.url.rpartition("@")[2]
        settings, health = (
            replace(settings, url=bare),
            replace(health, message=health.message.replace(settings.url, bare)),
        )
    report.sections["engine host"] = _host_facts(settings, health)
    if settings.url is None:
        report.sections["model"] = _model_facts(settings, loaded)
    if health.state == "error":
        report.problems.append(health.message)
    if health.state == "ready":
        # The settings of a host at a URL are unknown.
        seen = None if settings.url is not None else dry_run(settings.engine, tries=False)
        report.sections["engine"] = _running_facts(health, seen, loaded)
        if seen is not None and seen.problem is not None:
            report.problems.append(f"The host runs, but could not be started anew: {seen.problem}")
    elif settings.problem is not None:
        pass  # `health` reports this.
    elif settings.url is None:
        seen = dry_run(settings.engine)
        report.sections["engine"] = _dry_run_facts(seen, loaded)
        if seen.problem is not None:
            report.problems.append(seen.problem)
    elif health.state == "absent":
        report.problems.append(
            f"{health.message} Start `dlm-lsp serve` there, or unset engine.url."
        )


def _model_facts(settings: HostSettings, loaded: LoadedSettings) -> list[Fact]:
    """Returns the model of the settings, and the models in the store."""
    store = Store()
    problem = settings.problem
    try:
        entries = all_entries()
        choice = choose(loaded.settings.engine.checkpoint, store, entries)
    except StoreError as error:
        return [Fact("model", "none", problem.message if problem is not None else str(error))]
    if loaded.settings.engine.checkpoint is not None:
        why = f"set by {_origin(loaded.origins['engine.checkpoint'])}"
    else:
        why = choice.hint or "the best that is pulled"
    pulled = [entry.name for entry in entries if store.find(entry) is not None]
    return [
        Fact("model", choice.name or str(choice.path), why),
        Fact("pulled", ", ".join(pulled) or "none", str(store.root)),
    ]


def _host_facts(settings: HostSettings, health: Health) -> list[Fact]:
    detail = health.detail
    is_asleep = health.state == "absent" and settings.url is None
    why = "the first request starts it" if is_asleep else health.message
    facts = [Fact("state", health.state, why)]
    if settings.url is not None:
        facts.append(Fact("url", settings.url))
    else:
        with contextlib.suppress(HostError, FileNotFoundError):  # `health` reports HostError.
            paths = host_paths(settings.engine)
            facts += [Fact("socket", str(paths.socket)), Fact("log", str(paths.log))]
            if health.state in ("ready", "loading"):
                since = datetime.fromtimestamp(paths.socket.stat().st_mtime)
                facts.append(Fact("since", f"{since:%Y-%m-%d %H:%M:%S}"))
    if "pid" in detail:
        facts.insert(1, Fact("pid", str(detail["pid"])))
    if "protocol" in detail and detail["protocol"] != PROTOCOL:
        facts.append(Fact("protocol", str(detail["protocol"]), f"this client speaks {PROTOCOL}"))
    return facts


def _running_facts(health: Health, seen: DryRun | None, loaded: LoadedSettings) -> list[Fact]:
    """Returns a running host's facts and their reasons; `seen` is None for a host at a URL."""
    detail = {"checkpoint": "unknown", "parameters": 0, "contextMax": "unknown"} | health.detail
    why = {} if seen is None else seen.why
    return [
        Fact("checkpoint", str(detail["checkpoint"]), "is loaded"),
        Fact("parameters", _parameters(detail["parameters"])),
        *_choices(
            {
                "device": detail.get("device"),
                "backend": detail.get("program"),
                "dtype": detail.get("dtype"),
                "threads": detail.get("threads"),
            },
            why,
            loaded,
        ),
        *_onnx_facts(seen and seen.onnx),
        Fact("context", f"{detail['contextMax']} tokens"),
        Fact("modes", ", ".join(detail.get("modes", ()))),
        *_mode_facts(detail.get("stepTimes"), detail.get("auto")),
    ]


def _dry_run_facts(seen: DryRun, loaded: LoadedSettings) -> list[Fact]:
    settings = seen.settings
    state = "would be loaded" if seen.problem is None else "cannot be loaded"
    if seen.load_seconds is not None:
        state += f": a trial took {seen.load_seconds:.1f} s"
    elif seen.onnx is not None and seen.problem is None:
        state += ", once it is prepared for this machine by its first start"
    names = ["device", "backend", "dtype", "threads"]
    if settings.backend == "torch":
        names.append("steps")
    used = {name: getattr(settings, name) for name in names}
    facts = [
        Fact("checkpoint", str(settings.checkpoint_path()), state),
        *_choices(used, seen.why, loaded),
        *_onnx_facts(seen.onnx),
    ]
    if seen.parameters is not None:
        facts.insert(1, Fact("parameters", _parameters(seen.parameters)))
    if seen.auto is not None:
        facts += _mode_facts(times_body(seen.step_times), auto_body(seen.auto))
    return facts


def _mode_facts(times: object, auto: object) -> list[Fact]:
    """Returns the measured step times and the choice of "auto", as `/health` gives them."""
    facts: list[Fact] = []
    match times:
        case {"rows": [*rows], "milliseconds": [*milliseconds], "context": context}:
            facts.append(_curve("step times", rows, milliseconds, f"{context} tokens cached"))
            if isinstance(times, dict) and times.get("withMasks"):
                note = "with masks of the adapter among the rows"
                facts.append(_curve("drafting steps", rows, times["withMasks"], note))
        case _:
            facts.append(Fact("step times", "not measured yet", "measured while a host is idle"))
    match auto:
        case {"mode": mode, "why": why}:
            facts.append(Fact("auto", str(mode), str(why)))
    return facts


def _curve(name: str, rows: Sequence[object], times: Sequence[object], note: str) -> Fact:
    pairs = ", ".join(f"{count}: {time}" for count, time in zip(rows, times, strict=False))
    return Fact(name, f"{pairs} ms", f"by rows, {note}")


def _choices(
    used: Mapping[str, object], why: Mapping[str, str], loaded: LoadedSettings
) -> list[Fact]:
    """Returns the engine's choices, with the settings' sources or other reasons.

    Args:
        used, why: the values and reasons by the setting's name; a reason may be missing.
    """
    asked, facts = loaded.settings.engine, list[Fact]()
    why = {"threads": f"{os.cpu_count()} CPUs", **why} if why else {}
    for name, value in used.items():
        if getattr(asked, name) in ("auto", None):
            reason = why.get(name, "")
        else:
            reason = f"set by {_origin(loaded.origins[f'engine.{name}'])}"
        facts.append(Fact(name, str(value), reason))
    return facts


def _onnx_facts(onnx: OnnxDryRun | None) -> list[Fact]:
    """Returns the integer product with the figures of its choice, the graph and the memory."""
    if onnx is None:
        return []
    facts: list[Fact] = []
    if onnx.needs_probe:
        facts.append(_product_fact(onnx.probe))
    built_when = "built at the first start"
    # Missing folders would be created.
    there = next(folder for folder in (onnx.graphs, *onnx.graphs.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        built_when = "built anew at every start: the folder cannot be written to"
    if onnx.graph is None:
        facts.append(Fact("graph", str(onnx.graphs), f"is {built_when}"))
    elif onnx.graph.is_built:
        facts.append(Fact("graph", str(onnx.graph.folder), f"{sized(onnx.graph.num_bytes)}, built"))
    else:
        facts.append(Fact("graph", str(onnx.graph.folder), f"not built yet: {built_when}"))
    free = available_bytes()
    is_free = "unknown" if free is None else sized(free)
    facts.append(Fact("memory", f"about {sized(onnx.needed_bytes)}", f"{is_free} free"))
    return facts


def _product_fact(probe: MachineProbe | None) -> Fact:
    """Returns the integer product in use and the measurements of all."""
    if probe is None:
        return Fact("integers", "not measured yet", "the first start tries what is exact and fast")
    rows = "/".join(str(count) for count in ROWS)
    figures = "; ".join(
        f"{found.product} {'/'.join(f'{time:.1f}' for time in found.milliseconds)} ms, "
        f"{'exact' if found.is_exact else 'not exact'}"
        for found in probe.products
    )
    return Fact("integers", probe.best.product, f"for {rows} rows {figures}; {probe.key}")


def _parameters(count: int) -> str:
    return f"{count / 1e6:.1f} million" if count >= 100_000 else str(count)


def _add_settings(report: DoctorReport, loaded: LoadedSettings, found: Path | None) -> None:
    report.problems += loaded.problems
    values = loaded.settings.model_dump(by_alias=True)
    facts = []
    for name, origin in loaded.origins.items():
        value: object = values
        for part in name.split("."):
            value = cast("dict[str, object]", value)[part]
        shown = "(hidden)" if name in SECRET_FIELDS and value is not None else json.dumps(value)
        facts.append(Fact(name, shown, _origin(origin)))
    report.sections["settings"] = facts
    files = [("user", user_file()), ("project", found)]
    report.sections["settings files"] = [
        Fact(name, str(path or "none"), "read" if path and os.path.isfile(path) else "not there")
        for name, path in files
    ]


def _add_statistics(report: DoctorReport, loaded: LoadedSettings) -> None:
    """Adds where statistics lie, and what they say of the model in use."""
    path, settings = default_path(), loaded.settings.statistics
    try:
        from dlm_lsp.cli import stats
    except ImportError as error:  # Some builds of Python have no sqlite3.
        report.sections["statistics"] = [Fact("file", "none", f"{error}")]
        return
    try:
        rows = stats.read(path)
    except stats.StatisticsError as error:
        report.problems.append(f"{error} `dlm-lsp stats --delete` removes it.")
        rows = []
    state = "recorded while you type" if settings.enabled else "statistics.enabled is false"
    facts = [Fact("file", str(path), f"{len(rows)} suggestions; {state}")]
    found = stats.tunings(rows).get(recorded_name(to_host_settings(loaded.settings)))
    if not (settings.enabled and settings.tune):
        facts.append(Fact("tuned", "nothing", "statistics.enabled or statistics.tune is false"))
    elif found is None:
        facts.append(Fact("tuned", "nothing", "nothing is recorded of this model"))
    else:
        facts.append(Fact("confidence", f"{found.confidence:g}", found.why))
        facts.append(Fact("delay", f"{found.stretch:g} times", found.stretch_why))
    report.sections["statistics"] = facts


def _origin(origin: str) -> str:
    return "the command line" if origin == CLIENT else origin


def _add_place(report: DoctorReport, argument: str, loaded: LoadedSettings) -> None:
    try:
        document, offset = open_place(to_place(argument))
    except PlaceError as error:
        report.problems.append(str(error))
        return
    typing = why_not(document, offset, loaded, automatic=True)
    asking = why_not(document, offset, loaded, automatic=False)
    report.sections["place"] = [
        Fact("place", argument),
        Fact("language", document.language_id),
        Fact("while typing", "silent" if typing else "suggests", typing or ""),
        Fact("when asked", "silent" if asking else "suggests", asking or ""),
    ]
    if typing:
        report.problems.append(f"{argument}: nothing is suggested while typing. {typing}")


def _print(report: DoctorReport, console: Console) -> None:
    width = max(len(fact.name) for facts in report.sections.values() for fact in facts)
    for title, facts in report.sections.items():
        console.print(Text(title, "bold"))
        for fact in facts:
            why = f"  ({fact.why})" if fact.why else ""
            console.print(
                Text.assemble(f"  {fact.name:<{width}}  {fact.value}", (why, "bright_black"))
            )
        console.print()
    for problem in report.problems:
        console.print(Text.assemble(("problem: ", "bold red"), problem))
    if not report.problems:
        console.print(Text("All is well.", "bold green"))
