"""The cipher after the handshake. Against the original's bytes: test_golden."""

from __future__ import annotations

import pytest

from protomux import ProtocolError
from protomux.streams.cipher import HEADER_SIZE, OVERHEAD, Decryptor, Encryptor, stream_id

KEY, HASH = bytes(range(32)), bytes(range(64))


def pair() -> tuple[Encryptor, Decryptor]:
    encryptor, decryptor = Encryptor(KEY, True, HASH), Decryptor(KEY, True, HASH)
    decryptor.start(encryptor.header)
    return encryptor, decryptor


@pytest.mark.parametrize("size", [0, 1, 64, 100_000])
def test_messages_come_out_as_they_went_in(size: int) -> None:
    encryptor, decryptor = pair()
    for _ in range(3):
        message = encryptor.encrypt(b"x" * size)
        assert len(message) == size + OVERHEAD
        assert decryptor.decrypt(message) == b"x" * size


def test_a_large_message_leaves_no_large_buffer_behind() -> None:
    encryptor, decryptor = pair()
    decryptor.decrypt(encryptor.encrypt(bytes(1_000_000)))
    assert encryptor._state.rawbuf is None
    assert decryptor._state.rawbuf is None


def test_a_message_out_of_order_or_twice_is_refused() -> None:
    encryptor, decryptor = pair()
    one, two = encryptor.encrypt(b"one"), encryptor.encrypt(b"two")
    with pytest.raises(ProtocolError, match="does not authenticate"):
        decryptor.decrypt(two)
    assert decryptor.decrypt(one) == b"one"
    with pytest.raises(ProtocolError, match="does not authenticate"):
        decryptor.decrypt(one)


def test_headers_of_another_stream_role_or_size_are_refused() -> None:
    for encryptor in (Encryptor(KEY, True, bytes(64)), Encryptor(KEY, False, HASH)):
        with pytest.raises(ProtocolError, match="expected the id of this stream"):
            Decryptor(KEY, True, HASH).start(encryptor.header)
    with pytest.raises(ProtocolError, match=f"a header of {HEADER_SIZE} bytes, got 55"):
        Decryptor(KEY, True, HASH).start(bytes(55))
    assert stream_id(True, HASH) != stream_id(False, HASH)


def test_a_message_that_is_too_short_is_refused() -> None:
    _, decryptor = pair()
    with pytest.raises(ProtocolError, match="expected a message of 17 bytes or more, got 16"):
        decryptor.decrypt(bytes(16))
