"""What a manager of backends refuses, and why. Knows no manager.

`kind` is Plane's word for it (ApiErrorKind), which its clients are told.
"""

from __future__ import annotations

from typing import ClassVar

from protomux.errors import ProtomuxError

__all__ = [
    "BackendError",
    "KeyUnheld",
    "ManagerClosed",
    "NotReady",
    "OtherUser",
    "Superseded",
    "TagMismatch",
    "TooManyBackends",
    "UnknownBackend",
    "UnknownTag",
]


class BackendError(ProtomuxError):
    """Base of what a manager refuses.

    Attributes:
        kind: what Plane calls it.
    """

    kind: ClassVar[str] = "Other"


class KeyUnheld(BackendError):
    """No backend has the key, and none was to be started."""

    kind = "KeyUnheldNoSpawnConfig"


class TagMismatch(BackendError):
    """A backend has the key, and runs something else than what was asked for."""

    kind = "KeyHeld"


class UnknownTag(BackendError):
    """Nothing is set up under that tag."""

    kind = "NotFound"


class UnknownBackend(BackendError):
    """There is no backend of that id, or it ended so long ago that nothing is kept of it."""

    kind = "NotFound"


class TooManyBackends(BackendError):
    """As many run as may run at once."""

    kind = "NoDroneAvailable"


class NotReady(BackendError):
    """A backend has not become ready in time, is about to end, or has ended."""


class OtherUser(BackendError):
    """A cluster has let somebody else in to a backend, and is asked but once."""


class ManagerClosed(BackendError):
    """The manager is about to go; the next one knows all that it did."""


class Superseded(BackendError):
    """There was a manager of a later term."""
