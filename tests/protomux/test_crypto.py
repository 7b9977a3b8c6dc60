"""Hashes and key pairs against published values."""

from __future__ import annotations

import pytest

from protomux import KeyPair
from protomux.crypto import discovery_key, hash, namespace


def test_the_discovery_key_of_a_known_key() -> None:
    expected = "1624ec2f8e32de3e5d060a240ff6a0193d6b35d44d173311958dec134fd9bba4"
    assert discovery_key(b"\x01" * 32).hex() == expected
    with pytest.raises(ValueError, match="a key of 32 bytes, got 31"):
        discovery_key(bytes(31))


def test_the_namespace_of_wakeup() -> None:
    first, second = namespace("wakeup", 2)
    assert first.hex() == "063a3bb9280276c0d40c8706d7f1ce871f123d6a5f16bfe7744428bc96eb2ce0"
    assert second.hex() == "abcb0d8387a3802891f0d6a62b08db97ed6ad680363579bf274fc9fec0792bf3"
    assert namespace("x", 0) == []
    with pytest.raises(ValueError, match="from 0 to 256, got 257"):
        namespace("x", 257)


def test_hash_joins_its_parts() -> None:
    # BLAKE2b-256 of "abc".
    expected = "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"
    assert hash(b"a", b"", b"bc").hex() == expected


def test_the_key_pair_of_a_known_seed() -> None:
    # RFC 8032, section 7.1, test 1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    pair = KeyPair.generate(seed)
    assert pair.public_key.hex() == (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
    assert pair.secret_key == seed + pair.public_key
    assert pair.seed == seed


def test_key_pairs_compare_by_their_secret_and_do_not_show_it() -> None:
    one, two = KeyPair.generate(), KeyPair.generate()
    assert one != two
    assert one == KeyPair.generate(one.seed)
    assert len({one, KeyPair.generate(one.seed), two}) == 2
    assert one != "a key pair"
    assert one.secret_key.hex() not in repr(one)
    assert repr(one.secret_key) not in repr(one)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: KeyPair.generate(bytes(31)), "a seed of 32 bytes, got 31"),
        (lambda: KeyPair(bytes(31), bytes(64)), "a public key of 32 bytes, got 31"),
        (lambda: KeyPair(bytes(32), bytes(63)), "a secret key of 64 bytes, got 63"),
    ],
)
def test_keys_of_the_wrong_size_are_refused_without_being_shown(make: object, text: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=text):
        make()
