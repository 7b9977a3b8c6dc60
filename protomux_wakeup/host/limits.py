"""How long the processes of a host wait for each other, and how much each may hold."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Limits", "check_above_zero"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one client, and of the worker and the coordinator that it starts.

    Attributes:
        heartbeat: seconds between two signs of life. Default 1. Each is some bytes to the worker
            and to the coordinator.
        missed: heartbeats without an answer after which a worker, a coordinator or a leader counts
            as hung. A worker and a coordinator are killed then; a leader, which is an application's
            process, is passed by. Default 5: longer than a garbage collection or a blocking call in
            an event loop, shorter than a user waits.
        repeat: seconds after which a client that has no worker asks for it again. Default 0.5.
        start_time: seconds that a worker has from its start until it is ready. Default 30.
        draining: seconds that a worker is given to answer what it was asked, and to end, when it is
            told to go; then it is killed. Default 3.
        spindown: seconds that the coordinator stays when its last client has left. Default 1.
        sessions: clients that a worker serves at once; more have to wait. Default 1,024.
    """

    heartbeat: float = 1.0
    missed: int = 5
    repeat: float = 0.5
    start_time: float = 30.0
    draining: float = 3.0
    spindown: float = 1.0
    sessions: int = 1024

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not above 0, TypeError for what is no number."""
        check_above_zero(self)


def check_above_zero(limits: DataclassInstance) -> None:
    """Raise TypeError for a field that is no number, ValueError for one that is not above 0."""
    for field in fields(limits):
        value = getattr(limits, field.name)
        if not isinstance(value, int | float):
            raise TypeError(f"expected a number for {field.name}, got {value!r}")
        if not value > 0:
            raise ValueError(f"expected {field.name} above 0, got {value!r}")
