"""Where run-ons of a real model end, by kind of stop and language; nothing shown is taken back."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.postprocess.shaping import Rules, rules_for, shape_draft, shape_final

CURSOR = "‸"


@dataclass(frozen=True)
class Stop:
    """At the cursor of `text` the model writes `kept`, the end is seen with `seen`, and runs on.

    `automatic` is None where both kinds of requests end there.
    """

    language: str
    text: str
    kept: str
    seen: str
    automatic: bool | None = None


PYTHON = 'def total(values):\n    """Adds."""\n    ‸\n'
STOPS = [
    # The scope closes: a comment, a decorator or a call at column 0.
    Stop("python", PYTHON, "return sum(values)", "\n\n\n# Check function to verify\ndef check():"),
    Stop("python", PYTHON, "return sum(values)", "\n\n\n@cache\ndef check():"),
    Stop("python", PYTHON, "return sum(values)", "\nprint(total([1]))\n"),
    Stop("python", "if a:\n    ‸\nb()\n", "c()", "\nelse:\n    d()\n", True),
    # The rest of the function, in which an inner block may end.
    Stop(
        "python",
        "def f(n):\n    for i in n:\n        if i:\n            ‸\n",
        "return i\n    return None",
        "\n\n\ndef g():",
        False,
    ),
    Stop("python", "def f(n):\n    if n:\n        ‸\n    g()\n", "n = 1", "\n    h()\n"),
    # The rest of a statement is what a user asks for within one.
    Stop("python", "def f(n):\n    x = ‸\n", "n + 1", "\n\n    y = 2\n"),
    # At the top level, and among methods, one definition.
    Stop("python", "import a\n\n‸\n", "def f():\n    return 1", "\n\n\ndef g():\n"),
    Stop("python", "class A:\n    ‸\n", "def f(self):\n        pass", "\n\n    def g(self):\n"),
    # The suffix's next line, with another comment or moved a little, and a later one.
    Stop("python", "def f():\n    ‸\n    return total\n", "a = 1", "\n    return total  # done\n"),
    Stop("python", "def f():\n    ‸\n    return total\n", "a = 1", "\n   return total\n"),
    Stop("python", "class A:\n    ‸\n    name: str\n    age: int\n", "x: int", "\n    age: int\n"),
    # What the suffix closes.
    Stop("python", 'def f():\n    """A ‸\n    """\n', "word.", '\n    """\n    return 1\n'),
    Stop("python", "f(\n    ‸\n)\n", "a,", "\n    )\nb = 1\n"),
    # Fences and prose.
    Stop("python", PYTHON, "return sum(values)", "\n    ```\n"),
    Stop("python", "‸\n", "x = 1", "\nThis code sets the variable.\n"),
    Stop("python", "‸\n", "x = 1", "\nExplanation:\n"),
    Stop("javascript", "function f(a) {\n  ‸\n}\n", "return a;", "\n}\n\nfunction g() {"),
    Stop("javascript", "‸\n", "function f() {\n  return 1;\n}", "\nfunction g() {\n"),
    Stop("typescript", "‸\n", "const f = () => {\n  g();\n};", "\n\nconsole.log(f());\n"),
    Stop("typescript", "‸\n", "let a = 1;", "\n```\n"),
    Stop("c", "int f(int a)\n{\n    ‸\n}\n", "return a;", "\n}\n\nint main(void)\n"),
    Stop("c", "int f(int a)\n{\n    ‸\n", "return a;\n}", "\n\nint main(void)\n"),
    Stop("rust", "fn f(a: u8) -> u8 {\n    ‸\n}\n", "a + 1", "\n}\n\n#[test]\n"),
    Stop("rust", "impl A {\n    ‸\n}\n", "fn f() {\n        g()\n    }", "\n\n    fn h() {\n"),
    Stop("go", "func f(a int) int {\n\t‸\n}\n", "return a", "\n}\n\nfunc main() {\n"),
    Stop("go", "‸\n", "func f() {\n\tg()\n}", "\n\n// main runs it.\nfunc main() {\n"),
    Stop("ruby", "def f(a)\n  ‸\nend\n", "a + 1", "\nend\n\nputs f(1)\n"),
    Stop("ruby", "def f(a)\n  ‸\n", "a + 1\nend", "\n\nputs f(1)\n"),
    Stop("lua", "local function f(a)\n  ‸\nend\n", "return a", "\nend\n\nprint(f(1))\n"),
    Stop("lua", "if a then‸\n", "\n  b()\nend", "\nprint(a)\n"),
]

C = "int f()\n{\n    ‸\n}\n"
# What looks like an end and is none, for a user who asks.
WHOLE = [
    ("python", PYTHON, "a = 1\n\n    b = 2\n\n    return a + b"),
    ("python", PYTHON, "if values:\n        a = 1\n    else:\n        a = 2\n    return a"),
    ("python", PYTHON, 'text = """\nHere is the first line of it.\n```\n"""\n    return text'),
    ("python", PYTHON, "def g():\n        return 1\n\n    return g()"),
    ("python", "try:\n    ‸\n", "a()\nexcept KeyError:\n    b()"),
    ("c", C, "if (a)\n        goto out;\n#if B\n    b();\n#endif\nout:\n    c();"),
    ("markdown", "# A\n\n‸\n", "This is the text of it.\n\n```sh\nls\n```"),
    ("yaml", "a: 1\n‸\n", "Note: Here is one"),
]  # fmt: skip


