"""The engine host that the user's settings describe.

Checks a host's URL and token. Knows no sockets and starts nothing.
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
from engine.config import BUNDLED_CHECKPOINT, EngineSettings


@dataclass(frozen=True, slots=True)
class HostSettings:
    """The host to use.

    Attributes:
        engine: the settings with which a host on this machine loads its engine.
        url: the URL of a host started by hand ("http://gpu-box:8123"); None means this machine's.
        token: the bearer token for `url`.
        idle_seconds: the idle time after which a host started by this client ends; 0 means never.
        hint: how to get a real model, if the bundled model is used for lack of one.
        problem: why there is no checkpoint to load; every use of the host raises this error.
    """

    engine: EngineSettings = field(default_factory=EngineSettings)
    url: str | None = None
    token: str | None = None
    idle_seconds: float = IDLE_SECONDS
    hint: str | None = field(default=None, compare=False)
    problem: HostError | None = field(default=None, compare=False)

    @property
    def is_bundled(self) -> bool:
        """Whether the bundled model answers; a host at a URL has a model of its own."""
        return self.url is None and self.engine.checkpoint_path() == BUNDLED_CHECKPOINT


def to_host_settings(settings: Settings) -> HostSettings:
    """Returns the host of the settings, with the checkpoint that they currently mean.

    Reads the model store, which is too slow for every keystroke. An error of the checkpoint's name
    becomes the host's `problem`.
    """
    engine = settings.engine
    choice, problem = Choice(None), None
    if engine.url is None:  # A host at a URL has its own checkpoint.
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
            steps=engine.steps,
        ),
        url=engine.url,
        token=engine.token,
        idle_seconds=engine.idle_seconds,
        hint=choice.hint,
        problem=problem,
    )


def address_of(url: str) -> str:
    """Returns scheme, host and port of a host's URL. Raises HostError for any other URL."""
    try:
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise HostError(  # The message does not repeat the secret.
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
