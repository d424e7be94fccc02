"""The error of the host and its client, which names what is wrong and the remedy."""

from __future__ import annotations


class HostError(Exception):
    """The host cannot be reached, started or used, or it refused a request.

    Attributes:
        message: what is wrong, with the field, folder or address.
        remedy: what the user can do about it; may be empty.
        code: the code for programs: "unavailable", "start_failed", "load_failed", "host_lost",
            "busy", "unauthorized", "invalid_request", "protocol", "path", "option"; for a
            checkpoint's name "not_pulled", "unknown_name", "catalogue".
    """

    def __init__(self, message: str, *, remedy: str = "", code: str = "unavailable") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy
        self.code = code
