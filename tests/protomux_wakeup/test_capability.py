"""The capability and its proofs. Against the original's bytes: test_golden."""

from __future__ import annotations

import pytest

from protomux.crypto import discovery_key
from protomux_wakeup.capability import Capability

SECRET, HASH = b"\x01" * 32, bytes(64)


def test_a_proof_is_good_for_one_role_and_one_stream() -> None:
    capability = Capability(SECRET)
    proof = capability.prove(True, HASH)
    assert len(proof) == 32
    assert capability.verify(proof, True, HASH)
    assert not capability.verify(proof, False, HASH)
    assert not capability.verify(proof, True, bytes(63) + b"\x01")
    assert not Capability(b"\x02" * 32).verify(proof, True, HASH)


def test_the_id_is_the_discovery_key_unless_given() -> None:
    assert Capability(bytearray(SECRET)).id == discovery_key(SECRET)
    assert Capability(b"short", bytes(32)).id == bytes(32)


def test_secrets_compare_but_do_not_show() -> None:
    capability = Capability(SECRET)
    assert capability.is_same_secret(Capability(SECRET, bytes(32)))
    assert not capability.is_same_secret(Capability(b"\x02" * 32))
    assert repr(capability) == "<Capability 1624ec2f8e32de3e>"


@pytest.mark.parametrize(
    ("secret", "id", "error", "text"),
    [
        (b"shhh", None, ValueError, "a capability of 32 bytes, got 4"),
        (b"", bytes(32), ValueError, "1 byte or more, got none"),
        (SECRET, bytes(31), ValueError, "a discovery_key of 32 bytes, got 31"),
        ("shhh", None, TypeError, "a capability of bytes, got str"),
    ],
)
def test_wrong_sizes_are_refused_without_showing_the_secret(
    secret: bytes, id: bytes | None, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        Capability(secret, id)
    assert "shhh" not in str(caught.value)
