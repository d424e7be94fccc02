"""The options of `dlm-lsp serve`, as a frozen object and as command-line arguments.

The command line builds `ServeOptions`, and a client that starts a host turns them into arguments;
both directions are here, so that they stay consistent. Knows neither HTTP nor torch.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from dlm_lsp.store.catalogue import BUNDLED
from engine.config import EngineSettings
from engine.errors import ConfigError

IDLE_SECONDS = 900.0  # The default for a host that a client starts.
TOKEN_VARIABLE = "DLM_LSP_TOKEN"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options for serving one checkpoint.

    Attributes:
        engine: the settings of the engine.
        idle_seconds: the time without a request after which the host ends; 0 means never.
        host, port: the TCP address; without both, the host uses the user's private unix socket.
        token_file: the file with the bearer token for TCP; DLM_LSP_TOKEN takes precedence.
        log_file: the log file, of at most two files of 1 MiB; None means stderr.
    """

    engine: EngineSettings = field(default_factory=EngineSettings)
    idle_seconds: float = 0.0
    host: str | None = None
    port: int | None = None
    token_file: Path | None = None
    log_file: Path | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError, which names the option."""
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
        """Returns the command-line arguments for these options, beginning with `serve`."""
        engine = self.engine
        words = ["serve", "--device", engine.device, "--dtype", engine.dtype]
        words += ["--backend", engine.backend, "--steps", engine.steps]
        words += ["--cache-tokens", str(engine.cache_tokens)]
        checkpoint = engine.checkpoint and os.path.abspath(os.path.expanduser(engine.checkpoint))
        for option, value in (
            # The path is absolute because a host runs in another folder. The bundled model is
            # named because an omitted checkpoint means the best pulled model.
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
        """Returns whether only this machine can reach `host`."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host or "").is_loopback
        except ValueError:
            return False
