from __future__ import annotations

import os
from pathlib import Path

import pytest

from protomux_wakeup.host.places import host_directory, host_path


def test_where_a_host_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_path("a", place / "x") == place / "x" / "a"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    assert host_path("a") == place / "protomux-wakeup" / "a"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(place))
    assert host_path("a") == place / f"protomux-wakeup-{os.geteuid()}" / "a"
    assert os.listdir(place) == []


def test_processes_elsewhere_can_use_what_a_relative_path_names(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert host_directory("a", "x") == Path.cwd() / "x" / "a"
    assert (
        (place / "x").stat().st_mode & 0o777 == (place / "x" / "a").stat().st_mode & 0o777 == 0o700
    )


def test_a_path_must_have_room_for_sockets(place: Path) -> None:
    room = 103 - len(f"{place}//a/coordinator.sock")
    assert host_path("a", place / ("x" * room))
    with pytest.raises(ValueError, match="at most 103 bytes, got 104"):
        host_path("a", place / ("x" * (room + 1)))
