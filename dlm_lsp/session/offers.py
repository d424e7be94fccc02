"""The offers that an editor was given and may still report as accepted.

Owns their ids. Knows nothing of what they say.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict

OFFERS_MAX = 256  # that can still be reported as accepted


class Offers:
    """Ids of the latest offers; the oldest one is forgotten for a new one."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, None] = OrderedDict()
        self._numbers = itertools.count(1)

    def add(self) -> str:
        """The id of one more offer."""
        offer_id = f"{next(self._numbers):x}"
        self._known[offer_id] = None
        if len(self._known) > OFFERS_MAX:
            self._known.popitem(last=False)
        return offer_id

    def __contains__(self, offer_id: str) -> bool:
        return offer_id in self._known
