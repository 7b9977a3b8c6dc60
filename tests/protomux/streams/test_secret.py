"""The encrypted stream over real sockets, between two of ours or with bytes made by hand."""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Any

import pytest

from protomux import (
    HandshakeError,
    KeyPair,
    LimitExceeded,
    Limits,
    ProtocolError,
    Protomux,
    StreamClosed,
)
from protomux.streams import SecretStream
from protomux.streams import secret as secret_module
from protomux.streams.cipher import Decryptor, Encryptor
from protomux.streams.noise import Handshake
from protomux.streams.secret import MAX_FRAME
from tests.protomux.streams.secret_pair import (
    RawSocket,
    connect,
    secret_and_raw,
    secret_pair,
)
from tests.raw_peer import RawPeer
from tests.ticking import ticks, until

ALICE, BOB, EVE = (KeyPair.generate(bytes([number]) * 32) for number in range(3))


async def opened(*streams: SecretStream) -> None:
    async with asyncio.timeout(5):
        for stream in streams:
            await stream.wait_opened()


async def closed(*streams: SecretStream) -> None:
    async with asyncio.timeout(5):
        for stream in streams:
            await stream.wait_closed()


# Opening


@pytest.mark.parametrize("pattern", ["XX", "IK", "XK"])
async def test_two_sides_open_and_know_each_other(pattern: str) -> None:
    a, b = await secret_pair(
        {"key_pair": ALICE, "pattern": pattern, "remote_public_key": BOB.public_key},
        {"key_pair": BOB, "pattern": pattern},
    )
    assert not a.is_open
    assert a.handshake_hash is a.remote_public_key is None
    assert repr(a) == "<SecretStream initiator opening>"
    await opened(a, b, a)
    assert a.is_open
    assert repr(b) == "<SecretStream responder open>"
    assert a.handshake_hash == b.handshake_hash
    assert len(a.handshake_hash or b"") == 64
    assert a.public_key == b.remote_public_key == ALICE.public_key
    assert b.public_key == a.remote_public_key == BOB.public_key
    one, two = RawPeer(a), RawPeer(b)
    a.write(b"from a")
    b.write(b"from b")
    assert await one.wait_frames(1) == [b"from b"]
    assert await two.wait_frames(1) == [b"from a"]
    a.close()
    await closed(a, b)
    assert a.error is b.error is None
    assert repr(a) == "<SecretStream initiator gone>"
    assert not a.is_open
    assert a.transport is not None


async def test_frames_written_before_the_stream_is_open_come_first() -> None:
    a, b = SecretStream(True), SecretStream(False)
    two = RawPeer(b)
    assert a.write(b"early")
    for stream, end in zip((a, b), socket.socketpair(), strict=True):
        await connect(stream, end)
    a.write(b"during the handshake")
    await opened(a)
    a.write(b"after")
    assert await two.wait_frames(3) == [b"early", b"during the handshake", b"after"]
    a.abort()
    await closed(a, b)


async def test_much_written_before_the_stream_is_open_asks_to_wait() -> None:
    class Receiver(RawPeer):
        def pause_writing(self) -> None:
            self.frames.append(b"pause")

        def resume_writing(self) -> None:
            self.frames.append(b"resume")

    a, b = await secret_pair()
    one, two = Receiver(a), RawPeer(b)
    assert a.write(bytes(60_000))
    assert not a.write(bytes(60_000))
    assert one.frames == [b"pause"]
    await two.wait_frames(2)
    assert await one.wait_frames(2) == [b"pause", b"resume"]
    a.abort()
    await closed(a, b)


