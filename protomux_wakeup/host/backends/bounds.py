"""What a backend may take of the machine: bounds that the kernel keeps, and those that we look at.

The kernel bounds each process (setrlimit(2)); all of them together only in a control group that has
the controllers. Where it has not, the processes are counted, weighed and timed now and then.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Sequence
from typing import Final

from protomux_wakeup.host.backends.cgroups import Cgroup, place
from protomux_wakeup.host.backends.engine import EngineError, Launch
from protomux_wakeup.host.backends.family import share_of, usage_of
from protomux_wakeup.host.backends.types import ResourceLimits, SpawnConfig

__all__ = ["LOOK_EVERY", "check", "excess", "limits_of", "rlimits", "stopped_by"]

LOOK_EVERY: Final = 0.25
"""Seconds between two looks at the processes of a backend."""

_CPU_SPARE: Final = 2
"""Seconds of CPU time that the kernel leaves one process above its bound: a look comes first, but
where many threads run."""


def limits_of(launch: Launch) -> ResourceLimits:
    """Return the bounds that were asked for."""
    spawn = launch.request.spawn
    if isinstance(spawn, SpawnConfig) and spawn.executable is not None:
        return spawn.executable.resource_limits or ResourceLimits()
    return ResourceLimits()


def check(limits: ResourceLimits) -> None:
    """Raise EngineError for a bound that cannot be kept here."""
    if limits.cpu_period_percent is None:
        return
    parent = place()
    if parent is None or "cpu" not in Cgroup(parent / "any").controllers:
        raise EngineError(
            "expected no cpu_period_percent, which needs a control group (cgroup v2) that the cpu "
            f"controller is handed down to, got {limits.cpu_period_percent}"
        )


def rlimits(
    limits: ResourceLimits, open_files: int | None = None
) -> list[tuple[int, tuple[int, int]]]:
    """Return what to hand to `resource.setrlimit`; never more than we have ourselves."""
    wanted = [(resource.RLIMIT_CORE, 0, 0)]
    if limits.memory_limit_bytes is not None:
        # What is written to, RLIMIT_AS would count what is only reserved, as V8 does by the GiB.
        wanted.append((resource.RLIMIT_DATA, *(limits.memory_limit_bytes,) * 2))
    if limits.cpu_time_limit is not None:
        # SIGXCPU first, a second later SIGKILL.
        seconds = limits.cpu_time_limit + _CPU_SPARE
        wanted.append((resource.RLIMIT_CPU, seconds, seconds + 1))
    if limits.disk_limit_bytes is not None:
        wanted.append((resource.RLIMIT_FSIZE, *(limits.disk_limit_bytes,) * 2))
    if open_files is not None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        wanted.append((resource.RLIMIT_NOFILE, open_files, most))
    found = []
    for which, soft, hard in wanted:
        most = resource.getrlimit(which)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)  # noqa: PLW2901
        found.append((which, (soft, hard)))
    return found


def stopped_by(limits: ResourceLimits, code: int) -> str | None:
    """Tell which bound the kernel has ended a process for, by its exit code; None if for none."""
    if code == -signal.SIGXCPU and limits.cpu_time_limit is not None:
        return f"expected at most {limits.cpu_time_limit} s of CPU time, it took more"
    if code == -signal.SIGXFSZ and limits.disk_limit_bytes is not None:
        return f"expected files of at most {limits.disk_limit_bytes} bytes, it wrote more"
    return None


def excess(limits: ResourceLimits, processes: int, pids: Sequence[int]) -> str | None:
    """Tell what is too much about the processes `pids`, our descendants; None if nothing is."""
    if len(pids) > processes:
        return f"expected at most {processes} processes, there are {len(pids)}"
    memory, seconds = limits.memory_limit_bytes, limits.cpu_time_limit
    if memory is None and seconds is None:
        return None
    usage = [usage_of(pid) for pid in pids]
    if memory is not None and sum(each.resident for each in usage) > memory:
        # Where they share pages, those were counted more than once.
        used = sum(share_of(pid) or each.resident for pid, each in zip(pids, usage, strict=True))
        if used > memory:
            return f"expected at most {memory} bytes of memory, they have {used}"
    if seconds is not None:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = sum(each.seconds for each in usage) + ended.ru_utime + ended.ru_stime
        if spent > seconds:
            return f"expected at most {seconds} s of CPU time, they took {spent:.1f}"
    return None
