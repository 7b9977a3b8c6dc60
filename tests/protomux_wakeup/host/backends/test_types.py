from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from protomux.errors import ProtocolError
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectRequest,
    ConnectResponse,
    Executable,
    HardTerminating,
    Loading,
    Ready,
    ResourceLimits,
    Scheduled,
    SpawnConfig,
    Starting,
    Terminated,
    Terminating,
    TerminationKind,
    TerminationReason,
    Waiting,
    decode,
    encode,
    now,
)

TIME = "2026-01-02T03:04:05.678Z"
RESPONSE: dict[str, Any] = {
    "backend_id": "b",
    "spawned": True,
    "status": "starting",
    "token": "t",
    "url": "http://127.0.0.1/t/",
    "status_url": "http://127.0.0.1/v2/backend/b/status",
    "ready_url": "",
}
DEEP = 100_000


def request(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def spawn(**fields: Any) -> bytes:
    return request(spawn=fields)


def executable(**fields: Any) -> bytes:
    return spawn(executable=fields)


def limits(**fields: Any) -> bytes:
    return executable(resource_limits=fields)


def place_of(data: bytes | str, kind: Any) -> str:
    """Where `data` is wrong; "" where that is not told."""
    with pytest.raises(ProtocolError) as caught:
        decode(data, kind)
    found = re.search(r"`(key` in `)?(\$[^`]*)`$", str(caught.value))
    return "" if found is None else found[2]


WRONG_REQUESTS = [
    (b"null", ""),
    (b"[]", ""),
    (request(kay="a"), ""),
    (request(key=""), "$.key"),
    (request(key=1), "$.key"),
    (request(key="a" * 257), "$.key"),
    (request(key="a\0"), "$.key"),
    (request(key="a\n"), "$.key"),
    (request(user=""), "$.user"),
    (request(user="a\r\nx-verified-secret: b"), "$.user"),
    (request(user=["a"]), "$.user"),
    (request(user="\x7f"), "$.user"),
    (request(auth=[]), "$.auth"),
    (request(auth="a"), "$.auth"),
    (request(spawn=1), "$.spawn"),
    (request(spawn="yes"), "$.spawn"),
    (request(spawn=[]), "$.spawn"),
    (spawn(image="a"), "$.spawn"),
    (spawn(tag=""), "$.spawn.tag"),
    (spawn(tag=True), "$.spawn.tag"),
    (spawn(tag="a\t"), "$.spawn.tag"),
    (spawn(cluster=1), "$.spawn.cluster"),
    (spawn(cluster="c" * 257), "$.spawn.cluster"),
    (spawn(lifetime_limit_seconds=0), "$.spawn.lifetime_limit_seconds"),
    (spawn(lifetime_limit_seconds=-1), "$.spawn.lifetime_limit_seconds"),
    (spawn(lifetime_limit_seconds=2**31), "$.spawn.lifetime_limit_seconds"),
    (spawn(lifetime_limit_seconds=1.5), "$.spawn.lifetime_limit_seconds"),
    (spawn(lifetime_limit_seconds="1"), "$.spawn.lifetime_limit_seconds"),
    (spawn(max_idle_seconds=0), "$.spawn.max_idle_seconds"),
    (spawn(max_idle_seconds=10**400), "$.spawn.max_idle_seconds"),
    (spawn(max_idle_seconds=True), "$.spawn.max_idle_seconds"),
    (spawn(executable="node"), "$.spawn.executable"),
    (executable(image="a"), "$.spawn.executable"),
    (executable(mount=""), "$.spawn.executable.mount"),
    (executable(mount=1), "$.spawn.executable.mount"),
    (executable(env=[]), "$.spawn.executable.env"),
    (executable(env={"": "a"}), "$.spawn.executable.env"),
    (executable(env={"1A": "a"}), "$.spawn.executable.env"),
    (executable(env={"A=B": "a"}), "$.spawn.executable.env"),
    (executable(env={"A\n": "a"}), "$.spawn.executable.env"),
    (executable(env={"A" * 257: "a"}), "$.spawn.executable.env"),
    (executable(env={"A": 1}), "$.spawn.executable.env[...]"),
    (executable(env={"A": None}), "$.spawn.executable.env[...]"),
    (executable(env={"A": "a\0"}), "$.spawn.executable.env[...]"),
    (executable(env={"A": "a" * 65_537}), "$.spawn.executable.env[...]"),
    (executable(env={f"A{n}": "" for n in range(1_025)}), "$.spawn.executable.env"),
    (limits(cpus=1), "$.spawn.executable.resource_limits"),
    (limits(cpu_period=999), "$.spawn.executable.resource_limits.cpu_period"),
    (limits(cpu_period=1_000_001), "$.spawn.executable.resource_limits.cpu_period"),
    (limits(cpu_period=None), "$.spawn.executable.resource_limits.cpu_period"),
    (limits(cpu_period_percent=0), "$.spawn.executable.resource_limits.cpu_period_percent"),
    (limits(cpu_period_percent=100_001), "$.spawn.executable.resource_limits.cpu_period_percent"),
    (limits(cpu_time_limit=0), "$.spawn.executable.resource_limits.cpu_time_limit"),
    (limits(memory_limit_bytes=0), "$.spawn.executable.resource_limits.memory_limit_bytes"),
    (limits(memory_limit_bytes=2**53), "$.spawn.executable.resource_limits.memory_limit_bytes"),
    (limits(disk_limit_bytes=-1), "$.spawn.executable.resource_limits.disk_limit_bytes"),
    (limits(disk_limit_bytes="1"), "$.spawn.executable.resource_limits.disk_limit_bytes"),
]


@pytest.mark.parametrize(("data", "place"), WRONG_REQUESTS, ids=lambda value: str(value)[:60])
def test_a_wrong_request_is_refused_by_the_place_of_what_is_wrong(data: bytes, place: str) -> None:
    assert place_of(data, ConnectRequest) == place


@pytest.mark.parametrize("field", list(RESPONSE))
@pytest.mark.parametrize("value", [None, 1, [], {}])
def test_a_wrong_response_is_refused(field: str, value: Any) -> None:
    assert place_of(json.dumps({**RESPONSE, field: value}), ConnectResponse) == f"$.{field}"
    left_out = {name: value for name, value in RESPONSE.items() if name != field}
    assert place_of(json.dumps(left_out), ConnectResponse) == ""


def test_a_response_may_have_what_is_not_known_here() -> None:
    more = {**RESPONSE, "secret_token": None, "subdomain": None, "drone": "dr-1"}
    response = decode(json.dumps(more), ConnectResponse)
    assert json.loads(encode(response)) == RESPONSE
    assert response.status is BackendStatus.STARTING


WRONG_STATES = [
    ({}, ""),
    ({"time": TIME}, ""),
    ({"status": "ready"}, ""),
    ({"status": "paused", "time": TIME}, "$.status"),
    ({"status": "Ready", "time": TIME}, "$.status"),
    ({"status": 1, "time": TIME}, "$.status"),
    ({"status": None, "time": TIME}, "$.status"),
    ({"status": "ready", "time": 1_700_000_000_000}, "$.time"),
    ({"status": "ready", "time": None}, "$.time"),
    ({"status": "ready", "time": "2" * 65}, "$.time"),
    ({"status": "terminating", "time": TIME}, ""),
    ({"status": "terminating", "time": TIME, "termination_reason": None}, "$.termination_reason"),
    ({"status": "hard-terminating", "time": TIME}, ""),
    ({"status": "terminated", "time": TIME, "termination_reason": "x"}, "$.termination_reason"),
    ({"status": "terminated", "time": TIME, "termination_reason": []}, "$.termination_reason"),
    ({"status": "terminated", "time": TIME, "termination_kind": "x"}, "$.termination_kind"),
    ({"status": "terminated", "time": TIME, "exit_error": 1}, "$.exit_error"),
]


@pytest.mark.parametrize(("fields", "place"), WRONG_STATES, ids=str)
def test_a_wrong_state_is_refused(fields: dict[str, Any], place: str) -> None:
    assert place_of(json.dumps(fields), BackendState) == place


def test_no_error_repeats_much_of_what_was_wrong() -> None:
    long = "x\n\x1b[2J" * 10_000
    for data, kind in (
        (request(**{long: 1}), ConnectRequest),
        (json.dumps({"status": long, "time": TIME}).encode(), BackendState),
        (
            json.dumps({"status": "terminated", "time": TIME, "termination_reason": long}).encode(),
            BackendState,
        ),
    ):
        with pytest.raises(ProtocolError) as caught:
            decode(data, kind)
        assert len(str(caught.value)) < 200
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"key":"a"} ',
        b'{"key":"a"}x',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe",
        b'{"key":"\xff"}',
        b'{"key":"\xed\xa0\x80"}',
        b'{"key":"\\ud800"}',
        b'{"key":"\\udc00"}',
        b'{"key":"\\ud800\\ud800"}',
        b'{"auth":{"\\ud800":1}}',
        '{"key":"\ud800"}',
        b'{"key":"a","key":1}',
        b'{"key":1,"key":"a"}',
        b'{"spawn":{"executable":{"env":{"A":"a","A":1}}}}',
        b'{"auth":NaN}',
        b'{"auth":{"a":Infinity}}',
        b'{"auth":{"a":1e999}}',
        b'{"auth":{"a":' + b"9" * 100_000 + b"}}",
        b'{"auth":{"a":-' + b"9" * 4_000 + b"}}",
        b'{"spawn":{"max_idle_seconds":' + b"9" * 100_000 + b"}}",
        b'{"auth":' + b'{"a":' * DEEP,
        b'{"auth":' + b'{"a":' * DEEP + b"1" + b"}" * (DEEP + 1),
        b'{"auth":{"a":' + b"[" * DEEP + b"]" * DEEP + b"}}",
        b'{"unknown":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b"[" * DEEP,
    ],
    ids=lambda data: str(data)[:40],
)
def test_hostile_json_is_read_or_refused(data: bytes | str) -> None:
    for kind in (ConnectRequest, ConnectResponse, BackendState):
        try:
            value = decode(data, kind)
        except ProtocolError:
            continue
        assert decode(encode(value), kind) == value


