"""The files of a host, and what is left of them when nobody is there. Knows no process.

What stands for somebody who may be there is removed only by who holds its lock; ports and liveness
locks go with the worker's. Who waits for a lock whose file goes notices, and makes it anew.
"""

from __future__ import annotations

import os
from contextlib import suppress
from glob import escape, glob
from typing import Final

from protomux_wakeup.host.election import leader_locks
from protomux_wakeup.host.locks import FileLock
from protomux_wakeup.host.places import lock_path, socket_path

__all__ = [
    "COORDINATOR",
    "SPINUP_LOCK",
    "WORKER_LOCK",
    "sweep",
    "sweep_all",
    "sweep_directory",
    "sweep_ports",
]

COORDINATOR: Final = "coordinator"
"""The id of the coordinator, a jitpc server in the directory of the host."""

SPINUP_LOCK: Final = "spinup"
"""The id of the lock of the client that starts a coordinator."""

WORKER_LOCK: Final = "worker"
"""The id of the lock of the one worker."""


def sweep(directory: str) -> None:
    """Remove what is left of leaders and workers, if there are none."""
    _sweep(directory, WORKER_LOCK, SPINUP_LOCK)


def sweep_all(directory: str) -> None:
    """Remove all that is left, if there is neither a leader, a worker nor a coordinator."""
    if _sweep(directory, COORDINATOR, WORKER_LOCK, SPINUP_LOCK):
        sweep_directory(directory)


def sweep_directory(directory: str) -> None:
    """Remove the directory, if it is empty."""
    with suppress(OSError):
        os.rmdir(directory)


def sweep_ports(directory: str) -> None:
    """Remove the ports and liveness locks of workers. For who holds the worker's lock."""
    for pattern in ("port-*.sock", "alive-*.lock"):
        for path in glob(os.path.join(escape(directory), pattern)):
            with suppress(FileNotFoundError):
                os.unlink(path)


def _sweep(directory: str, *ids: str) -> bool:
    locks: list[FileLock] = []
    try:
        paths = [lock_path(directory, id) for id in ids]
        for path in (*paths, *leader_locks(directory).values()):
            lock = FileLock.try_acquire(path)
            if lock is None:
                return False
            locks.append(lock)
        sweep_ports(directory)
        if COORDINATOR in ids:
            with suppress(FileNotFoundError):
                os.unlink(socket_path(directory, COORDINATOR))
        while locks:
            locks.pop().release(remove=True)
    except FileNotFoundError:  # somebody else has swept
        return False
    finally:
        for lock in locks:
            lock.release()
    return True
