"""Rounds of killing whoever has a part in running a command, and what must hold after each.

`python -m tests.protomux_wakeup.host.backends.kills --rounds 200` prints how long it took from the
kill to the hint that came last being written down. Whatever does not hold raises AssertionError.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

from protomux.crypto import discovery_key
from protomux_wakeup.cli.keys import write_secret
from protomux_wakeup.host.hints import HintStore
from protomux_wakeup.host.locks import FileLock
from protomux_wakeup.host.processes import Handle

from ...cli.command import Command, started
from ..local import RemotePeer
from ..members import gone, until_empty
from . import journal

__all__ = ["VICTIMS", "Kills"]

VICTIMS: Final = ("backend", "monitor", "manager", "worker", "leader")
GUARD: Final = 120.0
TOPICS: Final = 2
MEMBERS: Final = 2
"""Processes for each topic: one may be killed, and another goes on."""


class Topic:
    """One topic: who announces in it, and what was done for it."""

    def __init__(self, place: Path, number: int) -> None:
        self.capability = bytes([0x10 + number]) * 32
        self.id = discovery_key(self.capability)
        self.peer = RemotePeer(self.capability)
        self.secret = place / f"capability-{number}"
        self.journal = place / f"journal-{number}"
        self.address = ""
        self._length = 0

    async def open(self) -> None:
        write_secret(self.secret, self.capability, replace=False)
        self.address = await self.peer.listen()

    def announce(self, logs: int) -> None:
        """Let so many logs grow."""
        self._length += 1
        self.peer.announce(*((bytes([n]) * 32, self._length) for n in range(logs)))

    @property
    def lines(self) -> list[list[str]]:
        if not self.journal.exists():
            return []
        return [line.split() for line in self.journal.read_text().splitlines()]

    @property
    def is_quiet(self) -> bool:
        """The last command has come to its end."""
        return self.lines[-1][0] == "end"

    @property
    def is_done(self) -> bool:
        """All that was announced is written down."""
        found = {(bytes.fromhex(w[1]), int(w[2])) for w in self.lines if w[0] == "hint"}
        return self.peer.known.items() <= found

    @property
    def pid(self) -> int | None:
        """Of the command that was started last."""
        pids = [int(words[1]) for words in self.lines if words[0] == "start"]
        return pids[-1] if pids else None

    def check(self) -> set[int]:
        """No two were at work at once, and each was of a later token; return all pids."""
        token, pids = 0, set()
        for words in self.lines:
            assert words[0] != "!", f"two at once: {self.lines[-10:]}"
            if words[0] == "start":
                assert int(words[2]) > token, f"{words} after the token {token}"
                token = int(words[2])
                pids.add(int(words[1]))
        return pids


class Kills:
    """Some processes that run a command for each topic, and the rounds that they survive."""

    def __init__(self, place: Path, seed: int) -> None:
        self._runtime = place / "run"
        self._state = place / "state"
        self._random = random.Random(seed)
        self._topics = [Topic(place, number) for number in range(TOPICS)]
        self._members: list[tuple[Topic, Command]] = []
        self._pids: set[int] = set()
        self._stack = AsyncExitStack()
        self.times: dict[str, list[float]] = {}

    async def run(self, victims: Sequence[str], *, progress: bool = False) -> None:
        """Kill each of `victims` in turn, then let all leave."""
        async with self._stack:
            for topic in self._topics:
                await topic.open()
                self._stack.push_async_callback(topic.peer.close)
            for topic in self._topics * MEMBERS:
                await self._add(topic)
            for number, victim in enumerate(victims):
                while not await self._round(victim):
                    pass  # there was no such process at that moment
                if progress:
                    print(f"\r{number + 1} of {len(victims)}", end="", file=sys.stderr, flush=True)
            for topic in self._topics:  # once more, with nobody killed
                topic.announce(1)
            await _until(lambda: all(each.is_done for each in self._topics), "the last news")
            await _until(lambda: all(each.is_quiet for each in self._topics), "an end")
            for _topic, member in self._members:
                member.signal(signal.SIGINT)
            for _topic, member in self._members:
                await member.ends(130)
            self._check()
            for topic in self._topics:
                self._pids |= topic.check()
            for pid in self._pids:
                await gone(pid)
            await until_empty(self._runtime)

    def _check(self) -> None:
        """All that came was acknowledged, down to the service's file."""
        store = HintStore(self._state / "hints.db")
        try:
            for topic in self._topics:
                assert not store.pending("on", topic.id, most=10).hints
        finally:
            store.close()

    async def _add(self, topic: Topic) -> None:
        member = await self._stack.enter_async_context(
            started(
                "on",
                str(topic.secret),
                "--json",
                "--idle",
                "2",
                "--directory",
                str(self._runtime),
                "--state",
                str(self._state),
                "--connect",
                topic.address,
                "--",
                sys.executable,
                "-S",
                journal.__file__,
                str(topic.journal),
                "0.05",
            )
        )
        self._members.append((topic, member))
        await member.until("watching")

    async def _round(self, victim: str) -> bool:
        """Kill a victim while there is news, if it is there; see that all of it is written down."""
        for topic in self._topics:
            topic.announce(self._random.choice((1, 1, 5)))
        await asyncio.sleep(self._random.uniform(0, 0.5))  # a moment like any other
        begun = time.monotonic()
        topic = self._random.choice(self._topics)
        pid = self._find(victim, topic)
        is_killed = pid is not None and _kill(pid)
        if pid is not None and is_killed:
            self._pids.add(pid)
            for each in [each for each in self._members if each[1].pid == pid]:
                await gone(pid)
                self._members.remove(each)
                await self._add(each[0])
        try:
            await _until(lambda: all(each.is_done for each in self._topics), f"more after {victim}")
        except AssertionError as error:
            error.add_note(repr([each.lines[-5:] for each in self._topics]))
            raise
        if is_killed:
            self.times.setdefault(victim, []).append(time.monotonic() - begun)
        return is_killed

    def _find(self, victim: str, topic: Topic) -> int | None:
        """Return whose turn it is; None where there is no such process at the moment."""
        if victim in ("backend", "monitor"):
            backend = topic.pid
            return backend if victim == "backend" or backend is None else _parent(backend)
        host = "default" if victim == "worker" else "default.backends"
        _term, _, name = FileLock.read(str(self._runtime / host / "worker.lock")).partition(" ")
        pid = int(name.split()[0]) if name else None
        return pid if victim != "leader" or pid is None else _parent(pid)


async def _until(holds: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(GUARD):
            while not holds():  # noqa: ASYNC110 - a file tells nobody that it grows
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"expected {what}") from None


def _kill(pid: int) -> bool:
    """End a process of ours, and no other that has its pid by now; tell whether there was one."""
    with suppress(OSError), Handle(pid) as process:
        known = (
            Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        if b"SESSION_BACKEND_ID=" in known or b"protomux_wakeup" in known:
            return process.kill()
    return False


def _parent(pid: int) -> int | None:
    """Return the parent of a process of ours, None where it has ended."""
    with suppress(OSError):
        found = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return found if found > 1 else None
    return None


async def _main(rounds: int, seed: int) -> None:
    place = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
    kills = Kills(place, seed)
    try:
        order = [VICTIMS[number % len(VICTIMS)] for number in range(rounds)]
        random.Random(seed).shuffle(order)
        await kills.run(order, progress=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print()
    for victim, found in sorted(kills.times.items()):
        print(
            f"{victim:8} median {statistics.median(found):.2f} s  max {max(found):.2f} s  "
            f"n {len(found)}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    asyncio.run(_main(given.rounds, given.seed))
