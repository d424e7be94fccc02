"""The syntax gate: what it lets pass, refuses and cuts, for any text and in six languages."""

from __future__ import annotations

import ast
import gc
import sys
import tracemalloc
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.postprocess.gated import GatedShaping
from dlm_lsp.postprocess.shaping import rules_for, shape_final
from dlm_lsp.postprocess.syntax import (
    SyntaxGate,
    gate_for,
    installed_languages,
    parser_of,
)

FILES = {  # "|" is the cursor.
    "python": "def f(x):\n    y = 1\n    |\n    return y\n\n\nclass A:\n    z = 2\n",
    "javascript": "function f(x) {\n  const y = 1;\n  |\n  return y;\n}\n\nf(2);\n",
    "typescript": "function f(x: number): number {\n  const y = 1;\n  |\n  return y;\n}\n",
    "c": "int f(int x) {\n    int y = 1;\n    |\n    return y;\n}\n\nint g(void);\n",
    "rust": "fn f(x: i32) -> i32 {\n    let y = 1;\n    |\n    y\n}\n",
    "go": "package a\n\nfunc f(x int) int {\n\ty := 1\n\t|\n\treturn y\n}\n",
}
FINE = {  # Right, and right so far: the user goes on typing.
    "python": ("y += x", "if x:", "for i in x", "foo(y,", "y = [", "with open(x) as", "@cache"),
    "javascript": ("y += x;", "if (x) {", "x.map((y) => {", "const z = [", "return x ? y"),
    "typescript": (
        "let z: number = x;",
        "if (x) {",
        "type B = {",
        "const z = (a: string)",
        "for (;",
    ),
    "c": ("y += x;", "if (x) {", "for (int i = 0;", "y = f(x", "struct b {", "while (x"),
    "rust": (
        "let z = y;",
        "if x > 1 {",
        "let z = match x {",
        "let z: Vec<i32>",
        "x.iter().map(|y|",
    ),
    "go": ("y += x", "if x > 1 {", "for i := range x {", "z := f(", "defer func() {"),
}
BROKEN = {
    "python": ("y = x y", "return y)", "def (x):", "y = x +* 2"),
    "javascript": ("const = y y;", "y = x y;", "if (x)) {", "f(x y)"),
    "typescript": ("let z: = x;", "y = x y;", "f(x y);"),
    "c": ("y = x 1;", "f(x y 1);", "if x) {"),
    "rust": ("let = y z;", "f(x y);", "let z = y x;"),
    "go": ("y := := x", "f(x y)", "if x y {"),
}
PIECES = [
    *("a", "b", "x = 1", "return x", "if x:", "if (x) {", "f(", ":", ";", ",", ".", "def f(x):"),
    *(" ", "    ", "\n", "\n", "\n    ", "\r\n", "\r", "\0", "\ud800", "é", "end", "fn f() {"),
    *("(", ")", "[", "]", "{", "}", '"', "'", '"""', "#", "//", "/*", "*/", "<", ">", "=>"),
]
pieces = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
languages = st.sampled_from(installed_languages())


def gate_at(language: str, file: str | None = None) -> SyntaxGate:
    prefix, _, suffix = (file or FILES[language]).partition("|")
    gate = gate_for(language, prefix, suffix)
    assert gate is not None
    return gate


def parses(language: str, text: str) -> bool:
    """Whether the whole text parses, read afresh."""
    parser = parser_of(language)
    assert parser is not None
    return not parser.parse(text.encode("utf-8", "replace")).root_node.has_error


def compiles(text: str) -> bool:
    """Whether Python takes the text: its indentation too, which the grammar tolerates."""
    try:
        compile(text.encode("utf-8", "replace"), "file.py", "exec", ast.PyCF_ONLY_AST)
    except (SyntaxError, ValueError):
        return False
    return True


@pytest.mark.parametrize("language", FILES)
def test_what_is_right_so_far_passes(language: str) -> None:
    for text in FINE[language]:
        assert gate_at(language).passes(text), text


@pytest.mark.parametrize("language", FILES)
def test_what_would_break_the_file_is_refused(language: str) -> None:
    for text in BROKEN[language]:
        assert not gate_at(language).passes(text), text


def test_a_file_that_does_not_parse_around_the_cursor_is_left_alone() -> None:
    for before in ("    y = = ", "{% if x %} y {{ "):
        assert gate_at("python", f"def f(x):\n{before}|\n    return 1\n").passes("y x")
    assert gate_for("brainfuck", "", "") is None


def test_an_error_elsewhere_neither_counts_nor_excuses() -> None:
    file = "def g(x):\n    return x x\n\n\ndef f(x):\n    |\n    return 1\n"
    assert gate_at("python", file).passes("y = x")
    assert not gate_at("python", file).passes("y = x y")


