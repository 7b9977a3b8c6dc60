"""Both sides hold the same: topics, their peers on one stream, or idle streams.

What a process has resident is read before they come and when all are there, garbage collected each
time. A twentieth as many are there already before the first reading, so what the first use brings
along, code and pools, is not counted; nor are the capabilities, which are an application's own.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

from bench.peers.content import capability
from bench.peers.meeting import LIMITS, Meeting
from bench.peers.talk import Arrivals, Talk, fail
from protomux.streams import SecretStream
from protomux_wakeup import Peer, Session, Wakeup

__all__ = ["peers", "streams", "topics"]


class _Node(Arrivals):
    """A `Wakeup` with so many topics."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        super().__init__()
        self.wakeup = Wakeup(limits=LIMITS)
        self.sessions = [self.wakeup.session(secret, self) for secret in secrets]

    def on_peer_add(self, _peer: Peer, _session: Session) -> None:
        self.count += 1
        if self.count == self.expected:
            self.finish()

    async def prove(self, stream: SecretStream) -> None:
        """Share `stream`, until every topic has its peer there."""
        self.expect(len(self.sessions))
        self.wakeup.add_stream(stream)
        await self.wait()

    @property
    def ids(self) -> int:
        """The sum of the first bytes of its topics."""
        return sum(int.from_bytes(session.topic.id[:4], "big") for session in self.sessions)


def _resident() -> int:
    """Bytes of this process in memory; /proc/self/statm would be some pages behind."""
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    fail("expected a line Rss in /proc/self/smaps_rollup, got none")


async def _finish(talk: Talk, row: str, before: int, count: int, check: int) -> None:
    await talk.sync("held")
    each = (_resident() - before) / count
    await talk.sync("measured")
    talk.finish(count, check, {row: each})


def _secrets(talk: Talk) -> tuple[list[bytes], list[bytes]]:
    """The topics that are there before, and those that come then."""
    count = talk.size["topics"]
    secrets = [capability(number) for number in range(count + count // 20)]
    return secrets[count:], secrets[:count]


async def topics(talk: Talk) -> None:
    """Sessions without any stream."""
    await Meeting.begin(talk)
    first, rest = _secrets(talk)
    early = _Node(first)
    before = _resident()
    node = _Node(rest)
    await _finish(talk, "memory per topic", before, len(rest), early.ids + node.ids)


async def peers(talk: Talk) -> None:
    """Topics that are there, and then are opened and proven on a stream that is open."""
    meeting = await Meeting.begin(talk)
    first, rest = _secrets(talk)
    early, node = _Node(first), _Node(rest)
    await early.prove(await meeting.stream())
    stream = await meeting.stream()
    await talk.sync("open")
    before = _resident()
    await node.prove(stream)
    await _finish(talk, "memory per peer", before, node.count, early.ids + node.ids)


async def streams(talk: Talk) -> None:
    """Open streams of a `Wakeup` without topics."""
    meeting = await Meeting.begin(talk)
    count = talk.size["streams"]
    early, node = _Node(()), _Node(())
    for stream in await meeting.streams(count // 20):
        early.wakeup.add_stream(stream)
    await talk.sync("open")
    before = _resident()
    held = await meeting.streams(count)
    for stream in held:
        node.wakeup.add_stream(stream)
    check = sum(int.from_bytes((stream.handshake_hash or b"")[:4], "big") for stream in held)
    await _finish(talk, "memory per stream", before, len(held), check)
