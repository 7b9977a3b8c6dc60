from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from protomux.crypto import discovery_key
from protomux_wakeup import host

from .local import RemotePeer
from .members import QUICK, WORKERS, until_empty

CAPABILITY = b"\x05" * 32
TOPIC = discovery_key(CAPABILITY)
KEY = b"\x06" * 32
LIMITS = host.Limits(**QUICK)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
async def _guard() -> AsyncIterator[None]:
    async with asyncio.timeout(60):
        yield


@pytest.fixture
async def peer() -> AsyncIterator[RemotePeer]:
    peer = RemotePeer(CAPABILITY, {KEY: 3})
    yield peer
    await peer.close()


async def test_who_brings_no_worker_gets_the_service(place: Path, peer: RemotePeer) -> None:
    runtime, state = place / "run", place / "state"
    changes: list[host.Client] = []
    first = host.join("test", watcher="bot", state=state, directory=runtime, limits=LIMITS)
    async with first:
        assert first.client.is_leader
        assert await first.watch(CAPABILITY) == TOPIC
        await first.connect(await peer.listen())
        hints = first.hints()
        assert await anext(hints) == host.Hint(TOPIC, KEY, 3)
        async with host.join(
            "test",
            state=state,
            directory=runtime,
            on_leader_change=changes.append,
            limits=LIMITS,
        ) as second:
            assert not second.client.is_leader
            assert second.client.worker_pid == first.client.worker_pid
            assert (await second.status())["pid"] == first.client.worker_pid
            await second.watch(CAPABILITY)
            await first.leave()
            assert await anext(second.hints()) == host.Hint(TOPIC, KEY, 3)
            await second.status()  # of the next worker, which knows it from the file
            assert changes == [second.client]
            assert second.client.is_leader
    await until_empty(runtime)
    assert "hints.db" in os.listdir(state)


async def test_the_state_is_where_it_was_said_from(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    async with host.join("test", state="state", directory="run", limits=LIMITS):
        monkeypatch.chdir("/")
        async with host.join("test", directory=place / "run", limits=LIMITS) as other:
            assert (await other.status())["topics"] == []
    await until_empty(place / "run")
    assert "hints.db" in os.listdir(place / "state")


async def test_a_keeper_is_asked_to_leave(place: Path) -> None:
    async with (
        host.join(
            "test", f"{WORKERS}:main", is_keeper=True, directory=place, limits=LIMITS
        ) as keeper,
        host.visit("test", directory=place) as visitor,
    ):
        stopping = asyncio.create_task(visitor.stop(within=60))
        await keeper.asked_to_leave.wait()
        await keeper.leave()
        assert await stopping == 1
    await until_empty(place)


@pytest.mark.parametrize(
    ("worker", "argument", "value", "whose"),
    [
        ("a:b", "watcher", "bot", "the service"),
        ("a:b", "state", "/tmp", "the service"),
        (None, "options", {}, "a worker of one's own"),
        (None, "on_connect", print, "a worker of one's own"),
    ],
)
async def test_what_is_for_the_other_kind(
    worker: Any, argument: str, value: object, whose: str
) -> None:
    options: Any = {argument: value}
    with pytest.raises(TypeError, match=f"expected {argument} for {whose} only"):
        host.join("test", worker, **options)


async def test_who_brings_another_worker_is_told(place: Path) -> None:
    runtime = place / "run"
    async with host.join("test", state=place / "state", directory=runtime, limits=LIMITS) as first:
        other = host.join("test", f"{WORKERS}:serves", directory=runtime, limits=LIMITS)
        with pytest.raises(host.WorkerFailed, match=r"expected the worker .*:serves, the host"):
            await other.__aenter__()
        assert (await first.status())["pid"] == first.client.worker_pid
    await until_empty(runtime)


async def test_a_process_is_called_what_it_says(place: Path) -> None:
    runtime = place / "run"
    joining = host.join(
        "test", state=place / "state", directory=runtime, program="bot", limits=LIMITS
    )
    async with joining, host.visit("test", directory=runtime) as visitor:
        assert [client.program for client in (await visitor.known()).clients] == ["bot"]
    await until_empty(runtime)


def test_the_processes_of_a_host_are_not_for_users() -> None:
    for role in ([], ["none"]):
        command = [sys.executable, "-m", "protomux_wakeup.host", *role]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == "the processes of a host start each other: see protomux-wakeup host\n"
