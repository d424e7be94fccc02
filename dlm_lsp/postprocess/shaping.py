"""Shapes the model's raw text for an editor: cuts it, pairs brackets, adapts indentation and line
ends.

Keeps two laws: the committed text that was shown only grows, and the final text starts with it.
Each call shapes the whole text; there is no state between calls. Works on text alone and knows
neither positions, requests nor the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dlm_lsp.postprocess.foreign import foreign_rules
from dlm_lsp.postprocess.indentation import (
    TAB_WIDTH,
    drops_lead,
    indent_unit,
    indentation,
    is_recipe,
    reindented,
    width,
)
from dlm_lsp.postprocess.languages import UNKNOWN, WITH_DIRECTIVES, language_named
from dlm_lsp.postprocess.lines import PERIOD_MAX, LineRules, cut
from dlm_lsp.postprocess.pairs import Fit, Pairs, is_only_closers, pairs_for
from dlm_lsp.postprocess.scope import ScopeRules
from dlm_lsp.postprocess.suffix import LINES_BELOW_MAX

_LINE_END = re.compile(r"\r\n|\r|\n")
_NEARBY_CHARS = 20_000  # The text on each side that shows the document's style.
_RECIPE_LINES = 20  # The lines above that tell whether a recipe goes on.
_LEVELS_MAX = 100  # Of indentation.
_REPEATED_CHARS_MAX = 400  # Repeats of a longer rest of the line are ignored.


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules for shaping a completion at one cursor; `rules_for` makes them.

    Attributes:
        line_after: the text right of the cursor on its line.
        indent: the document's unit of indentation, a tab or some spaces; empty if unknown.
        drops_lead: whether the document already has a completion's leading space.
        recipe_above: in a makefile the lines above the cursor, nearest first; else None.
        needs_one_line: whether the completion stands before a statement on its line; several lines
            would then need a line end that a single-line suggestion cannot have.
    """

    lines: LineRules
    pairs: Pairs
    line_after: str
    line_end: str
    indent: str
    drops_lead: bool
    recipe_above: tuple[str, ...] | None
    needs_one_line: bool


@dataclass(frozen=True, slots=True)
class Shaped:
    """A shaped text to insert at the cursor, which replaces `replaced` code points after it.

    `complete` is true if no further text of the model could change this.
    """

    text: str
    replaced: int
    complete: bool


@dataclass(frozen=True, slots=True)
class ShapedDraft:
    """The part of an unfinished completion that may be shown.

    Attributes:
        raw: the model's committed text.
        committed: the shaped part of `raw` that no further text can change; it only grows.
        draft: the text after `committed` that may still change.
        sources: for each character of `draft` its index in the model's draft; -1 for a character
            of the committed text that is held back.
        complete: as in `Shaped`, for the committed text.
    """

    raw: str
    committed: str
    draft: str
    sources: tuple[int, ...]
    complete: bool


