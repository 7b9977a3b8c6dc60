"""The JSON of session backends, as Jamsocket's types have it. Knows no backend.

The shapes are those of npm @jamsocket/types 1.1.6. What is None is left out when it is encoded, as
its checks want it; a null that is read where None may be counts as left out. What asks something of
us has to be right in every field; what others tell us may have fields that are not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, TypeAlias, TypeVar, overload

import msgspec
from msgspec import Meta

from protomux.errors import ProtocolError

__all__ = [
    "BackendState",
    "BackendStatus",
    "ConnectRequest",
    "ConnectResponse",
    "Executable",
    "HardTerminating",
    "Loading",
    "Ready",
    "ResourceLimits",
    "Scheduled",
    "Seconds",
    "SpawnConfig",
    "Starting",
    "Terminated",
    "Terminating",
    "TerminationKind",
    "TerminationReason",
    "Waiting",
    "decode",
    "encode",
    "now",
    "timestamp",
]

T = TypeVar("T")


class BackendStatus(StrEnum):
    """Where a backend is in its life; it goes from one to a later one only, and may leave out any.

    In the order of their lives: `scheduled`, an id and no more; `loading`, what it runs is fetched;
    `starting`, its process is about to be; `waiting`, that runs, and is not ready; `ready`;
    `terminating`, it was asked to end (SIGTERM); `hard-terminating`, it is made to (SIGKILL);
    `terminated`, nothing of it is left.
    """

    SCHEDULED = "scheduled"
    LOADING = "loading"
    STARTING = "starting"
    WAITING = "waiting"
    READY = "ready"
    TERMINATING = "terminating"
    HARD_TERMINATING = "hard-terminating"
    TERMINATED = "terminated"

    @property
    def number(self) -> int:
        """How far that is: 0 to 7."""
        return _NUMBERS[self]

    def is_before(self, other: BackendStatus) -> bool:
        """Tell whether `other` may follow."""
        return self.number < other.number


_NUMBERS: Final[Mapping[BackendStatus, int]] = {
    status: number for number, status in enumerate(BackendStatus)
}


class TerminationKind(StrEnum):
    """How a backend was ended: it was asked to, or made to."""

    SOFT = "soft"
    HARD = "hard"


class TerminationReason(StrEnum):
    """Why a backend was ended.

    `swept`, it was past one of its limits; `external`, somebody wanted it; `key_expired`, nobody
    held its key any more; `lost`, what ran it is gone; `startup_timeout`, it was not ready in time;
    `internal_error`, it could not be started. There are peers that write no underscores between
    the words, and npm @jamsocket/types 1.1.6 has none; those are read as well.
    """

    SWEPT = "swept"
    EXTERNAL = "external"
    KEY_EXPIRED = "key_expired"
    LOST = "lost"
    STARTUP_TIMEOUT = "startup_timeout"
    INTERNAL_ERROR = "internal_error"

    @classmethod
    def _missing_(cls, value: object) -> TerminationReason | None:
        return _JOINED.get(value)


_JOINED: Final[Mapping[object, TerminationReason]] = {
    reason.value.replace("_", ""): reason for reason in TerminationReason
}

# No control characters: names get into variables of an environment and into headers of HTTP. It is
# \Z that is the end: before a line feed there is a $ as well.
_Name: TypeAlias = Annotated[
    str, Meta(pattern=r"^[^\x00-\x1f\x7f]*\Z", min_length=1, max_length=256)
]
Seconds: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
"""How long something may take."""
_Bytes: TypeAlias = Annotated[int, Meta(ge=1, le=2**53 - 1)]
_Variable: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", max_length=256)]
_Text: TypeAlias = Annotated[str, Meta(pattern=r"^[^\x00]*\Z", max_length=65_536)]
_Time: TypeAlias = Annotated[str, Meta(max_length=64)]

_DEPTH: Final = 64
"""Objects and arrays inside each other that `auth` may have: what was read has to be written too,
wherever that is, and both take the stack."""
_SHOWN: Final = 64
"""Characters that an error repeats of what was wrong."""


class ResourceLimits(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What a backend may take of a machine.

    Attributes:
        cpu_period: microseconds. Default 100,000.
        cpu_period_percent: of each period, 100 being one core.
        cpu_time_limit: seconds of CPU time in all.
        memory_limit_bytes: of memory.
        disk_limit_bytes: of each file that it writes.
    """

    cpu_period: Annotated[int, Meta(ge=1_000, le=1_000_000)] = 100_000
    cpu_period_percent: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    cpu_time_limit: Seconds | None = None
    memory_limit_bytes: _Bytes | None = None
    disk_limit_bytes: _Bytes | None = None


