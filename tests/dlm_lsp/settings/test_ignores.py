"""Which files are ignored, beside git itself where it is installed, and hostile ignore files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dlm_lsp.settings import git
from dlm_lsp.settings.ignores import IgnoreFiles

HAS_GIT = shutil.which("git") is not None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, with the configuration of nobody else."""
    folder = tmp_path / "home"
    (folder / ".config" / "git").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / ".git" / "info").mkdir(parents=True)
    if HAS_GIT:
        run("init", "-q", folder=folder)
    (folder / ".git" / "info").mkdir(exist_ok=True)
    return folder


def run(*arguments: str, folder: Path) -> int:
    return subprocess.run(["git", *arguments], cwd=folder, check=False).returncode


def is_ignored(repository: Path, name: str) -> bool:
    """Whether a file is ignored, in which git must agree."""
    ours = IgnoreFiles().ignoring(repository / name) is not None
    if HAS_GIT:
        code = run("check-ignore", "-q", "--no-index", name, folder=repository)
        assert ours is (code == 0), f"git says {code}"
    return ours


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (".config/git/ignore", None),
        (".gitconfig", "[core]\n\texcludesFile = ~/mine\n"),
        (".gitconfig", '[CORE]\nExcludesFile="~/mine" ; why\n'),
        (".gitconfig", "[core] excludesfile = HOME/mine # why\n"),
        (".gitconfig", "[user]\nname = x\n[core]\nexcludesfile = \\\nHOME/mine\n"),
        (".config/git/config", "[core]\nexcludesFile = HOME/mine\n"),
        (".gitconfig", "[include]\npath = other\n"),
        (".gitconfig", "\ufeff[core]\r\nexcludesFile = ~/mine\r\n"),
        ("../repository/.git/config", "[core]\n\tbare = false\n\texcludesFile = HOME/mine\n"),
    ],
)
def test_the_user_s_own_exclude_file_is_honoured(
    home: Path, repository: Path, file: str, content: str | None
) -> None:
    rules = "*.local\n!keep.local\n"
    (home / "mine").write_text(rules)
    (home / "other").write_text(f"[core]\nexcludesFile = {home}/mine\n")
    assert not is_ignored(repository, "a.local")
    place = home / file
    if place.exists() and content is not None and place.name == "config":
        content = place.read_text() + content
    place.write_text(rules if content is None else content.replace("HOME", str(home)))
    assert is_ignored(repository, "a.local")
    assert is_ignored(repository, "sub/a.local")
    assert not is_ignored(repository, "keep.local")
    assert not is_ignored(repository, "a.py")


@pytest.mark.parametrize(
    "content",
    [
        "[core]\nexcludesFile =\n",
        '[core "x"]\nexcludesFile = ~/mine\n',
        "[other]\nexcludesFile = ~/mine\n",
        "# [core]\n; excludesFile = ~/mine\n",
        "[core]\nexcludesFile = ~/mine\nexcludesFile = ~/missing\n",
        "[core]\nexcludesFile = ~/mine\n[core]\nexcludesFile = /dev/null\n",
    ],
)
def test_another_setting_excludes_nothing(home: Path, repository: Path, content: str) -> None:
    (home / "mine").write_text("*.local\n")
    (home / ".gitconfig").write_text(content)
    assert not is_ignored(repository, "a.local")


def test_the_repository_s_rules_stand_above_the_user_s(home: Path, repository: Path) -> None:
    (home / ".config" / "git" / "ignore").write_text("*.local\n*.tmp\n*.log\n")
    (repository / ".git" / "info" / "exclude").write_text("!b.tmp\n*.py\n")
    (repository / ".gitignore").write_text("!c.log\n!c.py\n")
    found = {name: is_ignored(repository, name) for name in ("a.local", "b.tmp", "c.log", "c.py")}
    assert found == {"a.local": True, "b.tmp": False, "c.log": False, "c.py": False}
    assert is_ignored(repository, "d.py")


@pytest.mark.usefixtures("home")
def test_a_linked_worktree_has_the_rules_of_its_repository(repository: Path) -> None:
    linked = repository.parent / "linked"
    linked.mkdir()
    inner = repository / ".git" / "worktrees" / "linked"
    inner.mkdir(parents=True)
    (linked / ".git").write_text(f"gitdir: {inner}\n")
    (inner / "commondir").write_text("../..\n")
    (repository / ".git" / "info" / "exclude").write_text("*.local\n")
    assert IgnoreFiles().ignoring(linked / "a.local") == inner / "../.." / "info" / "exclude"
    assert IgnoreFiles().ignoring(linked / "a.py") is None


def test_outside_of_a_repository_git_s_files_do_not_count(home: Path, tmp_path: Path) -> None:
    (home / ".config" / "git" / "ignore").write_text("*\n")
    assert IgnoreFiles().ignoring(tmp_path / "a.py") is None


def test_a_configuration_that_is_no_small_file_is_not_waited_for(
    home: Path, repository: Path
) -> None:
    """A pipe would block, a loop of includes or links has no end, and a huge file costs time."""
    (home / ".gitconfig").write_text("[include]\npath = ~/.gitconfig\n[core]\nexcludesFile = ~/m\n")
    (home / "m").symlink_to(home / "m")
    assert IgnoreFiles().ignoring(repository / "a.py") is None
    (home / ".gitconfig").unlink()
    os.mkfifo(home / ".gitconfig")
    assert IgnoreFiles().ignoring(repository / "a.py") is None
    (home / ".gitconfig").unlink()
    (home / ".gitconfig").write_bytes(b"#" * (git.CONFIG_BYTES_MAX + 1))
    assert IgnoreFiles().ignoring(repository / "a.py") == home / ".gitconfig"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("content", "is_silent"),
    [
        (b"x\n" * (1 << 20), True),  # Too large to be read: what it names is not known.
        (b"\xff\xfe\x00*\n", False),
        (b"caf\xe9*\n", False),
        ("\ufeff*.py\n".encode(), True),
        (b"*.py\r\n", True),
        (b"[\n*.py\n", True),
        (b"***\\\n*.py\n", True),
        (b"!" * 1000 + b"\n", False),
        (b"x\n" * (1 << 19), True),
        (b"**/" * 2000 + b"*.py\n", True),
        (b"*" * 200 + b"b\n", False),
        # A wider pattern is used for one that could take years.
        (b"*a" * 30 + b"b\n", False),
        (b"*a" * 30 + b"\n", True),
        (b"a/**/" * 30 + b"b\n", False),
        (b"**/a*/" * 30 + b"*.py\n", True),
        (b"*[a]" * 30 + b"b\n", True),
        (b"!" + b"*a" * 30 + b"\n", False),
    ],
)
def test_a_hostile_ignore_file_costs_neither_the_server_nor_its_rules(
    tmp_path: Path, content: bytes, is_silent: bool
) -> None:
    (tmp_path / ".dlmignore").write_bytes(content)
    found = IgnoreFiles().ignoring(tmp_path / ("a" * 60) / "a.py")
    assert (found is not None) is is_silent


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("kind", ["loop", "fifo", "folder", "device", "dangling"])
def test_what_is_no_ignore_file_has_no_rules(tmp_path: Path, kind: str) -> None:
    place = tmp_path / ".dlmignore"
    if kind == "loop":
        place.symlink_to(place)
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero" if kind == "device" else tmp_path / "missing")
    assert IgnoreFiles().ignoring(tmp_path / "a.py") is None
