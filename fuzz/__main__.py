"""The `python -m fuzz` command: fuzz the harnesses, or run one input again."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from fuzz import campaign
from fuzz.campaign import Plan, Result
from fuzz.harness import TARGETS, load, script


def _plan(text: str) -> Plan:
    target, _, runs = text.partition("=")
    if target not in TARGETS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(TARGETS)}, got {target!r}")
    return Plan(target, int(runs) if runs else None, None)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="fuzz; exit code 1 when something was found")
    run.add_argument(
        "plans",
        nargs="*",
        type=_plan,
        metavar="TARGET[=RUNS]",
        help=f"{', '.join(TARGETS)}; all of them unless given",
    )
    run.add_argument("--runs", type=_positive, help="executions of each target")
    run.add_argument(
        "--seconds", type=_positive, help="of each target; 20 unless there is a number of runs"
    )
    run.add_argument("--jobs", type=_positive, default=1, help="targets at a time; default 1")
    run.add_argument(
        "--out",
        type=Path,
        default=Path(".fuzz"),
        help="folder for crashes, logs, and inputs to go on with; default .fuzz",
    )
    run.add_argument("--json", action="store_true", help="print the results as JSON")
    run.set_defaults(do=_run)
    reproduce = commands.add_parser("reproduce", help="run one input, without Atheris")
    reproduce.add_argument("target", choices=TARGETS)
    reproduce.add_argument("file", type=Path)
    reproduce.set_defaults(do=_reproduce)
    return parser


def _table(results: Sequence[Result]) -> Table:
    table = Table(Column("target", no_wrap=True))
    for name in ("runs", "runs/s", "s", "MB", "max ms", "edges", "corpus", "found"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in (*results, campaign.total(results)):
        table.add_row(
            result.target,
            f"{result.executions:,}",
            f"{result.executions_per_second:,.0f}",
            f"{result.seconds:.0f}",
            str(result.peak_rss_mb),
            f"{result.slowest_seconds * 1000:.1f}",
            str(result.coverage),
            str(result.corpus),
            str(len(result.crashes) or ""),
            end_section=result is results[-1],
        )
    return table


def _run(arguments: argparse.Namespace) -> int:
    if find_spec("atheris") is None:
        print("fuzzing needs Atheris: pip install --group fuzz", file=sys.stderr)
        return 2
    plans = []
    for plan in arguments.plans or [Plan(target, None, None) for target in TARGETS]:
        runs = plan.runs or arguments.runs
        plans.append(Plan(plan.target, runs, arguments.seconds or (None if runs else 20)))
    out = arguments.out.resolve()
    console = Console(stderr=True)
    seen: Sequence[Result] = []
    was_stopped = False
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def progress(results: Sequence[Result]) -> None:
            nonlocal seen
            seen = results
            if console.is_terminal:
                live.update(_table(results), refresh=True)

        try:
            asyncio.run(campaign.run(plans, out, arguments.jobs, progress))
        except KeyboardInterrupt:
            was_stopped = True
    if arguments.json:
        each = [
            {**asdict(one), "executions_per_second": round(one.executions_per_second, 1)}
            for one in (*seen, campaign.total(seen))
        ]
        print(json.dumps({"targets": each[:-1], "total": each[-1]}, indent=2))
    else:
        Console().print(_table(seen))
    for result in seen:
        for crash in result.crashes:
            print(f"found: python -m fuzz reproduce {result.target} {crash}", file=sys.stderr)
        if result.failure is not None and not was_stopped:
            print(f"{result.target} failed, {result.failure}", file=sys.stderr)
    if was_stopped:
        return 130
    return 1 if any(result.crashes or result.failure for result in seen) else 0


def _reproduce(arguments: argparse.Namespace) -> int:
    data = arguments.file.read_bytes()
    harness = load(arguments.target)
    if harness.OPS is not None:
        scene, steps = script.parse(data)
        print(f"scene {scene}")
        for step in steps:
            print(f"{step.among(harness.OPS).name:16} {step.data.hex()}")
    try:
        harness.run(data)
    except Exception:
        traceback.print_exc()
        return 1
    print("no finding")
    return 0


def main() -> int:
    arguments = _parser().parse_args()
    code: int = arguments.do(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
