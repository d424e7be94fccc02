"""Which engine host to use, and what the user's settings say of it.

Owns the checks of a host's URL and token. Knows no sockets and starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.options import IDLE_SECONDS
from dlm_lsp.settings.schema import Settings
from dlm_lsp.store.choice import Choice, choose
from dlm_lsp.store.errors import StoreError
from engine.config import EngineSettings


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Which host to use.

    Attributes:
        engine: what a host on this machine loads.
        url: of a host started by hand ("http://gpu-box:8123"); None means this machine's own.
        token: bearer token for `url`.
        idle_seconds: a host started from here ends after so long without a request; 0 means never.
        hint: how to get a real model, where the bundled one is used for want of one.
        problem: why there is no checkpoint to load; every use of a host raises it.
    """

    engine: EngineSettings = field(default_factory=EngineSettings)
    url: str | None = None
    token: str | None = None
    idle_seconds: float = IDLE_SECONDS
    hint: str | None = field(default=None, compare=False)
    problem: HostError | None = field(default=None, compare=False)


def to_host_settings(settings: Settings) -> HostSettings:
    """The host that the settings ask for, with the checkpoint that they mean now.

    Looks into the model store, so it is not for every keystroke. What is wrong with the
    checkpoint's name becomes the host's `problem`.
    """
    engine = settings.engine
    choice, problem = Choice(None), None
    if engine.url is None:  # a host elsewhere has a checkpoint of its own
        try:
            choice = choose(engine.checkpoint)
        except StoreError as error:
            choice = Choice(Path(str(engine.checkpoint)))
            problem = HostError(error.message, remedy=error.remedy, code=error.code)
    return HostSettings(
        engine=EngineSettings(
            checkpoint=choice.path,
            device=engine.device,
            dtype=engine.dtype,
            threads=engine.threads,
            cache_tokens=engine.cache_tokens,
            backend=engine.backend,
        ),
        url=engine.url,
        token=engine.token,
        idle_seconds=engine.idle_seconds,
        hint=choice.hint,
        problem=problem,
    )


def address_of(url: str) -> str:
    """Scheme, host and port of a host's URL. Raises HostError for anything else."""
    try:
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise HostError(  # which does not repeat the secret
                "engine.url holds a user name or a password.",
                remedy="Take it out, and set engine.token to the host's token.",
                code="option",
            )
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_address = is_address and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise HostError(
            f"engine.url is {url!r}.", remedy="Use one like http://gpu-box:8123.", code="option"
        )
    return url.rstrip("/")


def headers_of(token: str | None) -> dict[str, str]:
    if not token:
        return {}
    if not all("!" <= character <= "~" for character in token):
        raise HostError(
            "engine.token cannot be sent in a header.",
            remedy="Use letters, digits and ASCII signs without spaces.",
            code="option",
        )
    return {"Authorization": f"Bearer {token}"}
