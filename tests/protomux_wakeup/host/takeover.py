"""Rounds of ending or stopping whoever leads, works or coordinates, and what must hold after each.

`python -m tests.protomux_wakeup.host.takeover --rounds 200` prints how long it took from the signal
to each survivor's first served call. Whatever does not hold raises AssertionError.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from protomux.streams import start_server
from protomux_wakeup import Wakeup, Writer
from protomux_wakeup.host.jitpc import connect
from protomux_wakeup.host.locks import FileLock
from protomux_wakeup.host.messages import STATUS
from protomux_wakeup.host.processes import kill
from protomux_wakeup.host.remains import COORDINATOR

from .members import Member, gone, start, until_empty
from .workers import CAPABILITY

__all__ = ["KINDS", "Kind", "Takeover"]

LIMITS: Final = {"heartbeat": 0.5, "missed": 5, "repeat": 0.2, "draining": 1.0, "spindown": 0.5}
GUARD: Final = 90.0
AGAIN: Final = 1 / 3
"""Of the rounds in which a worker ends, those in which the next one ends as well."""
PEER_KEY: Final = b"\x02" * 32


class Kind(NamedTuple):
    """Whom a round hits, and how."""

    signal: signal.Signals
    victims: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.signal.name} {' + '.join(self.victims)}"

    @property
    def replaces_worker(self) -> bool:
        return self.victims != ("coordinator",)


KINDS: Final = tuple(
    Kind(number, victims)
    for number in (signal.SIGKILL, signal.SIGSTOP)
    for victims in (
        ("worker",),
        ("leader",),
        ("leader", "worker"),
        ("coordinator",),
        ("coordinator", "leader"),
        ("coordinator", "leader", "worker"),
    )
)


class Watcher:
    """What is kept of a watcher by its name, over all processes that it was."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.announced: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._in_hand: tuple[str, int] | None = None
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """It is another process from now on: what the last one had in hand comes again."""
        self._again, self._in_hand = self._in_hand, None

    def saw(self, line: dict[str, Any]) -> None:
        """Its process has told this."""
        if line["event"] == "announced":
            self.announced[line["key"]] = line["length"]
        elif line["event"] == "hint":
            hint = line["key"], line["length"]
            if hint != self._again:
                assert hint[1] > self._seen.get(hint[0], 0), f"{hint} came again to {self.name}"
            self._seen[hint[0]] = hint[1]
            self._in_hand = hint
            self._changed.set()

    async def has_seen(self, key: str, length: int) -> None:
        """Wait until it has."""
        try:
            async with asyncio.timeout(GUARD):
                while self._seen.get(key, 0) < length:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.name} has never seen {length}: {self._seen}") from None