@pytest.mark.parametrize("side", ["initiator", "responder"])
@pytest.mark.parametrize("pattern", ["XX", "IK", "XK"])
async def test_a_pinned_key_is_enforced(pattern: str, side: str) -> None:
    initiator: dict[str, Any] = {"key_pair": ALICE, "pattern": pattern}
    responder: dict[str, Any] = {"key_pair": BOB, "pattern": pattern}
    initiator["remote_public_key"] = EVE.public_key if side == "initiator" else BOB.public_key
    responder["remote_public_key"] = EVE.public_key if side == "responder" else ALICE.public_key
    a, b = await secret_pair(initiator, responder)
    refuser = a if side == "initiator" else b
    if side == "initiator" and pattern != "XX":
        refuser = b  # the responder cannot even read what was meant for another
    with pytest.raises(HandshakeError, match=r"pinned key|does not authenticate"):
        await asyncio.wait_for(refuser.wait_opened(), 5)
    await closed(a, b)
    assert isinstance(a.error, HandshakeError)
    assert isinstance(b.error, HandshakeError)


@pytest.mark.parametrize("kind", ["plain", "async", "raises", "async raises", "cancelled"])
@pytest.mark.parametrize("side", ["initiator", "responder"])
async def test_a_firewall_refuses(side: str, kind: str) -> None:
    asked = []

    def refuse(key: bytes) -> bool:
        asked.append(key)
        if kind.endswith("raises"):
            raise OSError("no list of friends")
        if kind == "cancelled":
            raise asyncio.CancelledError
        return True

    async def refuse_later(key: bytes) -> bool:
        await asyncio.sleep(0)
        return refuse(key)

    firewall = refuse if kind in ("plain", "raises") else refuse_later
    options = [{"key_pair": ALICE}, {"key_pair": BOB}]
    options[side == "responder"]["firewall"] = firewall  # type: ignore[assignment]
    a, b = await secret_pair(*options)
    refuser, refused = (a, b) if side == "initiator" else (b, a)
    with pytest.raises(HandshakeError, match="the firewall refused the peer"):
        await asyncio.wait_for(refuser.wait_opened(), 5)
    await closed(a, b)
    assert asked == [refused.public_key]
    assert isinstance(refused.error, HandshakeError)


async def test_a_firewall_is_asked_before_our_key_is_shown() -> None:
    a, raw = await secret_and_raw(True, firewall=lambda _key: True)
    responder = Handshake("XX", False, BOB)
    responder.read(await raw.read_message())
    await raw.write_message(responder.write())
    await raw.read_end()
    await closed(a)
    raw.close()


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_firewall_lets_in(is_async: bool) -> None:
    async def later(_key: bytes) -> bool:
        await asyncio.sleep(0)
        return False

    firewall = later if is_async else lambda _key: False
    a, b = await secret_pair({"firewall": firewall}, {"firewall": firewall})
    two = RawPeer(b)
    a.write(b"hello")
    assert await two.wait_frames(1) == [b"hello"]
    a.abort()
    await closed(a, b)


async def test_a_stream_that_ends_while_its_firewall_thinks_stays_ended() -> None:
    thinking, answer = asyncio.Event(), asyncio.Event()

    async def firewall(_key: bytes) -> bool:
        thinking.set()
        await answer.wait()
        return False

    a, b = await secret_pair({}, {"firewall": firewall})
    await thinking.wait()
    b.abort()
    await closed(a, b)
    answer.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not b.is_open


async def test_a_handshake_that_never_ends_is_ended() -> None:
    stream, raw = await secret_and_raw(False, limits=Limits(handshake_time=0.05))
    with pytest.raises(HandshakeError, match=r"no complete handshake after 0\.05 s"):
        await asyncio.wait_for(stream.wait_opened(), 5)
    await raw.read_end()
    raw.close()
    await closed(stream)


async def test_the_handshake_time_covers_the_header() -> None:
    stream, raw = await secret_and_raw(True, limits=Limits(handshake_time=0.2))
    responder = Handshake("XX", False, BOB)
    responder.read(await raw.read_message())
    await raw.write_message(responder.write())
    responder.read(await raw.read_message())
    await opened(stream)
    await closed(stream)
    assert isinstance(stream.error, HandshakeError)
    raw.close()


