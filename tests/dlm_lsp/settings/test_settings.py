"""Settings: precedence, origins, a project's fields, and problems with source and field."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dlm_lsp.settings.files import folders_above, project_file
from dlm_lsp.settings.schema import (
    NAMES_MAX,
    PROJECT_FILE,
    EngineSection,
    LoadedSettings,
    Settings,
    load_settings,
)
from dlm_lsp.settings.sources import FILE_BYTES_MAX, LINE_CHARS_MAX
from engine.config import BACKENDS, DEVICES, DTYPES, STEPS


class Sources:
    """A project folder and a user file to write settings into."""

    def __init__(self, folder: Path) -> None:
        self.project = folder
        self.project_file = folder / PROJECT_FILE
        self.user_file = folder / "user.toml"

    def load(self, client: object = None) -> LoadedSettings:
        return load_settings(client, (self.project_file,), self.user_file)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path)


def test_without_sources_all_is_default() -> None:
    loaded = load_settings(None)
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}
    assert "context.prefixTokens" in loaded.origins
    assert loaded.problems == ()


def test_client_over_project_over_user_over_default(sources: Sources) -> None:
    sources.user_file.write_text(
        'mode = "ar"\ndrafts = true\n[context]\nprefixTokens = 100\nsuffixTokens = 100\n'
    )
    sources.project_file.write_text('mode = "block"\n[context]\nprefixTokens = 200\n')
    loaded = sources.load({"dlm": {"version": 1, "mode": "auto"}})
    settings, origins = loaded.settings, loaded.origins
    assert (settings.mode, origins["mode"]) == ("auto", "client")
    assert (settings.context.prefix_tokens, origins["context.prefixTokens"]) == (
        200,
        str(sources.project_file),
    )
    assert (settings.context.suffix_tokens, origins["context.suffixTokens"]) == (
        100,
        str(sources.user_file),
    )
    assert (settings.drafts, origins["drafts"]) == (True, str(sources.user_file))
    assert (settings.block.threshold, origins["block.threshold"]) == (0.9, "default")
    assert loaded.problems == ()


@pytest.mark.parametrize("outer", [True, False])
def test_every_field_can_be_set_by_its_wire_name(outer: bool) -> None:
    values: dict[str, Any] = {
        "mode": "block",
        "completion": False,
        "drafts": True,
        "statusNotifications": True,
        "delay": 150,
        "followUp": False,
        "syntax": False,
        "engine": {
            "url": "http://gpu.example:8000",
            "token": "t",
            "checkpoint": "/models/8b",
            "device": "cuda",
            "dtype": "bfloat16",
            "backend": "torch",
            "steps": "captured",
            "threads": 4,
            "cacheTokens": 4096,
            "idleSeconds": 60.5,
        },
        "statistics": {"enabled": False, "tune": False},
        "context": {"prefixTokens": 512, "suffixTokens": 0, "relatedTokens": 64},
        "limits": {"tokensMax": 32, "tokensMaxInvoked": 64, "millisecondsMax": 900, "lines": 3},
        "block": {"length": 16, "threshold": 0.8, "revisions": 5},
        "silence": {
            "automatic": False,
            "languages": ["markdown"],
            "globs": ["vendor/**"],
            "secretFiles": False,
            "ignoredFiles": False,
            "comments": True,
            "strings": True,
            "fileCharsMax": 1000,
            "confidence": 0.25,
        },
    }
    loaded = load_settings({"dlm": values} if outer else values)
    assert loaded.problems == ()
    assert loaded.settings.model_dump(by_alias=True, mode="json") == {**values, "version": 1}
    assert set(loaded.origins.values()) == {"client", "default"}
    assert [name for name, source in loaded.origins.items() if source == "default"] == ["version"]


def test_a_project_sets_neither_engine_nor_secrets(sources: Sources) -> None:
    sources.project_file.write_text(
        'mode = "ar"\n[engine]\nurl = "http://elsewhere"\n[silence]\nsecretFiles = false\n'
    )
    loaded = sources.load()
    assert loaded.settings.mode == "ar"
    assert loaded.settings.engine.url is None
    assert loaded.settings.silence.secret_files
    first, second = loaded.problems
    assert first.startswith(f"{sources.project_file}: engine.url may not be set by a project.")
    assert second.startswith(f"{sources.project_file}: silence.secretFiles may not be set")


def test_a_project_adds_silence_and_takes_none_away(sources: Sources) -> None:
    sources.user_file.write_text('[silence]\nlanguages = ["tex"]\nglobs = ["private/**"]\n')
    sources.project_file.write_text('[silence]\nlanguages = ["sql", "tex"]\nglobs = []\n')
    silence = sources.load().settings.silence
    assert silence.languages == ("tex", "sql")
    assert silence.globs == ("private/**",)


@pytest.mark.parametrize(
    ("client", "languages"),
    [
        ({"silence": {"languages": []}}, ("sql",)),
        ({"silence.languages": ["go"]}, ("go", "sql")),
        ({"silence": {"languages": ["sql", "c"]}}, ("sql", "c")),
        ({"silence": {"globs": ["*.md"]}}, ("tex", "sql")),
        ({"silence": {"languages": None}}, ("tex", "sql")),
    ],
)
def test_an_editor_s_list_takes_none_of_a_project_s_silence_away(
    sources: Sources, client: object, languages: tuple[str, ...]
) -> None:
    """Many editors send all of their settings, also those that the user has not set."""
    sources.user_file.write_text('[silence]\nlanguages = ["tex"]\n')
    sources.project_file.write_text('[silence]\nlanguages = ["sql"]\nglobs = ["vendor/**"]\n')
    silence = sources.load(client).settings.silence
    assert silence.languages == languages
    assert "vendor/**" in silence.globs


@pytest.mark.parametrize(
    ("user", "project", "used"),
    [("0.5", "0.7", 0.7), ("0.5", "0", 0.5), ('"auto"', "0", "auto"), ("0.5", '"auto"', 0.5)],
)
def test_a_project_only_raises_the_least_confidence(
    sources: Sources, user: str, project: str, used: float | str
) -> None:
    sources.user_file.write_text(f"silence.confidence = {user}\n")
    sources.project_file.write_text(f"silence.confidence = {project}\n")
    assert sources.load().settings.silence.confidence == used


@pytest.mark.parametrize("value", ["1.5", "-0.1", '"sure"', "true"])
def test_a_confidence_that_is_no_probability_is_reported(sources: Sources, value: str) -> None:
    sources.user_file.write_text(f"silence.confidence = {value}\n")
    loaded = sources.load()
    assert loaded.settings.silence.confidence == "auto"
    assert "silence.confidence" in loaded.problems[0]


def test_a_project_cannot_overflow_the_lists(sources: Sources) -> None:
    names = [f"name{number}" for number in range(NAMES_MAX)]
    sources.user_file.write_text(
        "[silence]\nglobs = [\n" + ",\n".join(map(json.dumps, names)) + "]"
    )
    sources.project_file.write_text('[silence]\nglobs = ["one more"]\n')
    loaded = sources.load()
    assert loaded.settings.silence.globs == tuple(names)
    assert "silence.globs of the project and your own have more than" in loaded.problems[0]


@pytest.mark.parametrize(
    ("client", "problem"),
    [
        ({"mode": "fast"}, "client: mode should be 'auto', 'ar'"),
        ({"drafts": 1}, "client: drafts should be a valid boolean, not 1."),
        (
            {"context": {"prefixTokens": 3}},
            "client: context.prefixTokens should be greater than or equal to 16, not 3.",
        ),
        ({"block": {"threshold": float("nan")}}, "client: block.threshold should be a finite"),
        ({"limits": 3}, "client: limits should be an object, not 3."),
        ({"silence": {"globs": ["a", 3]}}, "client: silence.globs[1] should be a valid string"),
        ({"version": 2}, "client: version should be 1, not 2."),
        ({"dlm": 3}, "client: the settings should be an object of fields."),
        ({"dlm": {"dlm": {}}}, "client: dlm is not a setting."),
        ({"dlm": {}, "editor": {}}, "client: editor is not a setting beside dlm."),
        ({"prefixTokens": 3}, "client: prefixTokens is not a setting."),
        (
            {"context": {"prefix_tokens": 64}},
            "client: context.prefix_tokens is not a setting (did you mean context.prefixTokens?).",
        ),
        ({"engine": {"token": 7}}, "client: engine.token should be a valid string."),
        ({"engine": {"url": "ftp://u:p@h"}}, "client: engine.url should match pattern"),
        (["mode"], "client: the settings should be an object of fields."),
        ({"mode": "\ud800"}, "client: mode should be 'auto'"),
    ],
)
def test_a_bad_value_is_named_and_the_default_used(client: object, problem: str) -> None:
    loaded = load_settings(client)
    assert len(loaded.problems) == 1
    assert loaded.problems[0].startswith(problem)
    assert loaded.settings.model_dump(exclude={"silence"}) == Settings().model_dump(
        exclude={"silence"}
    )


def test_a_bad_value_leaves_the_lower_source_and_the_neighbours(sources: Sources) -> None:
    sources.user_file.write_text('mode = "ar"\n')
    loaded = sources.load({"mode": 3, "drafts": True, "silence": {"globs": ["a", 3, "b", 4]}})
    assert loaded.settings.mode == "ar"
    assert loaded.settings.drafts
    assert loaded.settings.silence.globs == ("a", "b")
    assert [problem.split(" should")[0] for problem in loaded.problems] == [
        "client: mode",
        "client: silence.globs[1]",
        "client: silence.globs[3]",
    ]


def test_secrets_are_not_shown_in_problems() -> None:
    loaded = load_settings({"engine": {"token": ["hunter2"], "url": "hunter2"}})
    assert len(loaded.problems) == 2
    assert "hunter2" not in "".join(loaded.problems)


def test_null_means_not_set(sources: Sources) -> None:
    sources.user_file.write_text('mode = "ar"\n')
    for client in ({"mode": None, "engine": {"url": None}}, {"dlm": None}, None):
        loaded = sources.load(client)
        assert loaded.settings.mode == "ar"
        assert loaded.problems == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"mode = \n", "is not valid TOML: Invalid value (at line 1, column 8)"),
        (b'mode = "ar"\n\xff', "is not UTF-8 in line 2"),
        (b"#" * (FILE_BYTES_MAX + 1), "is larger than"),
        (b"\n\na" + b".a" * LINE_CHARS_MAX + b" = 1", "characters in line 3"),
        (b"x = " + b"[" * 1_900, "nests too deeply"),
    ],
)
def test_a_broken_file_is_named_and_ignored(sources: Sources, content: bytes, words: str) -> None:
    sources.project_file.write_bytes(content)
    sources.user_file.write_text("drafts = true\n")
    loaded = sources.load()
    assert loaded.settings.drafts
    assert len(loaded.problems) == 1
    assert loaded.problems[0].startswith(f"{sources.project_file} ")
    assert words in loaded.problems[0]


def test_what_is_no_regular_file_is_not_read(sources: Sources) -> None:
    os.mkfifo(sources.project_file)
    sources.user_file.mkdir()
    assert sources.load() == load_settings(None)


def test_a_file_that_may_not_be_read_is_named(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.user_file.write_text("drafts = true\n")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # File modes do not stop root.
    loaded = sources.load()
    assert loaded.problems == (
        f"{sources.user_file} cannot be read (Permission denied). The file is ignored.",
    )


def test_devices_dtypes_and_backends_are_those_of_the_engine() -> None:
    fields = EngineSection.model_fields
    assert get_args(fields["device"].annotation) == DEVICES
    assert get_args(fields["dtype"].annotation) == DTYPES
    assert get_args(fields["backend"].annotation) == BACKENDS
    assert get_args(fields["steps"].annotation) == STEPS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dlm", "mode", "engine", "url", "silence", "globs", "context", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@hypothesis_settings(max_examples=300, deadline=None)
@given(json_values)
def test_no_client_value_stops_the_server(client: object) -> None:
    loaded = load_settings(client)
    assert isinstance(loaded.settings, Settings)
    assert len(set(loaded.problems)) == len(loaded.problems)


def test_a_project_never_takes_the_user_s_silence_away(sources: Sources) -> None:
    sources.user_file.write_text(
        "[silence]\nautomatic = false\ncomments = true\nfileCharsMax = 1000\nignoredFiles = true\n"
    )
    sources.project_file.write_text(
        "[silence]\nautomatic = true\ncomments = false\nstrings = true\nfileCharsMax = 9000\n"
        "ignoredFiles = false\n"
    )
    silence = sources.load().settings.silence
    assert (silence.automatic, silence.comments, silence.strings) == (False, True, True)
    assert (silence.file_chars_max, silence.ignored_files) == (1000, True)
    sources.project_file.write_text("[silence]\nfileCharsMax = 10\n")
    assert sources.load().settings.silence.file_chars_max == 10


@pytest.mark.parametrize(
    ("client", "is_blocked"),
    [
        ({"mode": "nonsense"}, False),
        ({"limits": {"lines": 0}}, False),
        ({"silence": {"globs": 3}}, True),
        ({"silence": {"langauges": ["x"]}}, True),
        ({"dlm": {}, "silence": {"languages": ["x"]}}, True),
        (3, True),
    ],
)
def test_a_lost_silence_blocks_and_other_faults_do_not(client: object, is_blocked: bool) -> None:
    """What could not be read may have silenced something, so that nothing is sent."""
    loaded = load_settings(client)
    assert (loaded.blocked is not None) is is_blocked
    assert loaded.blocked is None or loaded.problems[0] in loaded.blocked


def test_a_name_with_thousands_of_folders_is_looked_up_where_they_are(tmp_path: Path) -> None:
    """Each lookup of a folder that cannot be there would keep all other requests waiting."""
    (tmp_path / "here").mkdir()
    file = tmp_path / "here" / Path(*["b"] * 3000) / "x.py"
    assert folders_above(file)[0] == tmp_path / "here"
    (tmp_path / "dlm-lsp.toml").write_text("")
    assert project_file(file) == tmp_path / "dlm-lsp.toml"
    deep = tmp_path / Path(*["c"] * 40)
    deep.mkdir(parents=True)
    assert folders_above(deep / "x.py")[:2] == [deep, deep.parent]
