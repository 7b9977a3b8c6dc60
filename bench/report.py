"""What the bench found, as text for a reader."""

from __future__ import annotations

from statistics import median
from typing import Any

__all__ = ["text", "write_readme"]


def text(document: dict[str, Any]) -> str:
    """Return the figures for a reader."""
    lines = []
    for row in document["rows"]:
        figures = "  ".join(
            f"{name} {median(found):,.5g}" for name, found in row["series"].items() if found
        )
        ratio = row["ratio"]
        found = "" if ratio is None else "  ratio {min:.2f} {median:.2f} {max:.2f}".format(**ratio)
        lines.append(f"{row['name']:<14} {row['unit']:<12} {figures}{found} (bar {row['bar']})")
    return "\n".join(lines)


def write_readme(document: dict[str, Any]) -> None:
    """Write the table of the README anew."""
    raise NotImplementedError
