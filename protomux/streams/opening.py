"""How two sides become an encrypted stream: the order of their first messages. Knows no transport.

First come the messages of the Noise handshake; when it is complete each side sends one header, and
what follows is encrypted. `noise`, `admission` and `cipher` know what is inside. An opening is over
with the peer's header, and whoever has it lets it go then, with the secrets of the handshake.
"""

from __future__ import annotations

from collections.abc import Callable

from protomux.errors import HandshakeError, ProtocolError
from protomux.streams.admission import Admission
from protomux.streams.cipher import HEADER_SIZE, Decryptor, Encryptor
from protomux.streams.noise import MAX_MESSAGE, Handshake

__all__ = ["Opening"]


class Opening:
    """One side of it: `go_on()` once, then `take()` what the peer sends, while not `is_waiting`.

    Whatever is wrong with that raises HandshakeError or ProtocolError, and ends it.

    Attributes:
        noise: the handshake, whose keys are there with the first call of `agreed`.
    """

    __slots__ = ("_admission", "_admitted", "_agreed", "_decryptor", "_proved", "_send", "noise")

    def __init__(
        self,
        noise: Handshake,
        admission: Admission,
        *,
        send: Callable[[bytes], None],
        admitted: Callable[[HandshakeError | None], None],
        agreed: Callable[[Encryptor], None],
        proved: Callable[[Decryptor], None],
    ) -> None:
        """Send by `send(message)`, and let in whom `admission` lets in.

        It calls `agreed(encryptor)` when the handshake is complete, `proved(decryptor)` when the
        peer's header was right: it has the keys of this handshake, and not a replay. And, perhaps
        later, `admitted(refusal)` when the admission has decided; with None, `go_on()` then.
        """
        self.noise = noise
        self._admission = admission
        self._send = send
        self._admitted = admitted
        self._agreed = agreed
        self._proved = proved
        self._decryptor: Decryptor | None = None  # until the peer's header is expected

    @property
    def is_waiting(self) -> bool:
        """The admission has not decided, and nothing may be taken before it has."""
        return self._admission.is_pending

    def go_on(self) -> None:
        """Do what can be done without the peer."""
        noise = self.noise
        if noise.is_our_turn:
            self._send(noise.write())
        keys = noise.keys
        if keys is not None:
            self._decryptor = Decryptor(keys.receive, not noise.is_initiator, keys.handshake_hash)
            encryptor = Encryptor(keys.send, noise.is_initiator, keys.handshake_hash)
            self._send(encryptor.header)
            self._agreed(encryptor)

    def check_size(self, size: int) -> None:
        """Refuse the peer's next message by its length alone, before its bytes are waited for."""
        if self._decryptor is None:
            if size > MAX_MESSAGE:
                raise HandshakeError(f"expected at most {MAX_MESSAGE} bytes of Noise, got {size}")
        elif size != HEADER_SIZE:
            raise ProtocolError(f"expected a header of {HEADER_SIZE} bytes, got {size}")

    def take(self, message: bytes) -> None:
        """The peer's next message came."""
        if self._decryptor is not None:
            self._decryptor.start(message)
            self._proved(self._decryptor)
            return
        self.noise.read(message)
        key = self.noise.remote_public_key
        if key is None or self._admission.is_granted:
            self.go_on()
        else:  # before anything more of us is shown
            self._admission.ask(key, self._admitted)

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._admission.cancel()
