"""Shaping behind the syntax gate: what of a run's text may be shown, and where it is cut.

The gate judges whole lines. Committed text behind the last line that passed is shown as draft, so
that the two laws of `shaping.py` hold although the gate may take this text away. Where the line
below needs a line that is missing above it, the text ends with the last line below which it can
stand, if there is one. Holds the state of one run; without a gate it only shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlm_lsp.postprocess.shaping import Rules, Shaped, ShapedDraft, shape_draft, shape_final
from dlm_lsp.postprocess.syntax import SyntaxGate

CUTS_MAX = 6  # The largest number of cuts that are tried; each may take some parses.


@dataclass(frozen=True, slots=True)
class GatedDraft:
    """The part of an unfinished completion that may be shown.

    Attributes:
        shaped: as without a gate, but held committed text stands at the beginning of the draft.
        held: the number of characters of the draft that further text cannot change, but that the
            gate may still take away.
    """

    shaped: ShapedDraft
    held: int = 0


class GatedShaping:
    """Shapes the growing text of one run.

    Args:
        rules: the rules of shaping at the run's cursor, which stay readable.
        gate: judges the text at the run's cursor; None without a gate.
    """

    def __init__(self, rules: Rules, gate: SyntaxGate | None) -> None:
        self.rules = rules
        frames = rules.pairs.frames
        # In a string or a comment most text parses, and its end may be what is missing.
        self._gate = None if frames and frames[-1].is_text else gate
        self._shaped: ShapedDraft | None = None
        self._num_judged = 0  # Characters of the model's text up to the last line that was judged.
        self._num_passed = 0  # And up to the last line that has passed.
        self._firm = ""  # The shaped text of what has passed.
        self._has_fitted = False  # Whether the line below could stand below what has passed.

    def draft(self, committed: str, draft: str) -> GatedDraft:
        """Returns what may be shown of the model's committed text and draft."""
        shaped = self._shaped = shape_draft(self.rules, committed, draft, self._shaped)
        if self._gate is None:
            return GatedDraft(shaped)
        self._release(committed)
        held = shaped.committed[len(self._firm) :]
        shown = replace(
            shaped,
            committed=self._firm,
            draft=held + shaped.draft,
            sources=(-1,) * len(held) + shaped.sources,
        )
        return GatedDraft(shown, len(held))

    def final(self, text: str) -> tuple[Shaped, bool]:
        """Returns the whole completion, which starts with all committed text shown before, and
        whether the gate has taken something away."""
        shaped = shape_final(self.rules, text)
        has_passed = self._passes(shaped)
        if has_passed and self._fits(shaped):
            return shaped, False
        passing = shaped if has_passed and not self._has_fitted else None
        for end in self._cuts(text):
            shorter = shape_final(self.rules, text[:end])
            if shorter.text != shaped.text and self._passes(shorter):
                if self._fits(shorter):
                    return shorter, True
                passing = passing or shorter
        if passing is not None and not self._has_fitted:
            return passing, passing is not shaped
        if not self._num_passed:
            return Shaped("", 0, True), True
        return shape_final(self.rules, text[: self._num_passed]), True

    def _release(self, committed: str) -> None:
        """Judges the committed text up to its last line end, if that is new."""
        end = max(committed.rfind("\n"), committed.rfind("\r")) + 1
        if end <= self._num_judged:
            return
        self._num_judged = end
        shaped = shape_final(self.rules, committed[:end])
        if not self._passes(shaped):
            return
        has_fitted = self._fits(shaped)
        if has_fitted or not self._has_fitted:
            self._num_passed, self._has_fitted = end, has_fitted
            self._firm = shape_draft(self.rules, committed[:end], "").committed

    def _passes(self, shaped: Shaped) -> bool:
        return self._gate is None or self._gate.passes(shaped.text, shaped.replaced)

    def _fits(self, shaped: Shaped) -> bool:
        return self._gate is None or self._gate.fits(shaped.text, shaped.replaced)

    def _cuts(self, text: str) -> list[int]:
        """Returns ends of lines to cut at behind what has passed, the last ones first.

        Of many lines the first half, quarter and so on are tried.
        """
        ends = [at for at, one in enumerate(text) if one in "\r\n" and at > self._num_passed]
        cuts: list[int] = []
        index = len(ends) - 1
        while index >= 0 and len(cuts) < CUTS_MAX:
            cuts.append(ends[index])
            index = index - 1 if len(cuts) < CUTS_MAX // 2 else index // 2 - (index < 2)
        return cuts
