"""Finds text that is no code: the fence of a Markdown block, or an instruct model's sentences.

A line is judged by itself, and only where code stands, not within a string or a comment. Knows no
scope and no suffix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dlm_lsp.postprocess.languages import UNKNOWN, Language, is_prose
from dlm_lsp.postprocess.verdict import Verdict

_FENCE = "```"
# Sentences are told by how they begin. Three lower-case words in a row, or a colon and a word after
# a heading, are no code in any language whose strings and comments are known, but in these.
_WITH_SENTENCES = frozenset({"yaml", "dockerfile", "toml", "sql", "mysql", "plsql", "pgsql"})
_SUBJECTS = (
    *("Here", "Here's", "This", "These", "That", "The", "In", "To", "Please", "Sure", "Certainly"),
    *("You", "We", "It", "It's", "I", "I'm", "I'll", "Let's", "Let", "Now", "Finally", "However"),
    *("Note", "If", "When", "As", "First", "Then"),
)
_HEADINGS = ("Explanation", "Note", "Example", "Output", "Answer", "Usage", "Human", "Assistant")
_SUBJECT, _HEADING = f"(?:{'|'.join(_SUBJECTS)})", f"(?:{'|'.join(_HEADINGS)})"
_SENTENCE = re.compile(rf"{_SUBJECT},?(?: [a-z][a-z'-]*,?){{3}}(?=[ .,:;!?`])")
_SENTENCE_BEGUN = re.compile(rf"{_SUBJECT},?(?: [a-z][a-z'-]*,?){{0,3}} ?\Z")
_HEADED = re.compile(rf"(?:\*\*)?{_HEADING}:(?:\*\*)? [A-Z][a-z']* [a-z]")
_HEADING_ALONE = re.compile(rf"(?:\*\*)?{_HEADING}:(?:\*\*)?\Z")
_HEADING_BEGUN = re.compile(rf"(?:\*\*)?{_HEADING}(?::(?:\*{{1,2}})?(?: (?:[A-Z][a-z']* ?)?)?)?\Z")


@dataclass(frozen=True, slots=True)
class ForeignRules:
    """What is no code in a language.

    Attributes:
        fences: whether the fence of a Markdown block is not.
        sentences: whether sentences are not.
    """

    fences: bool
    sentences: bool


def foreign_rules(language: Language, language_id: str) -> ForeignRules:
    """Returns what is no code in the language with this identifier."""
    knows_code = language is not UNKNOWN and not is_prose(language)
    sentences = knows_code and language_id.lower() not in _WITH_SENTENCES
    return ForeignRules(fences=not is_prose(language), sentences=sentences)


def foreign(rules: ForeignRules, line: str, can_grow: bool) -> Verdict:
    """Returns whether a line that begins in code is no code, or may become such a line."""
    text = line.strip()
    if rules.fences and text.startswith(_FENCE):
        return Verdict.END
    if rules.fences and can_grow and text and _FENCE.startswith(text):
        return Verdict.UNSURE
    if not rules.sentences or not text:
        return Verdict.KEEP
    if _SENTENCE.match(text) or _HEADED.match(text):
        return Verdict.END
    if can_grow:
        return Verdict.UNSURE if _may_become_one(line.lstrip()) else Verdict.KEEP
    return Verdict.END if _HEADING_ALONE.match(text) else Verdict.KEEP


def _may_become_one(text: str) -> bool:
    """Returns whether a growing line may become a sentence or a heading."""
    if " " not in text and any(one.startswith(text) for one in _SUBJECTS):
        return True
    bare = text.lstrip("*") if text.startswith(("*", "**")) else text
    if any(one.startswith(bare) for one in _HEADINGS):
        return True
    return bool(_SENTENCE_BEGUN.match(text) or _HEADING_BEGUN.match(text))
