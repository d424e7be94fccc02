"""Engine settings: plain frozen types that are validated when they are built.

Torch-free, so that the language server can read and show them. `engine.device` resolves "auto" and
returns new objects.
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
        checkpoint: a folder in NLD's or transformers' layout, or a GGUF file; None means the
            bundled model.
        device: "auto" takes CUDA if it works, else the CPU.
        dtype: with "onnx", "auto" takes float32 for small models and int8 for others; with "torch",
            bfloat16 on CUDA and on CPUs with bf16 instructions, else float32.
        threads: the number of CPU threads that compute; None means `engine.device.default_threads`.
        cache_tokens: the capacity of the K/V cache in tokens, shared by all requests.
        backend: the library that computes; "auto" takes "onnx" on the CPU and "torch" on CUDA.
        graphs: the folder in which the ONNX backend keeps the graphs that it builds; None builds a
            graph in a temporary folder at each start.
        adapters: a folder of the user's own mask adapters, which come before the bundled ones.
        quantized: with "torch", whether matrices that are stored quantised (GGUF files, int8) stay
            so in memory; None means on CUDA.
    """

    checkpoint: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    cache_tokens: int = 16_384
    backend: str = "auto"
    graphs: Path | None = None
    adapters: Path | None = None
    quantized: bool | None = None

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
        """The folder or GGUF file of the checkpoint."""
        return self.checkpoint if self.checkpoint is not None else BUNDLED_CHECKPOINT
