from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from protomux_wakeup.host.errors import ForeignPeer
from protomux_wakeup.host.locks import FileLock, released

HOLDER = """
import sys
from protomux_wakeup.host.locks import FileLock
lock = FileLock.try_acquire(sys.argv[1])
print("held" if lock else "taken", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that asks for the lock, and what came of it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def waiting_threads() -> int:
    return sum(thread.name.startswith("waiting for the lock") for thread in threading.enumerate())


def test_one_holder_at_a_time(place: Path) -> None:
    path = str(place / "a.lock")
    lock = FileLock.try_acquire(path)
    assert lock is not None
    assert FileLock.try_acquire(path) is None
    with another_process(place / "a.lock") as (_, said):
        assert said == "taken"
    lock.release()
    lock.release()
    again = FileLock.try_acquire(path)
    assert again is not None
    again.release()


def test_the_file_is_for_its_owner_alone(place: Path) -> None:
    lock = FileLock.try_acquire(str(place / "a.lock"))
    assert lock is not None
    assert (place / "a.lock").stat().st_mode & 0o777 == 0o600
    lock.release()


async def test_a_wait_ends_with_the_process_that_held_it(place: Path) -> None:
    path = place / "a.lock"
    with another_process(path) as (process, said):
        assert said == "held"
        waiting = asyncio.create_task(FileLock.acquire(str(path)))
        await asyncio.sleep(0)
        process.send_signal(signal.SIGKILL)
        lock = await waiting
    assert FileLock.try_acquire(str(path)) is None
    lock.release()


async def test_a_watch_ends_with_the_process_that_held_it(place: Path) -> None:
    path = place / "a.lock"
    with another_process(path) as (process, said):
        assert said == "held"
        watching = asyncio.create_task(released(str(path)))
        await asyncio.sleep(0)
        process.send_signal(signal.SIGKILL)
        await watching


async def test_a_stopped_process_keeps_its_lock(place: Path) -> None:
    path = place / "a.lock"
    with another_process(path) as (process, _):
        process.send_signal(signal.SIGSTOP)
        assert FileLock.try_acquire(str(path)) is None


async def test_nobody_holds_a_file_that_is_not_there(place: Path) -> None:
    await released(str(place / "a.lock"))
    assert os.listdir(place) == []


async def test_all_who_watch_are_told(place: Path) -> None:
    path = str(place / "a.lock")
    lock = FileLock.try_acquire(path)
    assert lock is not None
    watching = [asyncio.create_task(released(path)) for _ in range(5)]
    await asyncio.sleep(0)
    lock.release(remove=True)
    await asyncio.gather(*watching)


async def test_who_waited_on_a_removed_file_gets_the_one_that_is_there(place: Path) -> None:
    path = str(place / "a.lock")
    lock = FileLock.try_acquire(path)
    assert lock is not None
    waiting = asyncio.create_task(FileLock.acquire(path))
    await asyncio.sleep(0)
    lock.release(remove=True)
    got = await waiting
    assert FileLock.try_acquire(path) is None
    got.release(remove=True)
    assert os.listdir(place) == []


async def test_a_wait_that_is_given_up_is_taken_over_by_the_next(place: Path) -> None:
    path = str(place / "a.lock")
    lock = FileLock.try_acquire(path)
    assert lock is not None
    before = waiting_threads()
    for _ in range(20):
        waiting = asyncio.create_task(FileLock.acquire(path))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert waiting_threads() == before + 1
    waiting = asyncio.create_task(FileLock.acquire(path))
    await asyncio.sleep(0)
    assert waiting_threads() == before + 1
    lock.release()
    (await waiting).release()


async def test_a_wait_that_was_given_up_keeps_nobody_out(place: Path) -> None:
    path = str(place / "a.lock")
    lock = FileLock.try_acquire(path)
    assert lock is not None
    waiting = asyncio.create_task(FileLock.acquire(path))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    lock.release()
    (await FileLock.acquire(path)).release()


def test_a_wait_outlives_its_loop_without_harm(place: Path) -> None:
    path = str(place / "a.lock")
    lock = FileLock.try_acquire(path)
    assert lock is not None
    loop = asyncio.new_event_loop()
    waiting: list[Coroutine[Any, Any, FileLock]] = []

    async def begin() -> None:
        waiting.append(FileLock.acquire(path))
        waiting[0].send(None)  # not by a task, which would complain that it never ended

    loop.run_until_complete(begin())
    loop.close()
    lock.release()

    async def again() -> None:
        (await FileLock.acquire(path)).release()

    asyncio.run(again())
    waiting[0].close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_does_not_hold_it(place: Path) -> None:
    path = str(place / "a.lock")
    lock = FileLock.try_acquire(path)
    assert lock is not None
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        here.close()
        there.send(b"forked")
        there.recv(1)  # until the parent is done
        os._exit(0)
    there.close()
    with here:
        assert here.recv(6) == b"forked"
        os.close(lock._file)  # as its end would, without the word that release() says
        lock._file = -1
        again = FileLock.try_acquire(path)
        assert again is not None
        again.release()
    os.waitpid(child, 0)


def test_what_the_holder_writes_can_be_read(place: Path) -> None:
    path = str(place / "a.lock")
    assert FileLock.read(path) == ""
    lock = FileLock.try_acquire(path)
    assert lock is not None
    lock.write("a longer text")
    lock.write("short")
    assert FileLock.read(path) == "short"
    lock.release()
    assert FileLock.read(path) == "short"


def test_a_link_is_not_followed(place: Path) -> None:
    (place / "a.lock").symlink_to(place / "b.lock")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock.try_acquire(str(place / "a.lock"))
    assert not (place / "b.lock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to own a file as somebody else")
def test_the_file_of_another_user_is_refused(place: Path) -> None:
    path = place / "a.lock"
    path.touch()
    os.chown(path, 12345, 12345)
    with pytest.raises(ForeignPeer, match="uid 12345"):
        FileLock.try_acquire(str(path))
