"""Wakeup messages as the vectors describe them, and one peer of a recorded conversation."""

from __future__ import annotations

from typing import Any

from protomux import Protomux
from protomux.encoding import Encoding
from protomux_wakeup import Session, Wakeup, messages
from protomux_wakeup.messages import Handshake, Info, Lookup, Writer
from tests.golden.replay import RecordingStream, Vector, octets, settle

WAKEUP_MESSAGES: dict[str, Encoding[Any]] = {
    "handshake": messages.handshake,
    "lookup": messages.lookup,
    "announce": messages.announce,
    "info": messages.info,
}


def message_of(vector: Vector) -> Any:
    """Return the message that a vector describes."""
    value = vector["value"]
    match vector["message"]:
        case "handshake":
            return Handshake(value["version"], octets(value["capability"]), value["active"])
        case "lookup":
            return Lookup(value["hash"] and octets(value["hash"]))
        case "info":
            return Info(value["active"])
    if isinstance(value, dict):
        entry, count = value["repeat"]
        value = [entry] * count
    return [Writer(octets(entry["key"]), entry["length"]) for entry in value]


class Peer:
    """One peer of a conversation; the twin of the class of that name in `wakeup.mjs`."""

    def __init__(self, role: str, handshake_hash: bytes) -> None:
        self.role = role
        self.stream = RecordingStream(role == "initiator", handshake_hash)
        self.wakeup = Wakeup(self.on_wakeup)
        self.session: Session | None = None
        self.when_woken: Vector | None = None
        self.events: list[Any] = []
        Protomux.of(self.stream)

    async def step(self, step: Vector) -> None:
        """Make our calls of a step, then receive what the other peer sent in it."""
        for call in step["calls"]:
            if call["by"] == self.role:
                self.call(call)
        await settle()
        for sender, frame in step["frames"]:
            if sender != self.role:
                self.stream.receive(bytes.fromhex(frame))
                await settle()

    def note(self, name: str, *more: Any) -> None:
        self.events.append([self.role, name, *more])

    def on_wakeup(self, id: bytes, mux: Protomux) -> None:
        self.note("wakeup", id.hex())
        if self.when_woken:
            self.open(self.when_woken)

    def open(self, call: Vector) -> None:
        discovery_key = call.get("discovery_key")
        self.session = self.wakeup.session(
            bytes.fromhex(call["capability"]),
            active=call.get("active", True),
            discovery_key=bytes.fromhex(discovery_key) if discovery_key else None,
            on_peer_add=lambda peer, session: self.note("peer_add"),
            on_peer_remove=lambda peer, session: self.note("peer_remove"),
            on_peer_active=lambda peer, session: self.note("peer_active"),
            on_peer_inactive=lambda peer, session: self.note("peer_inactive"),
            on_announce=lambda writers, peer, session: self.note(
                "announce", [{"key": key.hex(), "length": length} for key, length in writers]
            ),
            on_lookup=lambda lookup, peer, session: self.note(
                "lookup", lookup.hash and lookup.hash.hex()
            ),
            on_destroy=lambda session: self.note("destroy"),
        )

    def call(self, call: Vector) -> None:
        match call["do"]:
            case "session":
                self.open(call)
            case "when_woken":
                self.when_woken = call
            case "add_stream":
                self.wakeup.add_stream(self.stream)
            case "destroy":
                self.wakeup.destroy()
            case name:
                assert self.session is not None
                self.ask(self.session, name, call)

    def ask(self, session: Session, name: str, call: Vector) -> None:
        match name:
            case "lookup":
                session.broadcast_lookup(bytes.fromhex(call["hash"]) if call["hash"] else None)
            case "announce":
                writers = [Writer(bytes.fromhex(w["key"]), w["length"]) for w in call["writers"]]
                session.announce_by_stream(self.stream, writers)
            case "active":
                session.active()
            case "inactive":
                session.inactive()
            case _:
                raise AssertionError(f"no such call: {name}")
