"""Finds the best integer product for this processor by trying all of them.

x86 without VNNI multiplies unsigned by signed bytes with a saturating sum, so that large products
are wrong; unsigned weights are exact there but slower elsewhere. Each product is checked on the
worst case and timed on matrices of a usual size with one row, with a few (verifying a draft) and
with many (a prompt). The result is kept for the processor and the version of ONNX Runtime.
"""

from __future__ import annotations

import json
import logging
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
from numpy import ndarray

from engine.atomic_json import write_atomically
from engine.device import cpu_name
from engine.model.onnx.plan import Product
from engine.model.onnx.products import Linear
from engine.model.onnx.sessions import open_session, program
from engine.model.onnx.writer import GraphWriter

logger = logging.getLogger(__name__)

CANDIDATES: tuple[Product, ...] = ("int8", "uint8")
ROWS = (1, 8, 64)
# Together 65 MB of weights, which is more than the last-level cache of most processors.
_SHAPES = ((9728, 896), (896, 4864), (4864, 896), (896, 4864)) * 3
_REPEATS = 5
_FILE = "machine.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ProductTimes:
    """The results for one product on this machine.

    Attributes:
        is_exact: whether the sums were right in the worst case.
        milliseconds: the time for all matrices of the probe, for each count in ROWS.
        megabytes: the weights that one pass over the matrices reads.
    """

    product: Product
    is_exact: bool
    milliseconds: tuple[float, ...]
    megabytes: float

    @property
    def cost(self) -> float:
        """The cost by which products are compared: a row, a draft and an eighth of a prompt."""
        single, few, many = self.milliseconds
        return single + few + many / 8


@dataclass(frozen=True, slots=True)
class MachineProbe:
    """The results for all products, the best one first.

    Attributes:
        key: identifies the processor, the number of threads and the library.
    """

    key: str
    products: tuple[ProductTimes, ...]

    @property
    def best(self) -> ProductTimes:
        """The cheapest exact product."""
        return next(found for found in self.products if found.is_exact)

    def row_step_ms(self, weight_bytes: int) -> float:
        """The estimated milliseconds of a one-row step with so many bytes of int8 weights."""
        return self.best.milliseconds[0] * weight_bytes / (self.best.megabytes * 1e6)


def probe(threads: int, kept: Path | None = None) -> MachineProbe:
    """Tries the products, which takes a few seconds, unless the result is kept in the folder."""
    if kept is not None and (known := known_probe(threads, kept)) is not None:
        return known
    products = tuple(sorted(_tried(threads), key=lambda times: times.cost))
    found = MachineProbe(_key(threads), products)
    if kept is not None:
        file = kept / _FILE
        try:
            _write(file, found)
        except OSError as error:
            logger.warning("%s cannot be written: %s", file, error.strerror or error)
    return found


def known_probe(threads: int, kept: Path) -> MachineProbe | None:
    """The result that is kept in the folder; None if there is none."""
    return _read(kept / _FILE, _key(threads))


def _key(threads: int) -> str:
    return f"{cpu_name()}, {platform.machine()}, {threads} threads, {program()}"


def _tried(threads: int) -> list[ProductTimes]:
    tried: list[ProductTimes] = []
    for product in CANDIDATES:
        with tempfile.TemporaryDirectory(prefix="dlm-lsp-probe-") as folder:
            exact = is_exact(product, Path(folder), threads)
        with tempfile.TemporaryDirectory(prefix="dlm-lsp-probe-") as folder:
            milliseconds = _times(product, Path(folder), threads)
        megabytes = sum(out * width for out, width in _SHAPES) / 1e6
        tried.append(ProductTimes(product, exact, milliseconds, megabytes))
    assert any(times.is_exact for times in tried), "unsigned products are exact everywhere"
    return tried


def is_exact(product: Product, folder: Path, threads: int) -> bool:
    """Whether rows of the largest numbers of both signs are multiplied without saturation."""
    signs = numpy.where(numpy.arange(256) % 4 < 2, 1, -1).astype(numpy.float32)
    weight = numpy.stack([numpy.ones(256), -numpy.ones(256), signs, -signs]).astype(numpy.float32)
    x = numpy.stack([numpy.ones(256), -numpy.ones(256), signs, -signs] * 8).astype(numpy.float32)
    with GraphWriter(folder) as writer:
        writer.input("x", ("R", 256))
        result = Linear(writer, product).write("probe", "x", weight)
        writer.output(result, ("R", 4))
        writer.save()
    session = open_session(folder / "graph.onnx", threads)
    expected = x @ weight.T
    for rows in (1, 4, 32):
        (out,) = session.run(None, {"x": x[:rows]})
        if not numpy.allclose(numpy.asarray(out), expected[:rows], rtol=1e-4, atol=1e-2):
            return False
    return True


def _times(product: Product, folder: Path, threads: int) -> tuple[float, ...]:
    generator = numpy.random.default_rng(0)
    widths = sorted({width for _, width in _SHAPES})
    with GraphWriter(folder) as writer:
        for width in widths:
            writer.input(f"x{width}", ("R", width))
        linear = Linear(writer, product)
        writer.constant("axis", numpy.array([-1], dtype=numpy.int64))
        for index, (out, width) in enumerate(_SHAPES):
            weight = generator.standard_normal((out, width), dtype=numpy.float32)
            result = linear.write(f"w{index}", f"x{width}", weight)
            writer.node("ReduceMax", [result, "axis"], f"out{index}")
            writer.output(f"out{index}", ("R", 1))
        writer.save()
    session = open_session(folder / "graph.onnx", threads)
    return tuple(_least(session, _inputs(rows, widths, generator)) for rows in ROWS)


def _inputs(rows: int, widths: list[int], generator: numpy.random.Generator) -> dict[str, ndarray]:
    return {
        f"x{width}": generator.standard_normal((rows, width), dtype=numpy.float32)
        for width in widths
    }


def _least(session: object, inputs: dict[str, ndarray]) -> float:
    """The milliseconds of the fastest of several runs, since other work can only add to a time."""
    least = float("inf")
    for _ in range(1 + _REPEATS):
        began = time.perf_counter()
        session.run(None, inputs)  # type: ignore[attr-defined]
        least = min(least, (time.perf_counter() - began) * 1000)
    return least


def _read(file: Path, key: str) -> MachineProbe | None:
    try:
        stored = json.loads(file.read_text("utf-8"))
        if stored["format"] != _FORMAT or stored["key"] != key:
            return None
        products = tuple(
            ProductTimes(
                entry["product"],
                bool(entry["is_exact"]),
                tuple(float(value) for value in entry["milliseconds"]),
                float(entry["megabytes"]),
            )
            for entry in stored["products"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_usable = any(times.is_exact for times in products) and all(
        times.product in CANDIDATES and len(times.milliseconds) == len(ROWS) for times in products
    )
    return MachineProbe(key, products) if is_usable else None


def _write(file: Path, found: MachineProbe) -> None:
    write_atomically(file, {"format": _FORMAT, **asdict(found)})
