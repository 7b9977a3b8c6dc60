"""Where the backends of this machine, and news of them, are found. Knows no listener."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Urls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Urls:
    """Where the two listeners are, each without a slash at its end ("http://127.0.0.1:4711").

    Attributes:
        control: answers what the status of a backend is.
        proxy: leads to backends.
    """

    control: str
    proxy: str

    def backend(self, token: str) -> str:
        """Return where the backend of `token` is reached."""
        return f"{self.proxy}/{token}/"

    def status(self, backend_id: str) -> str:
        """Return what answers with the state of a backend."""
        return f"{self.control}/v2/backend/{backend_id}/status"

    def ready(self, backend_id: str) -> str:
        """Return what answers when a backend is ready."""
        return f"{self.control}/v2/backend/{backend_id}/ready"