async def test_an_endless_handshake_time_sets_no_timer() -> None:
    a, b = await secret_pair(
        {"limits": Limits(handshake_time=inf)}, {"limits": Limits(handshake_time=inf)}
    )
    await opened(a, b)
    a.abort()
    await closed(a, b)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x00\x00\x01", HandshakeError),  # 65,536 bytes of Noise
        (b"\x20\x00\x00" + bytes(32), HandshakeError),  # a point of small order
        (b"\x05\x00\x00hello", HandshakeError),  # too short
        (b"GET / HTTP/1.1\r\n\r\n", HandshakeError),
        (b"\x00\x00\x00", HandshakeError),  # nothing at all
    ],
)
async def test_garbage_in_place_of_a_handshake_ends_the_stream(
    data: bytes, error: type[Exception]
) -> None:
    stream, raw = await secret_and_raw(False)
    await raw.write(data)
    with pytest.raises(error):
        await asyncio.wait_for(stream.wait_opened(), 5)
    await raw.read_end()
    raw.close()
    await closed(stream)


async def test_a_peer_that_leaves_during_the_handshake_is_an_error() -> None:
    stream, raw = await secret_and_raw(True)
    await raw.read_message()
    raw.end()
    with pytest.raises(HandshakeError, match="closed before the handshake"):
        await asyncio.wait_for(stream.wait_opened(), 5)
    raw.close()
    stream, raw = await secret_and_raw(True)
    raw.close()
    with pytest.raises(HandshakeError, match="before the handshake was complete"):
        await asyncio.wait_for(stream.wait_opened(), 5)
    await closed(stream)


# A peer made by hand, with an open stream


class ByHand:
    """A responder that has done its handshake, and encrypts what a test tells it to."""

    def __init__(self, raw: RawSocket, encryptor: Encryptor, decryptor: Decryptor) -> None:
        self.raw = raw
        self.encryptor = encryptor
        self.decryptor = decryptor


async def by_hand(*, header: bool = True, **options: Any) -> tuple[SecretStream, ByHand]:
    stream, raw = await secret_and_raw(True, **options)
    noise = Handshake("XX", False, BOB)
    noise.read(await raw.read_message())
    await raw.write_message(noise.write())
    noise.read(await raw.read_message())
    assert noise.keys is not None
    peer = ByHand(
        raw,
        Encryptor(noise.keys.send, False, noise.keys.handshake_hash),
        Decryptor(noise.keys.receive, True, noise.keys.handshake_hash),
    )
    peer.decryptor.start(await raw.read_message())
    if header:
        await raw.write_message(peer.encryptor.header)
    await opened(stream)
    return stream, peer


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
async def test_bytes_may_come_in_pieces_of_any_size(chunk: int) -> None:
    stream, peer = await by_hand(header=False)
    receiver = RawPeer(stream)
    data = len(peer.encryptor.header).to_bytes(3, "little") + peer.encryptor.header
    for frame in (b"one", b"", b"three" * 20):
        message = peer.encryptor.encrypt(frame)
        data += len(message).to_bytes(3, "little") + message
    for start in range(0, len(data), chunk):
        stream.data_received(data[start : start + chunk])
    assert receiver.frames == [b"one", b"", b"three" * 20]
    stream.abort()
    await closed(stream)
    peer.raw.close()


@pytest.mark.parametrize("size", [55, 57])
async def test_a_header_of_the_wrong_size_ends_the_stream(size: int) -> None:
    stream, peer = await by_hand(header=False)
    await peer.raw.write(size.to_bytes(3, "little"))  # its length alone
    await closed(stream)
    with pytest.raises(ProtocolError, match=f"a header of 56 bytes, got {size}"):
        raise stream.error or AssertionError("no error")
    peer.raw.close()


