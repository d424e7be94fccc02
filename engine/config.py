"""Engine settings: plain frozen types, validated where they are built, resolved into new objects.

Torch-free, so that the language server can read and show them. "auto" is resolved by
`engine.device`, which returns a new object and never mutates these.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "int8")
BACKENDS = ("auto", "onnx", "torch")
BUNDLED_CHECKPOINT = Path(__file__).parent / "assets" / "nano"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to load and run one checkpoint.

    Attributes:
        checkpoint: folder in NLD layout or a GGUF file; None means the bundled model.
        device: "auto" takes CUDA where it works, else the CPU.
        dtype: on "onnx", "auto" takes int8, and float32 for models of which that is small; with
            torch, bfloat16 on CUDA and on CPUs with bf16 instructions, else float32.
        threads: CPU threads of the device thread; None means one on CPUs of up to four cores
            (two-thread torch slows 5-50 times beside any other busy process), else half the cores.
        cache_tokens: K/V cache capacity in tokens, shared by all requests.
        backend: what computes; "auto" takes "onnx" on the CPU and "torch" on CUDA.
        graphs: where the ONNX backend keeps the graphs that it builds; None builds one anew each
            time, into a temporary folder.
    """

    checkpoint: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    cache_tokens: int = 16_384
    backend: str = "auto"
    graphs: Path | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError naming the field."""
        for name, value, allowed in (
            ("engine.device", self.device, DEVICES),
            ("engine.dtype", self.dtype, DTYPES),
            ("engine.backend", self.backend, BACKENDS),
        ):
            if value not in allowed:
                raise ConfigError(
                    f"{name} is {value!r}.", remedy=f"Use one of {allowed}.", param=name
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
