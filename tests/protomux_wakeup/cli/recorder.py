"""A reporter that remembers, and waits for what it is to hear."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from protomux_wakeup.cli.report import Fields, Line, Reporter

LIMIT = 30.0
"""Seconds until a test gives up; none waits that long when all is well."""


class Complaint(NamedTuple):
    kind: str
    message: str
    fields: Fields


class Recorder(Reporter):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Line] = []
        self.complaints: list[Complaint] = []
        self._news = asyncio.Event()

    @property
    def events(self) -> list[str]:
        return [line.event for line in self.lines]

    @property
    def messages(self) -> list[str]:
        return [complaint.message for complaint in self.complaints]

    async def heard(self, event: str, count: int = 1) -> Line:
        """Wait for the `count`th line of `event`."""
        async with asyncio.timeout(LIMIT):
            while self.events.count(event) < count:
                self._news.clear()
                await self._news.wait()
        return [line for line in self.lines if line.event == event][count - 1]

    async def complained(self, count: int = 1) -> Complaint:
        """Wait for the `count`th complaint."""
        async with asyncio.timeout(LIMIT):
            while len(self.complaints) < count:
                self._news.clear()
                await self._news.wait()
        return self.complaints[count - 1]

    def _show(self, line: Line) -> None:
        self.lines.append(line)
        self._news.set()

    def _complain(self, kind: str, message: str, fields: Fields) -> None:
        self.complaints.append(Complaint(kind, message, fields))
        self._news.set()
