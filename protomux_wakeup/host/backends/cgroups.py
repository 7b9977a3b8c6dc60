"""A control group of version 2 for one backend, where we may make one. Knows no backend.

It holds all that a process starts, whatever that does, and ends all of it at once (cgroups(7)).
What else it can do depends on the controllers that were handed down to us; none is asked for here,
since that is for who manages the machine.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from protomux_wakeup.host.backends.types import ResourceLimits

__all__ = ["Cgroup", "best_of", "own_group", "place"]

_PREFIX: Final = "protomux-"
_OLD: Final = 600.0
"""Seconds; a group is entered as soon as a process has started."""


def place() -> Path | None:
    """Return the group in which ours are made; None where there is none that we may write to.

    That is the one that we are in, or the one above if that is ours as well and can do more: with
    processes of its own, a group hands no controllers down.
    """
    try:
        groups = Path("/proc/self/cgroup").read_text()
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return None
    found = own_group(groups, mounts)
    return None if found is None else best_of(found, found.parent)


def own_group(groups: str, mounts: str) -> Path | None:
    """Return where a process's group is, by its cgroups(7) and its proc_pid_mountinfo(5)."""
    group = next((line[3:] for line in groups.splitlines() if line.startswith("0::/")), None)
    if group is None or ".." in group.split("/"):  # of another namespace
        return None
    for line in mounts.splitlines():
        ours, _, other = line.partition(" - ")
        if other.startswith("cgroup2 ") and ours.split()[3] == "/":  # and no part of the tree
            found = Path(ours.split()[4], group.lstrip("/"))
            if found.is_dir():
                return found
    return None


def best_of(group: Path, above: Path) -> Path | None:
    """Return which of a group and the one above it is the better place, see `place`."""
    is_ours = os.access(above, os.W_OK) and above.stat().st_uid == os.geteuid() != 0
    if is_ours and _handed_down(above) > _handed_down(group):
        return above
    return group if os.access(group, os.W_OK) else None


def _handed_down(group: Path) -> frozenset[str]:
    try:
        return frozenset((group / "cgroup.subtree_control").read_text().split())
    except OSError:
        return frozenset()


def _sweep(parent: Path) -> None:
    """Remove groups whose makers were killed: empty ones that are not about to be entered."""
    for path in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _OLD:
                path.rmdir()  # which fails where something is in it


class Cgroup:
    """A group of one backend.

    Attributes:
        path: of it.
        controllers: what it can bound, such as "cpu", "memory" and "pids".
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.controllers: Final = _handed_down(path.parent)

    @classmethod
    def make(cls, parent: Path | None) -> Cgroup | None:
        """Make a group; None where that cannot be. Empty ones that were left there go."""
        if parent is None:
            return None
        _sweep(parent)
        path = parent / f"{_PREFIX}{secrets.token_hex(8)}"
        try:
            path.mkdir()
        except OSError:
            return None
        return cls(path)

    @classmethod
    def of(cls, path: str) -> Cgroup | None:
        """Return the group at `path`, if it was made here and is there."""
        found = Path(path)
        if not found.name.startswith(_PREFIX) or not (found / "cgroup.kill").exists():
            return None
        return cls(found)

    def bound(self, limits: ResourceLimits, processes: int) -> None:
        """Set the bounds that it can keep; raises OSError where one is not taken."""
        if limits.cpu_period_percent is not None and "cpu" in self.controllers:
            quota = limits.cpu_period * limits.cpu_period_percent // 100
            self._write("cpu.max", f"{quota} {limits.cpu_period}")
        if limits.memory_limit_bytes is not None and "memory" in self.controllers:
            self._write("memory.max", f"{limits.memory_limit_bytes}")
        if "pids" in self.controllers:
            self._write("pids.max", f"{processes}")

    def enter(self) -> None:
        """Put this process into it, for a child that is to be another program."""
        self._write("cgroup.procs", "0")

    def kill(self) -> None:
        """End all that is in it; does nothing where it cannot (before Linux 5.14)."""
        with suppress(OSError):
            self._write("cgroup.kill", "1")

    def remove(self) -> bool:
        """Drop it; False where something is in it, and it stays."""
        try:
            self.path.rmdir()
        except OSError:
            return not self.path.exists()
        return True

    def _write(self, name: str, text: str) -> None:
        file = os.open(self.path / name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)