async def test_a_header_of_another_stream_ends_the_stream() -> None:
    stream, peer = await by_hand(header=False)
    await peer.raw.write_message(bytes(56))
    await closed(stream)
    with pytest.raises(ProtocolError, match="expected the id of this stream"):
        raise stream.error or AssertionError("no error")
    peer.raw.close()


@pytest.mark.parametrize("message", [b"", bytes(16), bytes(17), bytes(1000)])
async def test_a_forged_message_ends_the_stream(message: bytes) -> None:
    stream, peer = await by_hand()
    receiver = RawPeer(stream)
    await peer.raw.write_message(message)
    await receiver.wait_lost()
    assert isinstance(receiver.error, ProtocolError)
    assert receiver.frames == []
    peer.raw.close()


async def test_a_stream_cut_inside_a_message_is_an_error() -> None:
    stream, peer = await by_hand()
    receiver = RawPeer(stream)
    message = peer.encryptor.encrypt(b"whole")
    await peer.raw.write_message(message)
    await peer.raw.write(b"\x20\x00\x00half")
    peer.raw.end()
    await receiver.wait_lost()
    assert receiver.frames == [b"whole"]
    with pytest.raises(ProtocolError, match="ended inside a message"):
        raise receiver.error or AssertionError("no error")
    peer.raw.close()


async def test_a_reset_is_told_as_the_end_of_the_stream() -> None:
    stream, peer = await by_hand()
    receiver = RawPeer(stream)
    await peer.raw.write_message(peer.encryptor.encrypt(b"open"))
    await receiver.wait_frames(1)
    error = ConnectionResetError("reset by peer")
    assert stream.transport is not None
    stream.transport.abort()
    stream.connection_lost(error)
    assert isinstance(receiver.error, StreamClosed)
    assert receiver.error.__cause__ is error
    peer.raw.close()
    await asyncio.sleep(0)


# Flow


async def test_a_reader_that_pauses_makes_the_writer_wait() -> None:
    class Receiver(RawPeer):
        def __init__(self, stream: SecretStream) -> None:
            self.resumed = asyncio.Event()
            super().__init__(stream)

        def resume_writing(self) -> None:
            self.resumed.set()

    a, b = await secret_pair()
    writer, reader = Receiver(a), RawPeer(b)
    await opened(a, b)
    b.pause_reading()
    sent = 0
    async with asyncio.timeout(10):
        while a.write(bytes(50_000)):
            sent += 1
            await asyncio.sleep(0)
    sent += 1
    assert reader.frames == []
    assert not writer.resumed.is_set()
    b.resume_reading()
    await reader.wait_frames(sent)
    await asyncio.wait_for(writer.resumed.wait(), 5)
    a.close()
    await closed(a, b)


async def test_pausing_inside_a_frame_holds_those_that_came_along() -> None:
    stream, peer = await by_hand()

    class PausesAtOnce(RawPeer):
        def frame_received(self, frame: bytes) -> None:
            super().frame_received(frame)
            stream.pause_reading()

    receiver = PausesAtOnce(stream)
    data = b""
    for frame in (b"one", b"two"):
        message = peer.encryptor.encrypt(frame)
        data += len(message).to_bytes(3, "little") + message
    await peer.raw.write(data)
    peer.raw.end()
    assert await receiver.wait_frames(1) == [b"one"]
    await asyncio.sleep(0)
    assert receiver.frames == []
    stream.resume_reading()
    assert await receiver.wait_frames(1) == [b"two"]
    stream.resume_reading()
    await receiver.wait_lost()
    assert receiver.error is None
    peer.raw.close()


async def test_frames_wait_for_a_receiver() -> None:
    a, b = await secret_pair()
    await opened(a, b)
    a.write(b"nobody listens yet")
    a.close()
    await until(lambda: b._peer_has_ended)
    assert not b.is_closing
    peer = RawPeer(b)
    await peer.wait_lost()
    assert peer.frames == [b"nobody listens yet"]
    assert peer.error is None
    await closed(a)