class Peer:
    """Somebody out in the network, who shares the capability."""

    def __init__(self) -> None:
        self.address = ""
        self._length = 0
        self._heard: dict[bytes, int] = {}
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Let the worker connect, and tell it of a log that grows."""
        self._wakeup = Wakeup()
        self._session = self._wakeup.session(
            CAPABILITY,
            on_peer_add=lambda peer, session: session.announce(peer, self._logs()),
            on_lookup=lambda _lookup, peer, session: session.announce(peer, self._logs()),
            on_announce=self._on_announce,
        )
        self._server = await start_server(self._wakeup.add_stream, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        self._growing = asyncio.create_task(self._grow())

    def _logs(self) -> list[tuple[bytes, int]]:
        return [(PEER_KEY, self._length)]

    async def _grow(self) -> None:
        while True:
            self._length += 1
            self._session.broadcast_announce(self._logs())
            await asyncio.sleep(0.1)

    def _on_announce(self, writers: list[Writer], _peer: object, _session: object) -> None:
        for key, length in writers:
            self._heard[key] = max(length, self._heard.get(key, 0))
        self._changed.set()

    def stop(self) -> int:
        """Let the log grow no more, and return its length."""
        self._growing.cancel()
        return self._length

    async def has_heard(self, key: bytes, length: int) -> None:
        """Wait until it was announced."""
        self._session.broadcast_lookup()
        try:
            async with asyncio.timeout(GUARD):
                while self._heard.get(key, 0) < length:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{length} of {key.hex()} is lost: {self._heard}") from None

    async def close(self) -> None:
        """Go."""
        if self.address:
            self.stop()
            self._wakeup.destroy()
            self._server.close()
            await self._server.wait_closed()


class Takeover:
    """Some members of one host, and the rounds that they survive."""

    def __init__(self, place: Path, size: int, seed: int) -> None:
        self._place = place
        self._journal = place.with_name(place.name + ".journal")
        self._random = random.Random(seed)
        self._state = place.with_name(place.name + ".state")
        self._size = size
        self._members: list[Member] = []
        self._watchers: dict[Member, Watcher] = {}
        self._peer = Peer()
        self._pids: set[int] = set()
        self.times: dict[str, list[float]] = {}

    async def run(self, kinds: Sequence[Kind], *, progress: bool = False) -> None:
        """Do a round of each of `kinds`, then let all leave."""
        try:
            await self._peer.start()
            watchers = (Watcher(f"watcher {number}") for number in range(self._size))
            await asyncio.gather(*map(self._add, watchers))
            for number, kind in enumerate(kinds):
                await self._round(kind)
                if progress:
                    print(f"\r{number + 1} of {len(kinds)}", end="", file=sys.stderr, flush=True)
            await self._nothing_is_lost()
            codes = [await member.leave() for member in self._members]
            assert codes == [0] * self._size, codes
            await until_empty(self._place)
            self._check_journal()
            for pid in self._pids:
                await gone(pid)
        finally:
            for member in self._members:
                await member.kill()
            await self._peer.close()
            self._journal.unlink(missing_ok=True)
            shutil.rmtree(self._state, ignore_errors=True)

    async def _add(self, watcher: Watcher) -> Member:
        options = {"journal": str(self._journal), "state": str(self._state)}
        member = await start(self._place, worker="serves", options=options, limits=LIMITS)
        watcher.begin()
        member.on_event = watcher.saw
        self._members.append(member)
        self._watchers[member] = watcher
        self._pids.add(member.pid)
        await member.event("joined")
        member.ask("stamps")
        member.ask("wake", watcher.name, self._peer.address)
        return member

    async def _nothing_is_lost(self) -> None:
        """Every acknowledged announce is with the peer, and its last one with every watcher."""
        last = self._peer.stop()
        for watcher in self._watchers.values():
            await watcher.has_seen(PEER_KEY.hex(), last)
            for key, length in watcher.announced.items():
                await self._peer.has_heard(bytes.fromhex(key), length)

    async def _round(self, kind: Kind) -> None:
        served = await self._all_served(0)
        victims, pids = await self._find(kind, served)
        await asyncio.sleep(self._random.uniform(0, 0.2))  # a moment like any other
        begun = time.monotonic()
        for pid in pids:
            os.kill(pid, kind.signal)
        survivors = [member for member in self._members if member not in victims]
        if kind.replaces_worker:
            term, what = served["term"], str(kind)
            if kind.signal is signal.SIGKILL and self._random.random() < AGAIN:
                await asyncio.sleep(self._random.uniform(0, 0.8))  # in the middle of it, perhaps
                term, what = max(term, self._kill_whoever_works()), "SIGKILL worker once more"
                begun = time.monotonic()
            for first in await asyncio.gather(*(_served(each, term) for each in survivors)):
                self.times.setdefault(what, []).append(first["at"] - begun)
        for pid in pids:  # of those that were stopped, what is the host's own is ended by others
            if kind.signal is signal.SIGKILL or pid not in {member.pid for member in victims}:
                await gone(pid)
        if kind.signal is signal.SIGKILL:
            for member in victims:
                await member.ended()
                self._members.remove(member)
            await asyncio.gather(*(self._add(self._watchers.pop(each)) for each in victims))
        else:
            for member in victims:
                member.signal(signal.SIGCONT)
            if not victims:  # nobody has to notice: somebody who comes is let in all the same
                await (await self._add(Watcher("a guest"))).leave()
                del self._watchers[self._members.pop()]
        await self._all_served(served["term"] if kind.replaces_worker else 0)

    def _kill_whoever_works(self) -> int:
        """End the worker that there is by now, if there is one; return its term."""
        term, _, name = FileLock.read(str(self._place / "test" / "worker.lock")).partition(" ")
        return int(term) if kill(name) else 0

    async def _find(self, kind: Kind, served: dict[str, Any]) -> tuple[list[Member], list[int]]:
        """Return the members that are hit, and all pids."""
        leaders: list[Member] = []
        states = await asyncio.gather(*(member.result("state") for member in self._members))
        for member, state in zip(self._members, states, strict=True):
            if state["leads"]:
                leaders.append(member)
        assert len(leaders) == 1, states
        known = connect(COORDINATOR, directory=self._place / "test")
        async with known:
            coordinator = (await known.request(STATUS))["pid"]
        pids = {"worker": served["pid"], "leader": leaders[0].pid, "coordinator": coordinator}
        self._pids.update(pids.values())
        return leaders if "leader" in kind.victims else [], [pids[each] for each in kind.victims]

    async def _all_served(self, after: int) -> dict[str, Any]:
        """Wait until all are served by the same worker, of a term past `after`."""
        while True:
            stamps = await asyncio.gather(*(_served(each, after) for each in self._members))
            last = max(stamps, key=lambda stamp: stamp["term"])
            if all(stamp["term"] == last["term"] for stamp in stamps):
                return last
            after = last["term"] - 1

    def _check_journal(self) -> None:
        """No line of a worker stands after the first of the next one."""
        seen: list[tuple[int, int]] = []
        for line in self._journal.read_text().splitlines():
            what, term, pid, *_ = line.split()
            assert what != "!", line
            one = int(term), int(pid)
            if not seen or seen[-1] != one:
                assert what == "start", f"{line!r} after {seen[-3:]}"
                assert one not in seen, f"{line!r} after {seen[-3:]}"
                assert not seen or one[0] > seen[-1][0], f"{line!r} after {seen[-3:]}"
                seen.append(one)
        self._pids.update(pid for _, pid in seen)


async def _served(member: Member, after: int) -> dict[str, Any]:
    """Wait until `member` was served in a term past `after`; return what it said of that."""
    try:
        async with asyncio.timeout(GUARD):
            while True:
                last = member.last.get("served")
                if last is not None and last["term"] > after:
                    return last
                await member.event("served")
    except TimeoutError:
        raise AssertionError(f"not served: {member.last}, alive: {member.is_alive}") from None


def _show(times: dict[str, list[float]]) -> None:
    killed = [t for kind, found in times.items() if kind.startswith("SIGKILL") for t in found]
    for kind, found in [*sorted(times.items()), ("all that were killed", killed)]:
        if len(found) > 1:
            cuts = statistics.quantiles(found, n=100, method="inclusive")
            print(
                f"{kind:45} p50 {cuts[49]:.2f} s  p99 {cuts[98]:.2f} s  "
                f"max {max(found):.2f} s  n {len(found)}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
    takeover = Takeover(place, given.members, given.seed)
    kinds = random.Random(given.seed).choices(KINDS, k=given.rounds)
    try:
        asyncio.run(takeover.run(kinds, progress=not given.json))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(json.dumps(takeover.times)) if given.json else _show(takeover.times)


if __name__ == "__main__":
    main()
