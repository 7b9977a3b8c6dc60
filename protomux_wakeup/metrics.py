"""What a `Wakeup` counts, and how Prometheus reads it. Knows numbers only.

Only what proven peers do is counted, besides what this side does itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily

__all__ = ["Stats", "WireStats", "register"]


@dataclass(slots=True)
class WireStats:
    """Messages of one type: received from proven peers, and sent."""

    rx: int = 0
    tx: int = 0


@dataclass(slots=True)
class Stats:
    """Counts since the `Wakeup` was made; none ever goes down.

    Attributes:
        sessions_opened, sessions_closed: sessions.
        topics_added, topics_gcd: topics, and those that were collected or destroyed.
        peers_added, peers_removed: proven peers, over all topics.
        wire_announce, wire_lookup, wire_info: messages.
    """

    sessions_opened: int = 0
    sessions_closed: int = 0
    topics_added: int = 0
    topics_gcd: int = 0
    peers_added: int = 0
    peers_removed: int = 0
    wire_announce: WireStats = field(default_factory=WireStats)
    wire_lookup: WireStats = field(default_factory=WireStats)
    wire_info: WireStats = field(default_factory=WireStats)

    def samples(self) -> Iterator[tuple[str, str, int]]:
        """Yield (name, help, value) of every count, under the names of the original."""
        yield from (
            ("sessions_opened", "Sessions opened", self.sessions_opened),
            ("sessions_closed", "Sessions closed", self.sessions_closed),
            ("topics_added", "Topics added", self.topics_added),
            ("topics_gcd", "Topics garbage collected", self.topics_gcd),
            ("peers_added", "Peers that proved the capability, all topics", self.peers_added),
            ("peers_removed", "Proven peers that left, all topics", self.peers_removed),
        )
        for name, wire in (
            ("announce", self.wire_announce),
            ("lookup", self.wire_lookup),
            ("info", self.wire_info),
        ):
            yield f"wire_{name}_rx", f"{name.capitalize()} messages received", wire.rx
            yield f"wire_{name}_tx", f"{name.capitalize()} messages sent", wire.tx


class _Collector:
    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily]:
        from prometheus_client.core import GaugeMetricFamily

        for name, help, value in self._stats.samples():
            yield GaugeMetricFamily(f"protomux_wakeup_{name}", help, value=value)


def register(stats: Stats, registry: CollectorRegistry | None) -> None:
    """Let a Prometheus `registry`, the default one if None, read `stats` whenever it is asked.

    Raises ImportError, saying which extra is missing, without prometheus_client.
    """
    try:
        from prometheus_client import REGISTRY
    except ImportError as error:
        raise ImportError(
            "metrics need prometheus_client: pip install 'protomux-wakeup[metrics]'"
        ) from error
    (REGISTRY if registry is None else registry).register(_Collector(stats))
