"""What a workload is: its size, its rows in the report, its series. Measures nothing itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

__all__ = ["OURS", "THEIRS", "Failed", "Measure", "Measurement", "Row", "Setting", "Workload"]

OURS: Final = "py-py"
THEIRS: Final = "node-node"


class Failed(Exception):
    """A program failed, or the work was not done as it should be."""


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        bar: the median of the ratios ours to theirs that is wanted; None where it is only shown.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    bar: float | None = None


@dataclass(frozen=True)
class Setting:
    """What is measured now.

    Attributes:
        series: who plays against whom, such as "py-node": the first of the two is the client.
        loop: the event loop of the Python programs, "asyncio" or "uvloop".
        size: the numbers of the workload, scaled.
    """

    series: str
    loop: str
    size: Mapping[str, int]


@dataclass(frozen=True)
class Measurement:
    """One measurement of one series.

    Attributes:
        figures: a number for each row of the workload, by its name.
        cpu: seconds of CPU of each process in the measured part, the first of the pair first;
            empty where nobody took them.
    """

    figures: Mapping[str, float]
    cpu: Sequence[float] = ()


Measure: TypeAlias = Callable[["Workload", Setting], Awaitable[Measurement]]
"""Does the work once; raises Failed where it was not done."""


@dataclass(frozen=True)
class Workload:
    """One thing that is measured.

    Attributes:
        work: what the programs call it; several workloads may be the same work in other sizes.
        amount: how much of it, by name; `--scale` multiplies these.
        shape: of what kind, by name; never scaled.
        product: of the size, what multiplied is the work in the unit of a rate.
        few: series that are measured in the first rounds only.
    """

    name: str
    work: str
    rows: Sequence[Row]
    measure: Measure
    amount: Mapping[str, int]
    shape: Mapping[str, int] = field(default_factory=dict)
    product: Sequence[str] = ("count",)
    series: Sequence[str] = (OURS, THEIRS)
    few: Sequence[str] = ("pure", "py-node", "node-py")

    def size(self, scale: float) -> dict[str, int]:
        """Return the numbers of the work."""
        scaled = {name: max(1, round(number * scale)) for name, number in self.amount.items()}
        return {**scaled, **self.shape}
