"""The benches of the codec and of memory: both sides do the work, and the figures are told."""

from __future__ import annotations

from typing import Any

import pytest

from bench.duel import alone
from bench.peers.codec import checksum
from bench.workload import Setting
from bench.workloads import WORKLOADS
from tests.bench_command import bench_document
from tests.interop.harness import missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


async def rows(*options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await bench_document(*options))["rows"]
    return found


async def test_the_codec_has_a_row_for_each_direction() -> None:
    found = await rows("codec", "--rounds", "2", "--scale", "0.05")
    assert [row["name"] for row in found] == ["codec-encode", "codec-decode"]
    for row in found:
        assert row["size"] == {"count": 100, "warm": 50, "entries": 1_000}
        assert list(row["series"]) == ["py-py", "node-node", "pure"]
        for figures in row["series"].values():
            assert len(figures) == 2
            assert all(figure > 0 for figure in figures)
        assert row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]


@pytest.mark.parametrize("series", ["py-py", "node-node", "pure"])
async def test_the_codec_is_held_to_its_checksum(series: str) -> None:
    size = {"count": 10, "warm": 1, "entries": 20}
    codec = WORKLOADS["codec"]
    measurement, found = await alone(codec, Setting(series, "asyncio", size))
    assert measurement.figures.keys() == {"codec-encode", "codec-decode"}
    assert found == checksum(10, 20)
    assert found not in (checksum(10, 19), checksum(9, 20))


async def test_memory_is_told_for_a_topic_a_peer_and_a_stream() -> None:
    found = await rows("memory", "--rounds", "1", "--scale", "0.1")
    assert [row["name"] for row in found] == [
        "memory per topic",
        "memory per peer",
        "memory per stream",
    ]
    for row in found:
        assert row["unit"] == "bytes"
        assert row["better"] == "lower"
        assert row["size"] == {"topics": 1_000, "streams": 100}
        # Pages and pools are coarse at this size, but nothing is as small, or as large, as this.
        for name in ("py-py", "node-node"):
            (figure,) = row["series"][name]
            assert 100 < figure < 1_000_000
