"""How it shows that a backend is ready. Knows neither its states nor what it is for."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

__all__ = ["ReadySocket", "free_port", "listening"]

LOOPBACK: Final = "127.0.0.1"

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.1
"""Seconds between two looks at a port."""

_LISTEN: Final = b"0A"
"""A socket that listens, in /proc/net/tcp (proc_pid_net(5))."""

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""

_LONGEST_MESSAGE: Final = 4096


def free_port() -> int:
    """Return a TCP port that nobody has on the loopback, just now."""
    with sockets.socket() as socket:
        socket.bind((LOOPBACK, 0))
        port: int = socket.getsockname()[1]
        return port


async def listening(port: int, pids: Callable[[], Iterable[int]]) -> None:
    """Wait until one of the processes `pids()` listens at `port`, and can be reached there.

    Another one may have taken the port meanwhile: whoever it is, it is not meant.
    """
    pause = _FIRST_PAUSE
    while not (await _is_open(port) and _is_of(port, pids())):
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE)


async def _is_open(port: int) -> bool:
    with sockets.socket() as socket, suppress(OSError):
        socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(socket, (LOOPBACK, port))
        return True
    return False


def _is_of(port: int, pids: Iterable[int]) -> bool:
    """Tell whether one of these processes has the socket that listens at `port`."""
    names = {f"socket:[{inode}]" for inode in _listeners(port)}
    for pid in pids:
        with suppress(OSError):
            for file in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{file}") in names:
                        return True
    return False


def _listeners(port: int) -> Iterable[int]:
    """Return the inodes of our user's sockets that listen at `port`."""
    end = b":%04X" % port
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(path, "rb") as file:
            for line in file:
                fields = line.split()
                if (
                    fields[3] == _LISTEN
                    and fields[1].endswith(end)
                    and int(fields[7]) == os.geteuid()
                ):
                    yield int(fields[9])


class ReadySocket:
    """Where a backend sends READY=1, as sd_notify(3) does.

    Attributes:
        path: what $NOTIFY_SOCKET is to be.
    """

    def __init__(self, path: str, ready: Callable[[], object]) -> None:
        """Call `ready()` when it does, and when it says so again."""
        self.path: Final = path
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_PASSCRED, 1)
            self._socket.bind(path)
            os.chmod(path, 0o600)
        except BaseException:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._receive)

    def close(self) -> None:
        """Listen no more, and remove the file."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            with suppress(FileNotFoundError):
                os.unlink(self.path)

    def _receive(self) -> None:
        # With room for nothing but the credentials, the kernel drops descriptors that are sent.
        room = sockets.CMSG_SPACE(_CREDENTIALS.size)
        with suppress(OSError):
            message, others, _, _ = self._socket.recvmsg(_LONGEST_MESSAGE, room)
            uids = [
                _CREDENTIALS.unpack(data)[1]
                for level, kind, data in others
                if (level, kind) == (sockets.SOL_SOCKET, sockets.SCM_CREDENTIALS)
            ]
            if uids == [os.geteuid()] and b"READY=1" in message.split(b"\n"):
                self._ready()
