"""Who leads: a lock, and a way past a holder that has stopped. Knows files, no process.

The leader holds the lock `leader-N.lock` of the highest number N in the directory; the others wait
for it. A leader that dies releases it. One that hangs does not, and it is an application's own
process, which is not for others to kill: they pass it by. Who finds that N's holder does not answer
waits for N + 1 instead, and whoever gets that leads; the holder of N notices when it runs again,
and steps down. So there may be two that take themselves for the leader, for a while; never two
workers, since a worker has a lock of its own, and takes it from a worker of an earlier term only.

A term is a number that grows with every leader: the milliseconds since 1970, or one more than the
last.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextlib import suppress
from typing import Final

from protomux_wakeup.host.locks import FileLock
from protomux_wakeup.host.places import lock_path

__all__ = ["Election", "Leadership", "is_term", "leader_locks"]

_NAME: Final = re.compile(r"leader-(\d{1,9})\.lock")


def leader_locks(directory: str) -> dict[int, str]:
    """Return the paths of the leader locks in `directory` by their number."""
    found = map(_NAME.fullmatch, os.listdir(directory))
    return {int(match[1]): os.path.join(directory, match[0]) for match in found if match}


def is_term(directory: str, number: int, term: int) -> bool:
    """Tell whether `term` is that of who got the leader lock `number` last."""
    return FileLock.read(_path(directory, number)) == str(term)


class Leadership:
    """The right to run the worker, until `resign()`.

    Attributes:
        number: of the lock.
        term: higher than that of any leader before.
    """

    def __init__(self, number: int, term: int, lock: FileLock) -> None:
        self.number: Final = number
        self.term: Final = term
        self._lock = lock

    def stands(self) -> bool:
        """Tell whether the lock is still the one that others wait for; see `FileLock.stands`."""
        return self._lock.stands()

    def resign(self) -> None:
        """Let the next one lead."""
        self._lock.release()


class Election:
    """One client's place in the queue."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._least = 0
        self._moved = asyncio.Event()

    @property
    def number(self) -> int:
        """The number of the lock that is the leader's now."""
        return max(self._least, max(leader_locks(self._directory), default=0))

    def pass_by(self, number: int) -> None:
        """The holder of lock `number` does not answer: do not wait for it any longer."""
        if self.number <= number:
            self._least = number + 1
            # Now, so that others and the holder itself see it, whoever gets it.
            os.close(os.open(_path(self._directory, self._least), os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.look()

    def look(self) -> None:
        """Somebody leads by another lock, perhaps: find out which one to wait for."""
        self._moved.set()

    async def win(self) -> Leadership:
        """Wait until it is our turn."""
        while True:
            self._moved.clear()
            number = self.number
            lock = await self._lock_unless_moved(number)
            if lock is None:
                continue
            try:
                if self.number > number:
                    lock.release(remove=True)
                    continue
                return self._begin(number, lock)
            except BaseException:
                lock.release()
                raise

    def _begin(self, number: int, lock: FileLock) -> Leadership:
        locks = leader_locks(self._directory)
        term = max(max(map(self._term, locks.values())) + 1, time.time_ns() // 1_000_000)
        lock.write(str(term))
        for older, path in locks.items():
            if older < number:
                with suppress(FileNotFoundError):
                    os.unlink(path)
        return Leadership(number, term, lock)

    async def _lock_unless_moved(self, number: int) -> FileLock | None:
        loop = asyncio.get_running_loop()
        waiting = loop.create_task(FileLock.acquire(_path(self._directory, number)))
        moving = loop.create_task(self._moved.wait())
        try:
            await asyncio.wait((waiting, moving), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
        except BaseException:
            waiting.add_done_callback(_give_back)
            raise
        finally:
            moving.cancel()
            waiting.cancel()
        waiting.add_done_callback(_give_back)
        return None

    @staticmethod
    def _term(path: str) -> int:
        text = FileLock.read(path)
        return int(text) if text.isdecimal() else 0


def _path(directory: str, number: int) -> str:
    return lock_path(directory, f"leader-{number}")


def _give_back(waiting: asyncio.Task[FileLock]) -> None:
    """It may have been granted in the last moment."""
    if not waiting.cancelled() and waiting.exception() is None:
        waiting.result().release()
