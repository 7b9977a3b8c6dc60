"""What the bench found, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["plot"]


def plot(document: dict[str, Any], folder: Path) -> None:
    """Draw the figures."""
    raise NotImplementedError
