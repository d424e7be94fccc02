"""What goes into the corpus: licences, refusals, copies, and the hold-out by package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.lab.data.corpus import (
    HELD,
    TRAIN,
    build_corpus,
    line_shingles,
    read_sources,
    refusal,
)
from engine.lab.data.licences import is_permissive, normalised, stated_npm_licence


def module(name: str, lines: int = 30) -> str:
    """Python text that shares no run of lines with another name's."""
    return "".join(
        f"def {name}_{i}(value):\n    return value + {i % 7}\n\n\n" for i in range(lines)
    )


def install(site: Path, name: str, licence: list[str], files: dict[str, str]) -> None:
    """Lays a package out as an installer does: the files, METADATA and RECORD."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text, encoding="utf-8")
    head = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *licence]
    (info / "METADATA").write_text("\n".join(head) + "\n", encoding="utf-8")
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files), encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    install(folder, "alpha", ["License-Expression: MIT"], {"alpha/a.py": module("alpha")})
    install(
        folder,
        "Click",
        ["Classifier: License :: OSI Approved :: BSD License"],
        {"click/core.py": module("click")},
    )
    return folder


def packages_of(folder: Path, split: str) -> list[str]:
    return sorted(source.package for source in read_sources(folder, split))


def test_held_out_packages_are_held_out_whole(site: Path, tmp_path: Path):
    build_corpus([site], tmp_path / "out")
    assert packages_of(tmp_path / "out", TRAIN) == ["alpha"]
    assert packages_of(tmp_path / "out", HELD) == ["click"]


@pytest.mark.parametrize(
    "licence",
    [
        ["License: GPL-3.0-or-later"],
        ["License-Expression: MPL-2.0 AND MIT"],
        ["Classifier: License :: OSI Approved :: BSD License", "Classifier: License :: X"],
        ["License: Proprietary"],
        [],
    ],
)
def test_packages_of_other_or_unknown_licence_are_refused(
    site: Path, tmp_path: Path, licence: list[str]
):
    install(site, "beta", licence, {"beta/b.py": module("beta")})
    build_corpus([site], tmp_path / "out")
    assert packages_of(tmp_path / "out", TRAIN) == ["alpha"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    record = next(p for p in manifest["packages"] if p["name"] == "beta")
    assert record["skipped"]
    assert record["files"] == 0


def test_manifest_counts_files_and_names_no_path(site: Path, tmp_path: Path):
    build_corpus([site], tmp_path / "out")
    text = (tmp_path / "out" / "manifest.json").read_text("utf-8")
    assert str(tmp_path) not in text
    alpha = next(p for p in json.loads(text)["packages"] if p["name"] == "alpha")
    size = (site / "alpha" / "a.py").stat().st_size
    expected = {"licence": "MIT", "split": TRAIN, "files": 1, "bytes": size}
    assert {key: alpha[key] for key in expected} == expected


def test_copies_and_near_copies_are_dropped(site: Path, tmp_path: Path):
    near = module("alpha").replace("value + 3", "value * 3", 1)
    install(
        site,
        "gamma",
        ["License: MIT License"],
        {"gamma/same.py": module("alpha"), "gamma/near.py": near, "gamma/own.py": module("own")},
    )
    build_corpus([site], tmp_path / "out")
    texts = [s.text for s in read_sources(tmp_path / "out", TRAIN) if s.package == "gamma"]
    assert module("own") in texts
    assert len(texts) + packages_of(tmp_path / "out", TRAIN).count("alpha") == 2


def test_a_training_file_that_copies_a_held_out_one_goes(site: Path, tmp_path: Path):
    install(site, "aaa", ["License: MIT"], {"aaa/copy.py": module("click") + "# end\n"})
    build_corpus([site], tmp_path / "out")
    assert packages_of(tmp_path / "out", TRAIN) == ["alpha"]
    assert packages_of(tmp_path / "out", HELD) == ["click"]


def test_a_folder_that_is_no_source_tree_is_named(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty"):
        build_corpus([tmp_path / "empty"], tmp_path / "out")


def test_a_corpus_without_held_out_files_is_refused(tmp_path: Path):
    install(tmp_path / "site", "alpha", ["License: MIT"], {"alpha/a.py": module("alpha")})
    with pytest.raises(ConfigError, match="held_out"):
        build_corpus([tmp_path / "site"], tmp_path / "out")


def test_a_standard_library_and_a_project_are_source_trees(site: Path, tmp_path: Path):
    library, project = tmp_path / "lib", tmp_path / "project"
    (library / "site-packages").mkdir(parents=True)
    (library / "os.py").write_text(module("os"))
    (library / "site-packages" / "other.py").write_text(module("other"))
    project.mkdir()
    (project / "pyproject.toml").write_text('[project]\nname = "mine"\nlicense = "Apache-2.0"\n')
    (project / "mine.py").write_text(module("mine"))
    build_corpus([library, project, site], tmp_path / "out")
    assert packages_of(tmp_path / "out", TRAIN) == ["alpha", "mine", "python-stdlib"]


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("p/core.py", module("x"), None),
        ("p/tests/core.py", module("x"), "test or vendored"),
        ("p/test_core.py", module("x"), "test or vendored"),
        ("p/_vendor/rich/core.py", module("x"), "test or vendored"),
        ("p/core.py", "x = 1\n", "size"),
        ("p/core.py", module("x") * 200, "size"),
        ("p/core.py", "# This file is automatically generated.\n" + module("x"), "generated"),
        ("p/core.py", module("x") + "DATA = '" + "ab" * 400 + "'\n", "minified"),
        ("p/core.py", module("x") + "TABLE = [\n" + "    1234567, 7654321,\n" * 200, "minified"),
    ],
)
def test_refusals(path: str, text: str, reason: str | None):
    got = refusal(path, text.encode())
    assert (got is None) if reason is None else (got is not None and reason in got)


def npm_package(modules: Path, name: str, licence: object, files: dict[str, str]) -> None:
    folder = modules / name
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": name, "license": licence}))
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def script(name: str) -> str:
    return "".join(f"function {name}{i}(value) {{\n  return value + {i};\n}}\n" for i in range(20))


def test_npm_packages_go_in_by_their_stated_licence_and_hold_out_by_name(
    site: Path, tmp_path: Path
):
    modules = tmp_path / "node_modules"
    npm_package(
        modules, "alpha", "MIT", {"src/index.ts": script("alpha"), "README.md": script("r")}
    )
    npm_package(modules, "@scope/beta", {"type": "ISC"}, {"index.js": script("beta")})
    npm_package(modules, "gamma", "GPL-3.0", {"index.js": script("gamma")})
    npm_package(modules, "express", "MIT", {"lib/express.js": script("express")})
    npm_package(
        modules,
        "delta",
        "MIT",
        {
            "dist/index.js": script("built"),
            "index.min.js": script("small"),
            "index.js": "Object.defineProperty(exports, '__esModule', {});\n" + script("compiled"),
            "node_modules/eta/index.js": script("brought"),
        },
    )
    build_corpus([site, modules], tmp_path / "out")
    found = {
        (source.package, source.path, source.language)
        for source in read_sources(tmp_path / "out", TRAIN)
        if source.package.startswith("npm:")
    }
    assert found == {
        ("npm:alpha", "alpha/src/index.ts", "typescript"),
        ("npm:alpha", "alpha/README.md", "markdown"),
        ("npm:@scope/beta", "@scope/beta/index.js", "javascript"),
    }
    held = read_sources(tmp_path / "out", HELD, "javascript")
    assert [source.package for source in held] == ["npm:express"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    alpha = next(p for p in manifest["packages"] if p["name"] == "npm:alpha")
    assert set(alpha["languages"]) == {"typescript", "markdown"}
    assert sum(alpha["languages"].values()) == alpha["bytes"]


def test_one_package_gives_no_more_than_its_bound(site: Path, tmp_path: Path):
    files = {f"huge/m{i}.py": module(f"huge{i}", 2500) for i in range(20)}
    install(site, "huge", ["License: MIT"], files)
    build_corpus([site], tmp_path / "out")
    sizes = [len(s.text) for s in read_sources(tmp_path / "out", TRAIN) if s.package == "huge"]
    assert 1_500_000 <= sum(sizes) < 1_500_000 + max(sizes)


@pytest.mark.parametrize(
    ("package", "licence"),
    [
        ({"license": "MIT"}, "MIT"),
        ({"license": {"type": "Apache 2.0"}}, "Apache-2.0"),
        ({"licenses": [{"type": "MIT"}, {"type": "GPL-2.0"}]}, "GPL-2.0 AND MIT"),
        ({"licenses": [{"type": "MIT"}, {}]}, None),
        ({}, None),
    ],
)
def test_licences_of_npm_packages(package: dict[str, object], licence: str | None):
    assert stated_npm_licence(package) == licence


def test_bytes_that_are_no_text_are_refused():
    assert refusal("p/core.py", b"\xff\xfe" * 400) == "not UTF-8"


def test_shingles_ignore_indentation_and_blank_lines():
    assert line_shingles("a\nb\nc\n") == line_shingles("  a\n\n  b\n\tc")
    assert line_shingles("a\nb\nc\n") != line_shingles("a\nc\nb\n")


@pytest.mark.parametrize(
    ("stated", "expression", "permissive"),
    [
        ("MIT License", "MIT", True),
        ("Apache Software License", "Apache-2.0", True),
        ("Apache License, Version 2.0", "Apache-2.0", True),
        ("3-Clause BSD License", "BSD-3-Clause", True),
        ("Apache-2.0 OR GPL-3.0-only", "Apache-2.0 OR GPL-3.0-only", True),
        ("Apache-2.0 AND LGPL-2.1-only", "Apache-2.0 AND LGPL-2.1-only", False),
        ("(MIT OR Apache-2.0) AND MPL-2.0", "(MIT OR Apache-2.0) AND MPL-2.0", False),
        ("AGPL-3.0", "AGPL-3.0", False),
        ("UNKNOWN", "UNKNOWN", False),
    ],
)
def test_licence_expressions(stated: str, expression: str, permissive: bool):
    assert normalised(stated) == expression
    assert is_permissive(expression) is permissive
