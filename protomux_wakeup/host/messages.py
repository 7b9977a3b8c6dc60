"""What client, coordinator, leader and worker say to each other. Knows names and fields only.

    worker -> leader        listening            the process runs, and is the only one
    leader -> worker        init                 who leads it, and the options of the one who joined
    worker -> leader        ready                under which lock it lives
    leader -> coordinator   claim                this client has the leader lock
    leader -> coordinator   new-leader           its worker is ready; the coordinator tells all
    client -> coordinator   request-port         repeated until answered; passed on to the leader
    leader -> coordinator   patience             not yet: it is at work; passed on to that client;
                                                 a worker that is full says it first
    leader -> worker        start-session
    worker -> leader        session              the two ports of that client
    leader -> coordinator   provide-port         passed on to that client
    leader -> worker        stop                 end what you do, and go
    worker -> leader        failed               why there will be no worker

Each is one JSON object of the fields below, the parameters of a jitpc notification of that name.
What is asked of the coordinator, by requests: hello, ping, status, and leave, which it also tells
those who keep the host.
The names are those of the worker architecture of the DXOS client; claim, patience, stop and failed
are ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec

from protomux.errors import ProtocolError

__all__ = [
    "CLAIM",
    "FAILED",
    "HELLO",
    "INIT",
    "LEAVE",
    "LISTENING",
    "NEW_LEADER",
    "PATIENCE",
    "PING",
    "PROVIDE_PORT",
    "READY",
    "REQUEST_PORT",
    "SESSION",
    "START_SESSION",
    "STATUS",
    "STOP",
    "ClientId",
    "Failed",
    "Fields",
    "Hello",
    "Init",
    "Known",
    "NewLeader",
    "Present",
    "ProvidePort",
    "Ready",
    "SessionPorts",
    "fields_of",
    "read",
    "tell",
    "trace",
]

LISTENING: Final = "listening"
INIT: Final = "init"
READY: Final = "ready"
FAILED: Final = "failed"
STOP: Final = "stop"
CLAIM: Final = "claim"
NEW_LEADER: Final = "new-leader"
REQUEST_PORT: Final = "request-port"
PATIENCE: Final = "patience"
START_SESSION: Final = "start-session"
SESSION: Final = "session"
PROVIDE_PORT: Final = "provide-port"

HELLO: Final = "hello"
PING: Final = "ping"
STATUS: Final = "status"
LEAVE: Final = "leave"

_log = logging.getLogger("protomux_wakeup.host")

_Message = TypeVar("_Message", bound=msgspec.Struct)


class Fields(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The fields of a message; unknown ones are ignored, for those who come later."""


Id: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Path: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=4096)]
Term: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=999_999_999)]
Pid: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class Hello(Fields, frozen=True):
    """hello: who a client is; a keeper is there for the host alone, and leaves when asked to."""

    client_id: Id
    pid: Pid
    program: Text
    is_keeper: bool


class ClientId(Fields, frozen=True):
    """request-port, patience, start-session: the client that it is about."""

    client_id: Id


class Init(Fields, frozen=True):
    """init: the leader's own client id; `term` is higher than that of any worker before."""

    client_id: Id
    leader_id: Id
    term: Term
    options: dict[str, Any]


class Ready(Fields, frozen=True):
    """ready: the path of the lock that the worker holds while it lives."""

    liveness_key: Path
    pid: Pid


class Failed(Fields, frozen=True):
    """failed: why the worker cannot go on."""

    message: Text


class SessionPorts(Fields, frozen=True):
    """session: the paths of the two sockets that wait for that client."""

    client_id: Id
    app_port: Path
    system_port: Path


class NewLeader(Fields, frozen=True):
    """claim and new-leader: who leads, since which term, and by the leader lock of which number."""

    leader_id: Id
    client_id: Id
    term: Term
    number: Number


class ProvidePort(Fields, frozen=True):
    """provide-port: all that a client needs to meet the worker, and which one it is."""

    client_id: Id
    leader_id: Id
    term: Term
    number: Number
    target: Text
    worker_pid: Pid
    liveness_key: Path
    app_port: Path
    system_port: Path


class Present(Hello, frozen=True):
    """A client that is here."""

    is_leader: bool


class Known(Fields, frozen=True):
    """The answer to status: the coordinator's pid, who led last, and who is here."""

    pid: Pid
    leader: NewLeader | None
    clients: list[Present]


def fields_of(message: Fields) -> dict[str, Any]:
    """Return `message` as the parameters of a notification."""
    found: dict[str, Any] = msgspec.to_builtins(message)
    return found


def read(kind: type[_Message], params: object) -> _Message:
    """Return the message of that `kind`; ProtocolError for what is none."""
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"expected {kind.__name__}: {error}") from None


def trace(who: str, direction: str, whom: str, name: str, message: object = None) -> None:
    """Log a message that `who` sends to ("->") or gets from ("<-") `whom`, for those who debug."""
    if _log.isEnabledFor(logging.DEBUG):
        fields = message if isinstance(message, dict) else {}
        if isinstance(message, msgspec.Struct):
            fields = msgspec.to_builtins(message)
        _log.debug("%s %s %s: %s %s", who, direction, whom, name, fields.get("clientId", ""))


def tell(
    notify: Callable[[str, Any], object],
    who: str,
    whom: str,
    name: str,
    message: Fields | None = None,
) -> None:
    """Send a message, by the `notify(name, params)` of a conversation between `who` and `whom`."""
    trace(who, "->", whom, name, message)
    notify(name, None if message is None else fields_of(message))
