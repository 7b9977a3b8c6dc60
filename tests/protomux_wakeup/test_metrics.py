"""What is counted, as Prometheus reads it."""

from __future__ import annotations

import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from protomux_wakeup import Wakeup

NAMES = [
    "sessions_opened",
    "sessions_closed",
    "topics_added",
    "topics_gcd",
    "peers_added",
    "peers_removed",
    "wire_announce_rx",
    "wire_announce_tx",
    "wire_lookup_rx",
    "wire_lookup_tx",
    "wire_info_rx",
    "wire_info_tx",
]


async def test_metrics_have_the_names_of_the_original_and_the_values_of_now() -> None:
    wakeup = Wakeup()
    registry = CollectorRegistry(auto_describe=True)
    wakeup.register_metrics(registry)
    text = generate_latest(registry).decode()
    for name in NAMES:
        assert f"# TYPE protomux_wakeup_{name} gauge" in text
        assert f"\nprotomux_wakeup_{name} 0.0\n" in text
    for number, name in enumerate(NAMES, start=1):
        if name.startswith("wire"):
            _, kind, way = name.split("_")
            setattr(getattr(wakeup.stats, f"wire_{kind}"), way, number)
        else:
            setattr(wakeup.stats, name, number)
    text = generate_latest(registry).decode()
    for number, name in enumerate(NAMES, start=1):
        assert f"\nprotomux_wakeup_{name} {number}.0\n" in text
    with pytest.raises(ValueError, match="Duplicated"):
        wakeup.register_metrics(registry)


async def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r"protomux-wakeup\[metrics\]"):
        Wakeup().register_metrics()
