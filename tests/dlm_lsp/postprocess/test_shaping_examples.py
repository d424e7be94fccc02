"""The shaped text of raw completions at the cursor (‸) of each of fixtures/documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from dlm_lsp.postprocess.shaping import (
    Rules,
    Shaped,
    rules_for,
    shape_draft,
    shape_final,
)
from dlm_lsp.session.context import Context, gather
from dlm_lsp.session.document import Document
from engine.api import MASKED

DOCUMENTS = Path(__file__).parents[3] / "fixtures" / "documents"
CURSOR = "‸"


@dataclass(frozen=True)
class Case:
    """At the cursor of `document` the model wrote `raw`: `text` is inserted.

    `held` is what the final text has beyond what was safe to show before the model ended.
    """

    document: str
    raw: str
    text: str
    replaced: int = 0
    automatic: bool = True
    complete: bool = False
    held: str = ""


def rules_at(context: Context, automatic: bool) -> Rules:
    return rules_for(context.prefix, context.suffix, automatic)


def context_at(document: str, line_end: str = "\n") -> Context:
    text = (DOCUMENTS / f"{document}.txt").read_text(encoding="utf-8").replace("\n", line_end)
    prefix, suffix = text.split(CURSOR)
    whole = Document(f"file:///{document}", "", 1, prefix + suffix)
    return gather(whole, len(prefix), None)


def check(case: Case) -> None:
    """The case itself, streamed in every way, and the same in a document with other line ends."""
    for line_end in ("\n", "\r\n"):
        rules = rules_at(context_at(case.document, line_end), case.automatic)
        text = case.text.replace("\n", line_end)
        held = case.held.replace("\n", line_end)
        assert shape_final(rules, case.raw) == Shaped(text, case.replaced, case.complete)
        assert shape_draft(rules, case.raw, "").committed + held == text
        shown = [shape_draft(rules, case.raw[:end], "").committed for end in range(len(case.raw))]
        for earlier, later in zip(shown, [*shown[1:], text], strict=True):
            assert later.startswith(earlier)


SCOPE = [
    Case(
        "python_body.py",
        "gaps = [abs(value - center) for value in values]\n    return gaps\n\n\ndef spread(v",
        "gaps = [abs(value - center) for value in values]\n    return gaps",
        complete=True,
    ),
    # The next paragraph at the cursor's indentation is cut.
    Case(
        "python_body.py",
        "if not values:\n        return 0\n\n    gaps = []\n    return 1",
        "if not values:\n        return 0",
        complete=True,
    ),
    Case(
        "python_body.py",
        "if not values:\n        return 0\n\n    gaps = []\n    return 1",
        "if not values:\n        return 0\n\n    gaps = []\n    return 1",
        automatic=False,
    ),
    # A line that opens a block gets the whole block, including blank lines.
    Case(
        "python_header.py",
        "\n        left = self.balance\n\n        self.balance = left\n\n    def deposit(self",
        "\n        left = self.balance\n\n        self.balance = left",
        complete=True,
    ),
    Case(
        "python_header.py",
        " pass\n\n    def deposit(self):\n        pass",
        " pass",
        complete=True,
    ),
    Case(
        "python_branches.py",
        "\n        return 1\n    elif number < 0:\n        return -1\n    return 0",
        "\n        return 1\n    elif number < 0:\n        return -1",
        complete=True,
    ),
    # Text that may become "else" or "elsewhere = 1" is held back.
    Case("python_branches.py", "\n        return 1\n    els", "\n        return 1"),
    Case(
        "python_branches.py",
        "\n        return 1\n    elsewhere",
        "\n        return 1",
        complete=True,
    ),
    Case(
        "python_top.py",
        "import sys\nimport time\n\nTIMEOUT = 3\n",
        "import sys\nimport time",
        complete=True,
    ),
    Case(
        "c_braces.c",
        "{\n    size_t found = 0;\n\n    return found;\n}\n\nint main(void)\n{\n",
        "{\n    size_t found = 0;\n\n    return found;\n}",
        complete=True,
    ),
    # A block inside the scope does not end it.
    Case(
        "python_typed.py",
        "0\n    for point in points:\n        rise += point.y\n    return rise",
        "0\n    for point in points:\n        rise += point.y\n    return rise",
    ),
    Case(
        "python_typed.py",
        "last.y - first.y\n    run = last.x - first.x\n    return rise / run\n\n\nclass",
        "last.y - first.y\n    run = last.x - first.x\n    return rise / run",
        complete=True,
    ),
    # Blank lines before the first words end no paragraph.
    Case("python_body.py", "\n\n    gaps = []\n", "\n\n    gaps = []"),
]

REPEATS = [
    # The suffix's next line is not repeated.
    Case("python_top.py", "import sys\n\n\ndef main():\n    x", "import sys", complete=True),
    Case(
        "python_top.py",
        "import sys\n\n\ndef main():\n    x",
        "import sys",
        automatic=False,
        complete=True,
    ),
    Case("python_rows.py", "[0, 1, 0],\n    [0, 0, 1],\n]", "[0, 1, 0],", complete=True),
    Case("python_rows.py", "[0, 0, 1],", ""),
    Case("python_rows.py", "[0, 0, 1],  \n    [0", "", complete=True),
    # A line that only starts like the next line stays.
    Case("python_rows.py", "[0, 0, 1], [0", "[0, 0, 1], [0"),
    Case("python_rows.py", "[0, 0, 1", "[0, 0, 1", held="[0, 0, 1"),
    # A third copy of a block ends the text.
    Case(
        "python_typed.py",
        "1\n    a = 1\n    b = 2\n    a = 1\n    b = 2\n    a = 1\n    b = 2\n",
        "1\n    a = 1\n    b = 2\n    a = 1\n    b = 2",
        complete=True,
    ),
    Case(
        "python_body.py",
        "x()\n    x()\n    x()\n    x()",
        "x()\n    x()",
        complete=True,
        automatic=False,
    ),
]

PAIRS = [
    Case("python_call.py", "names, scores", "names, scores"),
    Case("python_call.py", "names, scores)", "names, scores"),
    Case("python_call.py", "names, scores):", "names, scores"),
    Case("python_call.py", "sorted(names), scores)", "sorted(names), scores"),
    # Text follows the closer, so the closer in the document is replaced.
    Case("python_parameters.py", "a, b) -> float", "a, b) -> float", replaced=1),
    Case("python_parameters.py", "a, b) -> float:", "a, b) -> float", replaced=1),
    Case(
        "python_parameters.py",
        'a, b):\n    """Euclid\'s."""\n    return math.hypot(a.x - b.x, a.y - b.y)\n',
        'a, b):\n    """Euclid\'s."""',
        replaced=2,
        complete=True,
    ),
    # One of two closers is missing in the document.
    Case("python_nested_call.py", "row) for row in rows", "row) for row in rows"),
    Case("python_nested_call.py", "row) for row in rows)", "row) for row in rows"),
    Case("python_string.py", "connecting", "connecting"),
    Case("python_string.py", 'connecting")', "connecting"),
    Case("python_string.py", "connecting (again)", "connecting (again)"),
    Case("python_string.py", 'a \\"b\\"', 'a \\"b\\"'),
    Case("python_string.py", 'to %s", host)', 'to %s", host', replaced=1),
    Case("python_docstring.py", 'variance of values."""\n', "variance of values."),
    Case(
        "python_docstring.py",
        'variance.\n\n    The mean of squares.\n    """\n',
        "variance.",
        complete=True,
    ),
    Case("python_docstring.py", 'value"s variance', 'value"s variance'),
    Case(
        "javascript_callback.js",
        "\n    sockets.add(socket);\n  ",
        "\n    sockets.add(socket);\n  ",
        held="\n  ",
    ),
    Case(
        "javascript_callback.js",
        "\n    sockets.add(socket);\n  });\n}\n",
        "\n    sockets.add(socket);\n  ",
        complete=True,
        held="\n  ",
    ),
    # An apostrophe in a comment opens no string beyond its line.
    Case(
        "javascript_callback.js",
        "\n    // don't leak\n    sockets.add(socket);\n  });",
        "\n    // don't leak\n    sockets.add(socket);\n  ",
        held="\n  ",
    ),
    # Text after the scope was cut; the closers get the indentation of their line.
    Case(
        "javascript_callback.js",
        "\n    sockets.add(socket);\n\n  server.close();",
        "\n    sockets.add(socket);\n  ",
        complete=True,
        held="\n  ",
    ),
    Case("javascript_object.js", "\n  retries: 5,\n};\n", "\n  retries: 5,\n", held="\n"),
    Case("javascript_object.js", " ...defaults ", " ...defaults"),
]

