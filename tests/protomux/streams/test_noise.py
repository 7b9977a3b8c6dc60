"""The Noise handshake between two of our own sides. Against the original's bytes: test_golden."""

from __future__ import annotations

import pytest

from protomux import HandshakeError, KeyPair
from protomux.streams.noise import MAX_MESSAGE, PATTERNS, Handshake


def sides(pattern: str) -> tuple[Handshake, Handshake]:
    one, two = KeyPair.generate(), KeyPair.generate()
    return (
        Handshake(pattern, True, one, None if pattern == "XX" else two.public_key),
        Handshake(pattern, False, two),
    )


def run(a: Handshake, b: Handshake, flip: tuple[int, int] | None = None) -> list[bytes]:
    """Shake hands; `flip` is the message, and the byte in it, that changes on the way."""
    messages: list[bytes] = []
    while a.keys is None or b.keys is None:
        writer, reader = (a, b) if a.is_our_turn else (b, a)
        assert not reader.is_our_turn
        message = bytearray(writer.write())
        if flip is not None and flip[0] == len(messages):
            message[flip[1]] ^= 1
        messages.append(bytes(message))
        reader.read(messages[-1])
    return messages


@pytest.mark.parametrize("pattern", PATTERNS)
def test_both_sides_end_with_the_same_keys(pattern: str) -> None:
    a, b = sides(pattern)
    run(a, b)
    assert a.keys is not None
    assert b.keys is not None
    assert a.keys.send == b.keys.receive != a.keys.receive == b.keys.send
    assert a.keys.handshake_hash == b.keys.handshake_hash
    assert len(a.keys.handshake_hash) == 64
    assert not a.is_our_turn
    assert not b.is_our_turn
    assert a.remote_public_key == b._static.public_key
    assert b.remote_public_key == a._static.public_key


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_byte_of_a_handshake_can_be_changed(pattern: str) -> None:
    sizes = [len(message) for message in run(*sides(pattern))]
    for which, size in enumerate(sizes):
        for position in range(size):
            # The first message of XX is not authenticated until the second.
            with pytest.raises(HandshakeError):
                run(*sides(pattern), flip=(which, position))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_message_of_a_handshake_can_be_cut(pattern: str) -> None:
    sizes = [len(message) for message in run(*sides(pattern))]
    for which, size in enumerate(sizes):
        for length in range(size):
            a, b = sides(pattern)
            for number in range(which):
                writer, reader = (a, b) if number % 2 == 0 else (b, a)
                reader.read(writer.write())
            writer, reader = (a, b) if which % 2 == 0 else (b, a)
            message = writer.write()[:length]
            with pytest.raises(HandshakeError):
                reader.read(message)


@pytest.mark.parametrize(
    "key",
    [
        bytes(32),  # order 4
        b"\x01" + bytes(31),  # the identity
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        b"\xff" * 32,  # no point at all
        bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ],
    ids=["order 4", "identity", "order 2", "order 8", "no point", "not canonical"],
)
def test_points_that_make_a_weak_secret_are_refused(key: bytes) -> None:
    responder = Handshake("XX", False, KeyPair.generate())
    responder.read(key)
    with pytest.raises(HandshakeError, match="no valid Ed25519 point"):
        responder.write()


def test_a_message_past_the_size_of_noise_is_refused() -> None:
    responder = Handshake("XX", False, KeyPair.generate())
    with pytest.raises(HandshakeError, match="at most 65535 bytes, got 65536"):
        responder.read(bytes(MAX_MESSAGE + 1))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="a pattern of XX, IK, XK, got 'NN'"):
        Handshake("NN", True, KeyPair.generate())
    for pattern in ("IK", "XK"):
        with pytest.raises(ValueError, match=f"remote_public_key for the pattern {pattern}"):
            Handshake(pattern, True, KeyPair.generate())


def test_a_responder_of_other_keys_than_expected_is_refused() -> None:
    for pattern in ("IK", "XK"):
        a = Handshake(pattern, True, KeyPair.generate(), KeyPair.generate().public_key)
        b = Handshake(pattern, False, KeyPair.generate())
        with pytest.raises(HandshakeError, match="does not authenticate"):
            b.read(a.write())
