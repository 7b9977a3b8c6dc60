"""What happens to datagrams on their way, in one direction. Knows no socket and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

__all__ = ["Path"]


@dataclass(frozen=True)
class Path:
    """What happens to datagrams in one direction.

    Attributes:
        delay, jitter: seconds that each takes; up to `jitter` more, drawn for each.
        loss, duplication: the part of them that is lost, or comes twice.
        rate: bytes a second.
        queue: bytes that wait for the rate at most; what comes then is lost.
        largest: bytes of the largest IP packet that arrives.
        blackout: from when to when all are lost.
    """

    delay: float = 0.02
    jitter: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    rate: float = inf
    queue: float = inf
    largest: int = 1500
    blackout: tuple[float, float] = (inf, inf)
