"""Whether a training run fits into memory, and the memory and dtype that it computes with.

The estimate uses only shapes and is made before a weight is read: a run must neither end after
minutes with a failed allocation nor push the machine into swapping.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, replace

import torch

from engine.device import cpu_has_bfloat16
from engine.errors import MemoryExhausted
from engine.model.config import ModelConfig

# glibc's malloc options (malloc.h): keep freed memory instead of handing it back every step.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_GIB = 2**30
_SEEN_TOKENS = 1024  # tokens that a row of a long example sees
_NOISY_SHARE = 1.6  # all rows over clean rows: middles are laid out again, with noise
_HEAD_ROWS = 512  # rows whose logits exist at once
_BATCH_MIN = 256
_SLACK = 1.1


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run keeps in memory.

    Attributes:
        trained: the number of parameters that are trained, all of the config's or an adapter's.
        frozen: the number of parameters that are not.
        batch_tokens: clean tokens per forward.
        width: the bytes of a number in the compute dtype.
    """

    config: ModelConfig
    trained: int
    frozen: int
    batch_tokens: int
    width: int

    @property
    def fixed_bytes(self) -> int:
        """Weights, fp32 masters, gradients and two moments each, whatever the batch."""
        return self.frozen * self.width + self.trained * (self.width + 4 + self.width + 4 + 8)

    @property
    def row_bytes(self) -> int:
        """What norms, products and attention save of one row for the backward pass."""
        config, width = self.config, self.width
        query, keys = config.heads * config.head_dim, 2 * config.kv_heads * config.head_dim
        products = 6 * config.hidden + 4 * (query + keys) + 5 * config.intermediate
        attention = config.heads * _SEEN_TOKENS  # the probabilities
        return config.layers * (width * (products + attention) + 16 * config.hidden)

    @property
    def total_bytes(self) -> int:
        """Everything, with some slack."""
        rows = self.batch_tokens * _NOISY_SHARE
        head = _HEAD_ROWS * self.config.vocabulary * (self.width + 8)
        return int(_SLACK * (self.fixed_bytes + rows * self.row_bytes + head))


def check_memory(demand: Demand, free_bytes: int, device: torch.device) -> None:
    """Raises MemoryExhausted, naming a batch that fits, if the demand does not fit."""
    if demand.total_bytes <= free_bytes:
        return
    least = replace(demand, batch_tokens=0).total_bytes
    fitting = int((free_bytes - least) / (_SLACK * _NOISY_SHARE * demand.row_bytes))
    fitting -= fitting % _BATCH_MIN
    message = (
        f"Training needs about {demand.total_bytes / _GIB:.1f} GiB on {device}, "
        f"{free_bytes / _GIB:.1f} are free."
    )
    if fitting >= _BATCH_MIN:
        raise MemoryExhausted(
            message, remedy=f"--batch-tokens {fitting} fits.", param="batch-tokens"
        )
    whole = demand.trained >= demand.config.parameters()
    advice = " adapt, which trains a LoRA, needs far less." if whole else ""
    raise MemoryExhausted(
        message,
        remedy=f"No batch fits: weights and optimizer alone take {least / _GIB:.1f} GiB. Use a "
        f"smaller checkpoint or another device.{advice}",
        param="checkpoint",
    )


def compute_dtype(device: str, given: str | None) -> torch.dtype:
    """The dtype to compute in: the given one, or bfloat16 if the device has it natively."""
    native = device != "cpu" or cpu_has_bfloat16()
    return getattr(torch, given or ("bfloat16" if native else "float32"))


def keep_freed_memory() -> None:
    """Lets glibc keep large freed blocks; does nothing on other systems.

    By default the kernel maps every large tensor again in each step: 1,970 instead of 3,150
    tokens/s on one Zen 5 core.
    """
    library = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_TOP_PAD, 2**28)
