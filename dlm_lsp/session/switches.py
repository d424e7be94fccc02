"""What the user switches off for a while or for a document, told to the editor's status.

Owns the time at which a snooze ends. The gate keeps what is switched off, and asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from dlm_lsp.session.engine_link import EngineLink
from dlm_lsp.session.gate import Gate


class SwitchBoard:
    """The switches of one session.

    Args:
        on_snooze: called when a snooze begins or is ended by the user.
        on_toggle: called with the URI of a document that was switched on or off.
    """

    def __init__(
        self,
        gate: Gate,
        link: EngineLink,
        on_snooze: Callable[[], None],
        on_toggle: Callable[[str], None],
    ) -> None:
        self._gate = gate
        self._link = link
        self._on_snooze = on_snooze
        self._on_toggle = on_toggle
        self._waking: asyncio.TimerHandle | None = None

    def snooze(self, minutes: float) -> None:
        """Silences suggestions while typing for so long; 0 ends that at once."""
        self._gate.snooze(minutes)
        self._on_snooze()
        self.close()
        loop = asyncio.get_running_loop()
        self._waking = loop.call_later(minutes * 60, self._wake) if minutes else None
        self._tell()

    def toggle(self, uri: str, on: bool | None = None) -> bool:
        """Switches a document's suggestions on or off, or over if `on` is None; returns the new
        state."""
        is_on = self._gate.toggle(uri, on)
        self._on_toggle(uri)
        self._tell()
        return is_on

    def close(self) -> None:
        """Ends the wait for the end of a snooze."""
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None

    def _wake(self) -> None:
        self._gate.snooze(0)
        self._tell()

    def _tell(self) -> None:
        switches = self._gate.switches
        self._link.tell(
            replace(
                self._link.current,
                snoozed_until=switches.snoozed_until,
                documents_off=switches.documents_off,
            )
        )