def test_of_a_name_that_comes_twice_the_last_counts() -> None:
    assert decode(b'{"key":"a","key":"b"}', ConnectRequest) == ConnectRequest(key="b")
    with pytest.raises(ProtocolError):
        decode(b'{"status":"ready","status":"terminated","time":"x"}', BackendState)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_what_an_auth_has_inside_each_other_is_bounded(opening: str) -> None:
    closing = "]" if opening == "[" else "}"

    def nested(levels: int) -> str:  # the object itself is one of them
        return '{"auth":{"a":' + opening * (levels - 1) + "1" + closing * (levels - 1) + "}}"

    assert encode(decode(nested(64), ConnectRequest)) == nested(64).encode()
    with pytest.raises(ProtocolError, match="`auth` of at most 64 levels"):
        decode(nested(65), ConnectRequest)
    wide = request(auth={"a": [[], {}] * 1_000})
    assert (
        decode(encode(decode(wide, ConnectRequest)), ConnectRequest).auth
        == json.loads(wide)["auth"]
    )


def test_an_auth_of_our_own_that_is_too_deep_is_a_value_error() -> None:
    auth: dict[str, Any] = {}
    for _ in range(64):
        auth = {"a": auth}
    with pytest.raises(ValueError, match="at most 64 levels"):
        ConnectRequest(auth=auth)


