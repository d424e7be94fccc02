"""Fixtures that several parts share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import write_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder that a real engine can load."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))
