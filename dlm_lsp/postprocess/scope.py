"""Finds the line of a completion with which the scope of the cursor's line is over.

A scope is what is indented as far as the cursor's line. A line with less indentation ends it,
unless it closes something that the document leaves open, or goes on with the statement around the
scope. On its own level another paragraph ends it if typing has asked, what follows the block if the
cursor's line opened one, and otherwise what follows a definition; at the top level, what follows
any block. Lines are judged in order and only by those before them; the caller leaves out lines
within brackets and strings that the completion has opened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dlm_lsp.postprocess.indentation import indentation, width
from dlm_lsp.postprocess.pairs import Fit
from dlm_lsp.postprocess.verdict import Verdict

_CONTINUES = ("else", "elif", "elsif", "elseif", "except", "finally", "catch", "rescue", "ensure")
_BRANCH = re.compile(r"(?:case|when)\s+[^=\s]|default\s*:")
_BRANCHES = ("case", "when", "default")
_ENDS = ("end", "fi", "done", "esac", "endif", "endfor", "endwhile", "endfunction", "endcase")
_END_LINE = re.compile(rf"(?:{'|'.join(_ENDS)})[ \t]*[);,.]*(?:\s*(?:#|--|//).*)?|until\s.*")
_END_BEGUN = re.compile(rf"(?:{'|'.join(_ENDS)})[ \t);,.#/-]*\Z")
_WORD = re.compile(r"\w+")
_DEFINITION = re.compile(
    r"(?:(?:export|default|async|pub(?:\([^)]*\))?|static|public|private|protected|local|abstract|"
    r"final|unsafe|inline|const|extern|virtual|override|open|data|sealed)\s+)*"
    r"(?:def|defp|class|func|fun|fn|function\*?|struct|enum|trait|impl|interface|module|mod|"
    r"namespace|sub|proc|macro|defmodule)\b(?!\s*[=.:])"
    r"|@\w|#\[|template\s*<"
)
_FUNCTION = re.compile(r"\w[\w:<>,*&\[\] ]*[\s*&]~?\w+\s*\([^;=]*\)[^;=()]*\{?\s*\Z")
_TYPE = re.compile(
    r"(?:[a-z()]+\s+)*?(?:class|struct|enum|trait|impl|interface|module|mod|namespace|defmodule)\b"
)
_NOWHERE = 1_000  # More columns than any line has.
_CLOSURE = re.compile(
    r"=>\s*\{?\s*\Z|\b(?:function|func|fn|fun|lambda|proc)\b.*[{)]\s*\Z|\bdo\b[^()]*\Z"
)
_DEFINITION_CHARS_MAX = 200
# Words that begin a statement with brackets, which is no function.
_STATEMENTS = ("if", "for", "while", "switch", "return", "else", "await", "throw", "new", "match")
_DIRECTIVE = re.compile(r"#\s*(?:if|ifdef|ifndef|else|elif|endif|pragma|region|endregion)\b")
_DIRECTIVE_BEGUN = re.compile(r"#\s*[a-z]*\Z")
_LABEL = re.compile(r"\w+:\s*\Z")


@dataclass(frozen=True, slots=True)
class ScopeRules:
    """The scope of a cursor.

    Attributes:
        line_before: the cursor's line up to the cursor.
        next_line: the next line below that is not blank; empty if there is none.
        outer: the lines around the cursor's, each less indented than the one before.
        is_automatic: whether typing caused the request; the text is then one paragraph.
        has_directives: whether a line that begins with "#" is one for a preprocessor, and labels
            stand where they like.
        is_amid_block: whether the cursor's line is empty and the lines around it are indented.
    """

    line_before: str
    next_line: str
    outer: tuple[str, ...]
    is_automatic: bool
    has_directives: bool = False
    is_amid_block: bool = False


class Scope:
    """The scope of the cursor's line, while the lines of a completion are added to it."""

    def __init__(self, rules: ScopeRules, fit: Fit) -> None:
        self._rules = rules
        self._fit = fit
        self._base = width(indentation(rules.line_before))
        self._outer = tuple(width(indentation(line)) for line in rules.outer)
        # Typing asks for a paragraph, and so does a user within a statement.
        self._is_paragraph = rules.is_automatic or bool(rules.line_before.strip())
        self._is_in_function = any(map(_opens_body, rules.outer)) and not _TYPE.match(
            next(one.strip() for one in rules.outer if _opens_body(one))
        )
        self._floor = self._lowest()  # The least indentation of the scope.
        self._num_kept = 1 if rules.line_before.strip() else 0  # Lines that are not blank.
        self._is_owner = False  # Whether the cursor's line opens a block.
        self._is_paragraph_over = False
        self._has_text = False  # Whether the completion has a line that is not blank.
        self._head = ""  # The last line on the level of the scope that begins a statement.
        self._has_body = False  # Whether the lines after it are its block.

    @property
    def base(self) -> int:
        """The columns of the scope's level."""
        return self._base

    def _lowest(self) -> int:
        """Returns the columns of the body of the function around the cursor, whose rest a user asks
        for if it is missing; the document goes on where the next line is, and then none is."""
        below = self._rules.next_line
        around = next((at for at, one in enumerate(self._rules.outer) if _opens_body(one)), -1)
        if self._is_paragraph or around < 0:
            return _NOWHERE
        columns = width(indentation(below)) if below else -1
        first = self._outer[around - 1] if around else self._base
        if self._outer[around] < columns <= max(self._base, first):
            return _NOWHERE
        return self._outer[around] + 1

    def verdict(self, line: str, start: int, can_grow: bool) -> Verdict:
        """Returns whether a line after the cursor's ends the text.

        Args:
            start: the index of its first character.
        """
        text = line.strip()
        if not text:
            return Verdict.UNSURE if can_grow else Verdict.KEEP
        if self._fit.is_closed_below(text[0], start):
            return Verdict.END
        columns = width(indentation(line))
        if columns > self._base:
            return Verdict.KEEP
        if self._rules.has_directives and not self._rules.is_automatic:
            verdict = _mark(text, can_grow)
            if verdict is not Verdict.END:
                return verdict
        if columns < self._base:
            return self._outside(text, columns, start, can_grow)
        return self._on_level(text, columns, can_grow)

    def at_margin(self, line: str, can_grow: bool) -> Verdict:
        """Returns whether a line is a new top-level statement in the middle of an indented block:
        it would take the lines below from what they belong to."""
        if not self._rules.is_amid_block or line[:1] in ("", " ", "\t", ")", "]", "}"):
            return Verdict.KEEP
        return _mark(line.strip(), can_grow) if self._rules.has_directives else Verdict.END

    def keep(self, number: int, line: str) -> None:
        """Adds a line that stays."""
        before = self._rules.line_before if number == 0 else ""
        if not (before + line).strip():
            self._is_paragraph_over = self._has_text
            return
        columns = width(indentation(before + line))
        if number and self._rules.has_directives and _mark(line.strip(), False) is Verdict.KEEP:
            return
        if not self._num_kept and (number == 0 or not self._rules.line_before):
            self._base = columns  # The model knows better than an empty line.
        elif number and columns > self._base and self._num_kept == 1 and self._before():
            self._is_owner = True
        if number and columns < self._base:
            self._base = columns
            self._is_owner = columns < self._floor  # It has closed the scope.
        self._add(number, (before + line).strip(), columns)
        self._num_kept += number > 0 or not self._before()
        self._is_paragraph_over = False
        self._has_text = self._has_text or bool(line.strip())

    def _add(self, number: int, text: str, columns: int) -> None:
        if columns > self._base:
            self._has_body = bool(self._head)
        elif text[0] not in ")]}{#/*-" and not _END_LINE.fullmatch(text):
            is_same = self._head.startswith(("@", "#["))
            self._head = self._head if is_same and _DEFINITION.match(text) else text
            self._has_body = False

    def _before(self) -> bool:
        return bool(self._rules.line_before.strip())

    def _outside(self, text: str, columns: int, start: int, can_grow: bool) -> Verdict:
        """Judges a line with less indentation than the scope."""
        if self._fit.is_open_below(text[0], start):
            return Verdict.KEEP
        if columns not in self._outer:
            return Verdict.END
        if columns >= self._floor:
            return Verdict.KEEP
        verdict = self._end_word(text, columns, can_grow)
        if verdict is Verdict.END and not self._rules.is_automatic:
            return self._branch(text, columns, can_grow)
        return verdict

    def _on_level(self, text: str, columns: int, can_grow: bool) -> Verdict:
        if self._is_owner:
            if text[0] in ")]}":
                return Verdict.KEEP
            verdict = self._end_word(text, columns, can_grow)
            return verdict if verdict is not Verdict.END else _continuation(text, can_grow)
        if self._is_paragraph_over and (self._is_paragraph or self._is_block_over()):
            return self._end_word(text, columns, can_grow)
        if self._has_body and not self._is_in_function and _is_definition(self._head):
            return _definition(text, can_grow)
        return Verdict.KEEP

    def _is_block_over(self) -> bool:
        """Returns whether a whole block stands there, after which a paragraph is something new."""
        is_definition = not self._is_in_function and _is_definition(self._head)
        return self._has_body and (self._base == 0 or is_definition)

    def _end_word(self, text: str, columns: int, can_grow: bool) -> Verdict:
        """Judges an `end`, which stays if the document has none below for this block."""
        below = self._rules.next_line
        is_there = bool(below) and width(indentation(below)) >= columns
        if is_there and (width(indentation(below)) > columns or _END_LINE.match(below.strip())):
            return Verdict.END
        if not can_grow:
            return Verdict.KEEP if _END_LINE.fullmatch(text) else Verdict.END
        is_begun = any(word.startswith(text) for word in (*_ENDS, "until "))
        is_begun = is_begun or _END_BEGUN.match(text) is not None
        is_begun = is_begun or _END_LINE.fullmatch(text) is not None
        return Verdict.UNSURE if is_begun else Verdict.END

    def _branch(self, text: str, columns: int, can_grow: bool) -> Verdict:
        """Judges a line that may go on with the statement around the scope."""
        below = self._rules.next_line
        under = width(indentation(below)) if below else -1
        if under > columns or (under == columns and _is_branch(below.strip())):
            return Verdict.END  # The document goes on with the scope or the statement itself.
        if _BRANCH.match(text):
            return Verdict.KEEP
        first = text.split()[0].rstrip(":")
        is_begun = first in _BRANCHES or (
            first == text and any(w.startswith(first) for w in _BRANCHES)
        )
        if can_grow and is_begun:
            return Verdict.UNSURE
        return _continuation(text, can_grow)


