"""What the benches found, told: text, the table of the README, pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bench.plot import plot, plot_growth
from bench.report import (
    BEGIN,
    END,
    check_readme,
    figure,
    growth_text,
    is_met,
    text,
    write_readme,
)

SPEED: dict[str, Any] = {
    "name": "announce-1",
    "workload": "announce-1",
    "unit": "messages/s",
    "better": "higher",
    "bar": 2.0,
    "size": {"count": 200_000},
    "series": {
        "py-py": [240_000.0, 250_000.0, 260_000.0],
        "node-node": [120_000.0, 100_000.0, 100_000.0],
        "pure": [61_000.0],
        "corked": [150_000.0, 151_000.0, 152_000.0],
        "py-node": [],
    },
    "ratio": {"min": 2.0, "median": 2.5, "max": 2.6},
}
DELAY: dict[str, Any] = {
    "name": "rtt p99",
    "workload": "rtt",
    "unit": "µs",
    "better": "lower",
    "bar": 1.0,
    "size": {"count": 8_000},
    "series": {"py-py": [1_250.0], "node-node": [1_000.0]},
    "ratio": {"min": 1.25, "median": 1.25, "max": 1.25},
}
SHOWN: dict[str, Any] = {
    "name": "memory per topic",
    "workload": "memory",
    "unit": "bytes",
    "better": "lower",
    "bar": None,
    "size": {"topics": 10_000},
    "series": {"py-py": [880.0], "node-node": [1_100.0]},
    "ratio": {"min": 0.8, "median": 0.8, "max": 0.8},
}
ALONE: dict[str, Any] = {**SPEED, "name": "mux-small", "series": {"py-py": [5e5]}, "ratio": None}
AROUND = {
    "versions": {
        "python": "3.11.7",
        "build": "GCC 12.2.0",
        "node": "20.20.2",
        "loop": "uvloop 0.22.1",
        "speedups": "cython",
        "cryptography": "46.0.1",
        "pynacl": "1.6.0",
        "npm": {"protomux": "3.12.1"},
    },
    "machine": {"cpu": "A processor", "cores": 2, "system": "Linux-6.1"},
    "date": "2026-11-21",
}
DOCUMENT: dict[str, Any] = {
    **AROUND,
    "rounds": {"most": 3, "few": 1},
    "rows": [SPEED, DELAY, SHOWN, ALONE],
}
GROWTH: dict[str, Any] = {
    **AROUND,
    "rounds": 2,
    "bar": 1.05,
    "kinds": [
        {
            "name": "topics",
            "item": "topic",
            "sizes": [
                {
                    "size": size,
                    **{what: [cost, cost] for what in ("seconds", "cpu", "own")},
                    "bytes": 9_800.0,
                }
                for size, cost in ((300, 1e-4), (3_000, 2e-4), (30_000, 4e-4))
            ],
            "exponent": {
                "time": {"min": 1.25, "median": 1.3, "max": 1.35},
                "cpu": {"min": 1.3, "median": 1.3, "max": 1.3},
                "own": {"min": 1.1, "median": 1.1, "max": 1.1},
                "memory": 1.0,
            },
            "met": False,
        }
    ],
}


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (0.04, "µs", "0.0 µs"),
        (9.94, "µs", "9.9 µs"),
        (9.96, "µs", "10 µs"),
        (56.4, "µs", "56 µs"),
        (999.4, "µs", "999 µs"),
        (999.6, "µs", "1.0 ms"),
        (3_120, "µs", "3.1 ms"),
        (4e9, "µs", "4000 s"),
        (682, "handshakes/s", "682/s"),
        (1_234_567, "entries/s", "1.2 M/s"),
        (340e6, "bytes/s", "340 MB/s"),
        (12, "bytes/s", "12 B/s"),
        (3_140, "bytes", "3.1 KB"),
    ],
)
def test_figures_are_short(value: float, unit: str, told: str) -> None:
    assert figure(value, unit) == told


@pytest.mark.parametrize(
    ("better", "median", "met"),
    [
        ("higher", 2.0, True),
        ("higher", 1.99, False),
        ("lower", 2.0, True),
        ("lower", 2.01, False),
    ],
)
def test_a_bar_is_met_by_the_median(better: str, median: float, met: bool) -> None:
    ratio = {"min": 0.1, "median": median, "max": 9.0}
    assert is_met({"better": better, "bar": 2.0, "ratio": ratio}) is met


@pytest.mark.parametrize("row", [SHOWN, ALONE])
def test_where_something_is_missing_no_bar_is_met_or_missed(row: dict[str, Any]) -> None:
    assert is_met(row) is None


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_the_text_tells_every_row() -> None:
    compared, others, around = text(DOCUMENT).split("\n\n")
    assert [cells(line) for line in compared.splitlines()[2:]] == [
        ["announce-1", "messages", "250 k/s", "100 k/s", "2.00", "2.50", "2.60", "≥ 2", "met"],
        ["rtt p99", "1.2 ms", "1.0 ms", "1.25", "1.25", "1.25", "≤ 1", "missed"],
        ["memory per topic", "880 B", "1.1 KB", "0.80", "0.80", "0.80"],
        ["mux-small", "messages", "500 k/s", "-", "-", "-", "-", "≥ 2"],
    ]
    assert [cells(line) for line in others.splitlines()] == [
        ["workload", "ours, pure", "theirs, corked"],
        [others.splitlines()[1]],
        ["announce-1", "61 k/s", "151 k/s"],
    ]
    for part in (
        "3 rounds",
        "3.11.7 (GCC 12.2.0)",
        "20.20.2",
        "protomux 3.12.1",
        "uvloop 0.22.1",
        "cython",
    ):
        assert part in around
    assert "A processor, 2 cores, Linux-6.1; 2026-11-21" in around


def test_the_readme_gets_the_table_between_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before µ\n\n{BEGIN}\n| old |\n{END}\nafter\n", encoding="utf-8")
    write_readme(DOCUMENT, path)
    once = path.read_text(encoding="utf-8")
    assert once.startswith(f"before µ\n\n{BEGIN}\n| | ours |")
    assert once.endswith(f"\n{END}\nafter\n")
    assert "| old |" not in once
    lines = once.splitlines()
    speed = "| announce-1, messages | 250 k/s | 100 k/s | 2.50 (2.00 to 2.60) | ≥ 2, met "
    assert f"{speed}| 61 k/s | 151 k/s |" in lines
    assert "| rtt p99 | 1.2 ms | 1.0 ms | 1.25 (1.25 to 1.25) | ≤ 1, missed | - | - |" in lines
    assert "| mux-small, messages | 500 k/s | - | - | ≥ 2 | - | - |" in lines
    assert "Python 3.11.7, uvloop 0.22.1, speedups: cython; Node 20.20.2; A processor" in once
    write_readme(DOCUMENT, path)
    assert path.read_text(encoding="utf-8") == once


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("nothing", f"expected {BEGIN} once in .*, got it 0 times"),
        (f"{BEGIN}\n", f"expected {END} once in .*, got it 0 times"),
        (f"{BEGIN}\n{BEGIN}\n{END}\n", f"expected {BEGIN} once in .*, got it 2 times"),
        (f"{END}\n{BEGIN}\n", f"expected {END} after {BEGIN} in .*, got it before"),
    ],
)
def test_a_readme_without_its_marks_is_left_alone(
    tmp_path: Path, content: str, problem: str
) -> None:
    path = tmp_path / "README.md"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=problem):
        check_readme(path)
    with pytest.raises(ValueError, match=problem):
        write_readme(DOCUMENT, path)
    assert path.read_text(encoding="utf-8") == content


def told(folder: Path, name: str) -> list[str]:
    """The texts in a picture; glyphs are paths, and each text stands before them."""
    found = re.findall(r"<!-- (.*?) -->", (folder / f"{name}.svg").read_text(encoding="utf-8"))
    return [one.strip() for one in found]


def test_the_picture_shows_how_many_times_ours_is_better(tmp_path: Path) -> None:
    plot(DOCUMENT, tmp_path)
    texts = told(tmp_path, "bench")
    # Of what less is better of, the ratio stands the other way round.
    for label in (
        "2.50x    250 k/s : 100 k/s",
        "0.80x    1.2 ms : 1.0 ms",
        "1.25x    880 B : 1.1 KB",
    ):
        assert label in texts
    assert "mux-small" not in texts  # there is nothing to compare it with
    assert any("theirs / ours" in one for one in texts)


def test_the_picture_of_growth_tells_the_exponents(tmp_path: Path) -> None:
    plot_growth(GROWTH, tmp_path)
    texts = told(tmp_path, "growth")
    assert {"topics, from 300: 1.300", "topics, from 300: 1.000", "the bar: 1.05"} <= set(texts)


@pytest.mark.parametrize(
    ("draw", "document", "name"), [(plot, DOCUMENT, "bench"), (plot_growth, GROWTH, "growth")]
)
def test_the_same_figures_give_the_same_bytes(
    tmp_path: Path, draw: Any, document: dict[str, Any], name: str
) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        draw(document, folder)
    for ending in ("svg", "png"):
        first, second = ((folder / f"{name}.{ending}").read_bytes() for folder in folders)
        assert first == second
        assert len(first) > 1000
    assert b"<dc:date>" not in first


def test_the_text_of_growth_tells_each_size() -> None:
    table, around = growth_text(GROWTH).split("\n\n")
    assert [cells(line) for line in table.splitlines()[2:]] == [
        [
            *("topics", "300", "100 µs", "9.8 KB"),
            *("1.300 (1.250 to 1.350)", "1.300", "1.100", "1.000", "missed"),
        ],
        ["3,000", "200 µs", "9.8 KB"],
        ["30,000", "400 µs", "9.8 KB"],
    ]
    assert "2 rounds" in around
    assert "1.05 or less" in around
