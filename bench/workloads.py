"""The table of workloads: what is measured, how much of it, and what is wanted.

`warm` is the same work before the clock starts, unmeasured: enough that with more of it Node spends
no less CPU. `burst` is what the originals cork at a time where the application corks. The sizes
make a measurement last about a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bench import codec, memory
from bench.duel import between
from bench.workload import OURS, THEIRS, Row, Workload

__all__ = ["WORKLOADS"]

_PAIRINGS: Final = (OURS, THEIRS, "pure", "py-node", "node-py")
_CORKED: Final = (OURS, THEIRS, "corked", "pure", "py-node", "node-py")


def _rate(
    name: str,
    work: str,
    unit: str,
    *,
    amount: Mapping[str, int],
    shape: Mapping[str, int],
    product: Sequence[str],
    bar: float | None = None,
    series: Sequence[str] = _PAIRINGS,
) -> Workload:
    """Return a workload between two programs whose one row is a rate."""
    rows = (Row(name, f"{unit}/s", "higher", bar),)
    return Workload(name, work, rows, between, amount, shape, product, series)


def _open(name: str, topics: int, times: int, bar: float | None) -> Workload:
    """Return a workload that opens topics on one stream, so many times."""
    return _rate(
        name,
        "opens",
        "peers",
        amount={"topics": topics, "warm": 20_000},
        shape={"times": times},
        product=("topics", "times"),
        bar=bar,
    )


_TABLE: Final = (
    _rate(
        "announce-1",
        "announces",
        "messages",
        amount={"count": 200_000, "warm": 100_000},
        shape={"entries": 1, "burst": 1_024},
        product=("count",),
        bar=2.0,
        series=_CORKED,
    ),
    _rate(
        "announce-1000",
        "announces",
        "entries",
        amount={"count": 1_500, "warm": 500},
        shape={"entries": 1_000, "burst": 8},
        product=("count", "entries"),
        bar=1.3,
        series=_CORKED,
    ),
    Workload(
        "rtt",
        "lookups",
        (Row("rtt p50", "µs", "lower", 1.0), Row("rtt p99", "µs", "lower", 1.0)),
        between,
        amount={"count": 8_000, "warm": 4_000},
        series=_PAIRINGS,
    ),
    _rate(
        "fanout",
        "fanout",
        "streams",
        amount={"count": 100, "warm": 20, "streams": 1_000},
        shape={"keys": 10},
        product=("count", "streams"),
        bar=1.5,
    ),
    _open("open-1k", 1_000, 10, None),
    _open("open-10k", 10_000, 1, 1.0),
    _open("open-30k", 30_000, 1, 1.0),
    _rate(
        "open-streams",
        "opens_on_many",
        "peers",
        amount={"streams": 1_000, "warm": 300},
        shape={"topics": 10},
        product=("streams", "topics"),
    ),
    _rate(
        "connect",
        "connects",
        "handshakes",
        amount={"count": 1_000, "warm": 400},
        shape={"at_once": 16},
        product=("count",),
        bar=1.0,
    ),
    _rate(
        "mux-small",
        "raw",
        "messages",
        amount={"count": 300_000, "warm": 150_000},
        shape={"bytes": 32, "burst": 1_024},
        product=("count",),
        bar=1.5,
        series=_CORKED,
    ),
    _rate(
        "bulk",
        "raw",
        "bytes",
        amount={"count": 4_000, "warm": 2_000},
        shape={"bytes": 65_536, "burst": 1},
        product=("count", "bytes"),
        bar=1.0,
    ),
    Workload(
        "jitpc",
        "jitpc",
        (
            Row("jitpc sequential", "requests/s", "higher", 0.7),
            Row("jitpc pipelined", "requests/s", "higher", 1.0),
        ),
        between,
        {"count": 10_000, "warm": 3_000},
        {"times": 9, "at_once": 1_000},
        ("count", "times"),
        series=(OURS, THEIRS, "py-node", "node-py"),
    ),
    Workload(
        "codec",
        "codec",
        (
            Row("codec-encode", "entries/s", "higher", 5.0),
            Row("codec-decode", "entries/s", "higher", 1.5),
        ),
        codec.measure,
        {"count": 2_000, "warm": 1_000},
        {"entries": 1_000},
        ("count", "entries"),
        series=(OURS, THEIRS, "pure"),
    ),
    Workload(
        "memory",
        "held",
        (
            Row("memory per topic", "bytes", "lower"),
            Row("memory per peer", "bytes", "lower", 0.7),
            Row("memory per stream", "bytes", "lower"),
        ),
        memory.measure,
        {"topics": 10_000, "streams": 1_000},
        series=(OURS, THEIRS),
    ),
)

WORKLOADS: Final = {workload.name: workload for workload in _TABLE}
"""By name, in the order of the report."""
