"""The secrets by which a backend is reached. Knows no backend, no file.

A token is 256 random bits, and whoever has it is let in; so no file holds it, but its SHA-256,
which cannot be guessed back. The second secret, which the backend is told and compares, comes of
the token by HMAC: who has the token's digest learns it no more than the token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Any, Final, NamedTuple

__all__ = ["TOKEN_LIFETIME", "Route", "digest_of", "new_token", "secret_of"]

TOKEN_LIFETIME: Final = 3600.0
"""Seconds since its last use that a token is good for. Plane's is as long, since it was made."""

_SIZE: Final = 32
_PURPOSE: Final = b"protomux_wakeup secret_token"


class Route(NamedTuple):
    """Where a token leads, and who came by it.

    Attributes:
        backend_id: of a backend that has not ended.
        user: who asked for the token; None where that was not said.
        auth: more about who asked; None where that was not said.
        secret_token: for the backend to compare.
    """

    backend_id: str
    user: str | None
    auth: dict[str, Any] | None
    secret_token: str

    def __repr__(self) -> str:
        return f"<Route {self.backend_id}>"


def new_token() -> str:
    """Return a token: 43 letters, digits, "-" and "_"."""
    return secrets.token_urlsafe(_SIZE)


def digest_of(token: str) -> bytes:
    """Return the 32 bytes by which `token` is found."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def secret_of(token: str) -> str:
    """Return the second secret of `token`, as long as that."""
    key = token.encode(errors="surrogatepass")
    digest = hmac.digest(key, _PURPOSE, "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
