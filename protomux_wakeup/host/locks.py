"""Locks on files, which the kernel releases however their holder ends. Knows no protocol.

A lock belongs to an open file description (fcntl(2), F_OFD_SETLK), as in the originals: it
excludes other processes and other locks of this process alike, and ends with the last descriptor
of that description. Where the system has none (macOS), flock(2) behaves the same.

A file that is locked may be removed by its holder. Who gets the lock of a file that is not at its
path any more holds nothing, and tries again with the one that is; `FileLock` does so.

Waiting takes a thread, since the kernel tells of a lock's release to nothing but a call that
waits for it. Such a call cannot be taken back: a wait that is given up leaves its thread where it
is, and the next wait for the same lock takes it over, so there are never more threads than there
were waits at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import threading
import time
from contextlib import suppress
from typing import Final, Self, TypeAlias
from weakref import WeakSet

from protomux_wakeup.host.errors import ForeignPeer

__all__ = ["FileLock", "released"]

_Inode: TypeAlias = tuple[int, int]
_OLD: Final = 3600.0
"""Seconds; what is six hours old may be cleared from XDG_RUNTIME_DIR, some days from /tmp."""

_HAS_OFD_LOCKS: Final = hasattr(fcntl, "F_OFD_SETLK")


class FileLock:
    """An exclusive lock on a file, held until `release()` or the end of the process.

    A process that is forked off does not hold it.

    Attributes:
        path: of the file.
    """

    __slots__ = ("__weakref__", "_file", "path")

    def __init__(self, path: str, file: int) -> None:
        """Take over the descriptor `file`, which has the lock. For `try_acquire`, `acquire`."""
        self.path: Final = path
        self._file = file
        _held.add(self)

    def __repr__(self) -> str:
        return f"<FileLock {self.path} {'released' if self._file < 0 else 'held'}>"

    @classmethod
    def try_acquire(cls, path: str) -> Self | None:
        """Return the lock of the file at `path`, which is made if there is none; None if taken.

        Raises ForeignPeer where the file is another user's, OSError where it cannot be opened.
        """
        while True:
            file = _open(path, os.O_CREAT)
            try:
                if not _try(file):
                    os.close(file)
                    return None
                if _is_at(path, file):
                    return cls(path, file)
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    @classmethod
    async def acquire(cls, path: str) -> Self:
        """As `try_acquire`, and wait while it is taken; who waits longest gets it first."""
        while True:
            lock = cls.try_acquire(path)
            if lock is not None:
                return lock
            file = await _wait(_open(path, os.O_CREAT), fcntl.F_WRLCK)
            if _is_at(path, file):
                return cls(path, file)
            os.close(file)

    @staticmethod
    def read(path: str) -> str:
        """Return what the holder of the lock at `path` wrote into it; "" where there is no file."""
        try:
            file = _open(path, 0)
        except FileNotFoundError:
            return ""
        try:
            return os.read(file, 4096).decode(errors="replace")
        finally:
            os.close(file)

    def write(self, text: str) -> None:
        """Replace what stands in the file by `text`, at most 4,096 bytes."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)

    def share(self) -> int:
        """Return a descriptor for a process that we start: the lock is held until that ends too."""
        return os.dup(self._file)

    def stands(self) -> bool:
        """Tell whether the file is still at its path, or the next one there can be locked as well.

        To be asked now and then: it also keeps the file from those who clear away what is old.
        """
        if self._file < 0 or not _is_at(self.path, self._file):
            return False
        if os.fstat(self._file).st_mtime < time.time() - _OLD:
            os.utime(self._file)
        return True

    def release(self, *, remove: bool = False) -> None:
        """Let go of the lock, and `remove` the file before; does nothing the second time.

        It is free then, whoever shares it.

        A file may be removed only where all who lock it know that it may be.
        """
        file, self._file = self._file, -1
        if file < 0:
            return
        try:
            if remove and _is_at(self.path, file):
                os.unlink(self.path)
        finally:
            _unlock(file)
            os.close(file)


