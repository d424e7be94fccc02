"""What NVIDIA states of its cards: memory bandwidth, dense bf16 rate, L2 cache.

Datasheet figures, in decimal units; no card reaches them. And how the card of a run is set, by
`nvidia-smi`. Torch-free.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """A card as its maker describes it.

    Attributes:
        name: as `torch.cuda.get_device_name` has it, or the part of it that tells the card.
        bandwidth: bytes per second between the card and its memory.
        matrix_rate: FLOP per second of dense bf16 products that are summed in fp32.
        cache: bytes of L2.
        source: where the figures are stated.
    """

    name: str
    bandwidth: float
    matrix_rate: float
    cache: int
    source: str


CARDS = (
    Card(
        name="H100",
        bandwidth=3.35e12,
        matrix_rate=989e12,
        cache=50 * 2**20,
        source="H100 Tensor Core GPU datasheet, SXM",
    ),
    Card(
        name="H200",
        bandwidth=4.8e12,
        matrix_rate=989e12,
        cache=50 * 2**20,
        source="H200 Tensor Core GPU datasheet, SXM",
    ),
    Card(
        name="B200",
        bandwidth=8.0e12,
        matrix_rate=2250e12,
        cache=126 * 2**20,
        source="DGX B200 datasheet, an eighth of the system",
    ),
    Card(
        name="RTX 4090",
        bandwidth=1.008e12,
        matrix_rate=165.2e12,
        cache=72 * 2**20,
        source="Ada GPU architecture whitepaper, bf16 summed in fp32",
    ),
)
# Slower siblings, whose names contain the names above.
_OTHERS = ("PCIe", "NVL", "Laptop", " D")


def card_named(device_name: str) -> Card | None:
    """The card of a device's name, such as "NVIDIA H100 80GB HBM3"; None for any other card."""
    if any(other in device_name for other in _OTHERS):
        return None
    return next((card for card in CARDS if card.name in device_name), None)


_ASKED = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem", "temperature.gpu")


def card_state() -> dict[str, str]:
    """What `nvidia-smi` says of the first card's driver, limits and temperature; empty without
    it."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader", "--id=0"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_ASKED, (value.strip() for value in told.stdout.split(",")), strict=False))
