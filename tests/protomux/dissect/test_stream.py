"""Layouts of a secret stream; test_golden reads what the originals sent."""

from __future__ import annotations

import asyncio

import pytest

from protomux.dissect import Format, Problem, build, dissect, stream
from protomux.streams import SecretStream, cipher


class Transport(asyncio.Transport):
    """Carries what is written into the other stream."""

    def __init__(self, to: SecretStream) -> None:
        super().__init__()
        self.to = to
        self.sent = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)
        asyncio.get_running_loop().call_soon(self.to.data_received, bytes(data))

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None: ...

    def pause_reading(self) -> None: ...

    def abort(self) -> None: ...


async def test_what_two_streams_send() -> None:
    one, other = SecretStream(True), SecretStream(False)
    there, back = Transport(other), Transport(one)
    other.connection_made(back)
    one.connection_made(there)
    await one.wait_opened()
    await other.wait_opened()
    one.write(b"hello")
    one.write(b"")
    for is_initiator, sent, sizes in ((True, there.sent, [5, 0]), (False, back.sent, [])):
        found = dissect(stream.side("XX", is_initiator=is_initiator), sent)
        assert (found.problem, found.end) == (None, len(sent))
        header = found.root.child("header")
        assert header is not None
        id = header.child("id")
        assert id is not None
        assert one.handshake_hash is not None
        assert id.value == cipher.stream_id(is_initiator, one.handshake_hash)
        frames = [node for node in found.root.children if node.name == "message"]
        assert [frame.end - frame.start - 3 - cipher.OVERHEAD for frame in frames] == sizes
    for end in (one, other):
        end.abort()


NOISE = b"\x20\x00\x00" + bytes(32)
HEADER = b"\x38\x00\x00" + bytes(56)


@pytest.mark.parametrize(
    ("format", "data", "offset", "reason"),
    [
        (stream.side("XX", is_initiator=False), NOISE, 35, "expected 32 bytes of key, got 0"),
        (stream.side("XK", is_initiator=False), NOISE, 35, "expected 16 bytes of tag, got 0"),
        (
            stream.side("XX", is_initiator=True),
            NOISE + b"\x00\x00\x01",
            35,
            "expected a message of 0 to 65535 bytes, got 65536",
        ),
        (
            stream.side("IK", is_initiator=False),
            b"\x30\x00\x00" + bytes(48) + b"\x37\x00\x00" + bytes(55),
            51,
            "expected a message of 56 bytes, got 55",
        ),
        (
            stream.side("IK", is_initiator=False),
            b"\x30\x00\x00" + bytes(48) + HEADER + b"\x10\x00\x00" + bytes(16),
            110,
            "expected a message of 17 to 16777215 bytes, got 16",
        ),
        (stream.message, b"\x05\x00\x00abc", 6, "expected 5 bytes of a message, got 3"),
        (stream.message, b"\x05\x00", 2, "expected 3 bytes of size, got 2"),
        (stream.header, bytes(55), 55, "expected 24 bytes of start, got 23"),
        (stream.encrypted_frame, bytes(16), 16, "expected 16 bytes of tag, got 15"),
    ],
)
def test_what_is_wrong(format: Format, data: bytes, offset: int, reason: str) -> None:
    assert dissect(format, data).problem == Problem(offset, reason)


def test_any_message() -> None:
    assert build(stream.message, b"abc") == b"\x03\x00\x00abc"
    assert dissect(stream.message, b"\x03\x00\x00abcdef").value == b"abc"
    assert stream.PATTERNS == ("XX", "IK", "XK")
