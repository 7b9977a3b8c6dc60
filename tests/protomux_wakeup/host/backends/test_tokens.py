from __future__ import annotations

import hashlib
import re

from protomux_wakeup.host.backends.tokens import Route, digest_of, new_token, secret_of


def test_a_token_is_256_random_bits_that_can_stand_in_a_url() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in tokens)


def test_what_is_kept_of_a_token_is_its_sha_256() -> None:
    assert digest_of("abc") == hashlib.sha256(b"abc").digest()


def test_the_second_secret_is_of_the_token_and_no_part_of_it() -> None:
    token = new_token()
    secret = secret_of(token)
    assert secret == secret_of(token)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", secret)
    assert secret not in {token, secret_of(new_token())}
    assert secret_of("abc") == "WWlc1QJEa_4jXM64jhGBa33eZdYCiSqpq3vV2pdOElw"


def test_what_is_no_token_has_a_digest_all_the_same() -> None:
    assert len({digest_of(text) for text in ("", "\udcff", "\0", "é", "x" * 100_000)}) == 5
    assert len(secret_of("\udcff")) == 43


def test_a_route_does_not_show_its_secret() -> None:
    route = Route("b" * 32, "ann", {"role": "x"}, secret_of("abc"))
    assert repr(route) == f"<Route {'b' * 32}>"
