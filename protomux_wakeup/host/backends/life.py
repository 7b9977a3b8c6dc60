"""The life of one backend: which state follows, and on what terms it ends. Knows no process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    HardTerminating,
    Ready,
    Starting,
    Terminated,
    Terminating,
    TerminationKind,
    TerminationReason,
    Waiting,
    now,
)

__all__ = ["Life"]


class Life:
    """Goes from one state to a later one, each once; what would lead back does nothing.

    Attributes:
        states: all that were, in order.
    """

    def __init__(self, moved: Callable[[BackendState], object]) -> None:
        """Call `moved(state)` for each one."""
        self.states: Final[list[BackendState]] = []
        self._moved = moved

    @property
    def status(self) -> BackendStatus:
        """Where it is."""
        return self.states[-1].status if self.states else BackendStatus.SCHEDULED

    def is_before(self, status: BackendStatus) -> bool:
        """Tell whether `status` is still to come."""
        return self.status.is_before(status)

    def starting(self) -> None:
        """Its process is about to be."""
        self._move(Starting(time=now()))

    def waiting(self) -> None:
        """Its process runs."""
        self._move(Waiting(time=now()))

    def ready(self) -> None:
        """It is ready."""
        self._move(Ready(time=now()))

    def terminating(self, reason: TerminationReason) -> bool:
        """It is to be asked to end; False if it was already."""
        return self._move(Terminating(time=now(), termination_reason=reason))

    def hard_terminating(self, reason: TerminationReason) -> bool:
        """It is to be ended; False if that was so already."""
        return self._move(HardTerminating(time=now(), termination_reason=reason))

    def terminated(self, reason: TerminationReason | None = None, *, exit_error: bool) -> None:
        """Nothing of it is left.

        For the `reason`, unless it was ended for one before: then that, and how it was ended.
        """
        kind = None
        match self.states[-1:]:
            case [Terminating(termination_reason=reason)]:
                kind = TerminationKind.SOFT
            case [HardTerminating(termination_reason=reason)]:
                kind = TerminationKind.HARD
        self._move(
            Terminated(
                time=now(),
                termination_reason=reason,
                termination_kind=kind,
                exit_error=exit_error,
            )
        )

    def _move(self, state: BackendState) -> bool:
        if not self.is_before(state.status):
            return False
        self.states.append(state)
        self._moved(state)
        return True
