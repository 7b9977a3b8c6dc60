"""UDX beside udx-native: the series in turn within each round, the order moving on by one.

A goodput is payload bytes a second from the first write to the last byte's arrival, so that the
start-up counts. Sender, receiver and relay have a process each. The relay has in each direction a
bottleneck of the rate named, headers included, with a queue of `--queue` bandwidth-delay products.
The ratio is ours to ours against theirs to theirs of the same round.

Fairness is Jain's index of the payload bytes that two flows over one bottleneck get across in 30 s,
from 3 s after the second began, which is a second after the first. The floor is what bare datagrams
make between two processes, in whatever way they are sent and read.

The exit code is 1 where bytes did not arrive as they were sent; a bar that is missed is shown, and
no error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from bench.loops import LOOPS, default_loop
from bench.program import ROOT
from bench.report import figure
from bench.udx.floor import COUNT, REFERENCE, SIZE, floor, ways
from bench.udx.flows import SECONDS, Circumstances, share, transfer
from bench.udx.report import text
from bench.udx.scenes import FAIRNESS, PAIRS, SCENES, Fairness, Scene
from bench.versions import machine, versions
from bench.workload import OURS, THEIRS, Failed

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_parser", "native_version"]

FLOOR: Final = "floor"
NAMES: Final = (*SCENES, *FAIRNESS, FLOOR)
ROUNDS: Final = 5
QUEUE: Final = 1.5


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "udx",
        help="UDX beside udx-native: goodput, fairness, loopback, datagrams",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Scenes: {', '.join(NAMES)}",
    )
    parser.add_argument(
        "scenes", nargs="*", choices=[*NAMES, []], metavar="SCENE", help="these alone"
    )
    parser.add_argument("--rounds", type=_count, default=ROUNDS)
    parser.add_argument("--series", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--scale", type=float, default=1.0, help="so much of the work; 1 is all")
    parser.add_argument("--loop", choices=LOOPS, default=default_loop())
    parser.add_argument("--seed", type=int, default=1, help="of the relay, plus the round")
    parser.add_argument(
        "--queue", type=float, default=QUEUE, help="bandwidth-delay products, %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {count}")
    return count


def native_version() -> str | None:
    """Return the version of the udx-native that the Node programs find; None without one."""
    script = (
        "const { createRequire } = require('module');"
        "console.log(createRequire(process.argv[1])('udx-native/package.json').version)"
    )
    command = ["node", "-e", script, str(ROOT / "tests" / "interop" / "package.json")]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _needs_native(names: Sequence[str], series: Sequence[str]) -> bool:
    flows = [
        FAIRNESS[name].flows if name in FAIRNESS else series for name in names if name != FLOOR
    ]
    return any("node" in PAIRS[each] for flow in flows for each in flow)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print what was found."""
    names = arguments.scenes or NAMES
    native = native_version()
    if native is None and _needs_native(names, arguments.series):
        raise SystemExit("expected udx-native in tests/interop: run `make interop-peers`")
    rows: list[dict[str, Any]] = []
    try:
        asyncio.run(_measure([name for name in NAMES if name in names], arguments, rows))
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted: what there is so far", file=sys.stderr)
        _print(arguments, native, rows)
        raise SystemExit(130) from None
    _print(arguments, native, rows)


async def _measure(
    names: Sequence[str], arguments: argparse.Namespace, rows: list[dict[str, Any]]
) -> None:
    for name in names:
        if name == FLOOR:
            rows += await _floor(arguments)
        elif name in SCENES:
            rows.append(await _goodput(SCENES[name], arguments))
        else:
            rows.append(await _fairness(FAIRNESS[name], arguments))


def _tell(arguments: argparse.Namespace, number: int, what: str) -> None:
    print(f"round {number + 1} of {arguments.rounds}: {what}", file=sys.stderr, flush=True)


def _circumstances(arguments: argparse.Namespace, number: int) -> Circumstances:
    return Circumstances(arguments.loop, arguments.queue, arguments.seed + number)


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": median(values), "max": max(values)}


