"""A conversation with the npm original, recorded, taken apart and replayed.

The Node twin is that of the case of this name in tests/interop/test_wakeup.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from protomux.dissect import (
    CaptureWriter,
    Conversation,
    Direction,
    Entry,
    Frame,
    Problem,
    RecordedStream,
    StreamStart,
    read_capture,
)
from protomux.dissect.frames import bodies
from protomux_wakeup import (
    Announced,
    Event,
    LookedUp,
    PeerActive,
    PeerAdded,
    Session,
    Wakeup,
    Writer,
)
from protomux_wakeup.cli.process import Exit
from protomux_wakeup.cli.recording import Form
from protomux_wakeup.cli.replay import replay
from protomux_wakeup.events import EventStream
from tests.interop.conftest import _originals  # noqa: F401 - a fixture for all tests here
from tests.interop.harness import interop
from tests.interop.twin import Inbox, Peer
from tests.protomux_wakeup.cli.recorder import Recorder

CAPABILITY, KEY, HASH = b"\1" * 32, b"\3" * 32, b"\4" * 32

EVENTS: dict[str, type[Event]] = {
    "peer_added": PeerAdded,
    "peer_active": PeerActive,
    "lookup_received": LookedUp,
    "announce_received": Announced,
}


async def talk(peer: Peer, stream: RecordedStream) -> list[Event]:
    """Ask four times, or answer as often; return what happened."""
    made: Inbox[tuple[Session, EventStream]] = Inbox()

    def begin() -> None:
        session = wakeup.session(CAPABILITY)
        made.push((session, session.events()))

    wakeup = Wakeup(lambda id, mux: begin())
    if peer.opener:
        begin()
    wakeup.add_stream(stream)
    session, events = await made.next()
    seen: list[Event] = []
    if peer.opener:
        async for event in events:
            seen.append(event)
            if isinstance(event, PeerActive):
                for hash in (None, HASH, None, HASH):
                    session.broadcast_lookup(hash)
            if len(seen) == 6:
                break
    else:
        async for event in events:
            seen.append(event)
            if isinstance(event, LookedUp):
                session.announce(event.peer, [Writer(KEY, len(seen) - 3)])
            if len(seen) == 6:
                break
    await peer.sync("done")
    return seen


def take_apart(entries: list[Entry | Problem]) -> dict[Direction, list[str]]:
    """Return the names of all that was said, by direction; all of it must be known."""
    conversation = Conversation()
    said: dict[Direction, list[str]] = {Direction.IN: [], Direction.OUT: []}
    for entry in entries:
        assert not isinstance(entry, Problem)
        if isinstance(entry, Frame):
            found = conversation.read(entry.direction, entry.data)
            assert found.problem is None
            said[entry.direction] += [body.content.name for body in bodies(found.root)]
    return said


@interop()
async def test_lookup_and_announce(peer: Peer) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "capture"
        capture = CaptureWriter(path)
        stream = await peer.stream()
        seen = await talk(peer, RecordedStream(stream, capture))
        capture.close()
        with path.open("rb") as file:
            entries = list(read_capture(file))

    start = entries[0]
    assert isinstance(start, StreamStart)
    assert start.is_initiator is peer.initiator
    assert start.handshake_hash == stream.handshake_hash
    said = take_apart(entries)
    asker, answerer = list(Direction)[:: -1 if peer.opener else 1]
    assert said[asker] == ["open", *["lookup"] * 4]
    assert said[answerer] == ["open", *["announce"] * 4]

    report = Recorder()
    assert await replay(report, Form.CAPTURE, entries, CAPABILITY) is Exit.DONE
    happened = [EVENTS[event] for event in report.events if event in EVENTS]
    assert happened == [type(event) for event in seen]
