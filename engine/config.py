"""Engine settings: plain frozen types, validated where they are built, resolved into new objects.

Torch-free, so that the language server can read and show them. "auto" is resolved by
`engine.engine`, which returns a new object and never mutates these.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16")
BUNDLED_CHECKPOINT = Path(__file__).parent / "assets" / "nano"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to load and run one checkpoint.

    Attributes:
        checkpoint: folder in NLD layout; None means the bundled model.
        device: "auto" takes CUDA where it works, else the CPU.
        dtype: "auto" takes bfloat16 on CUDA and on CPUs with bf16 instructions, else float32.
        threads: CPU threads of the device thread; None means one on CPUs of up to four cores
            (two-thread torch slows 5-50 times beside any other busy process), else half the cores.
        cache_tokens: K/V cache capacity in tokens, shared by all requests.
    """

    checkpoint: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    cache_tokens: int = 16_384

    def __post_init__(self) -> None:
        """Raises ConfigError naming the field."""
        if self.device not in DEVICES:
            raise ConfigError(
                f"engine.device is {self.device!r}.",
                remedy=f"Use one of {DEVICES}.",
                param="engine.device",
            )
        if self.dtype not in DTYPES:
            raise ConfigError(
                f"engine.dtype is {self.dtype!r}.",
                remedy=f"Use one of {DTYPES}.",
                param="engine.dtype",
            )
        if self.threads is not None and not 1 <= self.threads <= 256:
            raise ConfigError(
                f"engine.threads is {self.threads}.",
                remedy="Use 1 to 256, or leave it out.",
                param="engine.threads",
            )
        if not 256 <= self.cache_tokens <= 4_194_304:
            raise ConfigError(
                f"engine.cache_tokens is {self.cache_tokens}.",
                remedy="Use 256 to 4194304.",
                param="engine.cache_tokens",
            )

    def checkpoint_path(self) -> Path:
        """The checkpoint folder that will be read."""
        return self.checkpoint if self.checkpoint is not None else BUNDLED_CHECKPOINT
