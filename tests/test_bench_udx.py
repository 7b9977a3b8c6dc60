"""The bench of UDX does its work; what it measures is nobody's test."""

from __future__ import annotations

import asyncio
import sys

import pytest

from bench.loops import default_loop
from bench.peers.datagrams import ACKED, has_segments
from bench.udx.command import native_version
from bench.udx.flows import Circumstances, Share, transfer
from bench.udx.report import text
from bench.udx.scenes import PAIRS, Path, Scene
from tests.bench_command import bench_document

needs_native = pytest.mark.skipif(native_version() is None, reason="no udx-native")
SERIES = [pytest.param(name, marks=needs_native if "node" in name else ()) for name in PAIRS]


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("path", [None, Path(10_000_000, 0.004, 0.05)])
async def test_all_bytes_arrive(series: str, path: Path | None) -> None:
    scene = Scene("here", path, 0, 0.0)
    found = await transfer(scene, series, 300_000, Circumstances("asyncio", 1.5, 1))
    assert found.goodput > 0
    if path is None:
        assert found.relay is None
    else:
        assert found.relay is not None
        assert found.relay["there"]["passed"] >= 300_000 / 1_452
        assert found.relay["there"]["lost"] > 0


async def test_goodput_is_told_for_each_round() -> None:
    document = await bench_document(
        *("udx", "10-mbit-40-ms", "--series", "py-py"),
        *("--rounds", "2", "--scale", "0.01", "--queue", "2", "--loop", "asyncio"),
    )
    (row,) = document["rows"]
    assert row["bytes"] == 100_000
    assert row["path"]["queue"] == 100_000
    assert list(row["series"]) == ["py-py"]
    assert all(0 < goodput < row["path"]["rate"] for goodput in row["series"]["py-py"])
    assert len(row["series"]["py-py"]) == len(row["cpu"]["py-py"]) == 2
    assert row["ratio"] is None
    assert "10-mbit-40-ms" in text(document)


async def test_fairness_is_told_for_both_flows() -> None:
    document = await bench_document("udx", "fair-ours", "--rounds", "1", "--scale", "0.02")
    (row,) = document["rows"]
    ((one, other),) = row["goodputs"]
    assert one + other > 0
    assert row["seconds"] == pytest.approx(0.6)
    assert 0.5 <= row["index"]["median"] <= 1
    assert "wanted" in text(document)


async def test_the_floor_has_a_row_for_each_way_on_each_loop() -> None:
    document = await bench_document("udx", "floor", "--rounds", "1", "--scale", "0.005")
    ways = ["protocol", "asyncio-dgram", "reader", *["segments"] * has_segments()]
    loops = ["asyncio", *["uvloop"] * (default_loop() == "uvloop")]
    rows = document["rows"]
    assert [(row["loop"], row["way"]) for row in rows] == [
        (loop, way) for loop in loops for way in ways
    ]
    for row in rows:
        assert row["datagrams"] == 1_000
        assert row["rates"][0] > 0
        assert row["ratio"]["median"] > 0
    assert all(way in text(document) for way in ways)
    assert ACKED < 1_000


def test_the_index_is_jains() -> None:
    assert Share((5.0, 5.0), None).index == 1
    assert Share((5.0, 0.0), None).index == 0.5
    assert Share((3.0, 1.0), None).index == pytest.approx(0.8)
    assert Share((0.0, 0.0), None).index == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--rounds", "0"], "expected 1 or more, got 0"),
        (["--series", "py-perl"], "invalid choice: 'py-perl'"),
        (["nowhere"], "invalid choice: 'nowhere'"),
    ],
)
async def test_wrong_options_are_named(options: list[str], complaint: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", "udx", *options), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, error = await process.communicate()
    assert process.returncode == 2
    assert complaint in error.decode()
