"""Events as lines for people, with colours on a terminal. Knows columns and styles."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Final, TextIO, TypeAlias

from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.live import Live
from rich.text import Text
from rich.theme import Theme

from protomux_wakeup.cli.report import Fields, Line, Reporter
from protomux_wakeup.cli.values import format_writer

__all__ = ["Stamp", "TextReporter", "clock", "elapsed"]

Stamp: TypeAlias = Callable[[], str]
"""Returns the first column: the time, always in the same width."""

_LABEL_WIDTH: Final = 17
"""Columns of the label: those of the longest, so that all texts begin below each other."""

_INDENT: Final = "    "
"""Before details: a key of 64 digits and a length of 11 then end in column 80."""

_ASCII: Final = str.maketrans({"▶": ">", "◀": "<", "─": "-", "…": ".."})
"""For terminals and files without Unicode."""

_THEME: Final = Theme(
    {
        "wakeup.key": "cyan",
        "wakeup.length": "bold green",
        "wakeup.arrow": "yellow",
        "wakeup.label": "bold",
        "wakeup.stamp": "dim",
        "wakeup.error": "bold red",
        "wakeup.warning": "yellow",
    }
)


class _Highlighter(RegexHighlighter):
    base_style = "wakeup."
    highlights = [  # noqa: RUF012 - rich declares it so
        r"(?P<key>\b[0-9a-f]{64}\b)(?::(?P<length>\d+))?",
        r"(?P<key>\b[0-9a-f]{12}…)",
        r"(?P<arrow>──▶|◀──)",
        r"(?m)^ *(?P<error>! byte \d+: .*)$",
    ]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # for Reporter.say; rich itself would exit here


def clock() -> str:
    """Stamp of the time of day."""
    return datetime.now().strftime("%H:%M:%S")


def elapsed() -> Stamp:
    """Return a stamp of the milliseconds from now on."""
    start = time.perf_counter()
    return lambda: f"{(time.perf_counter() - start) * 1000:7.1f} ms"


class TextReporter(Reporter):
    """Every event is a line: when, what, and a text; then a line for each detail.

    Lines are never broken here, so that a key can be copied, and `grep` sees it whole.
    """

    def __init__(
        self, stamp: Stamp | None = None, out: TextIO | None = None, err: TextIO | None = None
    ) -> None:
        """Write to `out` and `err`, stdout and stderr unless given; without a `stamp`, no times."""
        super().__init__()
        self._stamp = stamp
        self._highlight = _Highlighter()
        self._out = _console(sys.stdout if out is None else out)
        self._err = _console(sys.stderr if err is None else err)
        self._live: Live | None = None

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Show a spinner, on a terminal only."""
        if self._out.is_terminal:
            return self._out.status(Text(text))
        return super().waiting(text)

    @property
    def can_redraw(self) -> bool:
        """Stdout is a terminal that can move its cursor."""
        return self._out.is_terminal and not self._out.is_dumb_terminal

    @contextmanager
    def redrawing(self) -> Iterator[None]:
        """Keep one place on the terminal for pictures; the last one stays there."""
        if not self.can_redraw:
            yield
            return
        with Live(console=self._out, auto_refresh=False) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def _show(self, line: Line) -> None:
        if line.picture is not None:
            if self._live is None:
                self._out.print(line.picture)
            else:
                self._live.update(line.picture, refresh=True)
            return
        text = Text()
        if self._stamp is not None:
            text.append(self._stamp() + "  ", "wakeup.stamp")
        label = line.event.replace("_", " ") if line.label is None else line.label
        if label:
            text.append(label.ljust(_LABEL_WIDTH) + "  ", "wakeup.label")
        text.append(line.text)
        details = [*line.details, *map(format_writer, line.writers or ())]
        for detail in details:
            text.append("\n" + _INDENT + detail)
        self._print(self._out, self._highlight(text))

    def _complain(self, kind: str, message: str, fields: Fields) -> None:
        style = f"wakeup.{kind}" if kind in ("error", "warning") else "wakeup.stamp"
        self._print(self._err, Text.assemble((kind, style), ": ", message))

    def _print(self, console: Console, text: Text) -> None:
        if console.options.ascii_only:
            text.plain = text.plain.translate(_ASCII)
        console.print(text, soft_wrap=True)


def _console(file: TextIO) -> Console:
    return _Console(file=file, theme=_THEME, highlight=False, markup=False, emoji=False)