async def test_the_largest_frame_and_the_one_after() -> None:
    a, b = await secret_pair()
    await opened(a, b)
    peer = RawPeer(b)
    frame = bytes(MAX_FRAME)
    a.write(frame)
    (received,) = await peer.wait_frames(1)
    assert received == frame
    with pytest.raises(LimitExceeded, match="at most 16777198 bytes, got 16777199"):
        a.write(frame + b"x")
    a.abort()
    await closed(a, b)


# Time


async def test_empty_messages_keep_a_stream_alive_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await secret_pair({"keep_alive": 0.01}, {"keep_alive": 0.01, "timeout": 0.3})
    peer = RawPeer(b)
    await opened(a, b)
    beats = 0
    enough = asyncio.Event()
    write = SecretStream.write

    def count(stream: SecretStream, frame: bytes) -> bool:
        nonlocal beats
        beats += stream is a and not frame
        if beats == 5:
            enough.set()
        return write(stream, frame)

    monkeypatch.setattr(SecretStream, "write", count)
    await asyncio.wait_for(enough.wait(), 5)
    a.write(b"content")
    assert await peer.wait_frames(1) == [b"content"]
    a.close()
    await closed(a, b)


async def test_empty_messages_are_delivered_without_keep_alive() -> None:
    a, b = await secret_pair()
    peer = RawPeer(b)
    await opened(a, b)
    a.set_keep_alive(0.01)
    assert await peer.wait_frames(2) == [b"", b""]
    a.set_keep_alive(0)
    b.set_keep_alive(1000)
    a.write(b"")
    a.write(b"content")
    assert (await peer.wait_frames(1))[-1] == b"content"
    a.close()
    await closed(a, b)


async def test_silence_of_the_peer_ends_the_stream() -> None:
    a, b = await secret_pair({"timeout": 0.05})
    peer = RawPeer(a)
    await opened(a, b)
    await peer.wait_lost()
    with pytest.raises(StreamClosed, match=r"nothing came from the peer for 0\.05 s"):
        raise peer.error or AssertionError("no error")
    await closed(b)


async def test_our_own_pause_is_not_the_peers_silence() -> None:
    a, b = await secret_pair()
    RawPeer(a)
    await opened(a, b)
    a.pause_reading()
    b.write(bytes(100_000))  # more than is taken in while the receiver pauses
    transport = a.transport
    assert transport is not None
    await until(lambda: not transport.is_reading())
    fired = asyncio.Event()
    a.set_timeout(0.01)
    timer = a._silence_in
    assert timer is not None
    callback = timer._callback

    def note() -> None:
        callback()
        fired.set()

    timer._callback = note
    await asyncio.wait_for(fired.wait(), 5)
    assert a.is_open
    a.set_timeout(0)
    a.abort()
    await closed(a, b)


async def test_timers_of_a_stream_that_is_gone_stay_off() -> None:
    a, b = await secret_pair()
    await opened(a, b)
    a.abort()
    await closed(a, b)
    a.set_timeout(0.01)
    a.set_keep_alive(0.01)
    assert a._silence_in is a._silence_out is None


async def test_a_firewall_that_nobody_waits_for_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def firewall(_key: bytes) -> bool:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return False

    a, b = await secret_pair({}, {"firewall": firewall, "limits": Limits(handshake_time=0.05)})
    await closed(a, b)
    await asyncio.wait_for(cancelled.wait(), 5)


# Closing


async def test_what_was_written_before_a_close_arrives_on_both_sides() -> None:
    a, b = await secret_pair()
    await opened(a, b)
    one = RawPeer(a)

    class Answers(RawPeer):
        def frame_received(self, frame: bytes) -> None:
            super().frame_received(frame)
            for _ in range(10):
                b.write(b"y" * 50_000)

    two = Answers(b)
    for _ in range(20):
        a.write(b"x" * 50_000)
    a.close()
    assert a.is_closing
    a.write(b"in the tick of the close")
    await closed(a, b)
    assert len(two.frames) == 21
    assert len(one.frames) == 21 * 10
    assert a.error is b.error is None
    assert a.write(b"x") is False


