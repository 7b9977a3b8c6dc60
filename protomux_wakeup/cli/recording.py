"""Files of frames, and of UDX packets. Knows files, not what is in a frame or a packet.

Frames are in captures of ours, in hex lines or behind their lengths; packets in captures of a
network, or in hex lines.

Whatever is wrong in a file comes as a `Problem` among its entries, with its place in the file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from io import BufferedReader
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, cast

from protomux.dissect import (
    CaptureWriter,
    Datagram,
    Direction,
    Entry,
    Frame,
    Other,
    Problem,
    RecordedStream,
    read_capture,
    read_datagrams,
)
from protomux.dissect.capture import MAGIC
from protomux.dissect.datagrams import MAGICS
from protomux.streams import FramedStream
from protomux_wakeup.address import shown
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.endpoint import reason

__all__ = ["STDIN", "Entries", "Form", "Recording", "open_recording", "recorder"]

Entries: TypeAlias = Iterator[Entry | Datagram | Other | Problem]

STDIN: Final = "-"
"""Stands for stdin where a file is named."""

_PEEKED: Final = 4096
_MAX_FRAME: Final = 2**24 - 1
_MAX_LINE: Final = 2 * _MAX_FRAME + 4096
_SIZE_SIZE: Final = 3

_TEXT: Final = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]*")
_UDX: Final = re.compile(rb"(?:\s*#[^\n]*\n)*\s*[<>]?[ \t]*[fF][ \t]*[fF][ \t]*0[ \t]*1")
_NO_DIGIT: Final = re.compile(r"[^0-9a-fA-F\s]")
_ARROWS: Final = {">": Direction.OUT, "<": Direction.IN, "": Direction.IN}


class Form(Enum):
    """How frames stand in a file, or UDX packets: those in the last two."""

    HEX = "hex"
    RAW = "raw"
    CAPTURE = "capture"
    UDX = "udx"
    PCAP = "pcap"


class Recording(NamedTuple):
    """A file, open.

    Attributes:
        form: how frames stand in it, or packets.
        entries: what is in it, read as they are asked for; a packet in hex digits is a Frame.
    """

    form: Form
    entries: Entries

    @property
    def has_packets(self) -> bool:
        """It is one of UDX packets, not of frames."""
        return self.form in (Form.UDX, Form.PCAP)

    def frames(self) -> Iterator[Entry | Problem]:
        """Return the entries of a file of frames; raises Failure (USAGE) for one of packets."""
        if self.has_packets:
            message = f"expected a file of frames, got UDX packets in a {self.form.value} file"
            raise Failure(message, Exit.USAGE)
        return cast(Iterator[Entry | Problem], self.entries)


@contextmanager
def recorder(path: Path, report: Reporter) -> Iterator[Callable[[FramedStream], FramedStream]]:
    """Yield what wraps a stream so that its frames are recorded to the file at `path`.

    Raises Failure where the file cannot be written or is not empty. If it cannot be written any
    more later on, that is reported, and the streams go on.
    """

    def complain(error: OSError) -> None:
        report.fail(f"recording to {path} has ended: {reason(error)}", {"file": str(path)})

    try:
        capture = CaptureWriter(path, complain)
    except FileExistsError:
        raise Failure(f"cannot record to {path}: expected a new file or an empty one") from None
    except BlockingIOError:
        raise Failure(f"cannot record to {path}: another process does") from None
    except OSError as error:
        raise Failure(f"cannot record to {path}: {reason(error)}") from error
    try:
        yield lambda stream: RecordedStream(stream, capture)
    finally:
        capture.close()


@contextmanager
def open_recording(path: str, form: Form | None) -> Iterator[Recording]:
    """Open the file at `path`, or stdin for "-"; find out its form unless that is given.

    Raises Failure (USAGE) where it cannot be read.
    """
    if path == STDIN:
        yield _recording(cast(BufferedReader, sys.stdin.buffer), form)
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise Failure(f"cannot read {path}: {reason(error)}", Exit.USAGE) from error
    with file:
        yield _recording(file, form)


def _recording(file: BufferedReader, form: Form | None) -> Recording:
    form = _form_of(file.peek(_PEEKED)[:_PEEKED]) if form is None else form
    return Recording(form, _READERS[form](file))


def _form_of(beginning: bytes) -> Form:
    """Tell the form by the first bytes: text has no others than these, lengths have a zero."""
    if beginning and MAGIC.startswith(beginning[: len(MAGIC)]):
        return Form.CAPTURE
    if beginning.startswith(MAGICS):
        return Form.PCAP
    if _TEXT.fullmatch(beginning) is None:
        return Form.RAW
    # A frame that begins so would be for a channel whose number is above 2^32.
    return Form.HEX if _UDX.match(beginning) is None else Form.UDX


def _read_hex(file: BufferedReader) -> Iterator[Frame | Problem]:
    """One frame or packet a line, behind an arrow for its direction; without, it came in.

    Blank lines are skipped, and what follows a #. An arrow without digits is an empty frame.
    """
    number = offset = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        if len(line) == _MAX_LINE and not line.endswith(b"\n"):
            reason = f"line {number}: expected a line of at most {_MAX_LINE} bytes"
            yield Problem(offset + _MAX_LINE, reason)
            return
        yield from _hex_line(line.decode("latin-1"), number, offset)
        offset += len(line)


def _hex_line(line: str, number: int, offset: int) -> Iterator[Frame | Problem]:
    text = line.partition("#")[0].rstrip()
    rest = text.lstrip()
    arrow = rest[:1] if rest[:1] in ("<", ">") else ""
    digits = rest[len(arrow) :].lstrip()
    if not rest:
        return
    begin = offset + len(text) - len(digits)
    wrong = _NO_DIGIT.search(digits)
    octets = "".join(digits.split())
    if wrong is not None:
        reason = f"line {number}: expected hex digits, got {shown(wrong[0])}"
        yield Problem(begin + wrong.start(), reason)
    elif len(octets) % 2:
        reason = f"line {number}: expected two hex digits for each byte, got one for the last"
        yield Problem(begin + len(digits), reason)
    else:
        yield Frame(1, None, _ARROWS[arrow], bytes.fromhex(octets), begin)


def _read_raw(file: BufferedReader) -> Iterator[Frame | Problem]:
    """Each frame behind its length, 24 bits little endian; all came in."""
    offset = 0
    while size_field := file.read(_SIZE_SIZE):
        begin = offset + len(size_field)
        size = int.from_bytes(size_field, "little") if len(size_field) == _SIZE_SIZE else -1
        data = file.read(size) if size >= 0 else b""
        if len(data) != size:
            what = "a length" if size < 0 else "a frame"
            expected = f"{_SIZE_SIZE if size < 0 else size} bytes of {what}"
            at = offset if size < 0 else begin
            found = begin + len(data) - at
            yield Problem(at + found, f"expected {expected}, got {found}")
            return
        yield Frame(1, None, Direction.IN, data, begin)
        offset = begin + size


_READERS: Final[dict[Form, Callable[[BufferedReader], Entries]]] = {
    Form.HEX: _read_hex,
    Form.RAW: _read_raw,
    Form.CAPTURE: read_capture,
    Form.UDX: _read_hex,
    Form.PCAP: read_datagrams,
}
