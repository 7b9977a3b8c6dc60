"""Wireshark reads our captures, and sees in our packets what we do.

Needs tshark, and libudx's dissector: UDX_DISSECTOR is the path to docs/wireshark/udx.lua of
https://github.com/holepunchto/libudx.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from subprocess import run

import pytest

from protomux.dissect import Datagram, PcapWriter, dissect, read_datagrams, udx

from .udx_talk import converse

TSHARK = shutil.which("tshark")
DISSECTOR = os.environ.get("UDX_DISSECTOR")

pytestmark = [
    pytest.mark.skipif(TSHARK is None, reason="no tshark"),
    pytest.mark.skipif(DISSECTOR is None, reason="no UDX_DISSECTOR, the path to libudx's udx.lua"),
]

LIMIT = 120.0
"""Seconds for tshark."""

OPTIONS = {
    "udp.try_heuristic_first": "TRUE",  # its UDX is not known by a port
    "udp.check_checksum": "TRUE",
    "ip.check_checksum": "TRUE",
}

HEADER = ("magic_byte", "version", "type", "data_offset", "id", "rwnd", "seq", "ack", "length")


def tshark(path: Path, fields: Sequence[str]) -> list[list[str]]:
    """Return the fields of each packet."""
    assert TSHARK is not None
    assert DISSECTOR is not None
    assert Path(DISSECTOR).is_file(), f"UDX_DISSECTOR: expected a file, got {DISSECTOR!r}"
    options = [part for option in OPTIONS.items() for part in ("-o", ":".join(option))]
    columns = [part for field in fields for part in ("-e", field)]
    command = [TSHARK, "-r", str(path), "-X", f"lua_script:{DISSECTOR}", *options, "-T", "fields"]
    done = run([*command, *columns], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.fixture(params=["127.0.0.1", "::1"])
def capture(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "pcap"
    writer = PcapWriter(path)
    converse(request.param, writer.datagram)
    writer.close()
    assert writer.error is None
    return path


def test_nothing_is_malformed(capture: Path) -> None:
    fields = ("_ws.malformed", "_ws.expert.severity", "udp.checksum.status", "ip.checksum.status")
    found = tshark(capture, ("_ws.col.Protocol", *fields))
    assert len(found) > 300
    good = "1"  # IPv6 has no checksum of its own
    assert {tuple(row) for row in found} in (
        {("UDX", "", "", good, good)},
        {("UDX", "", "", good, "")},
    )


def test_all_fields_are_as_we_read_them(capture: Path) -> None:
    names = [f"udx.{name}" for name in HEADER]
    places = ("frame.time_epoch", "udp.srcport", "udp.dstport", "udp.payload")
    found = tshark(capture, (*names, *places))
    with capture.open("rb") as file:
        entries = list(read_datagrams(file))
    assert len(found) == len(entries)
    for row, entry in zip(found, entries, strict=True):
        assert isinstance(entry, Datagram)
        assert entry.time is not None
        read = dissect(udx.packet, entry.data)
        assert read.problem is None
        value = read.value
        # Wireshark's length is that of all behind the ranges: the padding is in it.
        length = len(value.padding) + len(value.payload)
        numbers = (0xFF, 1, value.type, value.offset)
        more = (value.stream_id, value.window, value.seq, value.ack, length)
        assert [int(each or "0", 0) for each in row[:9]] == [*numbers, *more]
        seconds, _, fraction = row[9].partition(".")
        assert int(seconds + fraction) == entry.time
        assert row[10:12] == [str(entry.source[1]), str(entry.destination[1])]
        assert bytes.fromhex(row[12]) == entry.data
