"""Settings of the language server and the command line: one shape, four sources, merged once.

The order of precedence is client, project file, user file, defaults. A project's file may come
from a stranger's repository: it can choose the mode and the context and add silence, but never
where text is sent or what runs. Every problem becomes a sentence that names source and field, and
no source can stop the server. The engine resolves "auto".
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from dlm_lsp.settings.sources import (
    Fields,
    Problems,
    flattened,
    nested,
    read_toml,
    valid_fields,
)
from engine.api import AskedMode

PROJECT_FILE = "dlm-lsp.toml"
NAMES_MAX = 256
PROJECT_FIELDS = ("version", "mode", "context", "silence")  # A project's file may set these.
PROJECT_REFUSED = ("silence.secretFiles", "silence.ignoredFiles")
# The values of these with which a project adds silence; it must not take the user's silence away.
PROJECT_ONLY = {"silence.automatic": False, "silence.comments": True, "silence.strings": True}
PROJECT_LOWERS = ("silence.fileCharsMax",)
PROJECT_RAISES = ("silence.confidence",)  # Where both have a number; else the user's stands.
# A project's list is added to the user's and the editor's, so that it removes none of their entries
# and is not lost where an editor sends all of its settings, empty lists among them.
PROJECT_ADDS = ("silence.languages", "silence.globs")

SECRET_FIELDS = ("engine.token", "engine.url")  # Never shown: a URL may contain a password.
CLIENT, DEFAULT = "client", "default"


def _probability(value: Any) -> float | str:
    """Checks a `Probability`; a union of types would name two problems for one value."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == "auto" or (is_number and 0 <= value <= 1):
        return value
    raise PydanticCustomError("probability", 'Input should be "auto" or a number from 0 to 1')


Probability = Annotated[float | Literal["auto"], PlainValidator(_probability)]
Names = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(max_length=NAMES_MAX)
]


