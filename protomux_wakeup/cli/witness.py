"""What peers of a topic do, as lines. Knows the hooks of a session, and does nothing of its own."""

from __future__ import annotations

from collections.abc import Sequence

from protomux import Protomux
from protomux_wakeup import Lookup, Peer, Session, Writer
from protomux_wakeup.cli.report import NO_FIELDS, Fields, Reporter
from protomux_wakeup.cli.values import count_of, hex_of, short

__all__ = ["Witness"]


class Witness:
    """A handler of a session, and of a `Wakeup`'s on_wakeup, that shows what happens."""

    def __init__(self, report: Reporter) -> None:
        self.report = report

    def on_wakeup(self, id: bytes, mux: Protomux) -> None:
        """A peer opens a topic that is not ours: its capability is another."""
        key = mux.stream.remote_public_key
        self.report.say(
            "topic_unknown",
            f"{short(key)} opens a topic that is not here",
            {"peer": hex_of(key), "topic": id.hex()},
            details=[f"topic      {id.hex()}"],
        )

    def on_peer_add(self, peer: Peer, _session: Session) -> None:
        """Show it."""
        self.say("peer_added", peer, "has proved the capability")

    def on_peer_remove(self, peer: Peer, _session: Session) -> None:
        """Show it."""
        self.say("peer_removed", peer, "has left the topic")

    def on_peer_active(self, peer: Peer, _session: Session) -> None:
        """Show it."""
        self.say("peer_active", peer, "wants news")

    def on_peer_inactive(self, peer: Peer, _session: Session) -> None:
        """Show it."""
        self.say("peer_inactive", peer, "wants no news for now")

    def on_lookup(self, lookup: Lookup, peer: Peer, _session: Session) -> None:
        """Show it."""
        hash = hex_of(lookup.hash)
        details = [] if hash is None else [f"hash {hash}"]
        self.say(
            "lookup_received", peer, "asks which logs have grown", {"hash": hash}, details=details
        )

    def on_announce(self, writers: list[Writer], peer: Peer, _session: Session) -> None:
        """Show it."""
        text = f"tells of {count_of(len(writers), 'log')}"
        self.say("announce_received", peer, text, writers=writers)

    def say(
        self,
        event: str,
        peer: Peer,
        text: str,
        fields: Fields = NO_FIELDS,
        *,
        details: Sequence[str] = (),
        writers: Sequence[Writer] | None = None,
    ) -> None:
        """Show what a peer did, or what was done to it."""
        self.report.say(
            event,
            f"{short(peer.remote_public_key)} {text}",
            {"peer": hex_of(peer.remote_public_key), **fields},
            details=details,
            writers=writers,
        )
