"""What can go wrong between processes of one machine. Knows nothing else of the host."""

from __future__ import annotations

from protomux.errors import ProtomuxError

__all__ = [
    "ForeignPeer",
    "HostNotRunning",
    "LeaderLost",
    "RemoteError",
    "RequestTimeout",
    "StoreFailed",
    "WatcherReplaced",
    "WorkerFailed",
]


class RemoteError(ProtomuxError):
    """A responder of the other process failed.

    Attributes:
        message: what the error said there.
        code: its code, as Node gives its errors one ("ENOENT"); None without one.
        stack: where it happened, in the words of the other language; None if it was not told.
    """

    def __init__(self, message: str, code: str | None = None, stack: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.stack = stack


class RequestTimeout(ProtomuxError, TimeoutError):
    """A request was not answered in time."""


class ForeignPeer(ProtomuxError, PermissionError):
    """A process, or a file that stands for one, belongs to another user."""


class HostNotRunning(ProtomuxError):
    """No process has joined the host."""


class LeaderLost(ProtomuxError):
    """The worker went before it had answered; whether it did what was asked is not known."""


class WorkerFailed(ProtomuxError):
    """The worker process ended, or said that it cannot go on, before it was ready."""


class StoreFailed(ProtomuxError):
    """The file that the service keeps its hints in cannot be read, or not be written."""


class WatcherReplaced(ProtomuxError):
    """Another process watches the topic under the same name now, and gets its hints."""
