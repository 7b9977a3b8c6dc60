"""Engines of a scripted cluster, and what they are to start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from protomux_wakeup.host.backends.cluster import ClusterLimits
from protomux_wakeup.host.backends.dialects import Dialect, jamsocket, plane
from protomux_wakeup.host.backends.engine import Launch, News
from protomux_wakeup.host.backends.plane import PlaneEngine
from protomux_wakeup.host.backends.types import BackendStatus, ConnectRequest

from .scripted import TOKEN, ScriptedCluster

DIALECTS: dict[str, Dialect] = {
    "jamsocket": jamsocket("acme", "rooms"),
    "plane": plane({"default": {"image": "node", "env": {"A": "1"}}, "other": {"image": "o"}}),
}
dialects = pytest.mark.parametrize("dialect", list(DIALECTS))
LIMITS = ClusterLimits(first_wait=0.001, longest_wait=0.05)
IMPATIENT = ClusterLimits(
    first_wait=0.001, longest_wait=0.02, lost_time=1, request_time=1, start_time=1
)
ALL = [str(status) for status in BackendStatus]
A, B, C = (News(bytes([n]) * 32, bytes([n]) * 32, n) for n in (1, 2, 3))


def launch(**fields: Any) -> Launch:
    launched: dict[str, Any] = {
        "backend_id": "0" * 32,
        "key": "room",
        "fencing_token": 1,
        "term": 1,
        "request": ConnectRequest(key="room"),
    }
    return Launch(**{**launched, **fields})


@asynccontextmanager
async def opened(
    cluster: ScriptedCluster, place: Path, *, limits: ClusterLimits = LIMITS, term: int = 1
) -> AsyncIterator[PlaneEngine]:
    engine = PlaneEngine(cluster.base, DIALECTS[cluster.dialect], place, token=TOKEN, limits=limits)
    await engine.open(term)
    try:
        yield engine
    finally:
        await engine.close()


async def live(cluster: ScriptedCluster) -> None:
    """Say a whole life."""
    for status in ALL[:5]:
        await cluster.say(status)
    for status in ALL[5:7]:
        await cluster.say(status, termination_reason="external")
    await cluster.say(
        "terminated", termination_reason="external", termination_kind="hard", exit_error=True
    )
