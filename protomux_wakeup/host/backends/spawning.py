"""The process of a backend's program: forked in advance, told later what to become. Knows no state.

A fork of an interpreter and the way into a control group take ten times as long as all else that a
start needs. So both are done while there is nothing to start yet.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket as sockets
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from protomux_wakeup.host.backends.bounds import limits_of, rlimits
from protomux_wakeup.host.backends.cgroups import Cgroup
from protomux_wakeup.host.backends.engine import Command, EngineError, Launch
from protomux_wakeup.host.backends.family import die_with_parent
from protomux_wakeup.host.backends.orders import ID_VARIABLE
from protomux_wakeup.host.backends.types import SpawnConfig

__all__ = ["ACK_FD", "Child", "Program", "environment"]

ACK_FD: Final = 3
"""The descriptor that a backend may acknowledge by; $PROTOMUX_ACK_FD names it."""

_STDIN, _STDOUT, _STDERR = range(3)
_SIZE: Final = struct.Struct("Q")
_LONGEST_WHY: Final = 4096


class Program(msgspec.Struct, frozen=True):
    """What to become: see execve(2), setrlimit(2)."""

    argv: tuple[str, ...]
    directory: str
    env: dict[str, str]
    rlimits: list[tuple[int, tuple[int, int]]]

    @classmethod
    def of(cls, launch: Launch, command: Command, port: int, ready_path: str | None) -> Program:
        """Return the program of a backend that is to listen at `port`."""
        return cls(
            command.argv,
            command.directory,
            environment(launch, command, port, ready_path),
            rlimits(limits_of(launch), command.open_files),
        )


def environment(
    launch: Launch, command: Command, port: int, ready_path: str | None
) -> dict[str, str]:
    """Return the environment of a backend, with the names that Plane has for what it tells."""
    env = dict(command.env)
    spawn = launch.request.spawn
    if isinstance(spawn, SpawnConfig) and spawn.executable is not None:
        env |= spawn.executable.env or {}
    if ready_path is not None:
        env["NOTIFY_SOCKET"] = ready_path
    return env | {
        "PORT": str(port),
        ID_VARIABLE: launch.backend_id,
        "SESSION_BACKEND_KEY": launch.key,
        "SESSION_BACKEND_FENCING_TOKEN": str(launch.fencing_token),
        "SESSION_BACKEND_STATIC_TOKEN": launch.token,
        "PROTOMUX_ACK_FD": str(ACK_FD),
    }


class Child:
    """A process that waits to become a program, in a session and a control group of its own.

    It ends with us, whatever it is by then. To be made before there are threads or an event loop.

    Attributes:
        pid: of it. It is the id of its process group too.
        output: where its stdout and stderr are read, not blocking.
        acks: where what it writes to `ACK_FD` is read, not blocking.
        cgroup: that it is in; None without one.
    """

    def __init__(self, stdin: int, control: int, cgroup: Cgroup | None) -> None:
        """Fork it. It reads from `stdin`, and does not keep `control` open, which is `ACK_FD`."""
        self.cgroup = cgroup
        self._is_discarded = False
        self.output, output = os.pipe2(os.O_CLOEXEC)
        self.acks, acks = os.pipe2(os.O_CLOEXEC)
        self._channel, channel = sockets.socketpair()
        us = os.getpid()
        with suppress(msgspec.ValidationError):  # what a program is made of is known then
            msgspec.json.decode(b"null", type=Program)
        self.pid: Final = os.fork()
        if self.pid == 0:
            self._channel.close()
            os.close(control)
            _wait_and_become(channel, us, cgroup, (stdin, output, acks))
        channel.close()
        os.close(output)
        os.close(acks)
        os.set_blocking(self.output, False)
        os.set_blocking(self.acks, False)
        self._channel.setblocking(False)

    async def become(self, program: Program, lock: int) -> None:
        """Let it be that program, which keeps the descriptor `lock` open.

        Raises EngineError where it cannot be; it is to be discarded then.
        """
        loop = asyncio.get_running_loop()
        text = msgspec.json.encode(program)
        with self._channel, suppress(OSError):  # it tells why it has ended
            sockets.send_fds(self._channel, [_SIZE.pack(len(text))], [lock])
            await loop.sock_sendall(self._channel, text)
            if await loop.sock_recv(self._channel, 1) != b"\1" and self.cgroup is not None:
                self.cgroup.remove()
                self.cgroup = None
            why = await loop.sock_recv(self._channel, _LONGEST_WHY)
            if not why:
                return
            raise EngineError(f"cannot run {program.argv[0]!r}: {why.decode(errors='replace')}")
        raise EngineError(f"cannot run {program.argv[0]!r}: the process has ended before")

    def discard(self) -> None:
        """End it, which has become nothing; does nothing the second time."""
        self._channel.close()
        if not self._is_discarded:
            self._is_discarded = True
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self.cgroup is not None:
            self.cgroup.remove()


def _wait_and_become(
    channel: sockets.socket, parent: int, cgroup: Cgroup | None, files: tuple[int, int, int]
) -> NoReturn:
    """Be the process that waits."""
    try:
        die_with_parent(parent)
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
            signal.signal(number, signal.SIG_DFL)
        is_in_group = cgroup is not None
        try:
            if cgroup is not None:
                cgroup.enter()
        except OSError:
            is_in_group = False
        _keep(files)
        channel.sendall(bytes([is_in_group]))
        header, locks, _, _ = sockets.recv_fds(channel, _SIZE.size, 1, sockets.MSG_WAITALL)
        if header:
            with channel.makefile("rb") as file:
                text = file.read(_SIZE.unpack(header)[0])
            _become(msgspec.json.decode(text, type=Program), locks)
    except BaseException as error:
        with suppress(BaseException):
            channel.sendall(f"{error}".encode(errors="replace")[:_LONGEST_WHY] or b"?")
    finally:
        os._exit(127)


def _keep(files: tuple[int, int, int]) -> None:
    """Have these under the numbers that a program knows, and hand nothing else on to it."""
    stdin, output, acks = files
    # They are others than these numbers: those were taken when they were made.
    for ours, theirs in ((stdin, _STDIN), (output, _STDOUT), (output, _STDERR), (acks, ACK_FD)):
        os.dup2(ours, theirs)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > ACK_FD:
            with suppress(OSError):  # that of the directory itself
                os.set_inheritable(int(name), False)


def _become(program: Program, locks: Sequence[int]) -> NoReturn:
    for each in locks:
        os.set_inheritable(each, True)
    os.chdir(program.directory)
    for which, values in program.rlimits:
        resource.setrlimit(which, values)
    os.execvpe(program.argv[0], program.argv, program.env)
