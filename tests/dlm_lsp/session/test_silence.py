"""The reasons for silence: silenced languages and files, secrets, files that are no text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.session.document import Document
from dlm_lsp.session.silence import LINE_CHARS_MAX, why_silent
from dlm_lsp.settings.schema import Settings
from engine.secrets import matches


def reason(
    text: str = "x = 1\n",
    *,
    uri: str = "file:///home/user/project/main.py",
    language: str = "python",
    silence: dict[str, object] | None = None,
    automatic: bool = True,
) -> str | None:
    settings = Settings.model_validate_json(json.dumps({"silence": silence or {}}))
    document = Document(uri, language, 1, text)
    return why_silent(document, len(text), settings, automatic)


@pytest.mark.parametrize(
    "name",
    [
        *("main.py", "environment.py", "secrets.py", "credentials.go", "key.ts", "env.d.ts"),
        *("id_rsa.py", "pem.md", "config.json", "Makefile", "tokenizer.json"),
    ],
)
@pytest.mark.parametrize("automatic", [True, False])
def test_ordinary_files_are_completed(name: str, automatic: bool) -> None:
    assert reason(uri=f"file:///home/user/{name}", automatic=automatic) is None


@pytest.mark.parametrize(
    "path",
    [
        *(".env", ".env.local", "production.env", ".envrc", ".ENV", "a/b/.env"),
        *("server.pem", "tls.key", "id_rsa", "id_ed25519", "id_rsa.pub", "store.jks"),
        *("credentials", "credentials.json", "secrets.yaml", "client_secret_1.json"),
        *(".netrc", ".npmrc", ".pypirc", ".git-credentials", "prod.tfvars", "kubeconfig"),
        *(".ssh/config", ".aws/config", ".docker/config.json", "%2Eenv"),
    ],
)
def test_files_that_usually_hold_secrets_are_not(path: str) -> None:
    uri = f"file:///home/user/{path}"
    assert "secrets" in (reason(uri=uri, automatic=False) or "")
    assert reason(uri=uri, silence={"secretFiles": False}) is None


@pytest.mark.parametrize(
    "uri",
    [
        *("file:///c%3A/Users/me/.env", "C:\\Users\\me\\.env", "/home/me/.env", ".env"),
        *("untitled:.env", "file://host/share/.env", "vscode-remote://wsl+x/home/me/.env"),
    ],
)
def test_the_path_is_found_in_any_uri(uri: str) -> None:
    assert "secrets" in (reason(uri=uri) or "")


@pytest.mark.parametrize("uri", ["", ":", "file:", "file://", "file://[::1", "untitled:Untitled-1"])
def test_odd_uris_do_no_harm(uri: str) -> None:
    assert reason(uri=uri) is None


def test_dotenv_by_language_is_secret() -> None:
    assert "secrets" in (reason(uri="untitled:Untitled-1", language="dotenv") or "")


@pytest.mark.parametrize(
    ("silence", "words"),
    [
        ({"languages": ["Python"]}, "language python is silenced"),
        ({"globs": ["*.md", "project/**"]}, "matches project/**"),
        ({"fileCharsMax": 5}, "more than 5 characters"),
    ],
)
@pytest.mark.parametrize("automatic", [True, False])
def test_settings_silence(silence: dict[str, object], words: str, automatic: bool) -> None:
    assert words in (reason(silence=silence, automatic=automatic) or "")


def test_automatic_suggestions_can_be_off() -> None:
    assert "silence.automatic" in (reason(silence={"automatic": False}) or "")
    assert reason(silence={"automatic": False}, automatic=False) is None


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * 1_000 + "\0",
        "\x7fELF\x02\x01\x01" + "\x01\x02\x03\ufffd" * 50,
        "\ufffd" * 20 + "text" * 20,
        "\ud800" * 20,
    ],
)
def test_binary_content_is_not_completed(text: str) -> None:
    assert reason(text, automatic=False) == "The file does not look like text."


@pytest.mark.parametrize(
    "text",
    ["\t\tx\r\n\x0c\n", "\x1b[31mred\x1b[0m\n" * 50, "語" * 500, "\x01", "\ufffd = 1\n"],
)
def test_unusual_text_is_text(text: str) -> None:
    assert reason(text) is None


@pytest.mark.parametrize("text", ["", "\n", "  \t\r\n\n", "\u2028\x0c "])
def test_nothing_is_suggested_unasked_where_there_is_no_text_yet(text: str) -> None:
    """Without any context a model writes what it has seen most, in whatever language that was."""
    assert "no text yet" in (reason(text) or "")
    assert reason(text, automatic=False) is None


def test_machine_made_lines_are_completed_only_on_demand() -> None:
    text = "x;" * LINE_CHARS_MAX
    assert f"more than {LINE_CHARS_MAX} characters" in (reason(text) or "")
    assert reason(text, automatic=False) is None
    assert reason(text + "\nx = ") is None


def test_a_document_of_100_megabytes_is_too_large() -> None:
    assert "more than 5000000 characters" in (reason("x" * 100_000_000) or "")


@pytest.mark.parametrize(
    ("path", "glob", "fits"),
    [
        ("/a/b.md", "*.md", True),
        ("/a/b.md", "*.m", False),
        ("/a/b.md", "B.MD", True),
        ("/a/b.md", "a", False),
        ("/a/b.md", "a/", True),
        ("/a/b.md", "a/*", True),
        ("/a/c/b.md", "a/*", False),
        ("/a/c/b.md", "a/**", True),
        ("/a/c/b.md", "a/**/b.md", True),
        ("/a/b.md", "a/**/b.md", True),
        ("/a/b.md", "/a/*.md", True),
        ("/x/a/b.md", "/a/*.md", False),
        ("/x/a/b.md", "a\\*.md", True),
        ("/a/b1.md", "b[0-9].md", True),
        ("/a/b.md", "?.md", True),
        ("/a/b.md", "**", True),
        ("/a/b.md", "/", True),
        ("/a/b.md", "", False),
    ],
)
def test_globs(path: str, glob: str, fits: bool) -> None:
    assert matches(path, glob) is fits


@given(st.text("ab*?[]/\\.!", max_size=30), st.text("ab/.", max_size=40))
def test_globs_are_total(glob: str, path: str) -> None:
    assert matches(path, glob) in (True, False)
    assert not path.strip("/") or matches(path, "**")


def test_a_hostile_glob_takes_no_longer_than_others() -> None:
    path = "/" + "/".join("a" * 40 for _ in range(40))
    assert not matches(path, "**/" * 80 + "*a*a*a*a*a*a*a*a*a*a*a*a*b")