def test_the_replaced_text_is_taken_out() -> None:
    gate = gate_at("python", "y = f(|)\nz = 1\n")
    assert gate.passes("a)", 1)
    assert not gate.passes("a)", 0)


def test_no_time_refuses_nothing() -> None:
    prefix, _, suffix = FILES["python"].partition("|")
    assert SyntaxGate("python", prefix * 500, suffix, seconds_max=0.0).passes("y = x y")


def test_every_language_of_the_table_has_its_grammar() -> None:
    """The package's metadata names each of them, so that a plain installation has them all."""
    assert len(installed_languages()) == 19


def test_without_grammars_there_is_no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    parser_of.cache_clear()
    try:
        assert gate_for("python", "", "") is None
        assert installed_languages() == ()
    finally:
        parser_of.cache_clear()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("y = x\nz = 2", "y = x\n    z = 2"),
        ("y = x\n    z = 2 3 4", "y = x"),
        ("y = x y\n    z = 2", ""),
        ("y = x\n    z = y\n    w = f(y z)\n    v = 1", "y = x\n    z = y"),
    ],
)
def test_a_broken_suggestion_is_cut_at_a_line(raw: str, shown: str) -> None:
    prefix, _, suffix = FILES["python"].partition("|")
    rules = rules_for(prefix, suffix, False, "python")
    shaped, is_cut = GatedShaping(rules, gate_for("python", prefix, suffix)).final(raw)
    expected = shown if is_cut else shape_final(rules, raw).text
    assert shaped.text == expected
    assert is_cut == (raw != "y = x\nz = 2")


def test_a_line_is_committed_when_it_has_passed() -> None:
    prefix, _, suffix = FILES["python"].partition("|")
    rules = rules_for(prefix, suffix, False, "python")
    shaping = GatedShaping(rules, gate_for("python", prefix, suffix))
    first = shaping.draft("y = x", " + z")
    assert (first.shaped.committed, first.shaped.draft, first.held) == ("", "y = x + z", 5)
    second = shaping.draft("y = x + z\n    w =", " 1")
    assert (second.shaped.committed, second.held) == ("y = x + z", len("\n    w ="))


@settings(max_examples=300, deadline=None)
@given(languages, pieces, pieces, pieces, st.integers(0, 3))
def test_any_text_gets_a_verdict(
    language: str, prefix: str, suffix: str, text: str, replaced: int
) -> None:
    gate = gate_for(language, prefix, suffix)
    assert gate is not None
    assert gate.passes(text, replaced) == gate.passes(text, replaced)
    assert gate.passes("")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(FILES)), pieces)
def test_what_parses_is_never_changed_and_what_passes_can_be_finished(
    language: str, text: str
) -> None:
    prefix, _, suffix = FILES[language].partition("|")
    gate = gate_at(language)
    whole = prefix + text + suffix
    if parses(language, whole):
        assert gate.passes(text) or (language == "python" and not compiles(whole))
    elif gate.passes(text) and gate.errors(text):  # A tree that is edited may recover otherwise.
        endings = ("", *gate.fillers(text))
        assert any(parses(language, prefix + text + end + suffix) for end in endings)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(FILES)), pieces, st.booleans(), st.data())
def test_what_is_committed_is_never_taken_back(
    language: str, text: str, automatic: bool, data: st.DataObject
) -> None:
    prefix, _, suffix = FILES[language].partition("|")
    text = text.replace("\ud800", "")
    rules = rules_for(prefix, suffix, automatic, language)
    shaping = GatedShaping(rules, gate_at(language))
    shown = ""
    for end in sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6))):
        gated = shaping.draft(text[:end], text[end : end + 3])
        assert gated.shaped.committed.startswith(shown)
        assert len(gated.shaped.sources) == len(gated.shaped.draft)
        shown = gated.shaped.committed
    final, is_cut = shaping.final(text)
    assert final.text.startswith(shown)
    assert gate_at(language).passes(final.text, final.replaced) or final.text == shown
    assert is_cut or final == shape_final(rules, text)


def test_a_gate_leaves_nothing_behind() -> None:
    """tree-sitter's binding keeps a reference to all that it has read, and a tree to its reader."""
    text = "value = call(1, 2)\n" * 200

    def judge(number: int) -> weakref.ref[SyntaxGate]:
        gate = SyntaxGate("python", f"{text}x{number} = ", text, seconds_max=100)
        assert gate.passes("(1")
        return weakref.ref(gate)

    for number in range(10):  # Small tables fill.
        judge(number)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        gates = [judge(number) for number in range(10, 20)]
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not any(gate() for gate in gates)
    assert after - before < len(text) * 20, "two texts have stayed for each gate"
