"""Unix sockets, and who is at their other end. Knows no ids, no locks, no protocol."""

from __future__ import annotations

import os
import socket as sockets
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from protomux_wakeup.host.errors import ForeignPeer
from protomux_wakeup.host.places import peer_uid

__all__ = ["check_peer", "connected_socket", "listening_socket"]

_BACKLOG: Final = 511
"""Connections that wait to be accepted, as Node asks for."""


def connected_socket(path: str, allow_uids: Collection[int]) -> sockets.socket:
    """Return a socket that is connected with who listens at `path`.

    Raises OSError where nobody does, ForeignPeer where a uid does that is neither ours nor allowed.
    """
    socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        # Of a Unix socket it never takes long: a full backlog is an error (EAGAIN).
        socket.setblocking(False)
        socket.connect(path)
        check_peer(socket, allow_uids)
    except ForeignPeer:
        socket.close()
        raise
    except OSError as error:
        socket.close()
        raise OSError(error.errno, error.strerror, path) from None
    return socket


def listening_socket(path: str, *, is_for_all: bool) -> sockets.socket:
    """Return a socket that listens at `path`, in place of what is there; OSError where it cannot.

    Only our user can connect to it, or everybody.
    """
    with suppress(FileNotFoundError):
        os.unlink(path)
    socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        socket.setblocking(False)
        socket.bind(path)
        # Nobody can connect before it listens, so what the umask allows for a moment is no matter.
        os.chmod(path, 0o666 if is_for_all else 0o600)
        socket.listen(_BACKLOG)
    except BaseException:
        socket.close()
        raise
    return socket


def check_peer(socket: sockets.socket, allow_uids: Collection[int]) -> None:
    """Raise ForeignPeer unless who is at the other end of `socket` runs as us, or as allowed."""
    uid = peer_uid(socket)
    if uid != os.geteuid() and uid not in allow_uids:
        raise ForeignPeer(f"expected a peer of uid {os.geteuid()}, got uid {uid}")
