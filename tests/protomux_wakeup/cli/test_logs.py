from __future__ import annotations

import pytest

from protomux_wakeup import Writer
from protomux_wakeup.cli import logs as module
from protomux_wakeup.cli.logs import Logs

A, B, C = (bytes([number]) * 32 for number in range(3))


def test_only_what_is_longer_is_news() -> None:
    logs = Logs()
    assert not logs
    heard = [Writer(A, 0), Writer(A, 0), Writer(A, 5), Writer(A, 4), Writer(B, 1)]
    assert [logs.learn(writer) for writer in heard] == [True, False, True, False, True]
    assert list(logs) == [Writer(A, 5), Writer(B, 1)]
    assert len(logs) == 2


def test_logs_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LOGS", 2)
    logs = Logs()
    logs.learn(Writer(A, 1))
    logs.learn(Writer(B, 1))
    with pytest.raises(ValueError, match=f"expected at most 2 logs, left out {C.hex()}"):
        logs.learn(Writer(C, 1))
    assert logs.learn(Writer(B, 2))
    assert len(logs) == 2
