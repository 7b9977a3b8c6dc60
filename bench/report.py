"""What the benches found, as text for a terminal and as the table of the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from bench.workload import OURS, THEIRS

__all__ = [
    "BEGIN",
    "END",
    "check_readme",
    "figure",
    "growth_text",
    "is_met",
    "text",
    "write_readme",
]

BEGIN: Final = "<!-- bench: begin -->"
END: Final = "<!-- bench: end -->"
"""The table of the README stands between these."""

_NOTHING: Final = "-"

_OTHERS: Final = {
    "pure": "ours, pure",
    "corked": "theirs, corked",
    "py-node": "ours to theirs",
    "node-py": "theirs to ours",
}
"""The series beside ours and theirs, as they are called in the report."""


def text(document: dict[str, Any]) -> str:
    """Return the figures for a reader."""
    rows = document["rows"]
    parts = [_table(("workload", *_HEADINGS), [_compared(row) for row in rows])]
    names = _measured(rows, _OTHERS)
    if names:
        headings = ["workload", *(_OTHERS[name] for name in names)]
        others = [
            [row["name"], *(_median(row, name) for name in names)]
            for row in rows
            if any(row["series"].get(name) for name in names)
        ]
        parts.append(_table(headings, others))
    rounds = document["rounds"]
    parts.append(
        f"Medians of {rounds['most']} rounds ({rounds['few']} of pure and mixed); the ratio is "
        f"ours / theirs, round by round: of times and bytes less is better.\n"
        f"{_versions(document['versions'])}\n{_machine(document)}"
    )
    return "\n\n".join(parts)


def _measured(rows: Sequence[dict[str, Any]], names: Iterable[str]) -> list[str]:
    """Return which of these series any row has."""
    return [name for name in names if any(row["series"].get(name) for row in rows)]


_HEADINGS: Final = ("of", "ours", "theirs", "min", "ratio", "max", "bar", "")


def _compared(row: dict[str, Any]) -> list[str]:
    ratio = row["ratio"]
    ratios = [_NOTHING] * 3 if ratio is None else [f"{ratio[part]:.2f}" for part in _RANGE]
    return [row["name"], _item(row), _median(row, OURS), _median(row, THEIRS), *ratios, *_bar(row)]


_RANGE: Final = ("min", "median", "max")


def _bar(row: dict[str, Any]) -> tuple[str, str]:
    """What is wanted, and whether it is so."""
    if row["bar"] is None:
        return "", ""
    wanted = f"{'≥' if row['better'] == 'higher' else '≤'} {row['bar']:g}"
    met = is_met(row)
    return wanted, "" if met is None else "met" if met else "missed"


def is_met(row: dict[str, Any]) -> bool | None:
    """Tell whether the median of the ratios meets the bar of a row; None where one is missing."""
    if row["bar"] is None or row["ratio"] is None:
        return None
    found = row["ratio"]["median"]
    return bool(found >= row["bar"] if row["better"] == "higher" else found <= row["bar"])


def _item(row: dict[str, Any]) -> str:
    """What the figures count, where the unit does not say it."""
    unit: str = row["unit"]
    return unit.removesuffix("/s") if unit.endswith("/s") and unit != "bytes/s" else ""


def _median(row: dict[str, Any], series: str) -> str:
    found = row["series"].get(series)
    return figure(median(found), row["unit"]) if found else _NOTHING


_SCALES: Final = {
    "bytes": ("B", "KB", "MB", "GB", "TB"),
    "bytes/s": ("B/s", "KB/s", "MB/s", "GB/s", "TB/s"),
    "µs": ("µs", "ms", "s"),
}
_RATES: Final = ("/s", "k/s", "M/s", "G/s")


def figure(value: float, unit: str) -> str:
    """Return `value` with two digits or three, such as 1.2 M/s, 340 MB/s, 56 µs, 3.1 KB.

    `unit` is "µs", "bytes", or something a second, such as "entries/s".
    """
    names = _SCALES.get(unit, _RATES)
    step = 0
    while value >= 999.5 and step < len(names) - 1:
        value /= 1000
        step += 1
    return f"{value:.{1 if value < 9.95 else 0}f} {names[step]}".replace(" /s", "/s")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out = StringIO()
    Console(file=out, width=160, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def _versions(versions: dict[str, Any]) -> str:
    npm = ", ".join(f"{name} {version}" for name, version in versions["npm"].items())
    return f"{_python(versions)}; Node {versions['node']} with {npm}"


def _python(versions: dict[str, Any]) -> str:
    return (
        f"Python {versions['python']} ({versions['build']}) with {versions['loop']}, "
        f"speedups: {versions['speedups']}, cryptography {versions['cryptography']}, "
        f"PyNaCl {versions['pynacl']}"
    )


def _machine(document: dict[str, Any]) -> str:
    machine = document["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {document['date']}"


def circumstances(document: dict[str, Any]) -> str:
    """Return in one line what it was measured with, where and when."""
    versions, machine = document["versions"], document["machine"]
    return (
        f"Python {versions['python']}, {versions['loop']}, speedups: {versions['speedups']}; "
        f"Node {versions['node']}; {machine['cpu']}, {machine['cores']} cores; {document['date']}"
    )


def write_readme(document: dict[str, Any], path: Path) -> None:
    """Put the table in the place of what stands between the marks; ValueError without them."""
    before, after = _around(path)
    path.write_text(f"{before}{BEGIN}\n{_markdown(document)}\n{END}{after}", encoding="utf-8")


def check_readme(path: Path) -> None:
    """Raise ValueError unless the marks stand in the file, each once and in their order."""
    _around(path)


def _around(path: Path) -> tuple[str, str]:
    content = path.read_text(encoding="utf-8")
    for mark in (BEGIN, END):
        if content.count(mark) != 1:
            raise ValueError(f"expected {mark} once in {path}, got it {content.count(mark)} times")
    before, _, rest = content.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"expected {END} after {BEGIN} in {path}, got it before")
    return before, after


def _markdown(document: dict[str, Any]) -> str:
    further = {"pure": "ours, pure", "corked": "originals, corked"}
    there = _measured(document["rows"], further)
    headings = ["ours", "originals", "ratio (min to max)", "wanted", *(further[s] for s in there)]
    lines = [
        f"| | {' | '.join(headings)} |",
        f"| --- | ---: | ---: | ---: | --- |{' ---: |' * len(there)}",
    ]
    for row in document["rows"]:
        name = f"{row['name']}, {_item(row)}" if _item(row) else row["name"]
        ratio = row["ratio"]
        found = (
            _NOTHING if ratio is None else "{median:.2f} ({min:.2f} to {max:.2f})".format(**ratio)
        )
        bar = ", ".join(part for part in _bar(row) if part)
        figures = [_median(row, series) for series in (OURS, THEIRS, *there)]
        cells = (name, *figures[:2], found, bar, *figures[2:])
        lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    lines += [
        "",
        f"Medians of {document['rounds']['most']} rounds in turn, of {document['rounds']['few']} "
        f"where it is pure; the ratio is ours to theirs, round by round, and of times and bytes "
        f"less is better. {circumstances(document)}.",
    ]
    return "\n".join(lines)


def growth_text(document: dict[str, Any]) -> str:
    """Return what the bench `growth` found, for a reader."""
    rows = []
    for kind in document["kinds"]:
        exponents = kind["exponent"]
        for size in kind["sizes"]:
            first = size is kind["sizes"][0]
            time, cpu, own = (exponents[what] for what in ("time", "cpu", "own"))
            rows.append(
                [
                    kind["name"] if first else "",
                    f"{size['size']:,}",
                    figure(1e6 * median(size["seconds"]), "µs"),
                    figure(size["bytes"], "bytes"),
                    "{median:.3f} ({min:.3f} to {max:.3f})".format(**time) if first else "",
                    f"{cpu['median']:.3f}" if first else "",
                    f"{own['median']:.3f}" if first else "",
                    f"{exponents['memory']:.3f}" if first else "",
                    ("met" if kind["met"] else "missed") if first else "",
                ]
            )
    headings = (
        *("", "items", "time each", "peak each"),
        *("exponent: time", "CPU", "less collector", "memory", ""),
    )
    return "\n\n".join(
        (
            _table(headings, rows),
            f"Medians of {document['rounds']} rounds, both sides in one process; the exponents of "
            f"time and memory are wanted at {document['bar']:g} or less.\n"
            f"{_python(document['versions'])}\n{_machine(document)}",
        )
    )