def _continuation(text: str, can_grow: bool) -> Verdict:
    """Returns whether a line at the indentation of a block's first line continues the block."""
    word = _WORD.match(text)
    name = word.group() if word else ""
    if name in _CONTINUES and not (can_grow and name == text):
        return Verdict.KEEP
    if can_grow and any(keyword.startswith(text) for keyword in _CONTINUES):
        return Verdict.UNSURE
    return Verdict.END


def _is_branch(text: str) -> bool:
    return _BRANCH.match(text) is not None or _continuation(text, False) is Verdict.KEEP


def _opens_body(line: str) -> bool:
    """Returns whether a line around the cursor's begins a function or a class."""
    text = line.strip()
    return _is_definition(text) or _CLOSURE.search(text) is not None


def _is_definition(text: str) -> bool:
    """Returns whether a line begins a function, a class or the like."""
    if _DEFINITION.match(text):
        return True
    word = _WORD.match(text)
    is_statement = word is not None and word.group() in _STATEMENTS
    is_short = len(text) <= _DEFINITION_CHARS_MAX
    return is_short and not is_statement and _FUNCTION.match(text) is not None


def _definition(text: str, can_grow: bool) -> Verdict:
    """Judges a line after a definition, which another definition ends."""
    if not can_grow:
        return Verdict.END if _is_definition(text) else Verdict.KEEP
    begun = _DEFINITION.match(text)
    return Verdict.END if begun and begun.end() < len(text) else Verdict.UNSURE


def _mark(text: str, can_grow: bool) -> Verdict:
    """Returns KEEP for a preprocessor's line and a label, which stand where they like."""
    directive = _DIRECTIVE.match(text)
    if directive and (not can_grow or directive.end() < len(text)):
        return Verdict.KEEP
    if not can_grow and _LABEL.match(text):
        return Verdict.KEEP
    is_begun = _DIRECTIVE_BEGUN.match(text) or re.fullmatch(r"\w+:?\s*", text)
    return Verdict.UNSURE if can_grow and is_begun else Verdict.END
