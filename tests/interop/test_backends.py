"""Session backends as Jamsocket's own types have them. The Node side is backends.mjs."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

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
from tests.protomux_wakeup.host.backends.scripted import SECRET, TOKEN, ScriptedCluster

HERE: Final = Path(__file__).parent
PROGRAM: Final = ("node", str(HERE / "backends.mjs"))
TIME: Final = "2026-01-02T03:04:05.678Z"


def states() -> Iterator[BackendState]:
    for kind in (Scheduled, Loading, Starting, Waiting, Ready):
        yield kind(time=now())
    for reason in TerminationReason:
        yield Terminating(time=now(), termination_reason=reason)
        yield HardTerminating(time=now(), termination_reason=reason)
    for reason_or_none, kind_or_none, error in product(
        (None, *TerminationReason), (None, *TerminationKind), (None, False, True)
    ):
        yield Terminated(
            time=now(),
            termination_reason=reason_or_none,
            termination_kind=kind_or_none,
            exit_error=error,
        )


def responses() -> Iterator[ConnectResponse]:
    for spawned, status, secret in product((False, True), BackendStatus, (None, "s")):
        yield ConnectResponse(
            backend_id="b",
            spawned=spawned,
            status=status,
            token="t",
            url="http://127.0.0.1:1/t/",
            secret_token=secret,
            status_url="http://127.0.0.1:2/v2/backend/b/status",
            ready_url="http://127.0.0.1:2/v2/backend/b/ready",
        )


def check(values: list[tuple[str, bytes]]) -> list[bool]:
    """What Jamsocket's own checks say of these."""
    lines = [json.dumps({"kind": kind, "text": text.decode()}) for kind, text in values]
    done = subprocess.run(
        [*PROGRAM, "check"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [json.loads(line)["ok"] for line in done.stdout.splitlines()]


def test_all_that_we_write_passes_the_checks_of_the_original() -> None:
    values = [("state", encode(state)) for state in states()]
    values += [("response", encode(response)) for response in responses()]
    assert len(values) == 5 + 12 + 63 + 32
    assert check(values) == [True] * len(values)


def test_those_checks_refuse_a_null_and_what_is_missing() -> None:
    values = [
        ("state", b'{"status":"ready"}'),
        ("state", b'{"status":"terminating","time":"x"}'),
        ("state", b'{"status":"terminated","time":"x","termination_reason":null}'),
        ("state", b'{"status":"terminated","time":"x","termination_kind":null}'),
        ("state", b'{"status":"terminated","time":"x","exit_error":null}'),
        ("response", b"{}"),
    ]
    assert check(values) == [False] * len(values)


# What its types allow, written by hand.
STATES: list[dict[str, Any]] = [
    {"status": "scheduled", "time": TIME},
    {"status": "loading", "time": TIME},
    {"status": "starting", "time": TIME},
    {"status": "waiting", "time": TIME},
    {"status": "ready", "time": TIME},
    {"status": "terminating", "time": TIME, "termination_reason": "swept"},
    {"status": "terminating", "time": TIME, "termination_reason": "keyexpired"},
    {"status": "hard-terminating", "time": TIME, "termination_reason": "startuptimeout"},
    {"status": "terminated", "time": TIME},
    {"status": "terminated", "time": TIME, "termination_reason": "internalerror"},
    {
        "status": "terminated",
        "time": TIME,
        "termination_reason": None,
        "termination_kind": None,
        "exit_error": None,
    },
    {
        "status": "terminated",
        "time": TIME,
        "termination_reason": "external",
        "termination_kind": "hard",
        "exit_error": True,
    },
]
REQUESTS: list[dict[str, Any]] = [
    {},
    {"key": "room", "spawn": True},
    {"key": "room", "spawn": False, "user": "u", "auth": {"role": ["admin"], "level": 1.5}},
    {"spawn": {}},
    {"spawn": {"tag": "t", "cluster": "c", "lifetime_limit_seconds": 60, "max_idle_seconds": 5}},
    {"spawn": {"executable": {"mount": "data", "env": {"A": "b"}, "resource_limits": {}}}},
    {
        "spawn": {
            "executable": {
                "mount": True,
                "resource_limits": {
                    "cpu_period": 100_000,
                    "cpu_period_percent": 100,
                    "cpu_time_limit": 60,
                    "memory_limit_bytes": 1_000_000,
                    "disk_limit_bytes": 1_000_000,
                },
            }
        }
    },
]
RESPONSE = {
    "backend_id": "b",
    "spawned": True,
    "status": "hard-terminating",
    "token": "t",
    "url": "https://t.example.com/t/",
    "secret_token": None,
    "status_url": "https://example.com/v2/backend/b/status",
    "ready_url": "https://example.com/v2/backend/b/ready",
}


def without_null(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def test_what_its_types_allow_is_read_here() -> None:
    for state in STATES:
        ours = json.loads(encode(decode(json.dumps(state), BackendState)))
        reason = ours.get("termination_reason")
        if reason is not None:  # which has its words apart here
            ours["termination_reason"] = reason.replace("_", "")
        assert ours == without_null(state)
    for request in REQUESTS:
        again = decode(encode(decode(json.dumps(request), ConnectRequest)), ConnectRequest)
        assert again == decode(json.dumps(request), ConnectRequest)
    response = decode(json.dumps(RESPONSE), ConnectResponse)
    assert json.loads(encode(response)) == without_null(RESPONSE)


@pytest.fixture(scope="module")
def declared() -> str:
    return (HERE / "node_modules/@jamsocket/types/dist/main.d.ts").read_text()


@pytest.mark.parametrize("kind", [BackendStatus, TerminationKind, TerminationReason])
def test_words_are_those_of_its_types(kind: type[StrEnum], declared: str) -> None:
    (union,) = re.findall(rf"type {kind.__name__} = ([^;]+);", declared)
    assert [kind(word) for word in re.findall(r"'([^']+)'", union)] == list(kind)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("ConnectRequest", [ConnectRequest, SpawnConfig, Executable, ResourceLimits]),
        ("ConnectResponse", [ConnectResponse]),
    ],
)
def test_fields_are_those_of_its_types(name: str, kinds: list[Any], declared: str) -> None:
    (body,) = re.findall(rf"type {name} = \{{\n(.*?)\n\}};", declared, re.DOTALL)
    ours = [field.encode_name for kind in kinds for field in msgspec.structs.fields(kind)]
    assert sorted(re.findall(r"^ *(\w+)\??:", body, re.MULTILINE)) == sorted(ours)


@asynccontextmanager
async def node(*arguments: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """What Node says to these."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lines = process.stdout

    async def said() -> AsyncIterator[dict[str, Any]]:
        async for line in lines:
            yield json.loads(line)

    try:
        yield said()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def only(*arguments: str) -> dict[str, Any]:
    async with node(*arguments) as said:
        (line,) = [line async for line in said]
        return line


async def test_a_cluster_of_the_tests_is_one_to_its_libraries() -> None:
    async with ScriptedCluster("jamsocket").running() as cluster:
        request = json.dumps({"key": "room", "spawn": True})
        response = await only("connect", cluster.base, TOKEN, "acme/rooms", request)
        assert response["url"] == f"{cluster.base}/{SECRET}/"
        id = response["backend_id"]
        refused = await only("connect", cluster.base, "another", "acme/rooms", request)
        assert refused["code"] == 401
        assert (await only("status", cluster.base, "nobody"))["code"] == 404

        await cluster.say("ready")
        assert (await only("status", cluster.base, id))["status"] == "ready"
        following = ("follow", cluster.base, id)
        client = ("client", f"{cluster.base}/v2/backend/{id}/status")
        for arguments in (following, client):
            cluster.states = cluster.states[:1]
            async with node(*arguments) as said:
                assert (await anext(said))["status"] == "ready"
                cluster.cut()
                await cluster.say("terminating", termination_reason="swept")
                await cluster.say("terminated")
                rest = [state["status"] async for state in said]
                assert rest == ["terminating", "terminated"]
        assert (await only(*client))["status"] == "terminated"