async def test_a_peer_that_never_answers_a_close_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(secret_module, "CLOSE_TIMEOUT", 0.05)
    stream, peer = await by_hand()
    RawPeer(stream)
    stream.write(bytes(300_000))
    stream.close()
    await asyncio.sleep(0)
    # As long as anything moves there is time.
    for _ in range(4):
        await peer.raw.write_message(peer.encryptor.encrypt(b"still here"))
        await asyncio.sleep(0.02)
    await closed(stream)
    with pytest.raises(StreamClosed, match="did not close within"):
        raise stream.error or AssertionError("no error")
    peer.raw.close()


async def test_closing_during_the_handshake() -> None:
    stream, raw = await secret_and_raw(True)
    waiter = asyncio.create_task(stream.wait_opened())
    await asyncio.sleep(0)
    stream.close()
    assert repr(stream) == "<SecretStream initiator closing>"
    with pytest.raises(StreamClosed, match="the stream is closed"):
        await waiter
    assert stream.error is None
    raw.close()
    await closed(stream)


async def test_closing_during_the_handshake_sends_first_what_was_written() -> None:
    a, b = await secret_pair()
    two = RawPeer(b)
    a.write(b"early")
    a.close()
    a.close()
    await closed(a, b)
    assert two.frames == [b"early"]
    assert a.error is b.error is None


async def test_closing_with_early_frames_and_a_silent_peer_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(secret_module, "CLOSE_TIMEOUT", 0.02)
    stream, raw = await secret_and_raw(True, limits=Limits(handshake_time=inf))
    stream.write(b"early")
    stream.close()
    await closed(stream)
    assert isinstance(stream.error, StreamClosed)
    raw.close()


async def test_our_own_timer_is_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_module, "CLOSE_TIMEOUT", 0.05)
    stream, peer = await by_hand(timeout=0.01)
    RawPeer(stream)
    stream.pause_reading()
    for _ in range(10):
        await peer.raw.write_message(peer.encryptor.encrypt(bytes(10_000)))
    transport = stream.transport
    assert transport is not None
    await until(lambda: not transport.is_reading())
    stream.close()
    await closed(stream)
    assert isinstance(stream.error, StreamClosed)
    peer.raw.close()


async def test_a_stream_without_a_transport_can_be_closed_and_aborted() -> None:
    stream = SecretStream(True)
    stream.write(b"lost")
    stream.close()
    await closed(stream)
    assert stream.error is None
    with pytest.raises(StreamClosed):
        await stream.wait_opened()

    error = ValueError("of the application")
    stream = SecretStream(True)
    stream.abort(error)
    stream.abort(None)
    ours, theirs = socket.socketpair()
    await connect(stream, ours)
    await closed(stream)
    assert stream.error is error
    theirs.close()
    await asyncio.sleep(0)


async def test_a_transport_that_cannot_half_close_is_closed() -> None:
    a, b = await secret_pair()
    two = RawPeer(b)
    RawPeer(a)
    await opened(a, b)
    assert a.transport is not None
    a.transport.can_write_eof = lambda: False  # type: ignore[method-assign]
    a.write(b"last")
    a.close()
    await closed(a, b)
    assert two.frames == [b"last"]


async def test_abort_tells_the_receiver_of_its_error() -> None:
    a, b = await secret_pair()
    await opened(a, b)
    one, two = RawPeer(a), RawPeer(b)
    error = ValueError("of the application")
    a.abort(error)
    await one.wait_lost()
    await two.wait_lost()
    assert one.error is a.error is error
    assert a.write(b"x") is False


