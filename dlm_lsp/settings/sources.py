"""Reads one source of settings, a TOML file or a client's object, and checks each field.

An invalid field is left out and reported in a sentence that names source and field; other fields
are used. Files may come from strangers, so size, line length and nesting are limited. Knows no
setting by name; the caller passes a pydantic model.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel, ValidationError

FILE_BYTES_MAX = 65_536
LINE_CHARS_MAX = 2_000  # The TOML parser's time grows with the square of a dotted key.
_SHOWN_CHARS_MAX = 60

Fields = dict[str, object]  # The keys are dotted names, such as "context.prefixTokens".


class Problems(list[str]):
    """Sentences for the user.

    Attributes:
        lost: the dotted names of settings that could not be used; "" for all of a source.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[str] = []

    def add(self, name: str, sentence: str) -> None:
        """Adds a sentence about a setting that is lost."""
        self.lost.append(name)
        self.append(sentence)


def read_toml(path: Path, problems: Problems) -> object:
    """Returns the file's table, or None if the file is missing or, with a problem, invalid."""
    problem = ""
    try:
        if not path.is_file():  # Reading a fifo or a device would block.
            return None
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        text = raw.decode("utf-8-sig")  # Editors hide a byte order mark.
        long = [n for n, line in enumerate(text.split("\n"), 1) if len(line) > LINE_CHARS_MAX]
        if len(raw) > FILE_BYTES_MAX:
            problem = f"is larger than {FILE_BYTES_MAX} bytes; shorten it"
        elif long:
            problem = f"has more than {LINE_CHARS_MAX} characters in line {long[0]}; break it"
        else:
            return tomllib.loads(text)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = f"is not UTF-8 in line {line}; save it as UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem = f"is not valid TOML: {error}"
    except RecursionError:
        problem = "nests too deeply; flatten it"
    problems.add("", f"{path} {problem}. The file is ignored.")
    return None


def valid_fields(
    model: type[BaseModel], raw: object, source: str, problems: Problems, secret: Sequence[str]
) -> Fields:
    """Returns the valid fields of `raw` by their dotted names; nulls count as not set.

    Args:
        raw: a table, with or without an outer "dlm"; None means an empty table.
        secret: the fields whose values no problem may show.
    """
    if is_table(raw) and "dlm" in raw:
        for name in raw:
            if name != "dlm":
                problems.add(name, f"{source}: {name} is not a setting beside dlm. It is ignored.")
        raw = raw["dlm"]
    if raw is None:
        return {}
    if not is_table(raw):
        problems.add("", f"{source}: the settings should be an object of fields. They are ignored.")
        return {}
    # The conversion through JSON turns TOML's dates, a client's types and lone surrogates into
    # plain values.
    plain = json.dumps(raw, default=str, ensure_ascii=False).encode("utf-8", "replace")
    table = _unfolded(model, _without_nulls(json.loads(plain)))
    while True:
        try:
            model.model_validate_json(json.dumps(table))
            return flattened(table)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False)
        found = list[tuple[str, str]]()
        for fault in reversed(faults):  # In reverse, so that list entries keep their indices.
            location = fault["loc"]
            name = _dotted(location)
            if not location:
                table, problem = {}, f"the settings are not valid ({fault['msg']})"
            elif fault["type"] == "extra_forbidden":
                _take(table, location)
                problem = f"{name} is not a setting{_similar(model, name)}"
            else:
                expected = fault["msg"].partition(" ")[2]  # After "Input", "String" or "Tuple".
                value = _take(table, location)
                problem = f"{name} {expected}" + (
                    "" if name in secret else f", not {_shown(value)}"
                )
            found.append((name, f"{source}: {problem}. It is ignored."))
        for name, sentence in reversed(found):
            problems.add(name, sentence)


def flattened(table: Mapping[str, object], outer: str = "") -> Fields:
    """Returns {"a": {"b": 1}} as {"a.b": 1}."""
    fields: Fields = {}
    for name, value in table.items():
        if is_table(value):
            fields |= flattened(value, f"{outer}{name}.")
        else:
            fields[f"{outer}{name}"] = value
    return fields


def nested(fields: Mapping[str, object]) -> dict[str, object]:
    """Returns {"a.b": 1} as {"a": {"b": 1}}; names have one or two parts."""
    tables: dict[str, dict[str, object]] = {}
    plain: dict[str, object] = {}
    for name, value in fields.items():
        section, dot, inner = name.partition(".")
        if dot:
            tables.setdefault(section, {})[inner] = value
        else:
            plain[name] = value
    return {**plain, **tables}


def is_table(value: object) -> TypeGuard[Mapping[str, object]]:
    """Returns whether the value is an object with named fields."""
    return isinstance(value, Mapping)


def _without_nulls(table: Mapping[str, object]) -> dict[str, object]:
    return {
        name: _without_nulls(value) if is_table(value) else value
        for name, value in table.items()
        if value is not None
    }


def _unfolded(model: type[BaseModel], table: dict[str, object]) -> dict[str, object]:
    """Returns {"silence.globs": []} as {"silence": {"globs": []}}, as many editors write it.

    A field that is given in both ways keeps the value of its section.
    """
    sections = nested(flattened(model().model_dump(by_alias=True)))
    unfolded = {key: value for key, value in table.items() if "." not in key}
    for key, value in table.items():
        section, dot, name = key.removeprefix("dlm.").partition(".")
        if not dot:
            unfolded.setdefault(section, value)
        elif is_table(sections.get(section)):
            inside = unfolded.get(section, {})
            unfolded[section] = {name: value, **inside} if is_table(inside) else inside
        else:
            unfolded[key] = value
    return unfolded


def _take(table: dict[str, object], location: Sequence[int | str]) -> object:
    """Removes the list entry or field at a location and returns its value."""
    parent: Any = table
    for part in location[:-1]:
        parent = parent[part]
    return parent.pop(location[-1])


def _dotted(location: Sequence[int | str]) -> str:
    """Returns ("silence", "globs", 1) as "silence.globs[1]"."""
    parts = (f".{part}" if isinstance(part, str) else f"[{part}]" for part in location)
    return "".join(parts).removeprefix(".")


def _similar(model: type[BaseModel], name: str) -> str:
    """Returns a hint at a similar setting in the same section or at the same level, or ""."""
    defaults = flattened(model().model_dump(by_alias=True))
    known = [*defaults, *nested(defaults)]
    same_depth = [other for other in known if other.count(".") == name.count(".")]
    close = difflib.get_close_matches(name, same_depth, n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"
