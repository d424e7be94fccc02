"""What `dlm-lsp serve` was asked to do, as a frozen object and as command-line arguments.

The command line builds `ServeOptions`, the client that starts a host spells them out again; both
directions stand here, so that they cannot drift apart. Knows neither HTTP nor torch.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from dlm_lsp.store.catalogue import BUNDLED
from engine.config import EngineSettings
from engine.errors import ConfigError

IDLE_SECONDS = 900.0  # of a host that a client starts, where no setting says otherwise
TOKEN_VARIABLE = "DLM_LSP_TOKEN"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve one checkpoint.

    Attributes:
        engine: what to load.
        idle_seconds: end when nothing was asked for so long; 0 means never.
        host, port: TCP address, both or neither; without them the user's private unix socket.
        token_file: file holding the bearer token for TCP; DLM_LSP_TOKEN stands before it.
        log_file: log there, in at most two files of 1 MiB, instead of on stderr.
    """

    engine: EngineSettings = field(default_factory=EngineSettings)
    idle_seconds: float = 0.0
    host: str | None = None
    port: int | None = None
    token_file: Path | None = None
    log_file: Path | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError naming the option."""
        if not 0 <= self.idle_seconds <= 1e9:
            raise ConfigError(
                f"--idle-seconds is {self.idle_seconds}.",
                remedy="Use 0 (never) or a positive number.",
                param="idle_seconds",
            )
        if (self.host is None) != (self.port is None):
            raise ConfigError(
                "--host and --port go together.",
                remedy="Give both, or neither for the private unix socket.",
                param="port" if self.port is None else "host",
            )
        if self.port is not None and not 0 <= self.port <= 65_535:
            raise ConfigError(
                f"--port is {self.port}.",
                remedy="Use 0 to 65535; 0 takes a free one.",
                param="port",
            )

    def arguments(self) -> list[str]:
        """The command line, from `serve` on, that means these options."""
        engine = self.engine
        words = ["serve", "--device", engine.device, "--dtype", engine.dtype]
        words += ["--backend", engine.backend, "--cache-tokens", str(engine.cache_tokens)]
        checkpoint = engine.checkpoint and os.path.abspath(os.path.expanduser(engine.checkpoint))
        for option, value in (
            # Absolute: a host has a folder of its own. The bundled one is named: left out it would
            # be whatever has been pulled by then.
            ("--checkpoint", checkpoint or BUNDLED),
            ("--threads", engine.threads),
            ("--idle-seconds", self.idle_seconds),
            ("--host", self.host),
            ("--port", self.port),
            ("--token-file", self.token_file),
            ("--log-file", self.log_file),
        ):
            if value is not None:
                words += [option, str(value)]
        return words

    def is_loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host or "").is_loopback
        except ValueError:
            return False
