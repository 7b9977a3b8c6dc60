"""What the flows of the UDX bench go through: the table of paths, and who sends to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from bench.workload import OURS, THEIRS

__all__ = ["FAIRNESS", "PAIRS", "SCENES", "Fairness", "Pair", "Path", "Scene"]

Pair: TypeAlias = tuple[str, str]
"""The languages of a sender and its receiver."""

PAIRS: Final[Mapping[str, Pair]] = {
    OURS: ("py", "py"),
    THEIRS: ("node", "node"),
    "py-node": ("py", "node"),
    "node-py": ("node", "py"),
}


@dataclass(frozen=True)
class Path:
    """A way with one bottleneck in each direction.

    Attributes:
        rate: bytes a second, headers included.
        rtt: seconds, half of them in each direction.
        loss: the part of the datagrams that is lost in each direction, besides a full queue.
    """

    rate: float
    rtt: float
    loss: float = 0.0

    def options(self, queue: float) -> dict[str, Any]:
        """Return it as the relay takes it, with a queue of so many bandwidth-delay products."""
        size = round(queue * self.rate * self.rtt)
        return {"delay": self.rtt / 2, "rate": self.rate, "queue": size, "loss": self.loss}


@dataclass(frozen=True)
class Scene:
    """One transfer at a time, timed from the first write to the last byte's arrival.

    Attributes:
        path: None straight over loopback.
        bytes: what is sent.
        bar: the median of the ratios ours to theirs that is wanted.
    """

    name: str
    path: Path | None
    bytes: int
    bar: float


MBIT: Final = 1_000_000 / 8

SCENES: Final = {
    scene.name: scene
    for scene in (
        Scene("10-mbit-40-ms", Path(10 * MBIT, 0.040), 10_000_000, 0.9),
        Scene("100-mbit-20-ms", Path(100 * MBIT, 0.020), 80_000_000, 0.9),
        Scene("loss-1", Path(10 * MBIT, 0.040, 0.01), 10_000_000, 0.9),
        Scene("loss-5", Path(10 * MBIT, 0.040, 0.05), 10_000_000, 0.9),
        Scene("200-ms", Path(10 * MBIT, 0.200), 10_000_000, 0.9),
        Scene("loopback", None, 200_000_000, 0.3),
    )
}


@dataclass(frozen=True)
class Fairness:
    """Two flows over one bottleneck. The second begins `LATER` seconds after the first.

    What both received is counted for `SECONDS`, after a tenth of that in which both run already.

    udx-native refills its pacing budget once a millisecond and forgets what a packet exceeded it
    by: it may always send a packet a millisecond, 12 Mbit/s. So on the slow path its window alone
    limits it, and only on the fast one is it paced.

    Attributes:
        flows: the series of each; they change places from round to round.
        bar: Jain's index that is wanted, the median over the rounds; None where it is only shown.
    """

    name: str
    path: Path
    flows: Sequence[str]
    bar: float | None


FAIRNESS: Final = {
    scene.name: scene
    for scene in (
        Fairness("fair-ours", Path(10 * MBIT, 0.040), (OURS, OURS), 0.9),
        Fairness("fair-mixed", Path(10 * MBIT, 0.040), (OURS, THEIRS), 0.9),
        Fairness("fair-theirs", Path(10 * MBIT, 0.040), (THEIRS, THEIRS), None),
        Fairness("fair-ours-100", Path(100 * MBIT, 0.020), (OURS, OURS), 0.9),
        Fairness("fair-mixed-100", Path(100 * MBIT, 0.020), (OURS, THEIRS), 0.9),
        Fairness("fair-theirs-100", Path(100 * MBIT, 0.020), (THEIRS, THEIRS), None),
    )
}
