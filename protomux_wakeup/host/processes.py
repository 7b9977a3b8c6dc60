"""Starting a process of the host, and ending one that hangs, and no other. Knows no role.

Pids are used again. So a process is named by its pid, the moment of its start and the namespace
that the pid is of (proc(5), pid_namespaces(7)), and is ended by a descriptor that stays with it
(pidfd_open(2)). Where the system has neither, there is the pid alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["CONTROL", "Handle", "kill", "name_of", "reap", "spawn", "start", "stop"]

_COMMAND: Final = (sys.executable, "-P", "-m", "protomux_wakeup.host")
"""With -P the directory that it happens to be started in is no place for modules, unless it is one
of ours."""

CONTROL: Final = 3
"""The descriptor by which a process that is spawned hears of who has spawned it."""

_spawned: Final[set[int]] = set()


async def start(
    role: str,
    *arguments: str,
    output: int,
    errors: int | None = None,
    pass_fds: Collection[int] = (),
) -> asyncio.subprocess.Process:
    """Start a process of the host in that `role`, see `__main__`; it finds the modules that we do.

    It leads a session of its own, so that Ctrl-C is for the application alone. `output` and
    `errors` are descriptors for its stdout and stderr, the latter ours unless given.
    """
    return await asyncio.create_subprocess_exec(
        *_COMMAND,
        role,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        pass_fds=pass_fds,
        start_new_session=True,
        env=_environment(),
    )


def spawn(role: str, *arguments: str, control: int) -> int:
    """Start a process of the host in that `role`, which goes on when we end; return its pid.

    It has our descriptor `control` as `CONTROL`, our stderr, and nothing to read or write else.
    Who calls this sees to `reap`; who is left is reaped when the next one is spawned.
    """
    for pid in list(_spawned):
        reap(pid)
    pid = os.posix_spawn(
        _COMMAND[0],
        (*_COMMAND, role, *arguments),
        _environment(),
        file_actions=(
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, control, CONTROL),
        ),
    )
    _spawned.add(pid)
    return pid


def reap(pid: int) -> bool:
    """Take note of the end of a process that was spawned; False while it runs."""
    with suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG) == (0, 0):
            return False
    _spawned.discard(pid)
    return True


def stop(pid: int) -> None:
    """End a process that was spawned; does nothing where it is reaped already."""
    if pid in _spawned:
        os.kill(pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    path = os.pathsep.join(each or os.getcwd() for each in sys.path)
    return {**os.environ, "PYTHONPATH": path}


def name_of(pid: int) -> str:
    """Return a name of the process `pid` that no other one has; "" where there is no process."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return "" if Path("/proc/self/stat").exists() else str(pid)
    # After the command's name, which may hold anything, in parentheses: state, and 19 later start.
    return f"{pid} {status.rpartition(')')[2].split()[19]} {namespace}"


def kill(name: str) -> bool:
    """End the process of that `name`; tell whether there was one."""
    pid, _, _ = name.partition(" ")
    if not pid.isdecimal() or int(pid) <= 1:
        return False
    with Handle(int(pid)) as process:
        # Now that it cannot become another.
        return name_of(int(pid)) == name and process.kill()


class Handle:
    """A process that stays the same one, though its pid may be used again. A context manager."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._file: int | None = None
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                self._file = os.pidfd_open(pid)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> bool:
        """End it; tell whether it was there."""
        return self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal; tell whether it was there."""
        with suppress(OSError):
            if self._file is not None:
                signal.pidfd_send_signal(self._file, number)
                return True
            if not hasattr(os, "pidfd_open"):  # pragma: no cover - macOS
                os.kill(self._pid, number)
                return True
        return False

    def close(self) -> None:
        """Let go of it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
