"""The benches do their work; what they measure is nobody's test."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from bench.duel import between
from bench.workloads import WORKLOADS
from tests.interop.harness import missing

needs_originals = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.mark.parametrize("options", [[], ["--tcp", "--answer"], ["--memory"]])
async def test_open_counts_what_it_opened(options: list[str]) -> None:
    command = ["-m", "bench", "open", "--sizes", "10", "20", "--rounds", "2", "--json", *options]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    report = json.loads(out)
    assert [size["topics"] for size in report["sizes"]] == [10, 20]
    for size in report["sizes"]:
        for what in ("open", "close"):
            figures = size[what]
            assert 0 < figures["min"] <= figures["median"] <= figures["max"]
        assert ("bytes" in size) is ("--memory" in options)


@pytest.mark.parametrize("victim", ["python", "node"])
async def test_attacks_tells_what_came_of_each(victim: str) -> None:
    if victim == "node" and (reason := missing()) is not None:
        pytest.skip(reason)
    names = ["number-0", "wrong-proof", "names-not-utf8"]
    command = ["-m", "bench", "attacks", "--victim", victim, "--only", *names, "--json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    rows = {row["attack"]: row for row in json.loads(out)["rows"]}
    assert rows.keys() == set(names)
    assert rows["number-0"]["got"] == "destroyed"
    assert rows["wrong-proof"]["got"] == "channel closed: 1"
    assert rows["names-not-utf8"]["applies"] is (victim == "python")
    for row in rows.values():
        assert row["victim"] == victim
        assert row["not_held"] == []
        if row["applies"]:
            assert row["asked"] > 0
            assert 0 < row["median"] <= row["worst"]


NAMES = [name for name, one in WORKLOADS.items() if one.measure is between]
"""The workloads between two processes."""


@asynccontextmanager
async def _bench(
    *options: str, environment: dict[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", *options),
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(240):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _compare(*options: str) -> dict[str, Any]:
    async with _bench(*options, "--json") as process:
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    document: dict[str, Any] = json.loads(out)
    return document


def _check_row(row: dict[str, Any], series: list[str], rounds: int) -> None:
    assert list(row["series"]) == list(row["cpu"]) == series
    for name in series:
        assert len(row["series"][name]) == len(row["cpu"][name]) == rounds
        assert all(figure > 0 for figure in row["series"][name])
        assert all(seconds >= 0 for pair in row["cpu"][name] for seconds in pair)
        assert all(len(pair) == 2 for pair in row["cpu"][name])
    each = [
        ours / theirs
        for ours, theirs in zip(row["series"]["py-py"], row["series"]["node-node"], strict=True)
    ]
    assert row["ratio"] == {"min": min(each), "median": median(each), "max": max(each)}


@pytest.mark.parametrize("pure", ["0", "1"])
async def test_the_codecs_in_use_are_told(pure: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from bench.versions import versions; print(versions('asyncio')['speedups'])",
        env={**os.environ, "PROTOMUX_PURE": pure},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    is_built = find_spec("protomux._speedups") is not None
    assert out.decode().split() == ["cython" if is_built and pure == "0" else "python"]


@needs_originals
async def test_every_workload_is_done_by_ours_and_by_the_originals() -> None:
    options = ["--rounds", "1", "--scale", "0.005", "--series", "py-py", "node-node"]
    document = await _compare(*NAMES, *options)
    assert document["versions"]["python"] == platform.python_version()
    assert document["versions"]["build"].startswith(platform.python_compiler())
    assert document["versions"]["npm"].keys() >= {"protomux", "protomux-wakeup"}
    assert document["machine"].keys() == {"cpu", "cores", "system"}
    found = [(row["name"], row["unit"], row["better"], row["bar"]) for row in document["rows"]]
    assert found == [
        (row.name, row.unit, row.better, row.bar) for name in NAMES for row in WORKLOADS[name].rows
    ]
    for row in document["rows"]:
        assert row["size"] == WORKLOADS[row["workload"]].size(0.005)
        _check_row(row, ["py-py", "node-node"], 1)


@needs_originals
@pytest.mark.parametrize("name", ["announce-1000", "open-1k", "mux-small"])
async def test_every_pairing_does_the_work(name: str) -> None:
    document = await _compare(name, "--rounds", "2", "--scale", "0.005")
    (row,) = document["rows"]
    assert {"py-node", "node-py", "pure"} <= row["series"].keys()
    _check_row(row, list(WORKLOADS[name].series), 2)


@needs_originals
async def test_the_loop_can_be_chosen() -> None:
    options = ["--rounds", "1", "--scale", "0.005", "--series", "py-py", "--loop", "asyncio"]
    document = await _compare("rtt", *options)
    assert document["versions"]["loop"] == "asyncio"
    assert [row["ratio"] for row in document["rows"]] == [None, None]


@needs_originals
@pytest.mark.parametrize("series", ["py-py", "node-node"])
@pytest.mark.parametrize(
    ("sabotage", "found"),
    [
        ("lose:30", "the announce 30 is not what was sent"),  # in the warm-up
        ("length:110", "expected the same checksum on both sides"),
        ("key:164", "the announce 164 is not what was sent"),  # kept and looked at afterwards
        ("repeat:295", "expected 200 at the listener, got 201|expected the same checksum"),
        ("lose:299", "expected 200 to arrive, got 199"),
    ],
)
async def test_work_that_is_not_done_is_noticed(series: str, sabotage: str, found: str) -> None:
    saboteur = Path(__file__).parent / "saboteur"
    environment = {
        "SABOTAGE": sabotage,
        "PYTHONPATH": str(saboteur),
        "NODE_OPTIONS": f"--import={(saboteur / 'saboteur.mjs').as_uri()}",
    }
    options = ["announce-1", "--rounds", "1", "--scale", "0.001", "--series", series]
    async with _bench(*options, environment=environment) as process:
        out, errors = await process.communicate()
    assert process.returncode == 1
    assert out == b""
    assert re.search(found, errors.decode())


def _alive(marker: str) -> list[str]:
    """Return the processes that have `marker` in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if marker.encode() in (folder / "environ").read_bytes():
                    found.append(folder.name)
    return found


@needs_originals
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_control_c_leaves_no_process() -> None:
    marker = f"bench-test-{os.getpid()}"
    options = ["announce-1", "--rounds", "1000", "--scale", "0.01"]
    async with _bench(*options, environment={"BENCH_MARKER": marker}) as process:
        assert process.stderr is not None
        assert b"round 1 of 1000" in await process.stderr.readline()
        assert _alive(marker)
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 130
    assert _alive(marker) == []


async def test_an_unknown_workload_is_refused() -> None:
    async with _bench("announce-1", "nothing") as process:
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert "'nothing'" in errors.decode()
