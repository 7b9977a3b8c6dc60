"""The codec by itself: one process, which knows no stream."""

from __future__ import annotations

from functools import cache

from bench.duel import alone
from bench.peers.codec import checksum
from bench.workload import Failed, Measurement, Setting, Workload

__all__ = ["measure"]

_expected = cache(checksum)


async def measure(workload: Workload, setting: Setting) -> Measurement:
    """Encode and decode; what comes of it is compared with what it should be."""
    measurement, check = await alone(workload, setting)
    expected = _expected(setting.size["count"], setting.size["entries"])
    if check != expected:
        raise Failed(
            f"{workload.name} {setting.series}: expected the checksum {expected}, got {check}"
        )
    return measurement