REASONS = [
    (TerminationReason.SWEPT, "swept", "swept"),
    (TerminationReason.EXTERNAL, "external", "external"),
    (TerminationReason.KEY_EXPIRED, "key_expired", "keyexpired"),
    (TerminationReason.LOST, "lost", "lost"),
    (TerminationReason.STARTUP_TIMEOUT, "startup_timeout", "startuptimeout"),
    (TerminationReason.INTERNAL_ERROR, "internal_error", "internalerror"),
]


@pytest.mark.parametrize(("reason", "spelling", "other"), REASONS)
def test_reasons_are_written_in_one_spelling_and_read_in_two(
    reason: TerminationReason, spelling: str, other: str
) -> None:
    for each in (spelling, other):
        data = json.dumps({"status": "terminating", "time": TIME, "termination_reason": each})
        state = decode(data, BackendState)
        assert state == Terminating(time=TIME, termination_reason=reason)
        assert json.loads(encode(state))["termination_reason"] == spelling


def test_all_reasons_are_in_the_table() -> None:
    assert [reason for reason, _, _ in REASONS] == list(TerminationReason)


STATES: list[BackendState] = [
    Scheduled(time=TIME),
    Loading(time=TIME),
    Starting(time=TIME),
    Waiting(time=TIME),
    Ready(time=TIME),
    Terminating(time=TIME, termination_reason=TerminationReason.SWEPT),
    HardTerminating(time=TIME, termination_reason=TerminationReason.SWEPT),
    Terminated(time=TIME),
]