async def released(path: str) -> None:
    """Wait until nobody holds the lock of the file at `path`; at once where there is no file."""
    try:
        file = _open(path, 0)
    except FileNotFoundError:
        return
    os.close(await _wait(file, fcntl.F_RDLCK))


class _Waiter(threading.Thread):
    """Waits for one lock, and hands it to the future that wants it by then."""

    def __init__(self, inode: _Inode, file: int, kind: int) -> None:
        super().__init__(name=f"waiting for the lock of inode {inode[1]}", daemon=True)
        self.key: Final = (*inode, kind)
        self.file: Final = file
        self.wanted: asyncio.Future[int] | None = None

    def run(self) -> None:
        error: OSError | None = None
        try:
            _lock(self.file, self.key[2])
        except OSError as failure:
            error = failure
        with _guard:
            _waiters.discard(self)
            wanted, self.wanted = self.wanted, None
            if wanted is not None:
                with suppress(RuntimeError):  # its loop has closed
                    wanted.get_loop().call_soon_threadsafe(self._hand_over, wanted, error)
                    return
        os.close(self.file)

    def _hand_over(self, wanted: asyncio.Future[int], error: OSError | None) -> None:
        if error is None and not wanted.done():
            wanted.set_result(self.file)
            return
        os.close(self.file)
        if error is not None and not wanted.done():
            wanted.set_exception(error)


_guard: Final = threading.Lock()
_waiters: Final[set[_Waiter]] = set()
_held: Final[WeakSet[FileLock]] = WeakSet()


async def _wait(file: int, kind: int) -> int:
    """Return a descriptor with the lock of the file `file`, which may be another than that."""
    found = os.fstat(file)
    inode = found.st_dev, found.st_ino
    wanted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with _guard:
        for waiter in _waiters:
            if waiter.wanted is None and waiter.key == (*inode, kind):
                waiter.wanted = wanted
                os.close(file)
                break
        else:
            waiter = _Waiter(inode, file, kind)
            waiter.wanted = wanted
            _waiters.add(waiter)
            waiter.start()
    try:
        return await wanted
    except asyncio.CancelledError:
        with _guard:
            if waiter.wanted is wanted:
                waiter.wanted = None
        if wanted.done() and not wanted.cancelled() and wanted.exception() is None:
            os.close(wanted.result())
        raise


def _open(path: str, flags: int) -> int:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except PermissionError as error:
        raise ForeignPeer(f"cannot lock {path}: it belongs to another user") from error
    owner = os.fstat(file).st_uid
    if owner != os.geteuid():
        os.close(file)
        raise ForeignPeer(f"expected {path} to belong to uid {os.geteuid()}, got uid {owner}")
    return file


def _is_at(path: str, file: int) -> bool:
    """Tell whether the file that `file` is open for stands at `path`."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(file)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


if _HAS_OFD_LOCKS:

    def _region(kind: int) -> bytes:
        # struct flock: type, whence, start, length (0: to the end of the file), pid (must be 0).
        return struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0)

    def _try(file: int) -> bool:
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _region(fcntl.F_WRLCK))
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: another holds it
            return False
        return True

    def _lock(file: int, kind: int) -> None:
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, _region(kind))

    def _unlock(file: int) -> None:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _region(fcntl.F_UNLCK))

else:  # pragma: no cover - macOS

    def _try(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _lock(file: int, kind: int) -> None:
        fcntl.flock(file, fcntl.LOCK_SH if kind == fcntl.F_RDLCK else fcntl.LOCK_EX)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


def _forget_after_fork() -> None:
    """Close what was copied: with a descriptor here, a lock would outlive its process."""
    global _guard  # noqa: PLW0603 - another thread may have held it
    _guard = threading.Lock()  # type: ignore[misc]
    for lock in list(_held):
        file, lock._file = lock._file, -1
        if file >= 0:
            os.close(file)
    for waiter in _waiters:
        os.close(waiter.file)
    _waiters.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
