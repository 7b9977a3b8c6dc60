"""Processes of one machine that meet just in time: `connect` and `listen`, as jitpc has them.

A server is found by its id: its socket stands in a directory under that name, and beside it a lock.
Who holds the lock may listen, nobody else; so one process of those that try at once becomes the
server, and what a killed one left behind is replaced. A client that finds no server may spin one
up; a server without clients spins down.

Both ends look at the uid of the other (`ForeignPeer`), since anybody may own a name in a directory
like /tmp. Where that is not enough, see `places.runtime_directory`.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Final, Literal, TypeAlias

from protomux_wakeup.host.client import Client, Spin
from protomux_wakeup.host.locks import FileLock
from protomux_wakeup.host.places import lock_path, node_tmpdir, socket_path
from protomux_wakeup.host.rpc import Limits
from protomux_wakeup.host.server import OnClient, Server
from protomux_wakeup.host.unix import listening_socket

__all__ = ["Client", "Directory", "Limits", "OnClient", "Server", "Spin", "connect", "listen"]

Directory: TypeAlias = str | os.PathLike[str]

SPINDOWN_TIMEOUT: Final = 5.0
"""Seconds that a server waits for a client; that of the original."""


def connect(
    id: str,
    *,
    spinup: Spin | None = None,
    directory: Directory | None = None,
    allow_uids: Collection[int] = (),
    limits: Limits = Limits(),
) -> Client:
    """Return a client of the server `id`, which connects in the background.

    Where nobody listens, `spinup` is called once, and then it is tried nine times more, over some
    seven seconds. What is asked before waits for the connection. `directory` is `node_tmpdir()`
    unless said otherwise; `allow_uids` are those, beside ours, that the server may run as. Raises
    ValueError for an id that is no name of a file, or too long for a socket.
    """
    path = socket_path(node_tmpdir() if directory is None else directory, id)
    client = Client(0, limits)
    client.connect(path, spinup, allow_uids)
    return client


async def listen(
    id: str,
    *,
    on_client: OnClient | None = None,
    spindown: Spin | Literal[False] | None = None,
    spindown_timeout: float = SPINDOWN_TIMEOUT,
    directory: Directory | None = None,
    allow_uids: Collection[int] = (),
    limits: Limits = Limits(),
    keep_lock: bool = True,
) -> Server | None:
    """Return the server of `id`, or None where another process, or this one, has it already.

    After `spindown_timeout` seconds without a client, from now on or since the last has left, it
    calls `spindown` and closes; False turns that off. A `spindown` that raises is logged, and the
    server stays until its next last client has left, as in the original; `wait_closed` raises it.

    `directory` is `node_tmpdir()` unless said otherwise. `allow_uids` are those, beside ours, that
    clients may run as; the socket is for everybody then and for us alone otherwise. The file of the
    lock stays when the server closes, as that of an original: a contender in JavaScript that had
    opened it before would take the lock of the removed file, and another that of the next one.
    `keep_lock` of False removes it, which is safe where only this library contends.

    Raises ValueError as `connect` does, ForeignPeer where the lock is another user's, OSError where
    the socket cannot be made.
    """
    place = node_tmpdir() if directory is None else directory
    path = socket_path(place, id)
    lock = FileLock.try_acquire(lock_path(place, id))
    if lock is None:
        return None
    try:
        listener = listening_socket(path, is_for_all=bool(allow_uids))
    except BaseException:
        lock.release(remove=not keep_lock)
        raise
    return Server(
        id,
        listener,
        lock,
        on_client=on_client,
        spindown=spindown,
        spindown_timeout=spindown_timeout,
        allow_uids=allow_uids,
        limits=limits,
        keep_lock=keep_lock,
    )
