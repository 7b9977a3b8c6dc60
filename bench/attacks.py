"""Attacks at full size: what the attacker gets, what it costs the victim, and who else suffers.

Each attack of `tests.attacks` is made against a victim of its own, a wakeup service in Python or
the same on the npm originals, while an honest peer in a process of its own asks one question after
the other on another stream. A victim holds if it lives, serves the honest peer within
`STARVED` seconds all the while and after, takes no more than `MEMORY` for it, shows no hook what
an unproven peer said, and keeps nothing of the attacker when that is gone.

Peak memory is what the process had in use at most, less what it had before; CPU time is the
victim's own, that for the honest peer included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from tests.attacks.attack import Attack, Fate, Outcome, Target
from tests.attacks.catalogue import ATTACKS
from tests.attacks.connection import Lost, Stalled
from tests.attacks.honest import Honest
from tests.attacks.process import ROOT, Figures, Gone, Status, VictimProcess
from tests.interop import harness

if TYPE_CHECKING:
    from argparse import _SubParsersAction
    from collections.abc import AsyncIterator

__all__ = ["add_parser"]

VICTIMS: Final = ("python", "node")
MIB: Final = 2**20
MEMORY: Final = 256 * MIB
"""Bytes above its start that a victim that holds may take. Held messages may be 64 MiB by
themselves, and a frame of 16 MiB is there three times while it is decrypted."""
KILLED: Final = 3072 * MIB
"""Bytes at which a victim is killed, for the sake of the machine."""
STARVED: Final = 5.0
"""Seconds without an answer after which the honest peer counts as starved."""
PATIENCE: Final = 3.0
"""Seconds without a byte taken, or without an answer, after which the attacker counts as paused."""
CLEAN: Final = 11.0
"""Seconds that a victim has to be rid of the attacker: more than the ten of an orderly close."""
ANSWER: Final = 10.0
"""Seconds that a victim has to tell how it is, and a newcomer to be served."""
LIMIT: Final = 6.0
LIMITS: Final = {
    "waiting_time": 4.0,
    "proof_time": 5.0,
    "handshake_time": 5.0,
    "paused_time": 5.0,
}
"""The victim has the default bounds but for those of time, which would make the run an hour."""


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "attacks",
        help="attack a victim at full size",
        epilog="Exit code 1: an attack on the Python victim was not held. Attacks: "
        + ", ".join(attack.name for attack in ATTACKS),
    )
    parser.add_argument("--victim", choices=(*VICTIMS, "both"), default="python")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=[attack.name for attack in ATTACKS],
        help="these attacks alone",
    )
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="seconds for one attack, %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    parser.add_argument("--markdown", action="store_true", help="the table in Markdown")
    parser.set_defaults(run=run)


@dataclass
class Row:
    """What came of one attack on one victim.

    Attributes:
        got: what the attacker got.
        errors: of streams at the victim, by name.
        peak: bytes; `cpu`, `median`, `worst`: seconds; `asked`: questions of the honest peer.
        not_held: why the victim did not hold; empty if it did.
    """

    attack: str
    victim: str
    got: str = ""
    errors: dict[str, int] = field(default_factory=dict)
    peak: float = 0
    cpu: float = 0
    asked: int = 0
    median: float = 0
    worst: float = 0
    seconds: float = 0
    not_held: list[str] = field(default_factory=list)
    applies: bool = True


def run(arguments: argparse.Namespace) -> None:
    """Make the attacks and print the table."""
    kinds = VICTIMS if arguments.victim == "both" else (arguments.victim,)
    if "node" in kinds and (missing := harness.missing()) is not None:
        raise SystemExit(f"the npm originals are not there: {missing}")
    attacks = [each for each in ATTACKS if not arguments.only or each.name in arguments.only]
    rows: list[Row] = []
    try:
        asyncio.run(_make_all(attacks, kinds, arguments.limit, rows))
    except KeyboardInterrupt:
        print("interrupted: what there is so far", file=sys.stderr)
        _print(arguments, rows)
        raise SystemExit(130) from None
    _print(arguments, rows)
    if any(row.not_held for row in rows if row.victim == "python"):
        raise SystemExit(1)


async def _make_all(
    attacks: list[Attack], kinds: tuple[str, ...], limit: float, rows: list[Row]
) -> None:
    for number, attack in enumerate(attacks):
        for kind in kinds:
            print(
                f"{number + 1} of {len(attacks)}: {attack.name} on {kind} ...",
                end=" ",
                file=sys.stderr,
                flush=True,
            )
            row = Row(attack.name, kind)
            if kind == "node" and attack.why_not_node:
                row.applies, row.got = False, attack.why_not_node
            else:
                await _make(attack, row, limit)
            rows.append(row)
            print(f"{_verdict(row)} ({row.seconds:.1f} s)", file=sys.stderr, flush=True)


async def _make(attack: Attack, row: Row, limit: float) -> None:
    began = perf_counter()
    victim = await VictimProcess.start(row.victim, LIMITS)
    try:
        await _attacked(attack, row, victim, limit)
    except Gone as gone:
        row.not_held.append(f"victim {gone}")
    finally:
        await victim.end()
        row.seconds = perf_counter() - began


async def _attacked(attack: Attack, row: Row, victim: VictimProcess, limit: float) -> None:
    target = victim.target(PATIENCE)
    before = await victim.status()
    async with _asking(target) as honest:
        figures = Figures(victim.pid)
        watching = asyncio.ensure_future(_watch(victim, figures))
        try:
            outcome = await _limited(attack, target, limit)
        finally:
            watching.cancel()
            figures.read()
        row.got = str(outcome)
        if outcome.fate in attack.harms:
            row.not_held.append("streams of others were reached")
        row.peak, row.cpu = figures.peak, figures.cpu
        await _check_newcomer(row, target)
        found = await honest.end()
    if not victim.is_alive and watching.done() and not watching.cancelled():
        row.not_held.append(f"killed at {KILLED // MIB:,} MiB")
        return
    _judge_honest(row, found)
    status, left = await victim.clean(before, CLEAN)
    figures.read()
    row.peak = figures.peak
    row.errors = status.errors_since(before)
    if left:
        row.not_held.append("left " + ", ".join(f"{count} {name}" for name, count in left.items()))
    if row.peak > MEMORY:
        row.not_held.append("memory")
    if _unproven(target, status):
        row.not_held.append("unproven data in a hook")


async def _limited(attack: Attack, target: Target, limit: float) -> Outcome:
    try:
        async with asyncio.timeout(limit):
            return await attack.make(target, attack.full)
    except TimeoutError:
        return Outcome(Fate.UNFINISHED, f"after {limit:.0f} s")


async def _watch(victim: VictimProcess, figures: Figures) -> None:
    """Kill a victim that takes too much."""
    while True:
        await asyncio.sleep(0.2)
        figures.read()
        if figures.peak > KILLED:
            victim.kill()
            return


def _judge_honest(row: Row, found: dict[str, Any]) -> None:
    latencies = found["latencies"]
    row.asked = len(latencies)
    if latencies:
        row.median, row.worst = median(latencies), max(latencies)
    if found["error"] is not None:
        row.not_held.append("honest peer cut")
    elif found["wrong"]:
        row.not_held.append("honest peer got wrong answers")
    elif row.worst > STARVED:
        row.not_held.append("honest peer starved")


async def _check_newcomer(row: Row, target: Target) -> None:
    try:
        async with asyncio.timeout(ANSWER):
            newcomer = await Honest.join(target.host, target.port, target.secrets.capability)
    except (Lost, Stalled, TimeoutError):
        row.not_held.append("newcomer not served")
    else:
        newcomer.leave()


def _unproven(target: Target, status: Status) -> bool:
    heard = status["heard"]
    return any(heard.get(hash.hex(), 0) > most for hash, most in target.forbidden.items())


class _HonestProcess:
    """The honest peer, in a process of its own: the attacker takes all the time of this one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def end(self) -> dict[str, Any]:
        """Stop asking, and return what it found."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        async with asyncio.timeout(ANSWER):
            found: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return found

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._process.returncode is None:
            self._process.kill()


@asynccontextmanager
async def _asking(target: Target) -> AsyncIterator[_HonestProcess]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.attacks.honest", target.host, str(target.port)),
        target.secrets.capability.hex(),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
        start_new_session=True,
    )
    honest = _HonestProcess(process)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(ANSWER):
            if not await process.stdout.readline():
                raise Gone("did not serve the honest peer before the attack")
        yield honest
    finally:
        honest.kill()
        await process.wait()


# The table


HEADINGS: Final = (
    "attack",
    "victim",
    "the peer gets",
    "peak MiB",
    "CPU s",
    "honest: n",
    "median ms",
    "max ms",
    "verdict",
)


def _verdict(row: Row) -> str:
    if not row.applies:
        return "n/a"
    return "NOT HELD: " + "; ".join(row.not_held) if row.not_held else "held"


def _cells(row: Row) -> tuple[str, ...]:
    if not row.applies:
        return (row.attack, row.victim, row.got, "", "", "", "", "", "n/a")
    errors = ", ".join(
        name if count == 1 else f"{count:,} {name}" for name, count in row.errors.items()
    )
    return (
        row.attack,
        row.victim,
        f"{row.got} ({errors})" if errors else row.got,
        f"{row.peak / MIB:,.0f}",
        f"{row.cpu:.1f}",
        f"{row.asked:,}",
        f"{1000 * row.median:,.1f}",
        f"{1000 * row.worst:,.0f}",
        _verdict(row),
    )


def _markdown(rows: list[Row]) -> Iterator[str]:
    yield "| " + " | ".join(HEADINGS) + " |"
    yield "| " + " | ".join("---" for _ in HEADINGS) + " |"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |"


def _text(rows: list[Row]) -> Iterator[str]:
    table = [HEADINGS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    for line in table:
        yield "  ".join(
            cell.rjust(width) if 3 <= column <= 7 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()


def _print(arguments: argparse.Namespace, rows: list[Row]) -> None:
    if arguments.json:
        report = {
            "bench": "attacks",
            "python": platform.python_version(),
            "memory bound": MEMORY,
            "starved": STARVED,
            "rows": [asdict(row) for row in rows],
        }
        if any(row.victim == "node" for row in rows):
            report["node"] = subprocess.run(
                ["node", "--version"], capture_output=True, text=True, check=True
            ).stdout.strip()
        print(json.dumps(report))
        return
    print("\n".join(_markdown(rows) if arguments.markdown else _text(rows)))
    counted = [row for row in rows if row.applies]
    for kind in VICTIMS:
        of_kind = [row for row in counted if row.victim == kind]
        if of_kind:
            held = sum(not row.not_held for row in of_kind)
            print(f"\n{kind}: {held} of {len(of_kind)} held")