def rules_for(
    prefix: str,
    suffix: str,
    automatic: bool,
    language_id: str = "",
    lines_max: int | None = None,
) -> Rules:
    """Returns the rules at the cursor between two parts of a document.

    Args:
        language_id: LSP's identifier of the document's language.
        lines_max: the largest number of lines of a completion; None means any number.
        automatic: whether typing caused the request; the completion is then one paragraph at most,
            and stays on its line if other text than closers is right of the cursor.
    """
    line_before = re.split(r"[\r\n]", prefix[-_NEARBY_CHARS:])[-1]
    line_after = re.split(r"[\r\n]", suffix, maxsplit=1)[0]
    below = suffix[len(line_after) : len(line_after) + _NEARBY_CHARS]
    above = prefix[: len(prefix) - len(line_before)][-_NEARBY_CHARS:]
    lines_above = [line for line in reversed(_LINE_END.split(above)) if line.strip()]
    lines_below = [line for line in _LINE_END.split(below) if line.strip()]
    language = language_named(language_id)
    indent = language.indent or indent_unit([line_before, *lines_above, *lines_below])
    has_code_after = not is_only_closers(line_after)
    has_code_to_repeat = has_code_after and len(line_after) <= _REPEATED_CHARS_MAX
    if automatic and has_code_after:
        lines_max = 1
    line_before = reindented(line_before, indent)
    nearest = lines_below[:LINES_BELOW_MAX]
    below_lines = tuple(reindented(line, indent).rstrip() for line in nearest)
    return Rules(
        lines=LineRules(
            repeated=line_after.strip() if has_code_to_repeat else "",
            below=below_lines,
            above=tuple(
                reindented(line, indent).rstrip() for line in reversed(lines_above[:PERIOD_MAX])
            ),
            indent=indent,
            scope=ScopeRules(
                line_before=line_before,
                next_line=below_lines[0] if below_lines else "",
                outer=_outer(line_before, lines_above, indent),
                is_automatic=automatic,
                has_directives=language_id.lower() in WITH_DIRECTIVES,
                # In prose a paragraph may stand anywhere.
                is_amid_block=bool(language.line_comments)
                and not (line_before + line_after).strip("\r\n")
                and _is_indented(lines_above)
                and _is_indented(lines_below),
            ),
            foreign=foreign_rules(language, language_id),
            lines_max=lines_max,
        ),
        pairs=pairs_for(language, prefix, suffix),
        line_after=line_after,
        line_end=_line_end(below, above),
        indent=indent,
        drops_lead=drops_lead(line_before, lines_above, indent),
        recipe_above=tuple(lines_above[:_RECIPE_LINES]) if language.has_recipes else None,
        needs_one_line=automatic and has_code_after and not line_before.strip(),
    )


def _is_indented(lines: list[str]) -> bool:
    """Returns whether the first of these lines is indented."""
    return bool(lines and indentation(lines[0]))


def shape_draft(
    rules: Rules, committed: str, draft: str, before: ShapedDraft | None = None
) -> ShapedDraft:
    """Returns the parts of committed text and draft that may be shown.

    Undecided places (engine.api.MASKED) count as ordinary characters.

    Args:
        before: an earlier result by the same rules, which is reused for unchanged committed text.
    """
    if before is not None and before.raw == committed:
        firm, is_complete = before.committed, before.complete
    else:
        firm, _, is_complete = _shown(rules, committed)
    if not draft:
        return ShapedDraft(committed, firm, "", (), is_complete)
    shown, sources, _ = _shown(rules, committed + draft)
    from_draft = tuple(max(source - len(committed), -1) for source in sources[len(firm) :])
    return ShapedDraft(committed, firm, shown[len(firm) :], from_draft, is_complete)


def shape_final(rules: Rules, text: str) -> Shaped:
    """Returns the whole completion, which starts with all committed text shown before."""
    normal, _ = _normalised(rules, text)
    fit = Fit(rules.pairs, normal, is_whole=True)
    limit = cut(rules.lines, fit, normal, is_whole=True)
    if rules.needs_one_line and (limit.is_final or "\n" in normal):
        return Shaped("", 0, True)
    if limit.is_final:
        fit = _fit_of_cut(rules, normal[: limit.end])
    lines_max, rest_of_line = rules.lines.lines_max, rules.line_after.strip()
    is_full = lines_max is not None and normal.count("\n", 0, limit.end) + 1 >= lines_max
    ending = fit.ending(
        limit.end, limit.end < len(normal), closes_text=is_full and not rest_of_line
    )
    if not ending.end:
        return Shaped("", 0, limit.is_final)
    kept = normal[: limit.end]
    gap = kept[ending.end : len(kept) - len(kept[ending.end :].lstrip())]
    rest = rules.line_after[ending.replaced :]
    shown = kept[: ending.end] + ending.closers
    shown += _separator(rules, gap, rest, limit.end < len(normal))
    return Shaped(shown.replace("\n", rules.line_end), ending.replaced, limit.is_final)