def test_states_know_their_place_in_a_life() -> None:
    assert [state.status for state in STATES] == list(BackendStatus)
    assert [state.status.number for state in STATES] == list(range(8))
    for number, state in enumerate(STATES):
        later = [other.status for other in STATES if state.status.is_before(other.status)]
        assert later == list(BackendStatus)[number + 1 :]
        assert decode(encode(state), BackendState) == state
        assert json.loads(encode(state))["status"] == state.status


@pytest.mark.parametrize(
    "value",
    [
        ConnectRequest(),
        ConnectRequest(spawn=SpawnConfig(executable=Executable(resource_limits=ResourceLimits()))),
        decode(json.dumps(RESPONSE), ConnectResponse),
        *STATES,
        Terminated(time=TIME, exit_error=False),
        Terminated(time=TIME, termination_kind=TerminationKind.HARD),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nothing_that_is_none_is_written(value: Any) -> None:
    assert b"null" not in encode(value)


def test_a_null_counts_as_left_out() -> None:
    request = {"key": None, "spawn": None, "user": None, "auth": None}
    assert decode(json.dumps(request), ConnectRequest) == ConnectRequest()
    terminated = {"termination_reason": None, "termination_kind": None, "exit_error": None}
    state = decode(json.dumps({"status": "terminated", "time": TIME, **terminated}), BackendState)
    assert state == Terminated(time=TIME)


def test_what_is_asked_for_is_read_in_full() -> None:
    data = {
        "key": "room",
        "spawn": {
            "tag": "t",
            "cluster": "c",
            "lifetime_limit_seconds": 2**31 - 1,
            "max_idle_seconds": 1,
            "executable": {
                "mount": "data",
                "env": {"A": "line\nline", "_b1": ""},
                "resource_limits": {
                    "cpu_period": 1_000,
                    "cpu_period_percent": 100_000,
                    "cpu_time_limit": 1,
                    "memory_limit_bytes": 2**53 - 1,
                    "disk_limit_bytes": 1,
                },
            },
        },
        "user": "ü " + "u" * 254,
        "auth": {"": [1, 1.5, None, True, 2**70, {"a": "\0"}]},
    }
    assert json.loads(encode(decode(json.dumps(data), ConnectRequest))) == data
    for spawn in (True, False):
        assert decode(request(spawn=spawn), ConnectRequest) == ConnectRequest(spawn=spawn)
    assert decode(executable(mount=True), ConnectRequest) == ConnectRequest(
        spawn=SpawnConfig(executable=Executable(mount=True))
    )


def test_the_time_is_utc_to_the_millisecond() -> None:
    text = now()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert abs(datetime.fromisoformat(text) - datetime.now(UTC)) < timedelta(minutes=1)