async def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="a remote_public_key of 32 bytes, got 5"):
        SecretStream(True, remote_public_key=b"short")
    for name in ("keep_alive", "timeout"):
        with pytest.raises(ValueError, match=f"{name} of 0 seconds or more, got -1"):
            SecretStream(True, **{name: -1})  # type: ignore[arg-type]


# Bounds


async def test_a_frame_beyond_the_limit_is_refused_by_its_length() -> None:
    a, b = await secret_pair({}, {"limits": Limits(frame_size=1000)})
    await opened(a, b)
    peer = RawPeer(b)
    a.write(bytes(1000))
    assert await peer.wait_frames(1) == [bytes(1000)]
    a.write(bytes(1001))
    await peer.wait_lost()
    with pytest.raises(LimitExceeded, match="at most 1000 bytes, got 1001"):
        raise b.error or AssertionError("no error")
    await asyncio.wait_for(a.wait_closed(), 5)


async def test_the_end_of_a_peer_waits_for_who_has_paused_and_may_answer() -> None:
    a, b = await secret_pair()
    await opened(a, b)
    one, two = RawPeer(a), RawPeer(b)
    a.write(b"question")
    await two.wait_frames(1)
    b.pause_reading()
    a.close()
    await ticks(20)
    b.write(b"answer")
    assert await one.wait_frames(1) == [b"answer"]
    assert not two.is_lost
    b.resume_reading()
    await one.wait_lost()
    await two.wait_lost()
    assert (one.error, two.error) == (None, None)


async def test_the_end_of_a_peer_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_module, "CLOSE_TIMEOUT", 0.05)
    a, b = await secret_pair()
    await opened(a, b)
    peer = RawPeer(b)
    b.pause_reading()
    a.close()
    await peer.wait_lost()
    assert peer.error is None


async def test_a_loop_that_stands_still_while_a_stream_closes_ends_it_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(secret_module, "CLOSE_TIMEOUT", 0.05)
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    select = selector.select
    a, b = await secret_pair()
    await opened(a, b)
    RawPeer(a)
    RawPeer(b)
    stalls: list[None] = []

    def stalling(timeout: float | None = None) -> object:
        if b._has_ended and not stalls:  # it closes its transport in the tick that begins here
            stalls.append(None)
            time.sleep(0.1)
        return select(timeout)

    monkeypatch.setattr(selector, "select", stalling)
    a.close()
    await closed(a, b)
    assert stalls
    assert a.error is b.error is None


async def test_a_receiver_may_keep_an_exception_while_a_message_is_not_whole() -> None:
    a, b = await secret_pair()
    kept: list[Exception] = []

    class Keeping(RawPeer):
        def frame_received(self, frame: bytes) -> None:
            super().frame_received(frame)
            try:
                raise ValueError(frame[:1])
            except ValueError as error:
                kept.append(error)  # and with it every frame that called this

    peer = Keeping(b)
    await opened(a, b)
    frames = [bytes([number]) * 100_000 for number in range(20)]  # reads end inside messages
    for frame in frames:
        a.write(frame)
    assert await peer.wait_frames(len(frames)) == frames
    assert len(kept) == len(frames)
    a.close()
    await closed(a, b)
    assert a.error is b.error is None


class Interrupted(RawPeer):
    def frame_received(self, frame: bytes) -> None:
        raise KeyboardInterrupt


async def test_an_interrupted_receiver_ends_the_stream() -> None:
    a, b = await secret_pair()

    await opened(a, b)
    await ticks()
    assert a._encryptor is not None
    data = a._encryptor.encrypt(b"frame", 3)
    Interrupted(b)
    with pytest.raises(KeyboardInterrupt):
        b.data_received(data)
    await closed(a, b)
    assert isinstance(b.error, StreamClosed)


