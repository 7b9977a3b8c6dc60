"""Many streams that come and go on one host for a long time: does its memory stay flat?

The host is one process, measured from outside: its resident memory (VmRSS) every second. Guests in
other processes keep about `--streams` connections to it open; each lives for some seconds, opens
topics that the host knows, one that wakes it and one that nobody has, asks, tells, and leaves in
order or not. Some misbehave mildly: see `churn`.

After a third of the time, two minutes at most, the memory should have found its level. The median
of the minute (or sixth of the time) that follows is compared with that of the last. It is flat when
that grew by less than 2 %, or the line through all of it rises by less than 1 MB a minute. At the
end the guests leave, and the host counts what it has left of them: nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
from collections import Counter
from pathlib import Path
from statistics import linear_regression, median
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_parser"]

STREAMS: Final = 2_000
SECONDS: Final = 600
GUEST_PROCESSES: Final = 2
ARRIVALS: Final = 50
"""Connections a second, which a host on half a core still stands; so a stream lives for
`streams / ARRIVALS` seconds on average, and a run should last for many times that."""

PROGRESS_EVERY: Final = 10
ANSWER_TIME: Final = 60.0
"""Seconds that a process may take to answer; the host waits for 20 at the end by itself."""

GROWTH: Final = 0.02
SLOPE: Final = 1.0
"""MB a minute."""

SPARE_FILES: Final = 200
"""What a process has open besides its streams, with room for those that are closing."""


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("soak", help="many streams that come and go: is memory flat")
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the soak and print what it found; the exit code is 1 if it is not flat, or not clean."""
    allow_files(arguments.streams)
    try:
        report = asyncio.run(soak(arguments.streams, arguments.seconds))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print(json.dumps(report) if arguments.json else text(report))
    if not (report["memory"]["is_flat"] and report["is_clean"]):
        raise SystemExit(1)


def allow_files(streams: int) -> None:
    """Raise the limit of open files as far as it goes; fail if that is not enough."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = streams + SPARE_FILES
    if most != resource.RLIM_INFINITY and most < needed:
        raise SystemExit(
            f"{streams:,} streams need {needed:,} open files, and the hard limit is {most:,}: "
            f"raise it (ulimit -Hn), or ask for at most {max(0, most - SPARE_FILES):,} streams"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Child:
    """A process of `churn`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process

    @classmethod
    async def start(cls, *arguments: object) -> tuple[Self, dict[str, Any]]:
        """Start one; return it and what it says first."""
        child = cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "bench.churn",
                *map(str, arguments),
                cwd=Path(__file__).parents[1],
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )
        try:
            return child, await child._answer()
        except BaseException:
            await child.end()
            raise

    async def ask(self, command: str) -> dict[str, Any]:
        """Give it a command and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(ANSWER_TIME):
            line = await self._process.stdout.readline()
        if not line:
            raise SystemExit(f"process {self.pid} ended with {await self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    @property
    def memory(self) -> float:
        """Its resident memory in MB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise SystemExit(f"process {self.pid} is gone")

    async def end(self) -> None:
        """End it, whatever it does."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


async def soak(streams: int, seconds: int) -> dict[str, Any]:
    """Run host and guests; return what they and the clock say."""
    lifetime = streams / ARRIVALS
    children: list[Child] = []
    try:
        host, said = await Child.start("host")
        children.append(host)
        empty = host.memory
        for number in range(GUEST_PROCESSES):
            share = streams // GUEST_PROCESSES + (number < streams % GUEST_PROCESSES)
            guests, _ = await Child.start("guests", said["port"], share, lifetime)
            children.append(guests)
        samples, opens = await watch(children, seconds)
        ends = await asyncio.gather(*(guests.ask("finish") for guests in children[1:]))
        final = await host.ask("finish")
        after = host.memory
    finally:
        for child in children:
            await child.end()
    logged = Counter(final["logged"])
    for end in ends:
        logged.update(end["logged"])
    left = final["left"]
    return {
        "streams": streams,
        "seconds": seconds,
        "open": {"median": median(opens), "max": max(opens)},
        "memory": {**judge(samples), "empty": empty, "after": after, "series": samples},
        "host": {key: final[key] for key in final if key not in ("left", "logged", "open")},
        "done": dict(sum((Counter(end["done"]) for end in ends), Counter[str]())),
        "answered": sum(end["answered"] for end in ends),
        "errors": dict(sum((Counter(end["errors"]) for end in ends), Counter[str]())),
        "logged": dict(logged),
        "left": left,
        "is_clean": not any(left.values()) and not logged,
    }


async def watch(children: list[Child], seconds: int) -> tuple[list[float], list[int]]:
    """Measure the host each second; return its MB, and now and then its open streams."""
    host = children[0]
    samples: list[float] = []
    opens: list[int] = []
    began = monotonic()
    for second in range(1, seconds + 1):
        await asyncio.sleep(max(0.0, began + second - monotonic()))
        samples.append(round(host.memory, 2))
        if second % PROGRESS_EVERY == 0 or second == seconds:
            reports = await asyncio.gather(*(child.ask("report") for child in children))
            opens.append(reports[0]["open"])
            done = sum(sum(report["done"].values()) for report in reports[1:])
            errors = sum(sum(report["errors"].values()) for report in reports[1:])
            print(
                f"{second:>5} s  {samples[-1]:7.1f} MB  {opens[-1]:,} streams open  "
                f"{done:,} conversations  {errors:,} errors",
                file=sys.stderr,
            )
    return samples, opens


def judge(samples: list[float]) -> dict[str, Any]:
    """Compare the level after the start with that at the end."""
    warm = min(120, len(samples) // 3)
    span = max(1, min(60, len(samples) // 6))
    level, last = median(samples[warm : warm + span]), median(samples[-span:])
    times = [second / 60 for second in range(warm, len(samples))]
    slope = linear_regression(times, samples[warm:]).slope if len(times) > 1 else 0.0
    growth = last / level - 1
    return {
        "level": level,
        "last": last,
        "max": max(samples),
        "growth": growth,
        "slope": slope,
        "is_flat": growth < GROWTH or slope < SLOPE,
    }


def text(report: dict[str, Any]) -> str:
    """Return the report for people."""
    memory, host = report["memory"], report["host"]

    def counts(found: dict[str, int]) -> str:
        return ", ".join(f"{count:,} {what}" for what, count in found.items()) or "none"

    return "\n".join(
        (
            f"{report['streams']:,} streams for {report['seconds']:,} s: "
            f"{report['open']['median']:,.0f} open at the host (median), "
            f"{host['opened']:,} opened",
            f"conversations: {counts(report['done'])}; {report['answered']:,} were answered",
            f"host: {host['peers']:,} peers proved, {host['lookups']:,} lookups, "
            f"{host['announces']:,} announces, {host['topics_collected']:,} topics collected; "
            f"streams ended: {counts(host['ended'])}",
            f"errors of guests: {counts(report['errors'])}",
            f"errors logged: {counts(report['logged'])}",
            f"left at the host: {counts(report['left'])}",
            f"memory of the host: {memory['empty']:.1f} MB empty, {memory['level']:.1f} MB early, "
            f"{memory['last']:.1f} MB at the end ({memory['growth']:+.1%}, "
            f"{memory['slope']:+.2f} MB a minute), {memory['after']:.1f} MB without guests",
            f"{'flat' if memory['is_flat'] else 'NOT FLAT'} "
            f"(growth below {GROWTH:.0%}, or a slope below {SLOPE:.0f} MB a minute), "
            f"{'nothing' if report['is_clean'] else 'SOMETHING'} left or logged",
        )
    )
