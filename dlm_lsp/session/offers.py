"""The ids of offers that an editor was given and may still report as accepted.

Does not know the texts of the offers.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict

OFFERS_MAX = 256


class Offers:
    """The ids of the latest OFFERS_MAX offers."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, None] = OrderedDict()
        self._numbers = itertools.count(1)

    def add(self) -> str:
        """Returns the id of a new offer; the oldest id is dropped if there are too many."""
        offer_id = f"{next(self._numbers):x}"
        self._known[offer_id] = None
        if len(self._known) > OFFERS_MAX:
            self._known.popitem(last=False)
        return offer_id

    def __contains__(self, offer_id: str) -> bool:
        return offer_id in self._known
