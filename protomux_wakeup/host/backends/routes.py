"""Who may reach which backend, by which token. Knows the store, not what leads there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from typing import Any, Final

from protomux_wakeup.host.backends.store import BackendStore, StoredToken
from protomux_wakeup.host.backends.tokens import (
    TOKEN_LIFETIME,
    Route,
    digest_of,
    new_token,
    secret_of,
)
from protomux_wakeup.host.errors import StoreFailed

__all__ = ["Routes"]

_log = logging.getLogger("protomux_wakeup.host")

_SLACK: Final = 60.0
"""Seconds that a token may be good for less than it should be: not every use is written down."""


class Routes:
    """The tokens of one store. Raises StoreFailed where that fails."""

    def __init__(self, store: BackendStore, clock: Callable[[], float]) -> None:
        self._store: Final = store
        self._clock: Final = clock

    def add(self, backend_id: str, user: str | None, auth: dict[str, Any] | None) -> str:
        """Return a token that leads to a backend."""
        time = self._clock()
        token = new_token()
        stored = StoredToken(backend_id, user, auth, time + TOKEN_LIFETIME)
        self._store.add_token(digest_of(token), stored, time)
        return token

    def add_static(self, backend_id: str, token: str) -> None:
        """Let `token` lead to a backend as long as it runs."""
        stored = StoredToken(backend_id, None, None, inf)
        self._store.add_token(digest_of(token), stored, self._clock())

    def find(self, token: str) -> Route | None:
        """Return where `token` leads, which is good for longer by that.

        None where it is unknown, too old, or of a backend that has ended: nobody can tell which.
        """
        digest = digest_of(token)
        found = self._store.token(digest)
        time = self._clock()
        if found is None or found.expires <= time:
            return None
        if found.expires < time + TOKEN_LIFETIME - _SLACK:
            try:
                self._store.extend_token(digest, time + TOKEN_LIFETIME)
            except StoreFailed as error:  # it is good still
                _log.warning("the use of a token was not written down: %s", error)
        return Route(found.backend_id, found.user, found.auth, secret_of(token))
