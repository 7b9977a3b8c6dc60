"""What the UDX bench found, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.report import circumstances, figure
from bench.udx.floor import REFERENCE
from bench.udx.scenes import PAIRS

__all__ = ["text"]


def text(document: dict[str, Any]) -> str:
    """Return the report for people."""
    kinds = {"goodput": _goodput_text, "fairness": _fairness_text, "floor": _floor_text}
    parts = []
    for kind, tell in kinds.items():
        rows = [row for row in document["rows"] if row["kind"] == kind]
        if rows:
            parts.append("\n".join(tell(rows)))
    native = document["versions"]["npm"]["udx-native"]
    parts.append(
        f"Medians of {document['rounds']} rounds in turn; udx-native {native}.\n"
        f"{circumstances(document)}"
    )
    return "\n\n".join(parts)


def _range(spread: dict[str, float] | None) -> str:
    return "-" if spread is None else "{median:.2f} ({min:.2f} to {max:.2f})".format(**spread)


def _judged(spread: dict[str, float] | None, bar: float | None) -> str:
    if bar is None or spread is None:
        return ""
    return f"wanted ≥ {bar:g}: {'met' if spread['median'] >= bar else 'missed'}"


def _goodput_text(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = [name for name in PAIRS if name in rows[0]["series"]]
    lines = ["goodput".ljust(16) + "".join(f"{name:>12}" for name in names) + "  ours / theirs"]
    for row in rows:
        cells = (f"{figure(median(row['series'][name]), 'bytes/s'):>12}" for name in names)
        judged = _judged(row["ratio"], row["bar"])
        lines.append(f"{row['scene']:<16}{''.join(cells)}  {_range(row['ratio']):<22}{judged}")
    return [line.rstrip() for line in lines]


def _fairness_text(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [f"{'fairness':<16}{'first flow':>12}{'second':>12}  Jain's index"]
    for row in rows:
        flows = zip(*row["goodputs"], strict=True)
        cells = (f"{figure(median(flow), 'bytes/s'):>12}" for flow in flows)
        judged = _judged(row["index"], row["bar"])
        lines.append(f"{row['scene']:<16}{''.join(cells)}  {_range(row['index']):<22}{judged}")
    return [line.rstrip() for line in lines]


def _floor_text(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        f"{'floor':<16}{'loop':<10}{'datagrams':>12}{'CPU: send':>12}{'receive':>10}"
        f"  against {REFERENCE}"
    ]
    for row in rows:
        send, receive = (figure(1e6 * median(side), "µs") for side in zip(*row["cpu"], strict=True))
        rate = figure(median(row["rates"]), "datagrams/s")
        lines.append(
            f"{row['way']:<16}{row['loop']:<10}{rate:>12}{send:>12}{receive:>10}"
            f"  {_range(row['ratio'])}"
        )
    return lines
