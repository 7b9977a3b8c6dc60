"""How much a manager of backends keeps, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass

from protomux_wakeup.host.limits import check_above_zero

__all__ = ["ManagerLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerLimits:
    """The bounds of one manager.

    Attributes:
        backends: that run at once, those that are about to end included. Default 256.
        kept: backends that have ended, of which states and logs are kept: the newest. Default
            1,000.
        ready_time: seconds that a connection waits for a backend to be ready. Default 60, as long
            as a backend has for that.
        shut_down_time: seconds in which backends have to end that are asked to, before they are
            made to. Default 15.
    """

    backends: int = 256
    kept: int = 1_000
    ready_time: float = 60.0
    shut_down_time: float = 15.0

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not above 0, TypeError for what is no number."""
        check_above_zero(self)