MIDDLE_OF_A_LINE = [
    Case("python_middle.py", "net * rate", "net * rate"),
    Case("python_middle.py", "net * rate, 2)\n    return net", "net * rate", complete=True),
    Case(
        "python_middle.py",
        "net * rate, 2)\n    return",
        "net * rate",
        automatic=False,
        complete=True,
    ),
    Case("python_middle.py", "pow(net, 2)", "pow(net, 2)"),
    Case("python_middle.py", "net *\n        rate", "net *", complete=True),
    Case("python_middle.py", "net *\n        rate", "net *\n        rate", automatic=False),
    Case("python_middle.py", "\n        net", "", complete=True),
    Case("python_word.py", "adline", "adline"),
    Case("python_word.py", "adlines()", "adline"),
    Case("python_sum.py", "tax_rate", "tax_"),
    Case("html_attribute.html", 'orders">\n    <h1>Orders</h1>', "orders", complete=True),
    Case("html_attribute.html", 'orders" id="orders">', 'orders" id="orders'),
    # Before a statement, a separate line needs a line end, which a single line cannot have.
    Case("python_before.py", "count = len(values)\n    ", "", complete=True),
    Case("python_before.py", "yield ", "yield ", held="yield "),
    Case(
        "python_before.py",
        "count = len(values)\n    ",
        "count = len(values)\n    ",
        automatic=False,
        held="\n    ",
    ),
    Case(
        "python_before.py",
        "count = len(values)\n    return total / len(values)\n",
        "count = len(values)\n    ",
        automatic=False,
        complete=True,
        held="\n    ",
    ),
]

