"""Who may be the peer of a stream: a pinned key, a firewall. Knows keys, no stream."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from protomux.errors import HandshakeError
from protomux.hooks import settle

__all__ = ["Admission", "Firewall"]

Firewall: TypeAlias = Callable[[bytes], bool | Awaitable[bool]]
"""firewall(remote_public_key) -> True to refuse the peer; plain or async.

The sense is that of hyperdht's firewall. One that raises, or is cancelled, refuses too."""


class Admission:
    """Decides once about one peer.

    Attributes:
        is_pending: it was asked, and has not decided.
        is_granted: it has let the peer in.
    """

    __slots__ = ("_asking", "_firewall", "_loop", "_pinned", "is_granted", "is_pending")

    def __init__(
        self, pinned: bytes | None, firewall: Firewall | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.is_pending = False
        self.is_granted = False
        self._pinned = pinned
        self._firewall = firewall
        self._loop = loop
        self._asking: asyncio.Future[Any] | None = None

    def ask(self, key: bytes, decided: Callable[[HandshakeError | None], None]) -> None:
        """Call `decided` with None if the peer may have `key`, else with the reason.

        At once, or when an async firewall has answered.
        """

        def answered(is_refused: object, error: BaseException | None) -> None:
            self.is_pending = False
            if not is_refused and error is None:
                self.is_granted = True
                decided(None)
                return
            refusal = HandshakeError("the firewall refused the peer")
            refusal.__cause__ = error
            decided(refusal)

        self.is_pending = True
        if self._pinned is not None and not hmac.compare_digest(key, self._pinned):
            self.is_pending = False
            decided(HandshakeError(f"expected a peer with the pinned key, got {key.hex()}"))
            return
        try:
            verdict = False if self._firewall is None else self._firewall(key)
        except Exception as error:
            answered(True, error)
        else:
            self._asking = settle(verdict, self._loop, answered)

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        if self._asking is not None:
            self._asking.cancel()
