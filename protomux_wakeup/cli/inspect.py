"""`inspect`: shows what frames and UDX packets are made of, and where one is wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

from protomux.dissect import (
    Conversation,
    Datagram,
    Direction,
    Dissection,
    Entry,
    Frame,
    Other,
    Problem,
    StreamEnd,
    StreamStart,
    dissect,
    udx,
)
from protomux_wakeup.address import TcpAddress, shown
from protomux_wakeup.cli.anatomy import (
    ARROWS,
    outline,
    packet_fields,
    packet_line,
    problem_fields,
    tree_fields,
)
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.recording import Form, Recording
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.cli.values import count_of

__all__ = ["inspect", "say_damage", "say_end", "say_start"]

_NO_UDX: Final = "no_udx"
_SKIPPED: Final = {
    _NO_UDX: "without UDX",
    Other.NO_UDP.value: "without UDP",
    Other.FRAGMENT.value: "in fragments",
    Other.CUT.value: "cut short by the capture",
}


def inspect(report: Reporter, recording: Recording) -> Exit:
    """Show every frame or packet of a recording; Failure if one is wrong, or the file itself."""
    inspector = (_Packets if recording.has_packets else _Frames)(report, recording.form)
    for entry in recording.entries:
        inspector.show(entry)
        if report.lost is not None:
            break
    return inspector.judge()


class _Inspector(ABC):
    """Counts what is shown, and what is wrong."""

    thing: str
    """What a file consists of."""

    def __init__(self, report: Reporter, form: Form) -> None:
        self.report = report
        self.form = form
        self.shown = 0
        self._wrong = 0
        self._damages = 0

    def show(self, entry: Entry | Datagram | Other | Problem) -> None:
        if isinstance(entry, Problem):
            self._damages += 1
            say_damage(self.report, self.form, entry)
        else:
            self.show_whole(entry)

    @abstractmethod
    def show_whole(self, entry: Entry | Datagram | Other) -> None:
        """Show what could be read of the file."""

    def count(self, found: Dissection) -> None:
        self.shown += 1
        self._wrong += found.problem is not None

    def judge(self) -> Exit:
        if self._wrong:
            verb = "is" if self._wrong == 1 else "are"
            raise Failure(f"{self._wrong} of {count_of(self.shown, self.thing)} {verb} wrong")
        return Exit.FAILED if self._damages else Exit.DONE


class _Frames(_Inspector):
    """Knows what was said before on each stream."""

    thing = "frame"

    def __init__(self, report: Reporter, form: Form) -> None:
        super().__init__(report, form)
        self._conversations: defaultdict[int, Conversation] = defaultdict(Conversation)

    def show_whole(self, entry: Entry | Datagram | Other) -> None:
        match entry:
            case StreamStart():
                self._conversations[entry.stream] = Conversation()
                say_start(self.report, entry)
            case Frame():
                self._show_frame(entry)
            case StreamEnd():
                self._conversations.pop(entry.stream, None)
                say_end(self.report, entry)

    def _show_frame(self, frame: Frame) -> None:
        found = self._conversations[frame.stream].read(frame.direction, frame.data)
        self.count(found)
        text = f"{ARROWS[frame.direction]} {count_of(len(frame.data), 'byte')}"
        if frame.time is not None:
            text += f", stream {frame.stream}, {frame.time:.6f} s"
        self.report.say(
            "frame",
            f"{text}, at byte {frame.offset} of the file",
            {
                "number": self.shown,
                "stream": frame.stream,
                "at": frame.time,
                "direction": frame.direction.name.lower(),
                "offset": frame.offset,
                "frame": frame.data.hex(),
                "tree": tree_fields(found.root),
                "problem": problem_fields(found.problem),
            },
            label=f"frame {self.shown}",
            details=list(outline(found)),
        )


class _Packets(_Inspector):
    """Knows when the first was captured, and counts what carries no UDX."""

    thing = "packet"

    def __init__(self, report: Reporter, form: Form) -> None:
        super().__init__(report, form)
        self._began: int | None = None
        self._skipped: Counter[str] = Counter()

    def show_whole(self, entry: Entry | Datagram | Other) -> None:
        match entry:
            case Frame():
                self._show_line(entry)
            case Datagram():
                self._show_datagram(entry)
            case Other():
                self._skipped[entry.value] += 1

    def _show_line(self, line: Frame) -> None:
        found = dissect(udx.packet, line.data, name="packet")
        self._show(
            found,
            ARROWS[line.direction],
            {
                "number": self.shown + 1,
                "at": None,
                "captured_at": None,
                "direction": line.direction.name.lower(),
                "source": None,
                "destination": None,
                "offset": line.offset,
                "packet": line.data.hex(),
                **packet_fields(found, len(line.data)),
            },
            details=list(outline(found)),
        )

    def _show_datagram(self, datagram: Datagram) -> None:
        is_cut = len(datagram.data) < datagram.size
        beginning = datagram.data[: len(udx.MAGIC)]
        if beginning != udx.MAGIC and not (is_cut and udx.MAGIC.startswith(beginning)):
            self._skipped[_NO_UDX] += 1
        elif is_cut:
            found = dissect(udx.packet, datagram.data, name="packet")
            if udx.is_sure(found):
                self._show_packet(datagram, found)
            else:
                self._skipped[Other.CUT.value] += 1
        else:
            offset = datagram.offset
            for data in udx.split(datagram.data):
                packet = datagram._replace(data=data, size=len(data), offset=offset)
                self._show_packet(packet, dissect(udx.packet, data, name="packet"))
                offset += len(data)

    def _show_packet(self, datagram: Datagram, found: Dissection) -> None:
        if self._began is None:
            self._began = datagram.time
        at = None
        if datagram.time is not None and self._began is not None:
            at = (datagram.time - self._began) / 1e9
        source, destination = (
            str(TcpAddress(*address)) for address in (datagram.source, datagram.destination)
        )
        self._show(
            found,
            f"{source} {ARROWS[Direction.OUT]} {destination}",
            {
                "number": datagram.number,
                "at": at,
                "captured_at": None if datagram.time is None else datagram.time / 1e9,
                "direction": None,
                "source": source,
                "destination": destination,
                "offset": datagram.offset,
                "packet": datagram.data.hex(),
                **packet_fields(found, datagram.size),
            },
            details=[] if found.problem is None else list(outline(found)),
        )

    def _show(
        self, found: Dissection, way: str, fields: dict[str, Any], details: Sequence[str]
    ) -> None:
        self.count(found)
        time = "" if fields["at"] is None else f", {fields['at']:.6f} s"
        self.report.say(
            "packet",
            f"{way} {packet_line(fields)}{time}, at byte {fields['offset']} of the file",
            {**fields, "tree": tree_fields(found.root), "problem": problem_fields(found.problem)},
            label=f"packet {fields['number']}",
            details=details,
        )

    def judge(self) -> Exit:
        if self._skipped:
            total = count_of(self._skipped.total(), self.thing)
            reasons = [
                f"{self._skipped[why]} {text}"
                for why, text in _SKIPPED.items()
                if self._skipped[why]
            ]
            self.report.say(
                "skipped",
                f"{total}: {', '.join(reasons)}",
                {why: self._skipped[why] for why in _SKIPPED},
            )
        return super().judge()


def say_damage(report: Reporter, form: Form, problem: Problem) -> None:
    """Show what is wrong with a file of frames."""
    report.fail(
        f"{form.value} file, {problem}", {"offset": problem.offset, "reason": problem.reason}
    )


def say_start(report: Reporter, start: StreamStart) -> None:
    """Show that a recorded stream begins."""
    role = "initiator" if start.is_initiator else "responder"
    report.say(
        "stream_started",
        f"{start.stream}, as {role}, at {start.time:.6f} s",
        {
            "stream": start.stream,
            "at": start.time,
            "is_initiator": start.is_initiator,
            "handshake_hash": start.handshake_hash.hex(),
            "peer": start.remote_public_key.hex(),
        },
        label="stream started",
        details=[
            f"peer       {start.remote_public_key.hex()}",
            f"handshake  {start.handshake_hash.hex()}",
        ],
    )


def say_end(report: Reporter, end: StreamEnd) -> None:
    """Show that a recorded stream ends."""
    why = "" if end.error is None else f": {shown(end.error)}"
    report.say(
        "stream_ended",
        f"{end.stream}, at {end.time:.6f} s{why}",
        {"stream": end.stream, "at": end.time, "error": end.error},
        label="stream ended",
    )
