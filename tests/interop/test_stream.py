"""Secret streams against the original. The Node twins are in cases/stream.mjs.

`peer.opener` says here who acts: sends, closes, or misbehaves.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256

import pytest

from protomux import HandshakeError, KeyPair, ProtocolError, StreamClosed
from protomux.streams import SecretStream
from protomux.streams.noise import Handshake

from .harness import SYMMETRIC, interop
from .twin import Inbox, Peer

NODE = KeyPair.generate(b"\1" * 32)
PYTHON = KeyPair.generate(b"\2" * 32)
STRANGER = KeyPair.generate(b"\3" * 32)

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE
MAX_FRAME = 2**24 - 1 - 17


class Collector:
    """A receiver that keeps what comes in by a stream; None is its end."""

    def __init__(self, stream: SecretStream) -> None:
        self.inbox: Inbox[bytes | None] = Inbox()
        stream.set_receiver(self)

    def frame_received(self, frame: bytes) -> None:
        self.inbox.push(frame)

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, error: Exception | None) -> None:
        self.inbox.push(None)


def collect(stream: SecretStream) -> Inbox[bytes | None]:
    return Collector(stream).inbox


async def exchange(stream: SecretStream) -> None:
    inbox = collect(stream)
    stream.write(b"hello from python")
    assert await inbox.next() == b"hello from node"


@interop(ways=SYMMETRIC, pattern=["XX", "IK", "XK"])
async def test_handshake_patterns(peer: Peer) -> None:
    pattern = peer.options["pattern"]
    stream = await peer.stream(
        pattern=pattern,
        key_pair=PYTHON,
        remote_public_key=NODE.public_key if peer.initiator and pattern != "XX" else None,
    )
    assert stream.is_initiator == peer.initiator
    assert stream.public_key == PYTHON.public_key
    assert stream.remote_public_key == NODE.public_key
    assert stream.handshake_hash is not None
    hash = stream.handshake_hash.hex()
    assert await peer.sync("handshake hash", hash) == hash
    await exchange(stream)


@interop(ways=SYMMETRIC, pattern=["IK", "XK"])
async def test_a_wrong_responder_key(peer: Peer) -> None:
    key = STRANGER.public_key if peer.initiator else None
    stream = await peer.dial(
        pattern=peer.options["pattern"], key_pair=PYTHON, remote_public_key=key
    )
    with pytest.raises(HandshakeError):
        await stream.wait_opened()
    await stream.wait_closed()


@interop(ways=SYMMETRIC)
async def test_a_pinned_key(peer: Peer) -> None:
    # The original does not hold XX to a key; ours does.
    pinned = await peer.dial(key_pair=PYTHON, remote_public_key=NODE.public_key)
    with pytest.raises(HandshakeError):
        await pinned.wait_opened()
    stream = await peer.dial(key_pair=PYTHON, remote_public_key=NODE.public_key)
    await stream.wait_opened()
    await exchange(stream)


@interop(ways=SYMMETRIC, kind=["sync", "async", "raising"])
async def test_a_firewall(peer: Peer) -> None:
    asked = []

    def refuses(key: bytes) -> bool:
        asked.append(key)
        if key == NODE.public_key:
            return False
        if peer.options["kind"] == "raising":
            raise RuntimeError("on purpose")
        return True

    async def refuses_later(key: bytes) -> bool:
        await asyncio.sleep(0)
        return refuses(key)

    firewall = refuses_later if peer.options["kind"] == "async" else refuses
    if peer.initiator:
        with pytest.raises(HandshakeError, match="firewall"):
            await peer.stream(firewall=firewall)
    stream = await peer.stream(firewall=firewall)  # the stranger came first, and not in
    await peer.hear("refused")
    assert asked == [STRANGER.public_key, NODE.public_key]
    assert stream.remote_public_key == NODE.public_key
    await exchange(stream)


@interop(ways=SYMMETRIC, who=["python", "node", "both"])
async def test_keep_alive(peer: Peer) -> None:
    who = peer.options["who"]
    stream = await peer.stream()
    inbox = collect(stream)
    if who != "node":
        stream.set_keep_alive(0.04)
    if who != "python":
        stream.set_timeout(1.0)  # reached but for the other side's keep-alive

    if who == "node":
        assert await inbox.take(30) == [b""] * 30
        peer.tell("enough")
    else:
        await peer.hear("enough")
    stream.write(b"bye from python")
    last = await inbox.next()
    while who == "node" and last == b"":
        last = await inbox.next()
    assert last == b"bye from node"


@interop()
async def test_a_silent_peer_times_out(peer: Peer) -> None:
    stream = await peer.stream()
    inbox = collect(stream)
    if peer.opener:
        stream.set_timeout(0.05)
    assert await inbox.next() is None
    if peer.opener:
        assert isinstance(stream.error, StreamClosed)


@interop()
async def test_half_close_with_much_data_pending(peer: Peer) -> None:
    stream = await peer.stream()
    inbox = collect(stream)

    def chunks(count: int) -> list[bytes]:
        return [bytes([number % 256]) * (64 * KIBIBYTE) for number in range(count)]

    if peer.opener:
        for chunk in chunks(512):  # 32 MiB
            stream.write(chunk)
        stream.close()
        assert await inbox.take(256) == chunks(256)  # comes when all of ours is there
    else:
        assert await inbox.take(512) == chunks(512)
        for chunk in chunks(256):
            stream.write(chunk)
        stream.close()
    assert await inbox.next() is None
    assert stream.error is None


@interop(ways=SYMMETRIC)
async def test_empty_messages(peer: Peer) -> None:
    stream = await peer.stream()
    inbox = collect(stream)
    frames = [b"", b"a", b"", b"", b"b"]
    for frame in frames:
        stream.write(frame)
    assert await inbox.take(5) == frames


@interop()
async def test_large_messages(peer: Peer) -> None:
    stream = await peer.stream()
    inbox = collect(stream)
    for size in (8 * MEBIBYTE - 1, 8 * MEBIBYTE, 8 * MEBIBYTE + 1, MAX_FRAME):
        large = bytes([size % 251]) * size
        if peer.opener:
            stream.write(large)
        received = await inbox.next()
        assert received == large
        if not peer.opener:
            stream.write(received)


@interop(ways=SYMMETRIC)
async def test_many_messages_both_ways(peer: Peer) -> None:
    count = 20_000
    stream = await peer.stream()
    inbox = collect(stream)
    sent, received = sha256(), sha256()
    for number in range(count):
        frame = bytes([number % 256]) * (number * number % 307)
        sent.update(frame + str(len(frame)).encode())
        stream.write(frame)
    for came in await inbox.take(count):
        assert came is not None
        received.update(came + str(len(came)).encode())
    assert await peer.sync("sent", sent.hexdigest()) == received.hexdigest()


@interop(ways=SYMMETRIC)
async def test_bytes_that_trickle_in(peer: Peer) -> None:
    # The Node side writes each byte by itself.
    stream = await peer.stream()
    inbox = collect(stream)
    assert await inbox.take(20) == [bytes([number]) * number for number in range(20)]
    stream.write(b"all there")


async def _shake_hands(
    peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Do the handshake by hand, up to the two headers."""
    noise = Handshake("XX", peer.initiator, PYTHON)
    while noise.keys is None:
        if noise.is_our_turn:
            writer.write(_framed(noise.write()))
        else:
            size = int.from_bytes(await reader.readexactly(3), "little")
            noise.read(await reader.readexactly(size))


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(3, "little") + data


async def _over(reader: asyncio.StreamReader) -> None:
    """Wait until the other side is gone."""
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass


@interop()
async def test_wrong_bytes(peer: Peer) -> None:
    if peer.opener:
        reader, writer = await peer.tcp()
        writer.write(_framed(b"noise"))
        await _over(reader)

        reader, writer = await peer.tcp()
        await _shake_hands(peer, reader, writer)
        writer.write(_framed(b"\7" * 56))  # no header
        await _over(reader)

        for message in (b"too short", b"\7" * 30):
            stream = await peer.dial()
            await stream.wait_opened()
            inbox = collect(stream)
            assert await inbox.next() == b"there"
            assert stream.transport is not None
            stream.transport.write(_framed(message))
            await stream.wait_closed()
    else:
        unopened = await peer.dial()
        with pytest.raises(HandshakeError):
            await unopened.wait_opened()

        for _ in range(3):
            stream = await peer.dial()
            collect(stream)
            stream.write(b"there")
            await stream.wait_closed()
            assert isinstance(stream.error, ProtocolError)
    # Whoever got them lives on.
    stream = await peer.dial()
    await stream.wait_opened()
    await exchange(stream)
