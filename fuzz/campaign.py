"""Runs harnesses as processes and collects what they say. Knows libFuzzer's output, no harness."""

from __future__ import annotations

import asyncio
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["CORPUS", "REGRESSIONS", "Plan", "Result", "run"]

CORPUS: Final = Path(__file__).parent / "corpus"
"""A folder for each target: where fuzzing begins."""

REGRESSIONS: Final = Path(__file__).parent / "regressions"
"""A folder for each target: inputs that were findings once."""

HANG: Final = 1
"""Seconds that one execution may take; the slowest honest one takes a fiftieth of it."""

MEMORY: Final = 512
"""Megabytes that a process may take; they take an eighth of it."""

_FOUND: Final = (77, 70, 71)
"""libFuzzer's exit codes for a crash, a hang, too much memory."""

_STATUS: Final = re.compile(rb"#(\d+)\s.*?(?:cov: (\d+).*?)?(?:corp: (\d+).*?)?rss: (\d+)Mb")
_STATISTIC: Final = re.compile(rb"stat::(\w+):\s+(\d+)")
_SLOWEST: Final = re.compile(rb"slowest: ([\d.]+)")
_SAVED: Final = re.compile(rb"Test unit written to (\S+)")


class Plan(NamedTuple):
    """One target, and when it is enough: whichever comes first."""

    target: str
    runs: int | None
    seconds: int | None


@dataclass
class Result:
    """What one process has done, so far or at its end."""

    target: str
    executions: int = 0
    seconds: float = 0.0
    peak_rss_mb: int = 0
    slowest_seconds: float = 0.0
    coverage: int = 0
    corpus: int = 0
    crashes: list[str] = field(default_factory=list)
    failure: str | None = None
    """Why the process ended, if neither by plan nor by a finding."""

    @property
    def executions_per_second(self) -> float:
        return self.executions / self.seconds if self.seconds else 0.0

    def read(self, line: bytes) -> None:
        """Take in a line of the process."""
        if found := _STATUS.match(line):
            executions, coverage, corpus, memory = (int(part or 0) for part in found.groups())
            self.executions = max(self.executions, executions)
            self.coverage = coverage or self.coverage
            self.corpus = corpus or self.corpus
            self.peak_rss_mb = max(self.peak_rss_mb, memory)
        elif found := _STATISTIC.match(line):
            if found[1] == b"number_of_executed_units":
                self.executions = int(found[2])
            elif found[1] == b"peak_rss_mb":
                self.peak_rss_mb = int(found[2])
        elif found := _SLOWEST.match(line):
            self.slowest_seconds = float(found[1])
        elif found := _SAVED.search(line):
            self.crashes.append(found[1].decode())


async def run(
    plans: Sequence[Plan], out: Path, jobs: int, progress: Callable[[Sequence[Result]], None]
) -> list[Result]:
    """Carry out `plans`, `jobs` at a time; `progress` is called each second, and at the end.

    Below `out` lie the inputs that were found on the way (`corpus`), those that are findings
    (`crashes`) and what the processes wrote (`logs`). When cancelled it ends every process.
    """
    results = [Result(plan.target) for plan in plans]
    turns = asyncio.Semaphore(jobs)

    async def one(plan: Plan, result: Result) -> None:
        async with turns:
            await _run_one(plan, result, out)

    async def tell() -> None:
        while True:
            progress(results)
            await asyncio.sleep(1)

    telling = asyncio.create_task(tell())
    try:
        async with asyncio.TaskGroup() as group:
            for plan, result in zip(plans, results, strict=True):
                group.create_task(one(plan, result))
    finally:
        telling.cancel()
        progress(results)
    return results


async def _run_one(plan: Plan, result: Result, out: Path) -> None:
    log = out / "logs" / f"{plan.target}.txt"
    found = out / "corpus" / plan.target
    crashes = out / "crashes" / plan.target
    for folder in (log.parent, found, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-timeout={HANG}",
        f"-rss_limit_mb={MEMORY}",
        f"-artifact_prefix={crashes}/",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    if plan.runs is not None:
        arguments.append(f"-runs={plan.runs}")
    if plan.seconds is not None:
        arguments.append(f"-max_total_time={plan.seconds}")
    seeds = [folder / plan.target for folder in (CORPUS, REGRESSIONS)]
    arguments += [str(folder) for folder in (found, *seeds) if folder.is_dir()]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fuzz.drive", plan.target, *arguments),
        cwd=CORPUS.parent.parent,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    begin = time.monotonic()
    last = b""
    try:
        assert process.stderr is not None
        with log.open("wb") as file:
            async for line in process.stderr:
                file.write(line)
                result.read(line)
                result.seconds = time.monotonic() - begin
                last = line.strip() or last
        code = await process.wait()
        if code != 0 and (code not in _FOUND or not result.crashes):
            result.failure = f"exit code {code}: {last.decode(errors='replace')}, see {log}"
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def total(results: Sequence[Result]) -> Result:
    """Return the sum of `results`, with the worst of what does not add up."""
    return Result(
        "total",
        executions=sum(result.executions for result in results),
        seconds=math.fsum(result.seconds for result in results),
        peak_rss_mb=max(result.peak_rss_mb for result in results),
        slowest_seconds=max(result.slowest_seconds for result in results),
        coverage=sum(result.coverage for result in results),
        corpus=sum(result.corpus for result in results),
        crashes=[crash for result in results for crash in result.crashes],
    )
