"""An engine host in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.toy_backend import ToyHost, toy_host


@pytest.fixture
async def host(private_runtime: Path) -> AsyncIterator[ToyHost]:
    """A real host with an engine whose output counts up."""
    async with toy_host(private_runtime) as host:
        yield host
