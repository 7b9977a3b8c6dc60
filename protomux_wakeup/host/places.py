"""Where processes of one user meet, and whose a file or a socket is. Knows no lock, no protocol.

A Unix socket is found by its path. In a directory that everybody may write to, the mode of the
file and the uid of the peer keep users apart; in one that is closed to others, they never meet.
"""

from __future__ import annotations

import os
import re
import socket as sockets
import stat
import struct
from pathlib import Path
from typing import Final

from protomux_wakeup.host.errors import ForeignPeer

__all__ = [
    "host_directory",
    "host_path",
    "lock_path",
    "node_tmpdir",
    "peer_pid",
    "peer_uid",
    "private_directory",
    "runtime_directory",
    "socket_path",
]

MAX_SOCKET_PATH: Final = 103
"""Bytes: `sockaddr_un.sun_path` has 104 on macOS and the BSDs, 108 on Linux, with a zero byte."""

_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_LONGEST_ID: Final = len("coordinator")
"""Characters of the ids of a host's sockets, at most."""

_HAS_PEERCRED: Final = hasattr(sockets, "SO_PEERCRED")


def node_tmpdir() -> Path:
    """Return the directory that Node's os.tmpdir() names; it is made where there is none."""
    named = next(filter(None, map(os.environ.get, ("TMPDIR", "TMP", "TEMP"))), "/tmp")
    path = Path(named)
    path.mkdir(parents=True, exist_ok=True)
    return path


def runtime_directory() -> Path:
    """Return XDG_RUNTIME_DIR, which is ours and closed to others, and gone after the last logout.

    Raises FileNotFoundError where the variable is not set or names nothing, ForeignPeer where it
    is another's or open to others (XDG Base Directory Specification).
    """
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    if not named:
        raise FileNotFoundError("expected XDG_RUNTIME_DIR to name a directory, it is not set")
    path = Path(named)
    _check_private(path)
    return path


def private_directory(path: str | os.PathLike[str]) -> Path:
    """Make the directory at `path`, and those missing above it, for us alone; return it.

    Raises ForeignPeer where it is there and another's, or open to others.
    """
    directory = Path(path)
    for each in (*reversed(directory.parents), directory):  # Path.mkdir gives parents another mode
        each.mkdir(mode=0o700, exist_ok=True)
    _check_private(directory)
    return directory


def host_path(name: str, directory: str | os.PathLike[str] | None = None) -> Path:
    """Return where the directory is in which the processes of the host `name` meet.

    Under `directory` if one is given, else XDG_RUNTIME_DIR, else the temporary directory. Raises
    ValueError for a name that is none, and where the path is too long for sockets in it; what
    `runtime_directory` raises.
    """
    if _HOST.fullmatch(name) is None:
        raise ValueError(
            "expected a name of 1 to 32 letters, digits and . _ -, the first of them a letter or "
            f"digit, got {name!r}"
        )
    if directory is not None:
        above = Path(directory)
    elif os.environ.get("XDG_RUNTIME_DIR"):
        above = runtime_directory() / "protomux-wakeup"
    else:
        above = node_tmpdir() / f"protomux-wakeup-{os.geteuid()}"
    path = (above / name).absolute()  # processes tell it to others, who may be elsewhere
    socket_path(path, "x" * _LONGEST_ID)
    return path


def host_directory(name: str, directory: str | os.PathLike[str] | None = None) -> Path:
    """Make the directory that `host_path` names, for us alone; return it. Raises ForeignPeer too.

    So is the directory above it.
    """
    path = host_path(name, directory)
    private_directory(path.parent)
    return private_directory(path)


def _check_private(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ForeignPeer(f"expected a directory of our own at {path}, it is none")
    if found.st_uid != os.geteuid():
        raise ForeignPeer(
            f"expected {path} to belong to uid {os.geteuid()}, it belongs to uid {found.st_uid}"
        )
    if found.st_mode & 0o077:
        raise ForeignPeer(
            f"expected {path} to be closed to others (mode 0700), "
            f"its mode is {stat.S_IMODE(found.st_mode):04o}"
        )


def socket_path(directory: str | os.PathLike[str], id: str) -> str:
    """Return the path of the socket `id`; ValueError for an id that cannot name one."""
    path = _path(directory, id, ".sock")
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise ValueError(
            f"expected a socket path of at most {MAX_SOCKET_PATH} bytes, got {size}: {path!r}"
        )
    return path


def lock_path(directory: str | os.PathLike[str], id: str) -> str:
    """Return the path of the lock beside the socket `id`; ValueError as for `socket_path`."""
    return _path(directory, id, ".lock")


def _path(directory: str | os.PathLike[str], id: str, suffix: str) -> str:
    if not id or "/" in id or "\0" in id:
        raise ValueError(f"expected an id that can name a file, got {id!r}")
    return os.path.join(os.fspath(directory), id + suffix)


def peer_uid(socket: sockets.socket) -> int:
    """Return the uid of the process at the other end of a connected Unix `socket`."""
    if _HAS_PEERCRED:
        return _peer_credentials(socket)[1]
    # struct xucred of the BSDs: version, uid, and groups that nobody asks for.
    local_peercred = getattr(sockets, "LOCAL_PEERCRED", 1)
    found = socket.getsockopt(0, local_peercred, struct.calcsize("2Ih16I"))  # pragma: no cover
    uid: int = struct.unpack_from("2I", found)[1]  # pragma: no cover
    return uid  # pragma: no cover


def peer_pid(socket: sockets.socket) -> int | None:
    """Return the pid of the process at the other end, None where the system does not tell.

    Or where it is none of ours: a process of another pid namespace has the pid 0.

    At the side that has connected it is the process that listens; it may have gone since.
    """
    if _HAS_PEERCRED:
        return _peer_credentials(socket)[0] or None
    return None  # pragma: no cover


def _peer_credentials(socket: sockets.socket) -> tuple[int, int, int]:
    layout = "3i"  # struct ucred: pid, uid, gid
    found = socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize(layout))
    pid, uid, gid = struct.unpack(layout, found)
    return pid, uid, gid
