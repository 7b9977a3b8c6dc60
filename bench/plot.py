"""What the benches found, as pictures: a PNG and an SVG, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.report import circumstances, figure, is_met
from bench.workload import OURS, THEIRS

__all__ = ["plot", "plot_growth"]

# Of the palette of Okabe and Ito, which most kinds of colour blindness can tell apart.
_MET: Final = "#0072B2"
_MISSED: Final = "#D55E00"
_SHOWN: Final = "#999999"
_LINES: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
_MARKERS: Final = ("o", "s", "^", "D", "v")
_INK: Final = "#222222"


def plot(document: dict[str, Any], folder: Path) -> None:
    """Draw how ours compares, into bench.png and bench.svg."""
    rows = [row for row in document["rows"] if row["ratio"] is not None]
    with _drawing(folder / "bench", 9, 1.6 + 0.3 * len(rows)) as drawing:
        _draw_rows(drawing.subplots(), rows)
        drawing.suptitle("protomux-wakeup for Python beside the npm originals", fontsize=11)
        drawing.supxlabel(circumstances(document), fontsize=7, color="#555555")


def _better(row: dict[str, Any]) -> tuple[float, float, float]:
    """Return how many times better ours is: at least, in the median, at most."""
    ratio = row["ratio"]
    found = [ratio["min"], ratio["median"], ratio["max"]]
    if row["better"] == "lower":
        found = [1 / one for one in reversed(found)]
    return found[0], found[1], found[2]


def _draw_rows(axes: Axes, rows: list[dict[str, Any]]) -> None:
    bars = []
    everything = [1.0]
    for place, row in enumerate(rows):
        least, middle, most = _better(row)
        met = is_met(row)
        colour = _SHOWN if met is None else _MET if met else _MISSED
        axes.barh(
            place,
            middle - 1,
            left=1,
            height=0.62,
            color=colour,
            hatch="////" if met is False else None,
            edgecolor="white",
            linewidth=0,
        )
        axes.errorbar(
            middle,
            place,
            xerr=[[middle - least], [most - middle]],
            fmt="none",
            ecolor=_INK,
            elinewidth=1,
            capsize=3,
        )
        if row["bar"] is not None:
            bar = row["bar"] if row["better"] == "higher" else 1 / row["bar"]
            bars.append((bar, place))
            everything.append(bar)
        everything += [least, most]
    for bar, place in bars:
        axes.plot([bar, bar], [place - 0.45, place + 0.45], color="black", linewidth=2.2, zorder=4)
    _scale(axes, min(everything), max(everything))
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(range(len(rows)), [_label(row) for row in rows])
    beside.tick_params(axis="y", length=0)
    beside.spines["right"].set_visible(False)
    axes.legend(
        handles=[
            Patch(color=_MET, label="as wanted"),
            Patch(facecolor=_MISSED, hatch="////", edgecolor="white", label="missed"),
            Patch(color=_SHOWN, label="only shown"),
            Line2D([], [], color="black", linewidth=2.2, label="wanted"),
            Line2D([], [], color=_INK, linewidth=1, label="min to max"),
        ],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=5,
        frameon=False,
        fontsize=8,
    )
    axes.annotate(
        "ours : theirs",
        (1, 1),
        (62, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        color="#555555",
    )


def _scale(axes: Axes, least: float, most: float) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(least, 0.5) / 1.15, max(most, 2.0) * 1.15)
    ticks = [2.0**power for power in range(-10, 11)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}")
    )
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.axvline(1, color=_INK, linewidth=1)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(
        "← originals better        times better (log scale)        ours better →\n"
        "rates: ours / theirs; times and memory, where less is better: theirs / ours"
    )


def _label(row: dict[str, Any]) -> str:
    ours, theirs = (figure(median(row["series"][name]), row["unit"]) for name in (OURS, THEIRS))
    return f"{_better(row)[1]:.2f}x    {ours} : {theirs}"


def plot_growth(document: dict[str, Any], folder: Path) -> None:
    """Draw how costs grow, into growth.png and growth.svg."""
    with _drawing(folder / "growth", 9, 4) as drawing:
        left, right = drawing.subplots(1, 2, sharey=True)
        for axes, what in ((left, "time"), (right, "memory")):
            _draw_growth(axes, document, what)
        left.set_ylabel("cost of an item, relative to that at 1x")


def _draw_growth(axes: Axes, document: dict[str, Any], what: str) -> None:
    for kind, colour, marker in zip(document["kinds"], _LINES, _MARKERS, strict=False):
        sizes = [size["size"] for size in kind["sizes"]]
        costs = [
            median(size["seconds"]) if what == "time" else size["bytes"] for size in kind["sizes"]
        ]
        exponent = kind["exponent"][what]
        if what == "time":
            exponent = exponent["median"]
        axes.plot(
            [size / sizes[0] for size in sizes],
            [cost / costs[0] for cost in costs],
            color=colour,
            marker=marker,
            label=f"{kind['name']}, from {sizes[0]:,}: {exponent:.3f}",
        )
    most = document["bar"]
    axes.plot(
        [1, 100], [1, 100 ** (most - 1)], color=_INK, linestyle=":", label=f"the bar: {most:g}"
    )
    axes.set_xscale("log")
    axes.set_xticks([1, 10, 100], ["1x", "10x", "100x"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, max(2.0, axes.get_ylim()[1]))
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_xlabel("items")
    axes.set_title(f"{what}, and its exponent")
    axes.legend(frameon=False, fontsize=8, loc="lower left")


@contextmanager
def _drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, which is saved as `path`.svg and `path`.png."""
    style = rc_context(
        {
            "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
            "font.size": 9,
            "hatch.linewidth": 0.6,
            "svg.hashsalt": "protomux-wakeup",
        }
    )
    with style:
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing
        # Neither the day nor the version of what drew it: the same figures give the same bytes.
        drawing.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
        drawing.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
