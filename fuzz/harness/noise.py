"""Handshakes in every pattern and role, with messages from anywhere: arbitrary ones, and those of a
genuine peer, changed on the way or made from keys that are none.

All keys are fixed, so that what the originals once sent under them is understood here too.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from fuzz.harness import keys, script
from fuzz.harness.script import Step
from fuzz.harness.stage import Finding
from protomux.crypto import KeyPair
from protomux.errors import HandshakeError
from protomux.streams.noise import MAX_MESSAGE, PATTERNS, Handshake

__all__ = ["MAX_SIZE", "OPS", "Op", "run"]

MAX_SIZE: Final = 1024


class Op(IntEnum):
    """Where the next message of the peer comes from."""

    BYTES = 0  # it is the data
    GENUINE = 1  # from the peer, each (position u16, change) of the data applied to it
    LONGER = 2  # from the peer, the data behind it
    SHORTER = 3  # from the peer, without so many bytes at its end
    STATIC = 4  # from a peer with this static public key
    HUGE = 5  # more bytes than Noise allows


OPS: Final = Op


class _Side(Handshake):
    """One side of a handshake under the fixed keys."""

    def __init__(self, pattern: str, is_initiator: bool) -> None:
        self._keys = keys.INITIATOR if is_initiator else keys.RESPONDER
        knows_peer = is_initiator and pattern != "XX"
        remote = keys.RESPONDER.static.public_key if knows_peer else None
        super().__init__(pattern, is_initiator, self._keys.static, remote)
        self._sends_static = is_initiator or pattern == "XX"

    def write(self) -> bytes:
        with keys.fixed(self._keys):
            return super().write()

    def pretend(self, public_key: bytes) -> None:
        """Have another static key from now on, if the peer does not know it already."""
        if self._sends_static:
            self._static = KeyPair(public_key, self._static.secret_key)


def _message(step: Step, peer: _Side) -> tuple[bytes, bool]:
    """Return the next message, and whether it is what the peer has sent."""
    op = step.among(Op)
    if op == Op.BYTES or not peer.is_our_turn:
        return step.data, False
    if op == Op.HUGE:
        return bytes(MAX_MESSAGE + 1), False
    if op == Op.STATIC:
        peer.pretend(step.data[:32].ljust(32, b"\x00"))
    message = peer.write()
    if op == Op.LONGER:
        return message + step.data, not step.data
    if op == Op.SHORTER:
        cut = message[: len(message) - step.at(0)]
        return cut, len(cut) == len(message)
    changed = bytearray(message)
    for index in range(0, len(step.data) - 2, 3) if op == Op.GENUINE else ():
        where = int.from_bytes(step.data[index : index + 2], "little") % len(changed)
        changed[where] ^= step.data[index + 2]
    return bytes(changed), changed == message


def run(data: bytes) -> None:
    scene, steps = script.parse(data)
    pattern = PATTERNS[(scene >> 1) % len(PATTERNS)]
    ours, peer = _Side(pattern, bool(scene & 1)), _Side(pattern, not scene & 1)
    is_genuine = True
    try:
        if ours.is_our_turn:
            peer.read(ours.write())
        for step in steps:
            if ours.keys is not None or ours.is_our_turn:
                break
            message, is_as_sent = _message(step, peer)
            is_genuine = is_genuine and is_as_sent
            ours.read(message)
            if ours.is_our_turn:
                answer = ours.write()
                if peer.keys is None and not peer.is_our_turn:
                    peer.read(answer)
    except HandshakeError:
        if is_genuine and all(step.among(Op) == Op.GENUINE for step in steps):
            raise
        return
    _compare(ours, peer, is_genuine)


def _compare(ours: _Side, peer: _Side, is_genuine: bool) -> None:
    if ours.keys is None or peer.keys is None:
        return
    mine, theirs = ours.keys, peer.keys
    is_agreed = (mine.send, mine.receive, mine.handshake_hash) == (
        theirs.receive,
        theirs.send,
        theirs.handshake_hash,
    )
    if is_genuine and not is_agreed:
        raise Finding(f"two sides with different keys: {mine!r} {theirs!r}")
    if is_agreed and ours.remote_public_key != peer._static.public_key:
        raise Finding("two sides that agree on keys, not on who they are")