SPACES = [
    Case("python_body.py", "    return center", "return center"),
    # This does not apply if the cursor is left of its block.
    Case("python_outdented.py", "    return self.name", "    return self.name"),
    Case("python_outdented.py", "return self.name", "return self.name"),
    Case("python_body.py", "  \n\n", ""),
    Case("python_body.py", "return center  \n    ", "return center"),
    Case("python_body.py", "a = 1  \n    b = 2\t\n", "a = 1\n    b = 2"),
    Case("python_body.py", "a = 1\n    \n    b = 2", "a = 1\n\n    b = 2", automatic=False),
    Case("python_typed.py", " last.y", "last.y"),
    Case(
        "go_body.go",
        "for _, price := range prices {\n        sum += price\n    }\n\treturn sum\n}\n",
        "for _, price := range prices {\n\t\tsum += price\n\t}\n\treturn sum",
        complete=True,
    ),
    Case(
        "python_body.py", "if x:\n\t\treturn 1\n\treturn 2", "if x:\n        return 1\n    return 2"
    ),
]

ALL = [*SCOPE, *REPEATS, *PAIRS, *MIDDLE_OF_A_LINE, *SPACES]


@pytest.mark.parametrize("case", ALL, ids=repr)
def test_example(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("path", sorted(DOCUMENTS.iterdir()), ids=lambda path: path.name)
def test_every_document_has_one_cursor_and_an_example(path: Path) -> None:
    name = path.name.removesuffix(".txt")
    assert path.read_text(encoding="utf-8").count(CURSOR) == 1
    assert any(case.document == name for case in ALL)


@pytest.mark.parametrize("rest", [" " * 90_000 + "x", "a" * 90_000, ")" * 90_000, '"' * 90_000])
def test_an_endless_rest_of_the_line_does_no_harm(rest: str) -> None:
    rules = rules_for("f(", rest, automatic=False)
    assert shape_final(rules, "b").text == "b"


def test_a_draft_shows_masks_and_ends_with_the_scope() -> None:
    rules = rules_at(context_at("python_body.py"), automatic=True)
    raw = f"return {MASKED}{MASKED}(values)\n\n\ndef {MASKED}():"
    shown = shape_draft(rules, "gaps = 1\n    ", raw)
    assert shown.committed == "gaps = 1"
    assert shown.draft == f"\n    return {MASKED}{MASKED}(values)"


def test_each_shown_character_of_a_draft_knows_its_source() -> None:
    rules = rules_at(context_at("go_body.go", "\r\n"), automatic=True)
    committed, draft = "if sum > 1 {\n        ", "sum = 1 \n    }"
    shown = shape_draft(rules, committed, draft)
    assert (shown.committed, shown.draft) == ("if sum > 1 {", "\r\n\t\tsum = 1\r\n\t}")
    assert shown.sources == (
        *(-1, -1, -1, -1),
        *range(7),
        *(8, 8, 9, 13),
    )
