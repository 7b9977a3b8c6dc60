"""The two backends against each other, and against libsodium as PyNaCl has it."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_init_pull,
    crypto_secretstream_xchacha20poly1305_pull,
    crypto_secretstream_xchacha20poly1305_push,
    crypto_secretstream_xchacha20poly1305_state,
    crypto_secretstream_xchacha20poly1305_TAG_FINAL,
    crypto_secretstream_xchacha20poly1305_TAG_REKEY,
)
from nacl.exceptions import CryptoError

from protomux.encoding import BytesLike
from protomux.streams.secretstream import (
    CROSSOVER,
    OPENSSL,
    SODIUM,
    Backend,
    State,
    backend_for,
)

MIB = 2**20
BACKENDS = {"libsodium": SODIUM, "OpenSSL": OPENSSL}
REFERENCE = crypto_secretstream_xchacha20poly1305_state

on_both = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
backends = st.sampled_from(list(BACKENDS.values()))
sizes = st.one_of(
    st.integers(0, 200),
    st.builds(lambda blocks, more: 64 * blocks + more, st.integers(1, 80), st.integers(-17, 17)),
    st.integers(CROSSOVER - 70, CROSSOVER + 70),
    st.integers(0, MIB),
)


def memory(state: REFERENCE) -> Any:
    """Return the 52 bytes of libsodium's state: key, counter (4), nonce (8), 8 unused."""
    return state.statebuf


def begun(kind: type[REFERENCE], counter: int = 1) -> Any:
    """Return a state that can push and pull: the two differ in who chooses the header."""
    state = kind()
    crypto_secretstream_xchacha20poly1305_init_pull(state, bytes(range(24)), bytes(range(32)))
    memory(state)[32:36] = counter.to_bytes(4, "little")
    return state


def text(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def pushed(backend: Backend, state: State, plaintext: BytesLike) -> bytes:
    return b"".join(backend.push(state, plaintext))


def refuses(backend: Backend, state: State, message: bytes) -> None:
    """Assert that `message` is refused and leaves the state as it was."""
    before = bytes(memory(state))
    with pytest.raises(CryptoError):
        backend.pull(state, message)
    assert bytes(memory(state)) == before


def test_size_decides() -> None:
    assert backend_for(0) is backend_for(CROSSOVER - 1) is SODIUM
    assert backend_for(CROSSOVER) is backend_for(MIB) is OPENSSL


def test_both_write_the_bytes_of_libsodium_at_every_size_up_to_five_blocks() -> None:
    reference, states = begun(REFERENCE), [begun(State) for _ in range(4)]
    for size in range(64 * 5 + 2):
        message = crypto_secretstream_xchacha20poly1305_push(reference, text(size))
        assert pushed(SODIUM, states[0], text(size)) == message
        assert pushed(OPENSSL, states[1], text(size)) == message
        assert SODIUM.pull(states[2], message) == text(size)
        assert OPENSSL.pull(states[3], message) == text(size)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(sizes, backends, backends), min_size=1, max_size=8))
@example([(size, OPENSSL, SODIUM) for size in (0, 63, 64, CROSSOVER - 1, CROSSOVER, MIB)])
@example([(size, SODIUM, OPENSSL) for size in (0, 63, 64, CROSSOVER - 1, CROSSOVER, MIB)])
def test_either_side_may_change_backends_at_any_message(
    messages: list[tuple[int, Backend, Backend]],
) -> None:
    reference, sender, receiver = begun(REFERENCE), begun(State), begun(State)
    for size, sending, receiving in messages:
        plaintext = text(size)
        message = pushed(sending, sender, plaintext)
        assert message == crypto_secretstream_xchacha20poly1305_push(reference, plaintext)
        assert receiving.pull(receiver, message) == plaintext
        assert bytes(memory(sender)) == bytes(memory(receiver)) == bytes(memory(reference))


@on_both
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_anything_with_bytes_is_taken(backend: Backend, kind: type[Any]) -> None:
    sender, receiver = begun(State), begun(State)
    message = pushed(backend, sender, kind(b"plaintext"))
    plaintext = backend.pull(receiver, kind(message))
    assert (type(message), type(plaintext), plaintext) == (bytes, bytes, b"plaintext")
    part = memoryview(b"<" + pushed(backend, sender, memoryview(b"<a part>")[1:-1]) + b">")[1:-1]
    assert backend.pull(receiver, part) == b"a part"


@on_both
def test_a_view_of_wider_items_is_its_bytes(backend: Backend) -> None:
    wide = memoryview(array("I", range(25)))
    sender, receiver = begun(State), begun(State)
    message = pushed(backend, sender, wide)
    assert backend.pull(receiver, message) == wide.tobytes()


