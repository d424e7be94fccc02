"""Settings of the language server and the command line: one shape, four sources, merged once.

The order of precedence is client, project file, user file, defaults. A project's file may come
from a stranger's repository: it can choose the mode and the context and add silence, but never
where text is sent or what runs. Every problem becomes a sentence that names source and field, and
no source can stop the server. The engine resolves "auto".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dlm_lsp.settings.sources import Fields, flattened, nested, read_toml, valid_fields
from engine.api import AskedMode

PROJECT_FILE = "dlm-lsp.toml"
NAMES_MAX = 256
# The fields that a project's file may set. It must not switch off silence.secretFiles.
PROJECT_FIELDS = ("version", "mode", "context", "silence")
PROJECT_REFUSED = ("silence.secretFiles",)
# A project's list is added to the user's, so that it cannot remove the user's entries.
PROJECT_ADDS = ("silence.languages", "silence.globs")

SECRET_FIELDS = ("engine.token", "engine.url")  # Never shown: a URL may contain a password.
CLIENT, DEFAULT = "client", "default"

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
    threads: int | None = Field(default=None, ge=1, le=256)
    cache_tokens: int = Field(default=16_384, ge=256, le=4_194_304)
    idle_seconds: float = Field(default=900.0, ge=1, le=604_800)


class ContextSection(_Section):
    """The largest number of prompt tokens before and after the cursor; None means the default."""

    prefix_tokens: int | None = Field(default=None, ge=16, le=1_000_000)
    suffix_tokens: int | None = Field(default=None, ge=0, le=1_000_000)


class LimitsSection(_Section):
    """The limits of a suggestion: tokens, for automatic and explicit requests, and milliseconds."""

    tokens_max: int = Field(default=96, ge=1, le=4096)
    tokens_max_invoked: int = Field(default=256, ge=1, le=4096)
    milliseconds_max: int | None = Field(default=None, ge=1, le=600_000)


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
        file_chars_max: the length of the longest document that is completed, in characters.
    """

    automatic: bool = True
    languages: Names = ()
    globs: Names = ()
    secret_files: bool = True
    file_chars_max: int = Field(default=5_000_000, ge=1, le=50_000_000)


class Settings(_Section):
    """All settings. `version` is the version of this schema.

    With `completion`, editors without inline completion get suggestions in their popup menu.
    """

    version: Literal[1] = 1
    mode: AskedMode = "auto"
    completion: bool = True
    drafts: bool = False
    status_notifications: bool = False
    engine: EngineSection = EngineSection()
    context: ContextSection = ContextSection()
    limits: LimitsSection = LimitsSection()
    block: BlockSection = BlockSection()
    silence: SilenceSection = SilenceSection()


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The merged settings.

    Attributes:
        origins: the source of each field ("context.prefixTokens"): "client", "default" or a path.
        problems: the sentences for the user, in the order of the sources.
    """

    settings: Settings
    origins: Mapping[str, str]
    problems: tuple[str, ...]


def load_settings(
    client: object, project_dir: Path | None, user_file: Path | None
) -> LoadedSettings:
    """Merges all sources; never raises, whatever their contents.

    Args:
        client: initializationOptions or the `dlm` section of workspace/configuration, with or
            without the outer "dlm".
        project_dir: the folder that may contain PROJECT_FILE.
        user_file: the user's own file, which may be missing.
    """
    problems: list[str] = []
    values: Fields = {}
    origins = dict.fromkeys(flattened(Settings().model_dump(by_alias=True)), DEFAULT)

    def add(raw: object, source: str, is_project: bool = False) -> None:
        found = valid_fields(Settings, raw, source, problems, SECRET_FIELDS)
        if is_project:
            found = _restricted(found, values, source, problems)
        values.update(found)
        origins.update(dict.fromkeys(found, source))

    if user_file is not None:
        add(read_toml(user_file, problems), str(user_file))
    if project_dir is not None:
        path = project_dir / PROJECT_FILE
        add(read_toml(path, problems), str(path), is_project=True)
    add(client, CLIENT)
    settings = Settings.model_validate_json(json.dumps(nested(values)))
    return LoadedSettings(settings, origins, tuple(problems))


def _restricted(found: Fields, user: Fields, source: str, problems: list[str]) -> Fields:
    """Returns the fields that a project's file may set; its lists are added to the user's."""
    allowed: Fields = {}
    for name, value in found.items():
        if name.partition(".")[0] not in PROJECT_FIELDS or name in PROJECT_REFUSED:
            problems.append(
                f"{source}: {name} may not be set by a project. It is ignored; set it in your"
                " editor or in your own file."
            )
        elif name in PROJECT_ADDS:
            both = (*cast("list[str]", user.get(name, ())), *cast("list[str]", value))
            merged = list(dict.fromkeys(both))
            if len(merged) > NAMES_MAX:
                problems.append(
                    f"{source}: {name} and your own have more than {NAMES_MAX} entries. The last"
                    " ones are ignored; shorten the list."
                )
            allowed[name] = merged[:NAMES_MAX]
        else:
            allowed[name] = value
    return allowed
