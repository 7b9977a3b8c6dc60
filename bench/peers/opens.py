"""Both sides know the same topics; then they meet on streams, and every peer is to be proven."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peers.content import capability
from bench.peers.meeting import LIMITS, Meeting
from bench.peers.talk import Arrivals, Talk, fail
from protomux.streams import SecretStream
from protomux_wakeup import Peer, Session, Wakeup

__all__ = ["on_many", "on_one"]


class _Side(Arrivals):
    """Sessions for so many topics, and the peers that come to them."""

    def __init__(self, topics: range) -> None:
        super().__init__()
        self.wakeup = Wakeup(limits=LIMITS)
        self.sessions = [self.wakeup.session(capability(topic), self) for topic in topics]

    def on_peer_add(self, _peer: Peer, _session: Session) -> None:
        self.count += 1
        if self.count == self.expected:
            self.finish()

    def meet(self, streams: Sequence[SecretStream]) -> None:
        for stream in streams:
            self.wakeup.add_stream(stream)

    def check(self, streams: Sequence[SecretStream]) -> int:
        """Return the sum of the ids of what is proven; fail unless each topic has all peers."""
        for session in self.sessions:
            peers = {peer.stream for peer in session.peers if not peer.is_pending}
            if peers != set(streams) or len(session.peers) != len(streams):
                fail(f"expected {len(streams)} proven peers of a topic, got {len(peers)}")
        ids = (int.from_bytes(session.topic.id[:4], "big") for session in self.sessions)
        return len(streams) * sum(ids)


async def _meet(talk: Talk, side: _Side, streams: Sequence[SecretStream], measured: bool) -> int:
    """Open all topics of a side on all streams; return the checksum."""
    side.expect(len(side.sessions) * len(streams))
    await talk.sync("known", tidy=True)
    if measured:
        talk.begin()
    side.meet(streams)
    await side.wait()
    await talk.sync("proven")
    if measured:
        talk.end(began=True, ended=side.ended)
    check = side.check(streams)
    await talk.sync("checked")
    side.wakeup.destroy()
    for stream in streams:
        stream.close()
    for stream in streams:
        await stream.wait_closed()
    return check


async def on_one(talk: Talk) -> None:
    """Open many topics on one stream; as often as asked, each time others on a new one."""
    topics, warm, times = (talk.size[name] for name in ("topics", "warm", "times"))
    meeting = await Meeting.begin(talk)
    part = min(topics, warm)
    for _ in range(max(1, warm // topics)):
        await _meet(talk, _Side(range(part)), [await meeting.stream()], measured=False)
    check = 0
    for number in range(1, 1 + times):
        side = _Side(range(number * topics, (number + 1) * topics))
        check += await _meet(talk, side, [await meeting.stream()], measured=True)
    talk.finish(topics * times, check)


async def on_many(talk: Talk) -> None:
    """Open some topics on many streams."""
    streams, warm, topics = (talk.size[name] for name in ("streams", "warm", "topics"))
    meeting = await Meeting.begin(talk)
    await _meet(talk, _Side(range(topics)), await meeting.streams(warm), measured=False)
    side = _Side(range(topics, 2 * topics))
    check = await _meet(talk, side, await meeting.streams(streams), measured=True)
    talk.finish(streams * topics, check)
