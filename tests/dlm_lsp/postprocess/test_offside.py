"""Python's off-side rule: it agrees with Python's compiler, and completions end where it holds."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.postprocess.gated import GatedShaping
from dlm_lsp.postprocess.offside import OffsideRule
from dlm_lsp.postprocess.shaping import rules_for
from dlm_lsp.postprocess.syntax import gate_for

BODIES = (
    *("x", "if x:", "while x:  # y:", "y = [x,\n  x]", 'y = """\nx:\n"""', "y = x + \\\n    x"),
    *("# x:", "", "y = {x: x}", "y = 'a:'", "f(\n            x)", "def f(x):", "y = x[1:]"),
)
INDENTS = ("", "    ", "        ", "  ", "            ")
programs = st.lists(st.tuples(st.sampled_from(INDENTS), st.sampled_from(BODIES)), max_size=8)


def is_refused_by_python(source: str) -> bool:
    """Whether Python refuses the program for its indentation; it has no other errors."""
    try:
        compile(source, "program.py", "exec", ast.PyCF_ONLY_AST)
    except IndentationError:
        return True
    return False


def opens(line: str) -> bool:
    return line.partition("#")[0].rstrip().endswith(":")


@settings(max_examples=400)
@given(programs)
def test_a_text_breaks_where_python_refuses_its_indentation(
    lines: list[tuple[str, str]],
) -> None:
    text = "".join(f"{indent}{body}\n" for indent, body in lines) + "x\n"
    assert OffsideRule("x\n", "").breaks(text) == is_refused_by_python(f"x\n{text}")


@settings(max_examples=200)
@given(programs, programs)
def test_the_line_below_fits_where_python_takes_the_whole(
    lines: list[tuple[str, str]], below: list[tuple[str, str]]
) -> None:
    """A text that fits leaves nothing to refuse, unless any statement in its place did, too."""
    lines = [("", "x = 1"), *lines]
    text = "".join(f"{indent}{body}\n" for indent, body in lines)
    rest = next((f"{indent}{body}\n" for indent, body in below if body not in ("", "# x:")), "x\n")
    rule = OffsideRule("x\n", rest)
    last = rest.split("\n")[0]
    whole = rest + f"{last[: len(last) - len(last.lstrip())]} x\n" if opens(last) else rest
    if not rule.breaks(text):
        needs_opener = is_refused_by_python(f"x\nx\n{whole}")
        assert rule.fits(text) == (
            not needs_opener or not is_refused_by_python(f"x\n{text}{whole}")
        )


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("def f(x):\n    y = 1\n    |\n", "y = 2\n      z = 3"),  # deeper without an opener
        ("def f(x):\n    if x:\n        y = 1\n|\n", "        y = 2\n      y = 3"),  # no such level
        ("def f(x):\n|\n", "y = 1"),  # a block is missing
        ("class A:\n    x = (1,\n  2)\n|", "      y = 1"),
    ],
)
def test_wrong_indentation_is_refused(file: str, text: str) -> None:
    prefix, _, suffix = file.partition("|")
    gate = gate_for("python", prefix, suffix)
    assert gate is not None
    assert not gate.passes(text)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("def f(x):\n    y = 1\n    |\n    return y\n", "if x:\n        y = 2"),
        ("def f(x):\n    |\n    return y\n", "if x:"),  # the user goes on typing
        ("x = (1,\n   |\n)\n", "2,\n      3"),
        ("def f(x):\n  |", "y = 2"),  # the user's own indentation
        ("    def f(x):\n        y = 1\n|", "    def g(x):\n        pass"),  # a window of a block
    ],
)
def test_right_indentation_passes(file: str, text: str) -> None:
    prefix, _, suffix = file.partition("|")
    gate = gate_for("python", prefix, suffix)
    assert gate is not None
    assert gate.passes(text)
    assert gate.fits(text)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("for y in x:\n        if y:\n", "for y in x:"),
        ("for y in x:\n        z = y\n    print(z)\n", "for y in x:\n        z = y"),
        ("z = 0\n    for y in x:\n    return z\n", "z = 0\n    for y in x:"),
        ("z = 0\n    return z\n", "z = 0\n    return z"),  # nothing fits: shown as it is
    ],
)
def test_a_completion_ends_where_the_block_below_can_stand(
    text: str, shown: str, is_streamed: bool
) -> None:
    """Above an indented block without an opener, the text ends with the last line that fits."""
    prefix, suffix = "def f(x):\n    ", "\n        print(y)\n    return x\n"
    rules = rules_for(prefix, suffix, automatic=False, language_id="python")
    shaping = GatedShaping(rules, gate_for("python", prefix, suffix))
    firm = ""
    for end in range(len(text) + 1) if is_streamed else ():
        drafted = shaping.draft(text[:end], "")
        assert drafted.shaped.committed.startswith(firm)
        firm = drafted.shaped.committed
    shaped, _ = shaping.final(text)
    assert shaped.text.rstrip() == shown
    assert shaped.text.startswith(firm)
