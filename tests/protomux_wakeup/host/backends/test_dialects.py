from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from protomux.errors import ProtocolError
from protomux_wakeup.host.backends.dialects import (
    Dialect,
    jamsocket,
    plane,
    read_response,
    read_state,
)
from protomux_wakeup.host.backends.engine import EngineError, Launch
from protomux_wakeup.host.backends.types import (
    ConnectRequest,
    Executable,
    HardTerminating,
    ResourceLimits,
    SpawnConfig,
    Terminated,
    TerminationKind,
    TerminationReason,
)

RESPONSE: dict[str, Any] = {
    "backend_id": "ba-1",
    "spawned": True,
    "status": "scheduled",
    "token": "t",
    "url": "https://cluster.example/t/",
    "status_url": "s",
}


def asked(dialect: Dialect, request: ConnectRequest, *, spawn: bool = True) -> Any:
    launch = Launch(backend_id="0" * 32, key="room", fencing_token=1, term=1, request=request)
    return json.loads(dialect.request(launch, spawn))


@pytest.mark.parametrize(
    ("account", "service"),
    [("", "s"), ("a", ""), ("a/b", "s"), ("..", "s"), ("a", "."), ("a", "s/e/f"), ("a", "s?")],
)
def test_names_that_do_not_fit_into_a_path_are_refused(account: str, service: str) -> None:
    with pytest.raises(ValueError, match="names of an account and a service"):
        jamsocket(account, service)


def test_a_service_may_have_an_environment() -> None:
    assert jamsocket("-", "-").connect == "/v2/service/-/-/connect"
    assert jamsocket("acme", "rooms/prod").connect == "/v2/service/acme/rooms/prod/connect"


ROOM = {"name": "room", "tag": ""}
PLANE_REQUESTS: list[tuple[ConnectRequest, dict[str, Any]]] = [
    (ConnectRequest(), {"key": ROOM, "spawn_config": {"executable": {"image": "a"}}}),
    (
        ConnectRequest(key="room", spawn=True, user="u", auth={"a": 1}),
        {
            "key": ROOM,
            "spawn_config": {"executable": {"image": "a"}},
            "user": "u",
            "auth": {"a": 1},
        },
    ),
    (
        ConnectRequest(
            spawn=SpawnConfig(
                tag="b",
                cluster="c",
                lifetime_limit_seconds=1,
                max_idle_seconds=2,
                executable=Executable(
                    mount=False,
                    env={"B": "2", "C": "3"},
                    resource_limits=ResourceLimits(cpu_time_limit=5),
                ),
            )
        ),
        {
            "key": {"name": "room", "tag": "b"},
            "spawn_config": {
                "executable": {
                    "image": "b",
                    "mount": False,
                    "env": {"A": "1", "B": "2", "C": "3"},
                    "resource_limits": {"disk_limit_bytes": 9, "cpu_time_limit": 5},
                },
                "cluster": "c",
                "lifetime_limit_seconds": 1,
                "max_idle_seconds": 2,
            },
        },
    ),
    (
        ConnectRequest(spawn=SpawnConfig(tag="b", executable=Executable())),
        {
            "key": {"name": "room", "tag": "b"},
            "spawn_config": {
                "executable": {
                    "image": "b",
                    "env": {"A": "1", "B": "1"},
                    "resource_limits": {"cpu_time_limit": 4, "disk_limit_bytes": 9},
                }
            },
        },
    ),
]


@pytest.mark.parametrize(("request_", "body"), PLANE_REQUESTS)
def test_plane_is_asked_for_what_it_knows(request_: ConnectRequest, body: dict[str, Any]) -> None:
    limits = {"cpu_time_limit": 4, "disk_limit_bytes": 9}
    executables: dict[str, dict[str, Any]] = {
        "default": {"image": "a"},
        "b": {"image": "b", "env": {"A": "1", "B": "1"}, "resource_limits": limits},
    }
    assert asked(plane(executables), request_) == body
    found = asked(plane(executables), request_, spawn=False)
    assert found == {name: value for name, value in body.items() if name != "spawn_config"}
    assert executables["b"]["env"] == {"A": "1", "B": "1"}


