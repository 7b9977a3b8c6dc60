"""What a cluster is asked, and how its answers are read. Knows no HTTP.

Two dialects are spoken: Jamsocket's, which our own control server speaks as well, and that of
Plane's controller. Both have one life of backends and one shape of answers. The key is always told:
asking twice for the same leads to the same backend then, and it is found again without its id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec
from yarl import URL

from protomux.errors import ProtocolError
from protomux_wakeup.host.backends.engine import EngineError, Launch
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectResponse,
    ResourceLimits,
    SpawnConfig,
    TerminationKind,
    TerminationReason,
    decode,
    encode,
    now,
    timestamp,
)

__all__ = ["Dialect", "jamsocket", "plane", "read_response", "read_state"]

T = TypeVar("T", TerminationReason, TerminationKind)

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_PART: Final = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
_ACCOUNT: Final = re.compile(_PART)
_SERVICE: Final = re.compile(rf"{_PART}(/{_PART})?")  # it may have an environment
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One way to ask.

    Attributes:
        connect: where to ask for a backend; under the cluster's address, as are all of these.
        status: what answers with its state; {id} stands for the cluster's id of it.
        stream: what tells all of its states.
        soft: where to ask it to end.
        hard: where to make it end.
        request: request(launch, spawn) is the JSON that asks for a backend, where `spawn` is True
            for one that is started if need be; EngineError where it cannot be asked for.
        soft_request: the JSON that goes to `soft`.
        hard_request: the JSON that goes to `hard`.
    """

    connect: str
    status: str
    stream: str
    soft: str
    hard: str
    request: Callable[[Launch, bool], bytes]
    soft_request: bytes
    hard_request: bytes


def jamsocket(account: str, service: str) -> Dialect:
    """Return the dialect of Jamsocket, of an account and a service of it ("name", "name/env").

    For our own server both can be anything, "-" for one.
    """
    if _ACCOUNT.fullmatch(account) is None or _SERVICE.fullmatch(service) is None:
        raise ValueError(
            f"expected names of an account and a service, got {account!r}, {service!r}"
        )
    return Dialect(
        connect=f"/v2/service/{account}/{service}/connect",
        status="/v2/backend/{id}/status",
        stream="/v2/backend/{id}/status/stream",
        soft="/v2/backend/{id}/terminate",
        hard="/v2/backend/{id}/terminate",
        request=_ask_jamsocket,
        soft_request=b'{"hard":false}',
        hard_request=b'{"hard":true}',
    )


def _ask_jamsocket(launch: Launch, spawn: bool) -> bytes:
    request = launch.request
    return encode(
        msgspec.structs.replace(
            request, key=launch.key, spawn=(request.spawn or True) if spawn else False
        )
    )


def plane(executables: Mapping[str, Mapping[str, Any]]) -> Dialect:
    """Return the dialect of a controller of Plane.

    `executables` has for each tag what runs, as Plane's API has it: {"image": "name"}, with what
    else holds for all backends of the tag. Requests without a tag get the only one, or "default".
    """
    if not executables:
        raise ValueError("expected an executable at least")

    def ask(launch: Launch, spawn: bool) -> bytes:
        asked = launch.request.spawn
        config = asked if isinstance(asked, SpawnConfig) else SpawnConfig()
        body: dict[str, Any] = {
            "key": {"name": launch.key, "tag": config.tag or ""},
            "spawn_config": _spawn_config(config, executables) if spawn else None,
            "user": launch.request.user,
            "auth": launch.request.auth,
        }
        return encode(_without_none(body))

    return Dialect(
        connect="/ctrl/connect",
        status="/pub/b/{id}/status",
        stream="/pub/b/{id}/status-stream",
        soft="/ctrl/b/{id}/soft-terminate",
        hard="/ctrl/b/{id}/hard-terminate",
        request=ask,
        soft_request=b"",
        hard_request=b"",
    )


def _spawn_config(
    config: SpawnConfig, executables: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    tag = config.tag
    if tag is None:
        tag = next(iter(executables)) if len(executables) == 1 else "default"
    if tag not in executables:
        raise EngineError(f"expected a tag of {sorted(executables)}, got {tag!r}")
    executable = dict(executables[tag])
    if config.executable is not None:
        if config.executable.env:
            executable["env"] = {**executable.get("env", {}), **config.executable.env}
        if config.executable.mount is not None:
            executable["mount"] = config.executable.mount
        limits = _limits(config.executable.resource_limits)
        if limits:
            executable["resource_limits"] = {**executable.get("resource_limits", {}), **limits}
    return _without_none(
        {
            "executable": executable,
            "cluster": config.cluster,
            "lifetime_limit_seconds": config.lifetime_limit_seconds,
            "max_idle_seconds": config.max_idle_seconds,
        }
    )


def _limits(limits: ResourceLimits | None) -> dict[str, Any]:
    return {} if limits is None else _without_none(msgspec.to_builtins(limits))


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A `ConnectResponse`; Plane has no ready_url, and Jamsocket's check does not ask for it."""

    backend_id: str
    spawned: bool
    status: BackendStatus
    token: str
    url: str
    secret_token: str | None = None
    status_url: str
    ready_url: str = ""


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    status: BackendStatus
    time: int | str
    termination_reason: str | None = None
    termination_kind: str | None = None
    exit_error: bool | None = None


def read_response(data: bytes) -> ConnectResponse:
    """Return what a cluster has answered; raises ProtocolError, which repeats no secret of it."""
    answer = decode(data, _Answer)
    if _ID.fullmatch(answer.backend_id) is None:
        raise ProtocolError(
            "expected an id of 1 to 128 letters, digits, - and _ - at `$.backend_id`"
        )
    try:
        url = URL(answer.url)
        host = url.host  # is decoded by this, which may fail
    except ValueError:
        host = None
    if not host or url.scheme not in ("http", "https"):
        raise ProtocolError("expected an address of http or https - at `$.url`")
    return ConnectResponse(**msgspec.structs.asdict(answer))


def read_state(data: bytes | str) -> BackendState:
    """Return the state that a cluster tells, its time as we write it.

    What does not stop us is forgiven: a reason or a kind that is not known is left out, a time that
    is none is that of now. Raises ProtocolError.
    """
    entry = decode(data, _Entry)
    fields = {
        "status": entry.status,
        "time": _time(entry.time),
        "termination_reason": _known(TerminationReason, entry.termination_reason),
        "termination_kind": _known(TerminationKind, entry.termination_kind),
        "exit_error": entry.exit_error,
    }
    state: BackendState = decode(encode(_without_none(fields)), BackendState)
    return state


def _known(kind: type[T], value: str | None) -> T | None:
    try:
        return None if value is None else kind(value)
    except ValueError:
        return None


def _time(value: int | str) -> str:
    """Return what is told in milliseconds since 1970, or in RFC 3339."""
    try:
        if isinstance(value, int):
            return timestamp(_EPOCH + timedelta(milliseconds=value))
        moment = datetime.fromisoformat(value)
        return now() if moment.tzinfo is None else timestamp(moment)
    except (ValueError, OverflowError):
        return now()