def rules_at(language: str, text: str, automatic: bool) -> Rules:
    prefix, suffix = text.split(CURSOR)
    return rules_for(prefix, suffix, automatic, language)


@pytest.mark.parametrize("stop", STOPS, ids=repr)
def test_a_run_on_ends_where_a_person_would(stop: Stop) -> None:
    kinds = (True, False) if stop.automatic is None else (stop.automatic,)
    raw = stop.kept + stop.seen
    for automatic in kinds:
        rules = rules_at(stop.language, stop.text, automatic)
        final = shape_final(rules, raw)
        assert (final.text.rstrip(), final.complete) == (stop.kept, True)
        assert shape_final(rules, raw + "more\n\n\nand more") == final
        assert not shape_draft(rules, stop.kept, "").complete
        shown = [shape_draft(rules, raw[:end], "").committed for end in range(len(raw) + 1)]
        for earlier, later in zip(shown, [*shown[1:], final.text], strict=True):
            assert later.startswith(earlier)


AMID = [
    ("python", "def f(a):\n    b = a\n‸\n    return b\n", "def main():\n    f(1)\n"),
    (
        "python",
        'def f(a):\n    """Doubles."""\n‸\n    return b\n',
        "# Test cases\nassert f(1)",
    ),
    ("lua", "function f(a)\n  local b = a\n‸\n  return b\nend\n", "print(f(1))"),
]


@pytest.mark.parametrize(("language", "text", "raw"), AMID)
@pytest.mark.parametrize("automatic", [False, True])
def test_no_top_level_statement_stands_amid_a_block(
    language: str, text: str, raw: str, automatic: bool
) -> None:
    before, _, after = text.partition(CURSOR)
    rules = rules_for(before, after, automatic, language)
    shaped = shape_final(rules, raw)
    assert shaped.text == ""
    assert shaped.complete
    assert shape_draft(rules, raw[:3], "").committed == ""
    assert shape_final(rules, "    c = 1").text == "    c = 1"


def test_a_preprocessor_s_line_and_prose_may_stand_at_the_margin() -> None:
    c = rules_for("int f(void) {\n    g();\n", "\n    h();\n}\n", True, "c")
    assert shape_final(c, "#ifdef A").text == "#ifdef A"
    prose = rules_for("- a\n  b\n", "\n  c\n", True, "markdown")
    assert shape_final(prose, "A text.").text == "A text."


@pytest.mark.parametrize(("language", "text", "raw"), WHOLE)
def test_what_is_no_end_stays(language: str, text: str, raw: str) -> None:
    assert shape_final(rules_at(language, text, False), raw).text == raw


PIECES = [
    *("end", "fi", "until x", "case 1:", "default:", "out:", "#if A", "#endif", "else:"),
    *("except E:", "This", " and that."),
    *("def f():", "def f", "class A:", "@x", "#[t]", "int f(int a)", "{", "}", ")", "fn g() {"),
    *("```", "``", "Here is the code", "Note:", "Note: It is", "Explanation:"),
    *("return total", "return total  # x", "age: int", "name: str", "x = 1", '"""', " ", "  # c"),
]  # fmt: skip
LEADS = ["", "  ", "   ", "    ", "        ", "\t"]
LANGUAGES = ["", "python", "typescript", "c", "rust", "go", "ruby", "lua", "shellscript", "yaml"]
lines = st.lists(st.tuples(st.sampled_from(LEADS), st.sampled_from(PIECES)), max_size=6).map(
    lambda rows: "\n".join(lead + piece for lead, piece in rows)
)
documents = st.sampled_from([stop.text for stop in STOPS]) | st.tuples(lines, lines).map(
    lambda sides: CURSOR.join(sides)
)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(LANGUAGES), documents, lines, st.booleans())
def test_whatever_stops_a_text_takes_nothing_back(
    language: str, document: str, raw: str, automatic: bool
) -> None:
    rules = rules_at(language, document, automatic)
    shown, complete = "", None
    for end in range(len(raw) + 1):
        draft, final = shape_draft(rules, raw[:end], ""), shape_final(rules, raw[:end])
        assert draft.committed.startswith(shown)
        assert final.text.startswith(draft.committed)
        assert complete is None or final == complete
        shown, complete = draft.committed, final if final.complete else None


@pytest.mark.parametrize("automatic", [True, False])
def test_the_first_copy_of_a_repetition_may_stand_above_the_cursor(automatic: bool) -> None:
    """A model that goes on with the lines above it writes one more copy, and no third."""
    block = "    # If the resolution is 1 second,\n    # like FAT32, allow 2 seconds.\n"
    prefix = f"def f(x):\n{block}    "
    rules = rules_for(prefix, "\n    return x\n", automatic, "python")
    text = block.lstrip() + block * 3
    assert shape_final(rules, text).text == block.strip()
    # Lines that repeat above, and once more, are no run-on.
    rules = rules_for("x = [\n    [0, 0],\n    [0, 0],\n    ", "\n]\n", automatic, "python")
    assert shape_final(rules, "[0, 0],\n    [1, 0],").text.startswith("[0, 0],")
