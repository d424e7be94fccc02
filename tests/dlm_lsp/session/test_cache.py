"""The result cache: a shown completion is served while the user types it, and in no other case."""

from hypothesis import given
from hypothesis import strategies as st

from dlm_lsp.session.cache import (
    CHARS_MAX,
    ENTRIES_MAX,
    Completion,
    ResultCache,
    regained,
    remainder,
)

URI = "file:///a.py"
texts = st.text(alphabet="ab(\n )é😀", max_size=12)


@given(texts, texts, texts.filter(bool), st.data())
def test_typing_a_proper_beginning_leaves_exactly_the_rest(
    prefix: str, suffix: str, text: str, data: st.DataObject
) -> None:
    cache = ResultCache()
    cache.put(URI, Completion(prefix, suffix, text, replaced=0))
    count = data.draw(st.integers(0, len(text) - 1))
    left = cache.find(URI, prefix + text[:count], suffix)
    assert left is not None
    assert (left.text, left.replaced) == (text[count:], 0)


@given(texts, texts, texts, texts, texts, st.integers(0, 2))
def test_whatever_is_found_inserts_to_the_same_document(
    prefix: str, suffix: str, text: str, new_prefix: str, new_suffix: str, replaced: int
) -> None:
    shown = Completion(prefix, suffix, text, min(replaced, len(suffix)))
    for fits in (remainder, regained):
        left = fits(shown, new_prefix, new_suffix)
        if left is not None:
            before = shown.prefix + shown.text + shown.suffix[shown.replaced :]
            assert new_prefix + left.text + new_suffix[left.replaced :] == before


def test_text_removed_before_a_completion_comes_back_with_it() -> None:
    shown = Completion("a\n  x = ", "\n", "foo()")
    assert regained(shown, "a\n  x", "\n") == Completion("a\n  x", "\n", " = foo()")
    assert regained(shown, "a\n  ", "\n") == Completion("a\n  ", "\n", "x = foo()")
    assert regained(shown, "a", "\n") is None, "the line break was not typed on this line"
    assert regained(shown, "a\n  x", "y\n") is None
    assert regained(Completion("x = ", "\n", ""), "x", "\n") is None, "nothing was shown"


def test_indentation_that_is_removed_does_not_come_back() -> None:
    shown = Completion("if a:\n    b\n    ", "\n", "c")
    assert regained(shown, "if a:\n    b\n", "\n") is None
    assert regained(Completion("if a:\n    b ", "\n", "c"), "if a:\n    b", "\n") is not None


def test_what_was_answered_for_a_text_goes_before_what_was_shown_further_right() -> None:
    cache = ResultCache()
    cache.put(URI, Completion("x = ", "\n", "foo()"))
    cache.put(URI, Completion("x = q", "\n", "uit()"))
    assert cache.find(URI, "x = ", "\n") == Completion("x = ", "\n", "foo()")
    assert cache.find(URI, "x =", "\n") == Completion("x =", "\n", " quit()")


def test_deviating_text_is_not_served() -> None:
    shown = Completion("x = ", "\n", "foo(bar)")
    assert remainder(shown, "x = g", "\n") is None
    assert remainder(shown, "y = f", "\n") is None
    assert remainder(shown, "x =", "\n") is None
    assert remainder(shown, "x = f", "changed") is None


def test_completion_typed_to_its_end_is_asked_anew() -> None:
    assert remainder(Completion("a", "", "bc"), "abc", "") is None


def test_empty_answer_stands_for_its_own_place_only() -> None:
    nothing = Completion("a", "b", "")
    assert remainder(nothing, "a", "b") == nothing
    assert remainder(nothing, "ax", "b") is None


def test_auto_closed_bracket_is_replaced() -> None:
    shown = Completion("x = ", "\n", "foo([1])")
    left = remainder(shown, "x = foo(", ")\n")
    assert left == Completion("x = foo(", ")\n", "[1])", 1)
    left = remainder(shown, "x = foo([", "])\n")
    assert left == Completion("x = foo([", "])\n", "1])", 2)


def test_bracket_that_the_rest_does_not_bring_is_not_replaced() -> None:
    assert remainder(Completion("x = ", "\n", "foo(1"), "x = foo(", ")\n") is None
    assert remainder(Completion("x = ", "\n", "foo(1)"), "x = ", ")\n") is None


def test_newest_wins_and_other_documents_are_not_asked() -> None:
    cache = ResultCache()
    cache.put(URI, Completion("a", "", "bcd"))
    cache.put(URI, Completion("ab", "", "x"))
    assert cache.find(URI, "ab", "") == Completion("ab", "", "x")
    assert cache.find("file:///b.py", "ab", "") is None


def test_size_is_bounded_and_clear_forgets() -> None:
    cache = ResultCache()
    for number in range(ENTRIES_MAX + 1):
        cache.put(URI, Completion(f"{number}:", "", "text"))
    assert cache.find(URI, "0:", "") is None
    assert cache.find(URI, "1:", "") is not None
    cache.clear("file:///b.py")
    assert cache.find(URI, "1:", "") is not None
    cache.clear(URI)
    assert cache.find(URI, "1:", "") is None


def test_text_of_large_documents_is_bounded() -> None:
    cache = ResultCache()
    third = "x" * (CHARS_MAX // 3)
    for number in range(4):
        cache.put(f"file:///{number}", Completion(third, "", "text"))
    found = [cache.find(f"file:///{number}", third, "") is not None for number in range(4)]
    assert found == [False, True, True, True]
    cache.put("file:///3", Completion(third, "", "other"))
    assert cache.find("file:///1", third, "") is not None
    cache.clear()
    cache.put("file:///0", Completion(third * 2, "", "text"))
    assert cache.find("file:///0", third * 2, "") is not None
