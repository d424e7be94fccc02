"""The next edit: where a replaced word is replaced too, and where the model is not asked to."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.messages import (
    ErrorBody,
    ErrorEvent,
    FinishedEvent,
    GenerateBody,
    HostEvent,
    Marks,
    StartedEvent,
    UsageBody,
)
from dlm_lsp.session.document import Change, Document, Encoding, difference
from dlm_lsp.session.next_edit import LINES_MAX, Asked, Lines, Proposal, next_edit, scope_of
from dlm_lsp.session.recent import RecentChanges
from dlm_lsp.session.refine import Refining

MEAN = """def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)
"""
SPREAD = """

def spread(values):
    total = 0
    for value in values:
        total += value * value
    return total
"""
_TOKEN = re.compile(r"\w+|\s+|.", re.DOTALL)


def believes_what_it_has_read(token: str, before: str, _: str) -> float:
    """A model that expects names which stand above."""
    return 0.9 if not token.isidentifier() or re.search(rf"\b{token}\b", before) else 0.01


@dataclass
class Model:
    """Scores each token of a text with what stands before it; fills every hole with one text.

    Attributes:
        value_of: the probability of a token, given the text before and after it.
        num_open: the streams that are open now.
    """

    value_of: Callable[[str, str, str], float] = believes_what_it_has_read
    fill: str = ""
    failure: str = ""
    bodies: list[GenerateBody] = field(default_factory=list)
    num_open: int = 0

    async def generate(self, body: GenerateBody) -> AsyncGenerator[HostEvent, None]:
        self.bodies.append(body)
        self.num_open += 1
        usage = UsageBody()
        try:
            if self.failure:
                yield ErrorEvent(error=ErrorBody(code="memory", message=self.failure))
                return
            yield StartedEvent(mode="ar", marks=Marks(prefix_start=0), usage=usage)
            tokens = list(_TOKEN.finditer(body.given))
            scores = [
                self.value_of(one[0], body.prefix + body.given[: one.start()], body.suffix)
                for one in tokens
            ]
            yield FinishedEvent(
                text=body.given or self.fill,
                finish_reason="scored" if body.given else "end",
                confidence=1,
                logprobs=tuple(
                    (one.end(), math.log(score)) for one, score in zip(tokens, scores, strict=True)
                )
                if body.given
                else ((len(self.fill), math.log(0.9)),),
                mode="ar",
                usage=usage,
            )
        finally:
            self.num_open -= 1


def after(before: str, *texts: str) -> tuple[Document, RecentChanges]:
    """The document after edits that made these texts, one after the other."""
    document, recent = Document("file:///a.py", "python", 1, before), RecentChanges()
    for text in texts:
        edit = difference(document.text, text)
        place = (
            document.position_at(at, Encoding.UTF32)
            for at in (edit.start, edit.start + edit.removed)
        )
        change = Change(*place, text[edit.start : edit.start + edit.inserted])
        changed, edits = document.apply([change], document.version + 1, Encoding.UTF32)
        assert changed.text == text
        recent.edited(document, [change], edits)
        document = changed
    return document, recent


async def found(
    model: Model, before: str, *texts: str, cursor: int | None = None, offered: tuple[int, ...] = ()
) -> tuple[int, str] | None:
    """The number of the line that the next edit replaces, and what it becomes; or None."""
    document, recent = after(before, *texts)
    changes = recent.of(document.uri)
    at = changes[0].end if cursor is None else cursor
    asked = Asked(document, changes, at, frozenset(document.line_start(line) for line in offered))
    proposal = await next_edit(asked, Refining(model, GenerateBody(prefix="")))
    assert model.num_open == 0
    if proposal is None:
        return None
    line = document.line_of(proposal.start)
    assert (proposal.start, proposal.end) == (document.line_start(line), document.line_end(line))
    assert proposal.text != document.text[proposal.start : proposal.end]
    return line, proposal.text


RENAMED = MEAN.replace("total = 0", "amount = 0")


async def test_a_new_name_goes_on_in_the_nearest_line() -> None:
    assert await found(Model(), MEAN, RENAMED) == (3, "        amount += value")
    at_end = len(MEAN)
    assert await found(Model(), MEAN, RENAMED, cursor=at_end) == (
        4,
        "    return amount / len(values)",
    )


async def test_the_definition_follows_where_a_use_was_changed() -> None:
    changed = MEAN.replace("total +=", "amount +=").replace("return total", "return amount")
    assert await found(Model(), MEAN, changed) == (1, "    amount = 0")


async def test_what_was_offered_is_left_out() -> None:
    assert await found(Model(), MEAN, RENAMED, offered=(3,)) == (
        4,
        "    return amount / len(values)",
    )
    assert await found(Model(), MEAN, RENAMED, offered=(3, 4)) is None


async def test_another_function_keeps_its_variable_of_that_name() -> None:
    whole = MEAN.replace("total", "amount")
    assert await found(Model(), MEAN + SPREAD, whole + SPREAD) is None


async def test_a_function_that_gets_another_name_is_called_by_it() -> None:
    calls = "\n\nprint(mean([1]))\nprint(mean([2]))\n"
    renamed = MEAN.replace("mean", "average") + calls
    line = MEAN.count("\n") + 2
    assert await found(Model(), MEAN + calls, renamed) == (line, "print(average([1]))")


async def test_only_whole_words_are_replaced_and_all_of_a_line() -> None:
    before = "def f():\n    a1 = 0\n    b = a1 + a1 + a12 + xa1\n    return a1\n"
    changed = before.replace("a1 = 0", "count = 0")
    assert await found(Model(), before, changed) == (2, "    b = count + count + a12 + xa1")


async def test_words_of_strings_and_comments_are_others_than_those_of_the_code() -> None:
    before = MEAN.replace("total += value", 'total += value["total"]  # The total.')
    changed = before.replace("total = 0", "amount = 0")
    line = '        amount += value["total"]  # The total.'

    def value_of(token: str, before: str, after: str) -> float:
        is_text = before.endswith(('"', "The "))
        return 0.9 if is_text else believes_what_it_has_read(token, before, after)

    assert await found(Model(value_of), before, changed) == (3, line)
    spoken = "# One total.\n# Two total.\ntotal = 0\n"
    assert await found(Model(), spoken, spoken.replace("One total", "One sum")) == (
        1,
        "# Two sum.",
    )


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ("a = 1\nb.a = 2\nc(a)\n", "d = 1\nb.a = 2\nc(a)\n", (2, "c(d)")),
        ("b.aa = 1\naa = 2\nc(b.aa)\n", "b.dd = 1\naa = 2\nc(b.aa)\n", (2, "c(b.dd)")),
        ("def aa():\n    1\nb.aa()\n", "def dd():\n    1\nb.aa()\n", (2, "b.dd()")),
        ("def aa():\n    1\nb.aa()\n", "def aa():\n    1\nb.dd()\n", (0, "def dd():")),
        ("b.dd = 1\naa = 2\nc(aa)\n", "b.dd = 1\ndd = 2\nc(aa)\n", (2, "c(dd)")),
    ],
)
async def test_a_member_is_another_than_a_variable_of_its_name(
    before: str, after: str, place: tuple[int, str]
) -> None:
    def value_of(token: str, before: str, after: str) -> float:
        return {"aa": 0.01, "a": 0.01}.get(token, 0.9)

    assert await found(Model(value_of), before, after) == place


async def test_a_line_in_which_the_model_wants_the_old_word_is_passed_over() -> None:
    def value_of(token: str, before: str, after: str) -> float:
        if before.endswith("."):
            return {"total": 0.9, "amount": 0.1}.get(token, 0.9)
        return believes_what_it_has_read(token, before, after)

    before = MEAN.replace("total += value", "total += value\n        value.total()")
    changed = before.replace("total = 0", "amount = 0")
    at = before.index("value.total")
    line = (3, "        amount += value")
    assert await found(Model(value_of), before, changed, cursor=at) == line


async def test_nothing_is_offered_where_the_text_is_no_more_probable() -> None:
    assert await found(Model(lambda *_: 0.5), MEAN, RENAMED) is None


async def test_a_word_far_away_is_not_looked_for() -> None:
    between = "pass\n" * LINES_MAX
    before = "def f():\n    total = 0\n" + "".join(f"    {line}\n" for line in between.split())
    changed = before.replace("total", "amount")
    model = Model()
    assert await found(model, before + "    total\n", changed + "    total\n") is None
    assert not any("total" in body.given for body in model.bodies)


async def test_the_last_change_that_replaced_a_word_counts() -> None:
    commented = RENAMED.replace("    return", "    # The mean.\n    return")
    line = "    return amount / len(values)"
    assert await found(Model(), MEAN, RENAMED, commented) == (5, line)


async def test_another_variable_in_the_place_of_one_is_no_new_name() -> None:
    changed = MEAN.replace("return total", "return value")
    model = Model(lambda token, *_: 0.9 if token == "value" else 0.01)
    assert await found(model, MEAN, changed) is None
    assert not any("value / len" in body.given for body in model.bodies)


async def test_a_new_name_that_a_comment_has_already_is_one() -> None:
    before = MEAN.replace("total = 0", "total = 0  # The amount.")
    changed = before.replace("total = 0", "amount = 0")
    assert await found(Model(), before, changed) == (3, "        amount += value")


async def test_a_name_that_was_replaced_line_by_line_is_a_new_one_in_the_last() -> None:
    second = RENAMED.replace("total +=", "amount +=")
    assert await found(Model(), MEAN, RENAMED, second) == (4, "    return amount / len(values)")


async def test_the_model_reads_the_change_and_the_lines_in_question_and_little_else() -> None:
    filler = "".join(f"    step{number}()\n" for number in range(150))
    before = f"def f():\n    total = 0\n{filler}    return total\n"
    model = Model()
    line = before.count("\n") - 1
    assert await found(model, before, before.replace("total = 0", "amount = 0")) == (
        line,
        "    return amount",
    )
    for body in model.bodies:
        assert "amount = 0" in body.prefix
        assert len(body.prefix) < len(before) / 2


def wants_two_arguments(token: str, before: str, _: str) -> float:
    """Doubts the end of a call with one argument, once the function takes two."""
    is_lacking = re.search(r"print\(area\(\d+$", before) and "(width, height)" in before
    return 0.001 if token == ")" and is_lacking else 0.9


AREA = "def area(width):\n    return width\n" + "\n" * 20 + "print(area(2))\n"


async def test_a_call_gets_the_argument_for_a_new_parameter() -> None:
    changed = AREA.replace("(width)", "(width, height)")
    model = Model(wants_two_arguments, fill=", 3)")
    line = AREA.count("\n") - 1
    assert await found(model, AREA, changed) == (line, "print(area(2, 3))")
    assert await found(model, AREA, changed, offered=(line,)) is None


async def test_what_was_doubted_before_the_change_is_left_alone() -> None:
    def always(token: str, *_: str) -> float:
        return 0.001 if token == "2" else 0.9

    changed = AREA.replace("(width)", "(width, height)")
    assert await found(Model(always, fill="3"), AREA, changed) is None


async def test_a_failure_of_the_host_is_raised() -> None:
    with pytest.raises(HostError, match="memory"):
        await found(Model(failure="The memory does not suffice."), MEAN, RENAMED)


@pytest.mark.parametrize("failing", [0, 1, 2])
async def test_closing_in_the_middle_leaves_no_stream_open(failing: int) -> None:
    model = Model()

    def value_of(token: str, before: str, after: str) -> float:
        if len(model.bodies) > failing:
            raise RuntimeError("ended")
        return believes_what_it_has_read(token, before, after)

    model.value_of = value_of
    with pytest.raises(RuntimeError):
        await found(model, MEAN, RENAMED)
    assert model.num_open == 0


@pytest.mark.parametrize(
    ("text", "line", "scope"),
    [
        (MEAN + SPREAD, 3, (0, 4)),
        (MEAN + SPREAD, 0, (0, 4)),
        (MEAN + SPREAD, 9, (7, 11)),
        ("class A:\n    x = 1\n\n    def f(self):\n        return 1\n\n    y = 2\n", 4, (3, 4)),
        ("class A:\n    x = 1\n\n    def f(self):\n        return 1\n\n    y = 2\n", 6, (0, 6)),
        ("int f(int a) {\n  if (a) {\n    b();\n  }\n  return a;\n}\nint c;\n", 2, (0, 5)),
        ("int f(int a) {\n  return a;\n}\nint c;\n", 3, (0, 4)),
        ("fn f(a: u8) -> u8 {\n    while g(a) {\n        a\n    }\n}\n", 2, (0, 4)),
        ("func (t *T) F(a int) {\n\treturn a\n}\n", 1, (0, 2)),
        ("  def f(a)\n    a\n  end\n\n  b = 1\n", 1, (0, 2)),
        ("if f(x):\n    y\n", 1, (0, 2)),
        ("async def f(\n    a: int,\n) -> None:\n    b\n    c\nd\n", 4, (0, 4)),
        ("x = 1\ndef f(\n    a,\n):\n    b\n", 2, (1, 4)),
        ("", 0, (0, 0)),
    ],
)
def test_the_definition_around_a_line(text: str, line: int, scope: tuple[int, int]) -> None:
    document = Document("file:///a", "any", 1, text)
    assert scope_of(document, line) == Lines(*scope)


def test_no_line_is_read_that_cannot_be_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a long table would be read to its top for every line that has the word."""
    document = Document("file:///a", "any", 1, "x = 1\n" * 1000)
    read: list[int] = []
    monkeypatch.setattr(
        "dlm_lsp.session.next_edit._line", lambda _, line: read.append(line) or "x = 1"
    )
    assert scope_of(document, 900) == Lines(0, document.line_count - 1)
    assert set(read) == {900}


