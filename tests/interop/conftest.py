"""Skips what is here where the originals are not installed; with INTEROP=required it fails."""

from __future__ import annotations

import os

import pytest

from .harness import missing


@pytest.fixture(autouse=True)
def _originals() -> None:
    reason = missing()
    if reason is None:
        return
    if os.environ.get("INTEROP") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