class _Section(BaseModel):
    """Field names are snake_case here and camelCase in every source."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, alias_generator=to_camel, allow_inf_nan=False
    )


class EngineSection(_Section):
    """Where the engine runs and what it loads; "auto" and None let the engine choose.

    `checkpoint` is a model's name, a folder or a GGUF file (`store/choice.py`). `url` names an
    engine host that somebody else started, and `token` is its bearer token.
    """

    url: str | None = Field(default=None, pattern=r"^https?://\S+$", max_length=2048)
    token: str | None = Field(default=None, min_length=1, max_length=4096)
    checkpoint: str | None = Field(default=None, min_length=1, max_length=4096)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    backend: Literal["auto", "onnx", "torch"] = "auto"
    steps: Literal["auto", "clear", "captured"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=256)
    cache_tokens: int = Field(default=16_384, ge=256, le=4_194_304)
    idle_seconds: float = Field(default=900.0, ge=1, le=604_800)


class ContextSection(_Section):
    """The largest number of prompt tokens before and after the cursor, and of other open documents
    (0 for none of them); None means the default."""

    prefix_tokens: int | None = Field(default=None, ge=16, le=1_000_000)
    suffix_tokens: int | None = Field(default=None, ge=0, le=1_000_000)
    related_tokens: int | None = Field(default=None, ge=0, le=1_000_000)


class LimitsSection(_Section):
    """The limits of a suggestion: tokens, for automatic and explicit requests, milliseconds and
    lines (1 keeps suggestions on the cursor's line)."""

    tokens_max: int = Field(default=96, ge=1, le=4096)
    tokens_max_invoked: int = Field(default=256, ge=1, le=4096)
    milliseconds_max: int | None = Field(default=None, ge=1, le=600_000)
    lines: int | None = Field(default=None, ge=1, le=10_000)


class BlockSection(_Section):
    """The parameters of block diffusion; a `length` of None means the checkpoint's."""

    length: int | None = Field(default=None, ge=2, le=256)
    threshold: float = Field(default=0.9, ge=0, le=2)
    revisions: int | None = Field(default=None, ge=0, le=65_536)


class SilenceSection(_Section):
    """The rules for where nothing is suggested.

    Attributes:
        automatic: whether there are suggestions while typing; otherwise only on request.
        languages: the language ids without suggestions.
        globs: the files without suggestions; `*.md` is matched against file names, `vendor/**`
            against any part of the path.
        secret_files: whether files that usually hold secrets (.env, keys) get no suggestions.
        ignored_files: whether files that .gitignore or .dlmignore names get no suggestions.
        comments, strings: whether nothing is suggested while typing in comments and strings.
        file_chars_max: the length of the longest document that is completed, in characters.
        confidence: how probable a suggestion while typing must be to be shown, whole or its first
            lines; 0 shows everything, "auto" is a value that was measured with real models, or
            found out on this machine (`statistics.tune`), and 0 with the bundled one.
    """

    automatic: bool = True
    languages: Names = ()
    globs: Names = ()
    secret_files: bool = True
    ignored_files: bool = True
    comments: bool = False
    strings: bool = False
    file_chars_max: int = Field(default=5_000_000, ge=1, le=50_000_000)
    confidence: Probability = "auto"


class StatisticsSection(_Section):
    """What is recorded of suggestions on this machine: figures, in a file of this user alone.

    Attributes:
        enabled: whether anything is recorded.
        tune: whether "auto" of `silence.confidence` and of `delay` goes by what is recorded.
    """

    enabled: bool = True
    tune: bool = True


class Settings(_Section):
    """All settings. `version` is the version of this schema.

    With `completion`, editors without inline completion get suggestions in their popup menu.
    `delay` is the milliseconds that a request waits for the next keystroke while the user types;
    None adapts them to how fast the user types. With `follow_up` the engine computes, while the
    user looks at a suggestion, what it would suggest after that one is accepted. With `syntax`, a
    suggestion that would break a file that parses is cut or not shown.
    """

    version: Literal[1] = 1
    mode: AskedMode = "auto"
    completion: bool = True
    drafts: bool = False
    status_notifications: bool = False
    delay: int | None = Field(default=None, ge=0, le=10_000)
    follow_up: bool = True
    syntax: bool = True
    engine: EngineSection = EngineSection()
    context: ContextSection = ContextSection()
    limits: LimitsSection = LimitsSection()
    block: BlockSection = BlockSection()
    silence: SilenceSection = SilenceSection()
    statistics: StatisticsSection = StatisticsSection()


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The merged settings.

    Attributes:
        origins: the source of each field ("context.prefixTokens"): "client", "default" or a path.
        problems: the sentences for the user, in the order of the sources.
        blocked: why nothing may be suggested by these settings: some that silence are not known.
    """

    settings: Settings
    origins: Mapping[str, str]
    problems: tuple[str, ...]
    blocked: str | None = None


def load_settings(
    client: object, project_files: Sequence[Path] = (), user_file: Path | None = None
) -> LoadedSettings:
    """Merges all sources; never raises, whatever their contents.

    Args:
        client: initializationOptions or the `dlm` section of workspace/configuration, with or
            without the outer "dlm".
        project_files: the projects' files, each of which may be missing; the first wins.
        user_file: the user's own file, which may be missing.
    """
    problems = Problems()
    values: Fields = {}
    origins = dict.fromkeys(flattened(Settings().model_dump(by_alias=True)), DEFAULT)
    added: dict[str, tuple[str, ...]] = {}  # what projects' files have added to lists

    def add(raw: object, source: str, is_project: bool = False) -> None:
        found = valid_fields(Settings, raw, source, problems, SECRET_FIELDS)
        for name in PROJECT_ADDS:
            if is_project:
                added[name] = (*added.get(name, ()), *cast("list[str]", found.get(name, ())))
            elif name in found:
                found[name] = _joined(name, found[name], added.get(name, ()), source, problems)
        if is_project:
            found = _restricted(found, values, source, problems)
        values.update(found)
        origins.update(dict.fromkeys(found, source))

    if user_file is not None:
        add(read_toml(user_file, problems), str(user_file))
    for path in reversed(project_files):
        add(read_toml(path, problems), str(path), is_project=True)
    add(client, CLIENT)
    settings = Settings.model_validate_json(json.dumps(nested(values)))
    return LoadedSettings(settings, origins, tuple(problems), _blocked(problems))


def _blocked(problems: Problems) -> str | None:
    """Returns why nothing may be suggested: a lost setting may have been one that silences."""
    for name, sentence in zip(problems.lost, problems, strict=True):
        section = re.split(r"[.\[]", name.removeprefix("dlm."), maxsplit=1)[0].lower()
        if not name or difflib.get_close_matches(section, ("silence",), n=1, cutoff=0.7):
            return f"Nothing is suggested until this is mended: {sentence}"
    return None


def _restricted(found: Fields, earlier: Fields, source: str, problems: Problems) -> Fields:
    """Returns the fields that a project's file may set; it only ever adds silence."""
    allowed: Fields = {}
    for name, value in found.items():
        if name.partition(".")[0] not in PROJECT_FIELDS or name in PROJECT_REFUSED:
            problems.add(
                "engine",
                f"{source}: {name} may not be set by a project. It is ignored; set it in your"
                " editor or in your own file.",
            )
        elif name in PROJECT_ADDS:
            allowed[name] = _joined(name, earlier.get(name, ()), value, source, problems)
        elif name in PROJECT_LOWERS and name in earlier:
            allowed[name] = min(cast("int", value), cast("int", earlier[name]))
        elif name in PROJECT_RAISES and name in earlier:
            numbers = [one for one in (value, earlier[name]) if not isinstance(one, str)]
            allowed[name] = max(cast("list[float]", numbers)) if numbers[1:] else earlier[name]
        elif name not in PROJECT_ONLY or PROJECT_ONLY[name] is value or name not in earlier:
            allowed[name] = value
    return allowed


def _joined(name: str, first: object, second: object, source: str, problems: Problems) -> list[str]:
    """Returns the entries of two lists, at most NAMES_MAX of them."""
    both = list(dict.fromkeys((*cast("list[str]", first), *cast("list[str]", second))))
    if len(both) > NAMES_MAX:
        problems.add(
            name,
            f"{source}: {name} of the project and your own have more than {NAMES_MAX} entries. The"
            " last ones are ignored; shorten the list.",
        )
    return both[:NAMES_MAX]