async def test_an_interrupted_receiver_ends_the_stream_also_when_it_had_paused() -> None:
    a, b = await secret_pair()

    await opened(a, b)
    Interrupted(b)
    b.pause_reading()
    a.write(b"frame")
    await until(lambda: b._incoming.waiting)
    b._is_paused = False
    b._direct()
    with pytest.raises(KeyboardInterrupt):
        b._pump_now()
    await closed(a, b)
    assert isinstance(b.error, StreamClosed)


async def test_a_stream_takes_attributes_of_the_application() -> None:
    a, b = await secret_pair()
    a.user_data = "mine"  # type: ignore[attr-defined]
    assert vars(a) == {"user_data": "mine"}
    a.abort()
    await closed(a, b)


@pytest.mark.parametrize("size", [100, 30_000])
async def test_a_forged_message_in_two_pieces_with_more_behind_is_the_peers_fault(
    size: int,
) -> None:
    stream, peer = await by_hand()
    receiver = RawPeer(stream)
    await ticks()
    forged = bytearray(peer.encryptor.encrypt(bytes(size), 3))
    forged[50] ^= 1
    data = bytes(forged) + peer.encryptor.encrypt(b"more", 3)
    stream.data_received(data[:20])
    stream.data_received(data[20:])
    await receiver.wait_lost()
    assert isinstance(receiver.error, ProtocolError)
    assert receiver.frames == []
    peer.raw.close()


async def test_each_thread_reads_into_memory_of_its_own() -> None:
    a, b = await secret_pair()
    await opened(a, b)

    def fill(_number: int) -> bytes:
        with a.get_buffer(-1) as view:  # and who lets go of it takes it from nobody
            view[:5] = b"there"
            view[:5].release()
        return bytes(a.get_buffer(-1)[:5])

    a.get_buffer(-1)[:4] = b"here"
    with ThreadPoolExecutor(1) as pool:
        assert list(pool.map(fill, [1])) == [b"there"]
    assert bytes(a.get_buffer(-1)[:4]) == b"here"
    b.write(b"frame")
    assert await RawPeer(a).wait_frames(1) == [b"frame"]
    a.close()
    b.close()
    await closed(a, b)


@pytest.mark.parametrize("keep_alive", [0.0, 50.0])
async def test_a_receiver_may_take_its_next_frame_in_another_way(keep_alive: float) -> None:
    stream, peer = await by_hand(keep_alive=keep_alive)
    taken: list[tuple[str, bytes]] = []

    class Changing(RawPeer):
        def frame_received(self, frame: bytes) -> None:
            taken.append(("first", frame))
            self.frame_received = lambda frame: taken.append(("rest", frame))  # type: ignore[method-assign]

    Changing(stream)
    await ticks()
    stream.data_received(
        b"".join(peer.encryptor.encrypt(frame, 3) for frame in (b"one", b"two", b"three"))
    )
    assert taken == [("first", b"one"), ("rest", b"two"), ("rest", b"three")]
    stream.abort()
    await closed(stream)
    peer.raw.close()


async def test_a_subclass_sees_all_bytes_that_come() -> None:
    seen: list[int] = []

    class Counting(SecretStream):
        def data_received(self, data: bytes | memoryview) -> None:
            seen.append(len(data))
            super().data_received(data)

    a, b = SecretStream(True), Counting(False)
    for stream, end in zip((a, b), socket.socketpair(), strict=True):
        await connect(stream, end)
    await opened(a, b)
    receiver = RawPeer(b)
    a.write(bytes(1000))
    await receiver.wait_frames(1)
    assert sum(seen) == b._incoming.received > 1000
    a.close()
    b.close()
    await closed(a, b)


async def test_a_bound_may_be_larger_than_any_number_of_the_machine() -> None:
    a, b = await secret_pair({"limits": Limits(frame_size=10**400)})
    await opened(a, b)
    b.write(b"frame")
    receiver = RawPeer(a)
    assert await receiver.wait_frames(1) == [b"frame"]
    Protomux(b, limits=Limits(frame_size=10**400, unsent_size=10**400))
    a.close()
    b.close()
    await closed(a, b)