def _shown(rules: Rules, text: str) -> tuple[str, list[int], bool]:
    """Returns the text that no continuation can remove, the index in `text` of each of its
    characters, and whether no continuation could change it."""
    normal, sources = _normalised(rules, text)
    fit = Fit(rules.pairs, normal, is_whole=False)
    limit = cut(rules.lines, fit, normal, is_whole=False)
    if rules.needs_one_line:
        return "", [], limit.is_final or "\n" in normal
    if limit.is_final:
        end = _fit_of_cut(rules, normal[: limit.end]).ending(limit.end, is_cut=False).end
    else:
        end = fit.ending(min(limit.end, fit.decided()), is_cut=False).end
    characters = [rules.line_end if one == "\n" else one for one in normal[:end]]
    counted = zip(characters, sources, strict=False)
    return "".join(characters), [source for one, source in counted for _ in one], limit.is_final


def _fit_of_cut(rules: Rules, kept: str) -> Fit:
    """Reads a text that is cut, so that nothing after the cut matters.

    A string that is open at the cut counts where the language is known; elsewhere its quote may be
    an apostrophe.
    """
    return Fit(rules.pairs, kept, is_whole=rules.pairs.language is UNKNOWN)


def _separator(rules: Rules, gap: str, rest: str, is_cut: bool) -> str:
    """Returns the space to keep between the completion and the rest of the line.

    `is_cut` means that the gap's indentation belongs to further text that was cut off.
    """
    if not rest.strip():
        return ""
    if "\n" not in gap:
        return "" if rules.pairs.head or rest[0].isspace() else gap
    if not is_cut:
        return "\n" + gap.rpartition("\n")[2]
    return "" if rules.pairs.in_string else "\n" + indentation(rules.lines.line_before)


def _normalised(rules: Rules, text: str) -> tuple[str, list[int]]:
    """Normalises text: \\n line ends, the document's indentation, no spaces before line ends.

    Returns: the text, and the index in the raw text of each of its characters.
    """
    characters: list[str] = []
    sources: list[int] = []
    start = 0
    above = [*reversed(rules.recipe_above or ()), rules.lines.line_before]
    for number, line in enumerate(_LINE_END.split(text)):
        end = start + len(line)
        is_closed = end < len(text)
        lead = indentation(line)
        is_indentation = number > 0 or not rules.lines.line_before.strip()
        body = line[len(lead) :].rstrip(" \t") if is_closed else line[len(lead) :]
        if (number == 0 and rules.drops_lead) or (is_closed and not body):
            space = ""
        else:
            space = reindented(lead, rules.indent) if is_indentation else lead
            has_recipes = is_indentation and rules.recipe_above is not None
            if has_recipes and is_recipe(above, lead + body):
                space = "\t" * max(1, space.count("\t"))
        above.append(above.pop() + space + body if number == 0 else space + body)
        characters += (space, body)
        sources += [start] * len(space)
        sources += range(start + len(lead), start + len(lead) + len(body))
        if is_closed:
            characters.append("\n")
            sources.append(end)
        start = end + (2 if text[end : end + 2] == "\r\n" else 1)
    return "".join(characters), sources


def _outer(line_before: str, lines_above: list[str], indent: str) -> tuple[str, ...]:
    """Returns the lines around the cursor's, innermost first, each less indented than the one
    before. Of a header of several lines it is the first."""
    outer: list[str] = []
    least = width(indentation(line_before)) if line_before else TAB_WIDTH * _LEVELS_MAX
    is_end = False  # Whether the last line was only the end of a header.
    for line in lines_above:
        columns = width(indentation(reindented(line, indent)))
        if columns == least and is_end:
            outer[-1] = line
            is_end = False
        elif columns < least:
            outer.append(line)
            least = columns
            is_end = line.lstrip()[0] in "{)]"
        if not least and not is_end:
            break
    return tuple(reindented(line, indent) for line in outer)


def _line_end(below: str, above: str) -> str:
    """Returns the document's line end: the nearest below the cursor, else above, else \\n."""
    found = _LINE_END.search(below)
    if found is not None:
        return found[0]
    if above:
        return "\r\n" if above.endswith("\r\n") else above[-1]
    return "\n"
