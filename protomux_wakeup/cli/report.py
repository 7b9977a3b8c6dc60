"""Where results and errors go. Knows how an event is handed over, not what it means.

One call of `say` feeds people and scripts: the text and its details are for people, the fields
for scripts. Results go to stdout, all else to stderr. `JsonReporter` writes JSON lines;
`console.TextReporter` writes for people.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TextIO, TypeAlias

from protomux_wakeup import Writer

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["NO_FIELDS", "Fields", "Json", "JsonReporter", "Line", "Reporter", "library_log"]

Json: TypeAlias = str | int | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None

Fields: TypeAlias = Mapping[str, Json]
"""What an event says to scripts, by name; "event" and "time" are there anyway."""

NO_FIELDS: Final[Fields] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Line:
    """One event to show.

    Attributes:
        event: its name, in the form of a variable name.
        text: what to say of it to people.
        fields: what to say of it to scripts.
        label: what stands before the text, "" for nothing; the event's name unless given.
        details: further lines for people.
        writers: the logs that it is about, None if it is about none; for both.
        picture: what people see in place of all the text; None for the text.
    """

    event: str
    text: str
    fields: Fields
    label: str | None
    details: Sequence[str]
    writers: Sequence[Writer] | None
    picture: RenderableType | None


class Reporter(ABC):
    """Takes events, and shows them.

    Showing one never raises: hooks do it too, where an error would be taken for the peer's
    fault. When stdout is gone, `lost` holds the error and `on_lost` is called, once.
    """

    def __init__(self) -> None:
        self.lost: OSError | None = None
        self.on_lost: Callable[[], object] | None = None

    def say(
        self,
        event: str,
        text: str,
        fields: Fields = NO_FIELDS,
        *,
        label: str | None = None,
        details: Sequence[str] = (),
        writers: Sequence[Writer] | None = None,
        picture: RenderableType | None = None,
    ) -> None:
        """Show an event on stdout; the arguments are the attributes of `Line`."""
        if self.lost is not None:
            return
        try:
            self._show(Line(event, text, fields, label, details, writers, picture))
        except OSError as error:
            self.lost = error
            if self.on_lost is not None:
                self.on_lost()

    def fail(self, message: str, fields: Fields = NO_FIELDS) -> None:
        """Show an error on stderr."""
        self.complain("error", message, fields)

    def warn(self, message: str, fields: Fields = NO_FIELDS) -> None:
        """Show a warning on stderr."""
        self.complain("warning", message, fields)

    def complain(self, kind: str, message: str, fields: Fields = NO_FIELDS) -> None:
        """Show a message of some `kind` on stderr."""
        with suppress(OSError):  # nobody is left to be told
            self._complain(kind, message, fields)

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Return a context that shows people that, and for what, they wait."""
        return nullcontext()

    @property
    def can_redraw(self) -> bool:
        """Pictures can be shown in one place: people sit at a terminal."""
        return False

    def redrawing(self) -> AbstractContextManager[object]:
        """Return a context in which every picture takes the place of the one before.

        Where that can be done; otherwise they follow each other.
        """
        return nullcontext()

    @abstractmethod
    def _show(self, line: Line) -> None:
        """Write one event to stdout, and flush."""

    @abstractmethod
    def _complain(self, kind: str, message: str, fields: Fields) -> None:
        """Write one message to stderr."""


class JsonReporter(Reporter):
    """Every line is a JSON object with "event" and "time", ISO 8601 in UTC."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        """Write to `out` and `err`, stdout and stderr unless given."""
        super().__init__()
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err

    def _show(self, line: Line) -> None:
        fields = dict(line.fields)
        if line.writers is not None:
            fields["writers"] = [
                {"key": key.hex(), "length": length} for key, length in line.writers
            ]
        self._write(self._out, line.event, fields)

    def _complain(self, kind: str, message: str, fields: Fields) -> None:
        self._write(self._err, kind, {"message": message, **fields})

    def _write(self, file: TextIO, event: str, fields: Fields) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        print(json.dumps({"event": event, "time": time, **fields}), file=file, flush=True)


@contextmanager
def library_log(report: Reporter, *, is_verbose: bool) -> Iterator[None]:
    """Show what the library logs: all of it with tracebacks if `is_verbose`, else warnings."""
    handler = _LogHandler(report, is_verbose)
    loggers = [logging.getLogger(name) for name in ("protomux", "protomux_wakeup")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if is_verbose else logging.WARNING)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


class _LogHandler(logging.Handler):
    def __init__(self, report: Reporter, is_verbose: bool) -> None:
        super().__init__()
        self._report = report
        self._is_verbose = is_verbose

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            message += f": {type(error).__name__}: {error}"
            if self._is_verbose:
                message += "\n" + "".join(traceback.format_exception(error)).rstrip()
        self._report.complain(record.levelname.lower(), message, {"logger": record.name})
