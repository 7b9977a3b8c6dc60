"""The cipher after the handshake. Against the original's bytes: test_golden."""

from __future__ import annotations

from typing import Any

import pytest
from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_init_pull,
    crypto_secretstream_xchacha20poly1305_pull,
    crypto_secretstream_xchacha20poly1305_state,
    crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
)

from protomux import ProtocolError
from protomux.streams.cipher import HEADER_SIZE, OVERHEAD, Decryptor, Encryptor, stream_id
from protomux.streams.secretstream import CROSSOVER

LARGE = 2 * CROSSOVER

KEY, HASH = bytes(range(32)), bytes(range(64))


def pair() -> tuple[Encryptor, Decryptor]:
    encryptor, decryptor = Encryptor(KEY, True, HASH), Decryptor(KEY, True, HASH)
    decryptor.start(encryptor.header)
    return encryptor, decryptor


@pytest.mark.parametrize("size", [0, 1, 64, CROSSOVER - 1, CROSSOVER, 100_000])
def test_messages_come_out_as_they_went_in(size: int) -> None:
    encryptor, decryptor = pair()
    for _ in range(3):
        message = encryptor.encrypt(b"x" * size)
        assert len(message) == size + OVERHEAD
        assert decryptor.decrypt(message) == b"x" * size


def test_sizes_may_mix_and_the_peer_needs_only_libsodium() -> None:
    encryptor, decryptor = pair()
    peer = crypto_secretstream_xchacha20poly1305_state()
    crypto_secretstream_xchacha20poly1305_init_pull(peer, encryptor.header[32:], KEY)
    for size in (5, LARGE, 0, LARGE, LARGE, 5):
        message = encryptor.encrypt(b"x" * size)
        read = crypto_secretstream_xchacha20poly1305_pull(peer, message)
        assert read == (b"x" * size, crypto_secretstream_xchacha20poly1305_TAG_MESSAGE)
        assert decryptor.decrypt(message) == b"x" * size


@pytest.mark.parametrize("size", [5, LARGE])
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_view_need_not_be_copied(kind: type[Any], size: int) -> None:
    encryptor, decryptor = pair()
    assert decryptor.decrypt(kind(encryptor.encrypt(kind(b"x" * size)))) == b"x" * size


def test_a_large_message_leaves_no_large_buffer_behind() -> None:
    encryptor, decryptor = pair()
    decryptor.decrypt(encryptor.encrypt(bytes(1_000_000)))
    assert encryptor._state.rawbuf is None
    assert decryptor._state.rawbuf is None


@pytest.mark.parametrize("size", [3, LARGE])
def test_a_message_out_of_order_twice_or_changed_is_refused(size: int) -> None:
    encryptor, decryptor = pair()
    one, two = encryptor.encrypt(b"1" * size), encryptor.encrypt(b"2" * size)
    for wrong in (two, one[:-1], one[:-1] + bytes((one[-1] ^ 1,))):
        with pytest.raises(ProtocolError, match="does not authenticate"):
            decryptor.decrypt(wrong)
    assert decryptor.decrypt(one) == b"1" * size
    with pytest.raises(ProtocolError, match="does not authenticate"):
        decryptor.decrypt(one)


@pytest.mark.parametrize("size", [3, LARGE])
def test_nothing_is_read_before_the_header(size: int) -> None:
    encryptor, _ = pair()
    with pytest.raises(ProtocolError, match="does not authenticate"):
        Decryptor(KEY, True, HASH).decrypt(encryptor.encrypt(b"x" * size))


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


def test_a_decryptor_that_begins_again_has_not_begun() -> None:
    encryptor, decryptor = pair()
    message = encryptor.encrypt(b"first")
    assert decryptor.decrypt(message) == b"first"
    decryptor.__init__(KEY, True, HASH)  # type: ignore[misc]
    with pytest.raises(ProtocolError, match="does not authenticate"):
        decryptor.decrypt(message)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_message_inside_other_bytes_is_read_in_place(kind: type[bytes]) -> None:
    encryptor, decryptor = pair()
    for size in (0, 100, 30_000):
        data = b"before" + encryptor.encrypt(b"x" * size) + b"after"
        found = decryptor.decrypt(kind(data), 6, len(data) - 5)
        assert found == b"x" * size


@pytest.mark.parametrize("length_size", [2, 3, 8])
@pytest.mark.parametrize("size", [0, 100, 30_000])
def test_the_length_of_a_message_stands_in_front_of_it(length_size: int, size: int) -> None:
    encryptor, decryptor = pair()
    message = encryptor.encrypt(b"x" * size, length_size)
    assert int.from_bytes(message[:length_size], "little") == len(message) - length_size
    assert decryptor.decrypt(message, length_size, len(message)) == b"x" * size


def test_a_length_that_does_not_fit_uses_no_turn_of_the_cipher() -> None:
    encryptor, decryptor = pair()
    with pytest.raises(OverflowError):
        encryptor.encrypt(bytes(300), 1)
    assert decryptor.decrypt(encryptor.encrypt(b"x")) == b"x"
