"""What an engine and the monitor of a backend say to each other. Knows names and fields only.

To a monitor that waits for an order, over the socket that it was started with:

    deliver     news that the backend is to have at its start; before the order
    order       what to run; answered when it is known whether it may be started

To the monitor of a backend, over its socket:

    attach      who asks is the manager from now on; answered with all that was so far
    terminate   end it
    deliver     news
    finish      no news will come
    seen        the manager knows that it has ended, and will not forget

And to its manager:

    state         it is in a later one
    acknowledged  it has done what was to be done for these
    replaced      another one has attached
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from protomux.errors import ProtocolError
from protomux_wakeup.host.backends.engine import Launch, News
from protomux_wakeup.host.backends.types import (
    BackendState,
    TerminationReason,
    decode,
    encode,
)
from protomux_wakeup.host.messages import Fields, Term

__all__ = [
    "ACKNOWLEDGED",
    "ATTACH",
    "DELIVER",
    "FINISH",
    "ID_VARIABLE",
    "ORDER",
    "REPLACED",
    "SEEN",
    "STATE",
    "TERMINATE",
    "Attach",
    "Heard",
    "Holder",
    "Moved",
    "Order",
    "Snapshot",
    "Terminate",
    "claim_term",
    "is_backend_id",
    "key_lock",
    "leave_term",
    "newest_term",
    "news_of",
    "ready_path",
    "result_path",
]

ATTACH: Final = "attach"
DELIVER: Final = "deliver"
FINISH: Final = "finish"
ORDER: Final = "order"
SEEN: Final = "seen"
TERMINATE: Final = "terminate"

ACKNOWLEDGED: Final = "acknowledged"
REPLACED: Final = "replaced"
STATE: Final = "state"

ID_VARIABLE: Final = "SESSION_BACKEND_ID"
"""The variable that every process of a backend has, unless it takes care not to."""

_TERM: Final = re.compile(r"term-([0-9]{1,16})")
_BACKEND_ID: Final = re.compile(r"[0-9a-f]{32}")


_Name: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Entry: TypeAlias = tuple[_Name, _Name, Annotated[int, Meta(ge=0, le=2**53 - 1)]]
"""One of `News`, checked: a topic, a key, a length."""


class Order(Fields, frozen=True):
    """order: what to run, and in which directories.

    How many seconds it may go on without a manager, and wait for its key.
    """

    launch: Launch
    directory: str
    logs: str
    lease: float
    key_wait: float


class Attach(Fields, frozen=True):
    """attach: the term of the manager."""

    term: Term


class Terminate(Fields, frozen=True):
    """terminate: why, and whether at once."""

    reason: TerminationReason
    hard: bool


class Heard(Fields, frozen=True):
    """deliver, acknowledged: the logs and their lengths."""

    news: list[Entry]


class Moved(Fields, frozen=True):
    """state: the new one."""

    state: BackendState


class Snapshot(Fields, frozen=True):
    """The answer to attach, and what is left in a file: all that was so far."""

    address: tuple[str, int]
    states: list[BackendState]
    acknowledged: list[Entry]


class Holder(Fields, frozen=True):
    """What is written into the lock of a key: which backend holds it, and its control group."""

    backend_id: str
    cgroup: str | None

    @classmethod
    def of(cls, text: str, backend_id: str) -> Holder | None:
        """Return what `text` says, if it is about that backend."""
        with suppress(ProtocolError):
            found: Holder = decode(text, cls)
            if found.backend_id == backend_id:
                return found
        return None

    def text(self) -> str:
        """Return it as it is written."""
        return encode(self).decode()


def news_of(entries: Sequence[Entry]) -> list[News]:
    """Return what `entries` say."""
    return [News(*each) for each in entries]


def is_backend_id(text: str) -> bool:
    """Tell whether it is one: nothing else is part of a path."""
    return _BACKEND_ID.fullmatch(text) is not None


def key_lock(directory: str | os.PathLike[str], key: str) -> str:
    """Return the path of the lock that is held while anything of a backend of that key runs."""
    name = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:32]
    return os.path.join(directory, f"key-{name}.lock")


def result_path(directory: str | os.PathLike[str], backend_id: str) -> str:
    """Return the path of what a monitor leaves that no manager has listened to, a `Snapshot`."""
    return os.path.join(directory, f"{backend_id}.result")


def ready_path(directory: str | os.PathLike[str], backend_id: str) -> str:
    """Return the path of the socket to tell that a backend is ready; no longer than its own."""
    return os.path.join(directory, f"{backend_id}.note")


def claim_term(directory: str | os.PathLike[str], term: int) -> int:
    """Write down that there is a manager of that term; return that of the last one.

    One file a term, so that a late manager cannot take back what a later one has written.
    """
    Path(directory, f"term-{term}").touch(mode=0o600)
    newest = newest_term(directory)
    for each in _terms(directory):
        if each < newest:
            Path(directory, f"term-{each}").unlink(missing_ok=True)
    return newest


def leave_term(directory: str | os.PathLike[str], term: int) -> None:
    """Remove the directory, if nothing is in it but that there was a manager of that term."""
    own = f"term-{term}"
    with suppress(OSError):
        if os.listdir(directory) == [own]:
            Path(directory, own).unlink(missing_ok=True)
            os.rmdir(directory)


def newest_term(directory: str | os.PathLike[str]) -> int:
    """Return the term of the last manager; 0 before the first."""
    return max(_terms(directory), default=0)


def _terms(directory: str | os.PathLike[str]) -> list[int]:
    found = map(_TERM.fullmatch, os.listdir(directory))
    return [int(match[1]) for match in found if match]
