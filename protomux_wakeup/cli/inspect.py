"""`inspect`: shows what frames are made of, and where one is wrong."""

from __future__ import annotations

from collections import defaultdict

from protomux.dissect import Conversation, Entry, Frame, Problem, StreamEnd, StreamStart
from protomux_wakeup.cli.anatomy import ARROWS, outline, problem_fields, tree_fields
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.recording import Form, Recording
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.cli.values import count_of, shown

__all__ = ["inspect", "say_damage", "say_end", "say_start"]


def inspect(report: Reporter, recording: Recording) -> Exit:
    """Show every frame of a recording; Failure if one is wrong, or the file itself."""
    inspector = _Inspector(report, recording.form)
    for entry in recording.entries:
        inspector.show(entry)
        if report.lost is not None:
            break
    return inspector.judge()


class _Inspector:
    """Knows what was said before on each stream, and counts."""

    def __init__(self, report: Reporter, form: Form) -> None:
        self._report = report
        self._form = form
        self._conversations: defaultdict[int, Conversation] = defaultdict(Conversation)
        self._frames = 0
        self._wrong = 0
        self._damages = 0

    def show(self, entry: Entry | Problem) -> None:
        match entry:
            case StreamStart():
                self._conversations[entry.stream] = Conversation()
                say_start(self._report, entry)
            case Frame():
                self._show_frame(entry)
            case StreamEnd():
                self._conversations.pop(entry.stream, None)
                say_end(self._report, entry)
            case Problem():
                self._damages += 1
                say_damage(self._report, self._form, entry)

    def _show_frame(self, frame: Frame) -> None:
        found = self._conversations[frame.stream].read(frame.direction, frame.data)
        self._frames += 1
        self._wrong += found.problem is not None
        text = f"{ARROWS[frame.direction]} {count_of(len(frame.data), 'byte')}"
        if frame.time is not None:
            text += f", stream {frame.stream}, {frame.time:.6f} s"
        self._report.say(
            "frame",
            f"{text}, at byte {frame.offset} of the file",
            {
                "number": self._frames,
                "stream": frame.stream,
                "at": frame.time,
                "direction": frame.direction.name.lower(),
                "offset": frame.offset,
                "frame": frame.data.hex(),
                "tree": tree_fields(found.root),
                "problem": problem_fields(found.problem),
            },
            label=f"frame {self._frames}",
            details=list(outline(found)),
        )

    def judge(self) -> Exit:
        if self._wrong:
            verb = "is" if self._wrong == 1 else "are"
            raise Failure(f"{self._wrong} of {count_of(self._frames, 'frame')} {verb} wrong")
        return Exit.FAILED if self._damages else Exit.DONE


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