def test_without_a_tag_plane_is_asked_for_the_only_one() -> None:
    executable = {"image": "x"}
    found = asked(plane({"x": executable}), ConnectRequest())
    assert found["spawn_config"]["executable"] == executable
    with pytest.raises(EngineError, match=r"a tag of \['x', 'y'\], got 'default'"):
        asked(plane({"y": {}, "x": {}}), ConnectRequest())
    with pytest.raises(EngineError, match="got 'z'"):
        asked(plane({"x": {}}), ConnectRequest(spawn=SpawnConfig(tag="z")))
    with pytest.raises(ValueError, match="an executable at least"):
        plane({})


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1767323045678, "2026-01-02T03:04:05.678Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"),
        ("2026-01-02T03:04:05.678901234+00:00", "2026-01-02T03:04:05.678Z"),
        ("2026-01-02T03:04:05.6789-01:30", "2026-01-02T04:34:05.678Z"),
    ],
)
def test_the_time_is_told_as_we_tell_it(time: int | str, expected: str) -> None:
    assert read_state(json.dumps({"status": "ready", "time": time})).time == expected


@pytest.mark.parametrize(
    "time",
    [
        10**17,
        -(10**17),
        2**63 - 1,
        2**64,
        10**400,
        "",
        "now",
        "2026-01-02T03:04:05",
        "2026-13-02T03:04:05Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "x" * 10_000,
    ],
)
def test_a_time_that_is_none_is_that_of_now(time: int | str) -> None:
    state = read_state(json.dumps({"status": "ready", "time": time}))
    assert abs(datetime.fromisoformat(state.time) - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_reason_that_is_not_known_does_not_hide_the_end() -> None:
    fields = {"time": 0, "termination_reason": "bored", "termination_kind": "gentle"}
    state = read_state(json.dumps({"status": "terminated", "exit_error": True, **fields}))
    assert state == Terminated(time="1970-01-01T00:00:00.000Z", exit_error=True)
    with pytest.raises(ProtocolError):
        read_state(json.dumps({"status": "terminating", **fields}))


def test_states_are_read_as_plane_writes_them() -> None:
    fields = {"time": 0, "termination_reason": "startuptimeout", "termination_kind": "hard"}
    assert read_state(json.dumps({"status": "hard-terminating", **fields})) == HardTerminating(
        time="1970-01-01T00:00:00.000Z", termination_reason=TerminationReason.STARTUP_TIMEOUT
    )
    assert read_state(json.dumps({"status": "terminated", **fields})) == Terminated(
        time="1970-01-01T00:00:00.000Z",
        termination_reason=TerminationReason.STARTUP_TIMEOUT,
        termination_kind=TerminationKind.HARD,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"status": "ready"},
        {"time": 0},
        {"status": "paused", "time": 0},
        {"status": "ready", "time": 1.5},
        {"status": "ready", "time": None},
        {"status": "terminated", "time": 0, "exit_error": "yes"},
        {"status": "terminated", "time": 0, "termination_reason": 1},
    ],
    ids=str,
)
def test_what_is_no_state_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        read_state(json.dumps(fields))


def test_a_response_of_plane_is_read() -> None:
    response = read_response(json.dumps({**RESPONSE, "subdomain": None, "drone": "d"}).encode())
    assert (response.ready_url, response.secret_token) == ("", None)
    assert response.url == "https://cluster.example/t/"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backend_id", ""),
        ("backend_id", "../x"),
        ("backend_id", "x/status"),
        ("backend_id", "a?b"),
        ("backend_id", "a\n"),
        ("backend_id", "."),
        ("backend_id", "a" * 129),
        ("backend_id", "{x}"),
        ("url", ""),
        ("url", "secret"),
        ("url", "/secret"),
        ("url", "file:///secret"),
        ("url", "ftp://secret/"),
        ("url", "http://"),
        ("url", "http:///secret"),
        ("url", "http://[secret"),
        ("url", "http://host:secret/"),
        ("url", None),
        ("url", "http://xn--a/"),
        ("status", "paused"),
    ],
)
def test_what_is_no_response_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ProtocolError, match=rf"at `\$\.{field}`") as caught:
        read_response(json.dumps({**RESPONSE, field: value}).encode())
    assert "secret" not in str(caught.value)
