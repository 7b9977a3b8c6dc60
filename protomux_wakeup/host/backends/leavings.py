"""What is left of a backend whose monitor has gone without a word. Knows no manager.

Its command has ended with it (see `spawning`), and may have left processes of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from protomux_wakeup.host.backends.cgroups import Cgroup
from protomux_wakeup.host.backends.engine import Launch
from protomux_wakeup.host.backends.family import kill_marked
from protomux_wakeup.host.backends.orders import (
    ID_VARIABLE,
    Holder,
    key_lock,
    ready_path,
    result_path,
)
from protomux_wakeup.host.locks import FileLock
from protomux_wakeup.host.places import lock_path, socket_path

__all__ = ["clear", "drop_results", "is_watched"]

_log = logging.getLogger("protomux_wakeup.host")

_LAST_SECONDS: Final = 10.0
"""Seconds that processes have to be gone after SIGKILL."""


def is_watched(directory: str, backend_id: str) -> bool:
    """Tell whether a monitor of that backend is there."""
    lock = FileLock.try_acquire(lock_path(directory, backend_id))
    if lock is None:
        return True
    lock.release(remove=True)
    return False


def drop_results(directory: str, backend_ids: Iterable[str]) -> None:
    """Remove what monitors have left of the end of those backends."""
    with suppress(FileNotFoundError):
        there = set(os.listdir(directory))
        for path in (result_path(directory, each) for each in backend_ids):
            if os.path.basename(path) in there:
                os.unlink(path)


def clear(directory: str, launch: Launch) -> None:
    """End all that is left of a backend without a monitor, and remove its files. May take a while.

    Its log stays.
    """
    holder = Holder.of(FileLock.read(key_lock(directory, launch.key)), launch.backend_id)
    cgroup = None
    if holder is not None and holder.cgroup is not None:
        cgroup = Cgroup.of(holder.cgroup)
    if cgroup is not None:
        cgroup.kill()
    if not kill_marked(ID_VARIABLE, launch.backend_id, _LAST_SECONDS):
        _log.error("processes of backend %s do not end", launch.backend_id)
    if cgroup is not None:
        cgroup.remove()
    if holder is not None:
        lock = FileLock.try_acquire(key_lock(directory, launch.key))
        if lock is not None:
            lock.release(remove=True)
    result = result_path(directory, launch.backend_id)
    for path in (
        socket_path(directory, launch.backend_id),
        ready_path(directory, launch.backend_id),
        result,
        f"{result}.new",
    ):
        with suppress(FileNotFoundError):
            os.unlink(path)
