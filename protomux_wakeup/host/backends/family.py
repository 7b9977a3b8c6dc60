"""The processes of a backend: who descends from its monitor, or has its id. Knows no backend.

The monitor is the reaper of all that descends from it (PR_SET_CHILD_SUBREAPER of prctl(2)): a
process whose parent has ended becomes its child, whatever session it is in. Where the monitor is
gone, a process is found by the environment that it was started with.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from protomux_wakeup.host.processes import Handle

__all__ = [
    "Usage",
    "adopt_orphans",
    "children_by_parent",
    "children_by_task",
    "die_with_parent",
    "family_of",
    "kill_family",
    "kill_marked",
    "share_of",
    "usage_of",
]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
"""Of linux/prctl.h."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Usage(NamedTuple):
    """What a process takes: seconds of CPU time with its children that ended, resident bytes."""

    seconds: float
    resident: int


def adopt_orphans() -> None:
    """Be the parent of every process that descends from us, when its own has ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Get SIGKILL when the thread that has started us ends; end now if `parent` has."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl option {option} failed")


def family_of(pid: int) -> list[tuple[int, int]]:
    """Return pid and parent of all that descends from the process `pid`, parents first."""
    children = _children()
    found: list[tuple[int, int]] = []
    rest = [pid]
    for parent in rest:
        for child in children(parent):
            found.append((child, parent))
            rest.append(child)
    return found


def kill_family() -> None:
    """End all that descends from us, and is there now.

    To be repeated until there is no child left: some may be started meanwhile.
    """
    us = os.getpid()
    for number in (signal.SIGSTOP, signal.SIGKILL):  # who is stopped starts no others
        for pid, parent in family_of(us):
            with Handle(pid) as process:
                if _parent_of(pid) in (parent, us):  # or it is another process by now
                    process.send(number)


def kill_marked(variable: str, value: str, seconds: float) -> bool:
    """End all processes of our user that were started with `variable` set to `value`.

    Waits until they are gone; False where some are not after so many `seconds`.
    """
    mark = f"{variable}={value}".encode()
    end = time.monotonic() + seconds
    pause = 0.001
    while True:
        found = [pid for pid in _pids() if _has_mark(pid, mark)]
        if not found:
            return True
        if time.monotonic() > end:
            return False
        for pid in found:
            with Handle(pid) as process:
                if _has_mark(pid, mark):
                    process.send(signal.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def usage_of(pid: int) -> Usage:
    """Return what the process `pid` takes; nothing where there is none."""
    try:
        fields = _status(pid)
        resident = int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE
    except (OSError, IndexError):
        return Usage(0, 0)
    return Usage(sum(map(int, fields[11:15])) / _TICKS, resident)


def share_of(pid: int) -> int:
    """Return the resident bytes of a process, each page divided by those who share it.

    Costs much more than `usage_of`. 0 where there is none, or we may not know.
    """
    with suppress(OSError):
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _status(pid: int) -> list[bytes]:
    """Return what proc_pid_stat(5) has behind the name, which may hold anything."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _parent_of(pid: int) -> int:
    try:
        return int(_status(pid)[1])
    except (OSError, IndexError):
        return 0


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return False
        return mark in _read(f"/proc/{pid}/environ").split(b"\0")
    except OSError:
        return False


def _pids() -> Iterator[int]:
    us = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != us:
            yield int(name)


def _children() -> Callable[[int], Iterable[int]]:
    """Return what tells the children of a process."""
    us = os.getpid()
    if os.path.exists(f"/proc/{us}/task/{us}/children"):
        return children_by_task
    return children_by_parent().__getitem__


def children_by_task(pid: int) -> list[int]:
    """Return the children of a process, as those of its threads: needs CONFIG_PROC_CHILDREN."""
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    return found


def children_by_parent() -> Mapping[int, Sequence[int]]:
    """Return the children of all processes; takes as long as there are processes."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for pid in _pids():
        found[_parent_of(pid)].append(pid)
    return found


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()