def _lossy(relay: Any) -> str:
    """Return what the relay itself lost, which no path did: it makes a measurement doubtful."""
    lost = relay["overruns"] + relay["unsent"] if relay else 0
    return f"; the relay was too slow for {lost} datagrams" if lost else ""


async def _goodput(scene: Scene, arguments: argparse.Namespace) -> dict[str, Any]:
    series = [name for name in PAIRS if name in arguments.series]
    count = max(1, round(scene.bytes * arguments.scale))
    found: dict[str, list[float]] = {name: [] for name in series}
    cpu: dict[str, list[Sequence[float]]] = {name: [] for name in series}
    relays: dict[str, list[Any]] = {name: [] for name in series}
    for number in range(arguments.rounds):
        turn = number % len(series)
        for name in series[turn:] + series[:turn]:
            measured = await transfer(scene, name, count, _circumstances(arguments, number))
            found[name].append(measured.goodput)
            cpu[name].append(measured.cpu)
            relays[name].append(measured.relay)
            seconds = " and ".join(f"{each:.2f}" for each in measured.cpu)
            text = f"{figure(measured.goodput, 'bytes/s')} (CPU {seconds} s)"
            _tell(arguments, number, f"{scene.name} {name}: {text}{_lossy(measured.relay)}")
    ours, theirs = found.get(OURS, []), found.get(THEIRS, [])
    return {
        "scene": scene.name,
        "kind": "goodput",
        "bytes": count,
        "path": scene.path.options(arguments.queue) if scene.path else None,
        "bar": scene.bar,
        "series": found,
        "cpu": cpu,
        "relay": relays,
        "ratio": _spread([one / other for one, other in zip(ours, theirs, strict=False)]),
    }


async def _fairness(scene: Fairness, arguments: argparse.Namespace) -> dict[str, Any]:
    seconds = SECONDS * arguments.scale
    shares = []
    for number in range(arguments.rounds):
        measured = await share(scene, bool(number % 2), seconds, _circumstances(arguments, number))
        shares.append(measured)
        flows = " and ".join(figure(each, "bytes/s") for each in measured.goodputs)
        _tell(arguments, number, f"{scene.name}: {flows}{_lossy(measured.relay)}")
    return {
        "scene": scene.name,
        "kind": "fairness",
        "seconds": seconds,
        "path": scene.path.options(arguments.queue),
        "bar": scene.bar,
        "flows": list(scene.flows),
        "goodputs": [each.goodputs for each in shares],
        "relay": [each.relay for each in shares],
        "index": _spread([each.index for each in shares]),
    }


async def _floor(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    loops = tuple(loop for loop in LOOPS if loop == "asyncio" or default_loop() == loop)
    series = ways(loops)
    count = max(1, round(COUNT * arguments.scale))
    found: dict[tuple[str, str], list[Any]] = {one: [] for one in series}
    for number in range(arguments.rounds):
        turn = number % len(series)
        for way, loop in series[turn:] + series[:turn]:
            measured = await floor(way, loop, count)
            found[way, loop].append(measured)
            _tell(arguments, number, f"{way} on {loop}: {figure(measured.rate, 'datagrams/s')}")
    return [
        {
            "scene": FLOOR,
            "kind": FLOOR,
            "way": way,
            "loop": loop,
            "datagrams": count,
            "size": SIZE,
            "rates": [each.rate for each in measured],
            "cpu": [each.cpu for each in measured],
            "ratio": _spread(
                [
                    one.rate / other.rate
                    for one, other in zip(measured, found[REFERENCE, loop], strict=True)
                ]
            ),
        }
        for (way, loop), measured in found.items()
    ]


def _print(arguments: argparse.Namespace, native: str | None, rows: list[dict[str, Any]]) -> None:
    known = versions(arguments.loop)
    known["npm"]["udx-native"] = native
    document = {
        "bench": "udx",
        "versions": known,
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": arguments.rounds,
        "rows": rows,
    }
    print(json.dumps(document) if arguments.json else text(document))