class Executable(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """How what a backend runs differs from what is set up for it.

    Attributes:
        mount: a directory that outlives the backend, or whether it has one. For clusters.
        env: more variables of its environment.
        resource_limits: bounds.
    """

    mount: _Name | bool | None = None
    env: Annotated[dict[_Variable, _Text], Meta(max_length=1_024)] | None = None
    resource_limits: ResourceLimits | None = None


class SpawnConfig(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What to start where no backend runs.

    Attributes:
        tag: which of the things that are set up; a backend under the same key that runs another
            one is an error.
        cluster: where. For clusters.
        lifetime_limit_seconds: after these it is ended.
        max_idle_seconds: with nobody connected for so long, it is ended.
        executable: see `Executable`.
    """

    tag: _Name | None = None
    cluster: _Name | None = None
    lifetime_limit_seconds: Seconds | None = None
    max_idle_seconds: Seconds | None = None
    executable: Executable | None = None


class ConnectRequest(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Asks for a backend.

    Attributes:
        key: there is one backend for it at a time; None is always a new one.
        spawn: whether to start one where none runs, and how.
        user: who asks; the backend is told.
        auth: more about who asks; the backend is told. At most 64 levels deep.
    """

    key: _Name | None = None
    spawn: bool | SpawnConfig | None = None
    user: _Name | None = None
    auth: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an `auth` that is too deep."""
        level: list[Any] = _containers((self.auth,))
        for _ in range(_DEPTH):
            level = [
                inner
                for each in level
                for inner in _containers(each.values() if isinstance(each, dict) else each)
            ]
        if level:
            raise ValueError(f"Expected `auth` of at most {_DEPTH} levels")


def _containers(values: Iterable[Any]) -> list[Any]:
    return [each for each in values if isinstance(each, dict | list)]


class ConnectResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a backend is.

    Attributes:
        backend_id: its id, which nobody guesses: who has it may read the status.
        spawned: it was started by this request.
        status: where it was in its life when it was asked for.
        token: the secret in `url`.
        url: where it is reached by who asked.
        secret_token: a second secret that the backend is told, to compare. None without one.
        status_url: answers with its `BackendState`; with /stream behind it, with all of them.
        ready_url: answers when it is ready.
    """

    backend_id: str
    spawned: bool
    status: BackendStatus
    token: str
    url: str
    secret_token: str | None = None
    status_url: str
    ready_url: str


class _State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="status"):
    time: _Time

    @property
    def status(self) -> BackendStatus:
        """Where the backend is in its life."""
        return BackendStatus(str(self.__struct_config__.tag))


class Scheduled(_State, tag="scheduled", frozen=True):
    """See `BackendStatus`. `time` is when that was, in RFC 3339."""


class Loading(_State, tag="loading", frozen=True):
    """See `BackendStatus`."""


class Starting(_State, tag="starting", frozen=True):
    """See `BackendStatus`."""


class Waiting(_State, tag="waiting", frozen=True):
    """See `BackendStatus`."""


class Ready(_State, tag="ready", frozen=True):
    """See `BackendStatus`."""


class Terminating(_State, tag="terminating", frozen=True, kw_only=True):
    """See `BackendStatus`, `TerminationReason`."""

    termination_reason: TerminationReason


class HardTerminating(_State, tag="hard-terminating", frozen=True, kw_only=True):
    """See `BackendStatus`, `TerminationReason`."""

    termination_reason: TerminationReason


class Terminated(_State, tag="terminated", frozen=True, kw_only=True):
    """See `BackendStatus`.

    Attributes:
        termination_reason: None where it ended by itself.
        termination_kind: None where it ended by itself.
        exit_error: it ended by a signal or with an exit code that is not 0. None where that is not
            known.
    """

    termination_reason: TerminationReason | None = None
    termination_kind: TerminationKind | None = None
    exit_error: bool | None = None


BackendState: TypeAlias = (
    Scheduled | Loading | Starting | Waiting | Ready | Terminating | HardTerminating | Terminated
)

_encoder: Final = msgspec.json.Encoder()


@overload
def decode(data: bytes | str, kind: type[T]) -> T: ...
@overload
def decode(data: bytes | str, kind: Any) -> Any: ...
def decode(data: bytes | str, kind: Any) -> Any:
    """Return the `kind` that the JSON `data` is.

    Raises ProtocolError, which names the place of what is wrong ("at `$.spawn.tag`") and what was
    expected there, and repeats little of what it found.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ProtocolError(_shown(str(error))) from None


def _shown(message: str) -> str:
    """Return `message` without control characters, and with no more than the start of a value."""
    what, at, place = message.rpartition(" - at ")
    if not at:
        what, place = message, ""
    if len(what) > 2 * _SHOWN:
        what = what[:_SHOWN] + "..."
    return "".join(each if each.isprintable() else "?" for each in what + at + place)


def encode(value: Any) -> bytes:
    """Return the JSON of one of these, or of a container of them."""
    return _encoder.encode(value)


def now() -> str:
    """Return the time for a `BackendState`: UTC in RFC 3339, to the millisecond."""
    return timestamp(datetime.now(UTC))


def timestamp(moment: datetime) -> str:
    """Return `moment`, which has a time zone, as `now` does; OverflowError out of all years."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
