"""The rows of parquet files, if pyarrow is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.errors import ConfigError

try:
    from pyarrow import ArrowException
    from pyarrow import parquet as _parquet
except ImportError:  # an extra
    ArrowException, _parquet = None, None


def read_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a parquet file, in its order.

    Raises:
        ConfigError: pyarrow is not installed, or the file is not parquet.
        OSError: The file cannot be read.
    """
    if _parquet is None or ArrowException is None:
        raise ConfigError(
            f"{path} is a parquet file, and pyarrow is not installed.",
            remedy="pip install 'dlm-lsp[eval]', or give the suite as .jsonl.",
            param="suite",
        )
    try:
        for batch in _parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except ArrowException as error:
        raise ConfigError(
            f"{path} is not a parquet file: {error}.", remedy="Give another file.", param="suite"
        ) from None
