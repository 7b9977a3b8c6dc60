"""Ours beside the npm originals: every workload, the series in turn within each round.

A round measures each series once; the order moves on by one from round to round, so that a machine
that slows down slows all. What counts is the ratio of ours to theirs in the same round. The exit
code is 1 where work was not done as it should be; a bar that is missed is shown, and no error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from bench import report
from bench.loops import LOOPS, default_loop
from bench.program import ROOT
from bench.soak import allow_files
from bench.versions import machine, missing, versions
from bench.workload import OURS, THEIRS, Failed, Measurement, Setting, Workload
from bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_parser"]

README: Final = ROOT / "README.md"
ROUNDS: Final = 7
FEW_ROUNDS: Final = 3
"""Rounds of the series that no bar is for."""


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command, under `all` and under the name of every workload."""
    parser = subparsers.add_parser(
        "all", aliases=list(WORKLOADS), help="ours beside the originals: all workloads, or some"
    )
    parser.add_argument(
        "more", nargs="*", choices=[*WORKLOADS, []], metavar="WORKLOAD", help="and this one"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--series", nargs="+", help="only these, such as py-py and node-node")
    parser.add_argument("--scale", type=float, default=1.0, help="so much of the work; 1 is all")
    parser.add_argument("--loop", choices=LOOPS, default=default_loop())
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument(
        "--write",
        action="store_true",
        help="keep what was found: bench/results.json, the README's table, the plots",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print what was found."""
    if (problem := missing()) is not None:
        raise SystemExit(problem)
    if arguments.write:
        from bench import plot

        try:
            report.check_readme(README)  # now, not only when all is measured
        except ValueError as error:
            raise SystemExit(f"failed: {error}") from None
    names = {arguments.bench, *arguments.more}
    chosen = [one for one in WORKLOADS.values() if names & {"all", one.name}]
    allow_files(max(one.size(arguments.scale).get("streams", 0) for one in chosen) * 2)
    try:
        rows = asyncio.run(_measure(chosen, arguments))
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    document = {
        "versions": versions(arguments.loop),
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": {"most": arguments.rounds, "few": min(arguments.rounds, FEW_ROUNDS)},
        "rows": rows,
    }
    if arguments.write:
        (ROOT / "bench" / "results.json").write_text(json.dumps(document, indent=1) + "\n")
        report.write_readme(document, README)
        plot.plot(document, ROOT / "bench")
    print(json.dumps(document) if arguments.json else report.text(document))


async def _measure(
    workloads: Sequence[Workload], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for workload in workloads:
        rows += await _rounds(workload, arguments)
    return rows


async def _rounds(workload: Workload, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one workload in all of its rounds; return its rows."""
    size = workload.size(arguments.scale)
    series = [one for one in workload.series if not arguments.series or one in arguments.series]
    found: dict[str, list[Measurement]] = {one: [] for one in series}
    for number in range(arguments.rounds):
        turn = number % len(series) if series else 0
        for one in series[turn:] + series[:turn]:
            if one in workload.few and number >= FEW_ROUNDS:
                continue
            measured = await workload.measure(workload, Setting(one, arguments.loop, size))
            found[one].append(measured)
            _tell(f"round {number + 1} of {arguments.rounds}: {workload.name} {one}", measured)
    return [_row(workload, index, size, found) for index in range(len(workload.rows))]


def _tell(what: str, measured: Measurement) -> None:
    figures = ", ".join(f"{figure:,.4g}" for figure in measured.figures.values())
    cpu = ", ".join(f"{seconds:.2f}" for seconds in measured.cpu)
    print(f"{what}: {figures}" + (f" (CPU {cpu} s)" if cpu else ""), file=sys.stderr, flush=True)


def _row(
    workload: Workload, index: int, size: dict[str, int], found: dict[str, list[Measurement]]
) -> dict[str, Any]:
    row = workload.rows[index]
    series = {
        name: [measured.figures[row.name] for measured in all_of] for name, all_of in found.items()
    }
    return {
        "name": row.name,
        "workload": workload.name,
        "unit": row.unit,
        "better": row.better,
        "bar": row.bar,
        "size": size,
        "series": series,
        "cpu": {
            name: [list(measured.cpu) for measured in all_of]
            for name, all_of in found.items()
            if any(measured.cpu for measured in all_of)
        },
        "ratio": _ratio(series.get(OURS, ()), series.get(THEIRS, ())),
    }


def _ratio(ours: Iterable[float], theirs: Iterable[float]) -> dict[str, float] | None:
    """Return the ratio of each round; None where one of the two was not measured."""
    each = [one / other for one, other in zip(ours, theirs, strict=False)]
    if not each:
        return None
    return {"min": min(each), "median": median(each), "max": max(each)}
