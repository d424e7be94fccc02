"""The offers that an editor was given and may still report as accepted, by their ids.

Owns how much of each was accepted. Does not know the texts of the offers.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict

OFFERS_MAX = 256


class Offers:
    """The latest OFFERS_MAX offers."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()  # length, accepted
        self._numbers = itertools.count(1)

    def add(self, length: int) -> str:
        """Returns the id of a new offer; the oldest id is dropped if there are too many.

        Args:
            length: the number of the offer's characters.
        """
        offer_id = f"{next(self._numbers):x}"
        self._known[offer_id] = (length, 0)
        if len(self._known) > OFFERS_MAX:
            self._known.popitem(last=False)
        return offer_id

    def accept(self, offer_id: str, length: int | None) -> int:
        """Returns how many characters of a known offer have been accepted since the last report.

        Args:
            length: the characters of the offer that are accepted so far; None means all of them.
        """
        whole, before = self._known[offer_id]
        accepted = whole if length is None else min(max(length, before), whole)
        self._known[offer_id] = (whole, accepted)
        return accepted - before

    def __contains__(self, offer_id: str) -> bool:
        return offer_id in self._known
