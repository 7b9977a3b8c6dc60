from __future__ import annotations

from protomux.streams import FrameReceiver, memory_pair
from protomux_wakeup.cli.counted import CountedStream


class Inbox:
    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def frame_received(self, frame: bytes) -> None:
        self.frames.append(frame)

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None: ...


async def test_it_counts_what_it_passes_on() -> None:
    ours, theirs = memory_pair()
    counted = CountedStream(ours)
    inbox: FrameReceiver = Inbox()
    reply = Inbox()
    theirs.set_receiver(inbox)
    counted.set_receiver(reply)
    assert counted.receiver is ours.receiver is reply
    assert counted.is_initiator is ours.is_initiator
    assert counted.handshake_hash == ours.handshake_hash
    assert counted.remote_public_key == ours.remote_public_key
    assert counted.write(b"one")
    assert counted.write(b"three")
    counted.pause_reading()
    theirs.write(b"reply")
    counted.resume_reading()
    counted.close()
    await counted.wait_closed()
    assert isinstance(inbox, Inbox)
    assert inbox.frames == [b"one", b"three"]
    assert reply.frames == [b"reply"]
    assert (counted.frames, counted.size) == (2, 8)


async def test_it_passes_an_end_on() -> None:
    ours, _ = memory_pair()
    error = OSError("cut")
    CountedStream(ours).abort(error)
    await ours.wait_closed()
    assert ours.error is error