async def test_a_word_is_looked_for_up_to_a_very_long_line() -> None:
    table = f"x = '{'y' * 200_000}'\n"
    assert await found(Model(), MEAN + table, RENAMED + table) == (3, "        amount += value")
    assert await found(Model(), table + MEAN, table + RENAMED) == (4, "        amount += value")
    model, rest = Model(), f"{table}print(total)\n"
    assert await found(model, f"total = 0\n{rest}", f"amount = 0\n{rest}") is None
    assert model.bodies == []


def test_the_name_of_a_definition_belongs_to_what_is_around_it() -> None:
    document = Document("file:///a", "python", 1, MEAN)
    assert scope_of(document, 0, is_inside=False) == Lines(0, 5)


words = st.sampled_from(("total", "x", "total2", "(", "é", "=", '"total"', "for", ":"))
lines = st.lists(st.lists(words, max_size=4).map(" ".join), min_size=1, max_size=8)


@settings(max_examples=150)
@given(lines, st.sampled_from(("\n", "\r\n")), st.data())
async def test_whatever_the_model_thinks_a_line_only_gets_the_new_word_for_the_old(
    texts: list[str], ending: str, data: st.DataObject
) -> None:
    indented = [" " * data.draw(st.sampled_from((0, 2, 4))) + text for text in texts]
    at = data.draw(st.integers(0, len(texts)))
    before = ending.join((*indented[:at], "total = 1", *indented[at:]))
    changed = ending.join((*indented[:at], "sum = 1", *indented[at:]))
    document, recent = after(before, changed)
    model = Model(lambda *_: data.draw(st.sampled_from((0.9, 0.5, 1e-4))))
    asked = Asked(document, recent.of(document.uri), 0)
    proposal: Proposal | None = await next_edit(asked, Refining(model, GenerateBody(prefix="")))
    assert model.num_open == 0
    for body in model.bodies:
        assert body.given in (
            body.given.replace("total", "sum"),
            body.given,
        )
    if proposal is not None:
        old = document.text[proposal.start : proposal.end]
        assert proposal.text == re.sub(r"(?<![\w\"])total\b", "sum", old)
        assert proposal.text != old
        assert proposal.gain > 0
