"""Directories with short names: the path of a Unix socket has room for some 100 bytes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _measured(measured: None) -> None:
    """Hosts consist of processes."""


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory of our own, closed to others."""
    path = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
    yield path
    shutil.rmtree(path)
