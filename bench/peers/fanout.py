"""The client tells news to all of its streams, again and again; each must get all of them.

News come one by one: there is a turn of the event loop between one broadcast and the next.
"""

from __future__ import annotations

import asyncio

from bench.peers.content import capability, length, log_key
from bench.peers.meeting import LIMITS, Meeting
from bench.peers.talk import Arrivals, Talk, fail
from protomux_wakeup import Peer, Session, Wakeup, Writer

__all__ = ["client", "listener"]


def _news(keys: list[bytes], number: int) -> list[tuple[bytes, int]]:
    """Return what is told in one broadcast."""
    return [(key, length(number * len(keys) + index)) for index, key in enumerate(keys)]


class _Meet(Arrivals):
    """Counts the peers."""

    def on_peer_add(self, _peer: Peer, _session: Session) -> None:
        self.count += 1
        if self.count == self.expected:
            self.finish()


async def client(talk: Talk) -> None:
    """Tell."""
    streams, warm, count = (talk.size[name] for name in ("streams", "warm", "count"))
    keys = [log_key(number) for number in range(talk.size["keys"])]
    meeting = await Meeting.begin(talk)
    wakeup = Wakeup(limits=LIMITS)
    met = _Meet()
    met.expect(streams)
    session = wakeup.session(capability(0), met)
    for stream in await meeting.streams(streams):
        wakeup.add_stream(stream)
    await met.wait()
    peers = session.peers

    async def broadcast(news: list[list[tuple[bytes, int]]]) -> None:
        for writers in news:
            session.broadcast_announce(writers)
            for peer in peers:
                if not peer.channel.drained:
                    await peer.wait_drained()
            await asyncio.sleep(0)

    all_news = [_news(keys, number) for number in range(warm + count)]
    await talk.sync("ready")
    await broadcast(all_news[:warm])
    await talk.sync("warm", tidy=True)
    talk.begin()
    await broadcast(all_news[warm:])
    await talk.sync("done")
    talk.end(began=True)
    check = sum(news[0][1] + news[-1][1] for news in all_news[warm:])
    talk.finish(count * streams, check * streams)


class _Listener(Arrivals):
    """Counts news; `peer.clock` is the number of the next at that stream."""

    def __init__(self, keys: list[bytes]) -> None:
        super().__init__()
        self.is_warming = True
        self.kept: list[tuple[int, list[Writer]]] = []
        self._keys = keys

    def on_announce(self, writers: list[Writer], peer: Peer, _session: Session) -> None:
        number = peer.clock
        peer.clock = number + 1
        if self.is_warming:
            self.verify(writers, number)
        elif not self.count % 61:  # by turns of other streams, in other rounds
            self.kept.append((number, writers))
        self.total += writers[0].length + writers[-1].length
        self.count += 1
        if self.count == self.expected:
            self.finish()

    def verify(self, writers: list[Writer], number: int) -> None:
        if writers != _news(self._keys, number):
            fail(f"the news {number} of a stream are not what was sent")


async def listener(talk: Talk) -> None:
    """Take the news of all streams."""
    streams, warm, count = (talk.size[name] for name in ("streams", "warm", "count"))
    heard = _Listener([log_key(number) for number in range(talk.size["keys"])])
    meeting = await Meeting.begin(talk)
    wakeup = Wakeup(limits=LIMITS)
    session = wakeup.session(capability(0), heard)
    for stream in await meeting.streams(streams):
        wakeup.add_stream(stream)
    heard.expect(warm * streams)
    await talk.sync("ready")
    await heard.wait()
    heard.is_warming = False
    heard.expect(count * streams)
    await talk.sync("warm", tidy=True)
    talk.begin()
    await heard.wait()
    await talk.sync("done")
    talk.end(ended=heard.ended)
    for number, writers in heard.kept:
        heard.verify(writers, number)
    if any(peer.clock != warm + count for peer in session.peers):
        fail("expected every stream to get all news")
    talk.finish(heard.count, heard.total)
