from __future__ import annotations

import asyncio

import pytest

from protomux_wakeup import PeerAdded
from protomux_wakeup.cli import demo as module
from protomux_wakeup.cli.demo import demo
from protomux_wakeup.cli.process import Exit, Failure

from .recorder import Recorder


@pytest.fixture
def report() -> Recorder:
    return Recorder()


async def test_it_tells_what_happens_to_both(report: Recorder) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert await demo(report) == Exit.DONE
    assert loop.time() - start < 3
    assert report.complaints == []
    by_name = {
        name: [line.event for line in report.lines if line.fields["who"] == name]
        for name in ("alice", "bob")
    }
    assert by_name == {
        "alice": [
            "listening",
            "key_checked",
            "handshake",
            "session",
            "peer_added",
            "peer_active",
            "lookup_received",
            "announce_sent",
            "inactive_sent",
            "active_sent",
            "peer_inactive",
            "peer_removed",
            "closed",
            "summary",
        ],
        "bob": [
            "connecting",
            "key_checked",
            "handshake",
            "session",
            "peer_added",
            "peer_active",
            "lookup_sent",
            "announce_received",
            "peer_inactive",
            "peer_active",
            "leaving",
            "closed",
            "summary",
        ],
    }


async def test_what_it_tells_fits_together(report: Recorder) -> None:
    await demo(report)

    def told(event: str, name: str) -> set[object]:
        return {line.fields[name] for line in report.lines if line.event.startswith(event)}

    assert len(told("handshake", "handshake_hash")) == 1
    assert len(told("session", "topic")) == 1
    assert len(told("lookup_", "hash")) == 1
    assert len(told("key_checked", "key")) == 2
    assert told("key_checked", "is_admitted") == {True}
    (announced,) = [line.writers for line in report.lines if line.writers]
    assert [writer.length for writer in announced] == [3, 1024, 2**32]
    assert len({writer.key for writer in announced}) == 3
    alice, bob = (line.fields for line in report.lines if line.event == "summary")
    assert isinstance(alice["stats"], dict)
    assert isinstance(bob["stats"], dict)
    for kind in ("announce", "lookup", "info"):
        assert alice["stats"][f"wire_{kind}_tx"] == bob["stats"][f"wire_{kind}_rx"]
        assert alice["stats"][f"wire_{kind}_rx"] == bob["stats"][f"wire_{kind}_tx"]
    assert (alice["frames_sent"], bob["frames_sent"]) == (4, 3)


async def test_every_line_fits_into_80_columns(report: Recorder) -> None:
    await demo(report)
    for line in report.lines:
        assert line.label is not None
        assert len(line.label) <= 17
        assert len("12345.6 ms  ") + 17 + 2 + len(line.text) <= 80
        assert all(4 + 64 + 1 + len(str(writer.length)) <= 80 for writer in line.writers or ())


async def test_it_does_not_wait_for_ever(report: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_sides: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "TIMEOUT", 0.01)
    monkeypatch.setattr(module, "_rest", never)
    with pytest.raises(Failure, match=r"^expected the demo to end within 0\.01 s$"):
        await demo(report)


async def test_a_stranger_would_be_refused(report: Recorder) -> None:
    alice = module._Side("alice", "bob", report)
    assert not alice.admits(b"x" * 32, b"y" * 32)
    assert report.lines[0].fields["is_admitted"] is False
    assert report.lines[0].text.endswith(": refused by the firewall")


async def test_what_does_not_happen_is_a_failure(report: Recorder) -> None:
    alice = module._Side("alice", "bob", report)
    alice.session = alice.wakeup.session(b"c" * 32)
    alice._events = alice.session.events()
    alice.wakeup.destroy()
    with pytest.raises(Failure, match=r"^expected a PeerAdded at alice, the session has ended$"):
        await alice.sees(PeerAdded)


async def test_a_stream_that_breaks_is_a_failure(
    report: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = module._part

    async def broken(*arguments: object) -> None:
        arguments[2][0].error = ConnectionResetError("cut")  # type: ignore[index]
        await whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_part", broken)
    with pytest.raises(ConnectionResetError):
        await demo(report)