@on_both
def test_a_changed_byte_anywhere_is_refused_and_changes_nothing(backend: Backend) -> None:
    message = pushed(SODIUM, begun(State), b"a short message")
    receiver = begun(State)
    for place in range(len(message)):
        for flip in (0x01, 0x02, 0x80):
            changed = bytearray(message)
            changed[place] ^= flip
            refuses(backend, receiver, bytes(changed))
    assert backend.pull(receiver, message) == b"a short message"


@on_both
@pytest.mark.parametrize("size", [CROSSOVER, MIB])
def test_a_large_message_is_refused_when_changed_cut_or_made_longer(
    backend: Backend, size: int
) -> None:
    message = pushed(OPENSSL, begun(State), text(size))
    receiver = begun(State)
    for place in (0, 1, 63, 64, 65, size // 2, size - 1, size, size + 1, size + 8, size + 16):
        changed = bytearray(message)
        changed[place] ^= 0x10
        refuses(backend, receiver, bytes(changed))
    for other in (message[:-1], message[1:], message[:-16], message[:17], message + b"\0"):
        refuses(backend, receiver, other)
    assert backend.pull(receiver, message) == text(size)


@on_both
def test_a_message_twice_or_out_of_order_is_refused(backend: Backend) -> None:
    sender, receiver = begun(State), begun(State)
    one, two = pushed(OPENSSL, sender, b"one"), pushed(OPENSSL, sender, b"two")
    refuses(backend, receiver, two)
    assert backend.pull(receiver, one) == b"one"
    refuses(backend, receiver, one)
    assert backend.pull(receiver, two) == b"two"


@on_both
def test_every_tag_is_read_as_libsodium_reads_it(backend: Backend) -> None:
    sender, receiver, reference = begun(REFERENCE), begun(State), begun(REFERENCE)
    for tag in range(256):
        message = crypto_secretstream_xchacha20poly1305_push(sender, b"tagged", tag=tag)
        found = crypto_secretstream_xchacha20poly1305_pull(reference, message)
        assert found == (b"tagged", tag)
        assert backend.pull(receiver, message) == b"tagged"
        assert bytes(memory(receiver)) == bytes(memory(reference))


@on_both
@pytest.mark.parametrize(
    "tag",
    [
        crypto_secretstream_xchacha20poly1305_TAG_REKEY,
        crypto_secretstream_xchacha20poly1305_TAG_FINAL,
    ],
)
def test_a_large_message_with_a_new_key_behind_it(backend: Backend, tag: int) -> None:
    sender, receiver = begun(REFERENCE), begun(State)
    for size, its_tag in ((CROSSOVER, 0), (CROSSOVER, tag), (CROSSOVER, 0), (5, tag), (MIB, 0)):
        key = bytes(memory(receiver))[:32]
        message = crypto_secretstream_xchacha20poly1305_push(sender, text(size), tag=its_tag)
        refuses(backend, receiver, message[:-1] + bytes((message[-1] ^ 1,)))
        assert backend.pull(receiver, message) == text(size)
        assert (bytes(memory(receiver))[:32] == key) is (its_tag == 0)
        assert bytes(memory(receiver)) == bytes(memory(sender))


@pytest.mark.parametrize("size", [0, 100, CROSSOVER])
@on_both
def test_a_key_ends_with_its_counter(backend: Backend, size: int) -> None:
    first = 2**32 - 3
    reference, sender, receiver = begun(REFERENCE, first), begun(State, first), begun(State, first)
    key = bytes(memory(sender))[:32]
    for left in (2, 1, 0, 0, 0):
        message = crypto_secretstream_xchacha20poly1305_push(reference, text(size))
        assert pushed(backend, sender, text(size)) == message
        assert backend.pull(receiver, message) == text(size)
        assert bytes(memory(sender)) == bytes(memory(receiver)) == bytes(memory(reference))
        assert (bytes(memory(sender))[:32] == key) is (left > 0)


@on_both
@pytest.mark.parametrize("counter", [0, 1])
def test_a_state_that_was_not_begun_reads_nothing(backend: Backend, counter: int) -> None:
    forger = State()  # as if its key were zeros, which anyone knows
    memory(forger)[32:36] = counter.to_bytes(4, "little")
    refuses(backend, State(), pushed(SODIUM, forger, b"forged"))


@on_both
def test_an_idle_state_keeps_no_large_buffer(backend: Backend) -> None:
    state, receiver = begun(State), begun(State)
    for size in (CROSSOVER - 1, CROSSOVER, MIB):
        message = pushed(backend, state, text(size))
        backend.pull(receiver, message)
        for each in (state, receiver):
            assert each.rawbuf is None or len(each.rawbuf) < CROSSOVER + 17
    final = crypto_secretstream_xchacha20poly1305_push(
        state, text(MIB), tag=crypto_secretstream_xchacha20poly1305_TAG_FINAL
    )
    backend.pull(receiver, final)
    assert receiver.rawbuf is None or len(receiver.rawbuf) < CROSSOVER + 17
