"""A format applied to bytes, as a tree. Knows Construct, and no format.

Formats are Construct objects. `field` names a part that shows in the tree. Bytes that do not fit
never raise: the tree then holds what was read, and a `Problem` says where reading had to stop.

Construct tells only the path to what failed, and cuts bounded parts out of their surroundings. So
formats read from a `Tape`, which knows where it is in the whole and where the part in hand ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from dataclasses import field as attribute
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, cast

from construct import Adapter, Construct, ConstructError, Subconstruct

from protomux.errors import EncodingError

__all__ = [
    "MAX_PARTS",
    "AdapterBase",
    "Dissection",
    "Format",
    "FormatBase",
    "Node",
    "PartBase",
    "Problem",
    "Tape",
    "Wrong",
    "build",
    "dissect",
    "field",
    "parse",
    "plain",
    "refuse",
    "tape_of",
    "torn",
]

MAX_PARTS: Final = 2**21
"""Nodes of a tree. The longest array has half as many items, the longest announce that a frame can
carry 1.5 million parts; a hostile batch could have 40 million."""

if TYPE_CHECKING:
    Format: TypeAlias = Construct[Any, Any]
    FormatBase: TypeAlias = Construct[Any, Any]
    PartBase: TypeAlias = Subconstruct[Any, Any, Any, Any]
    AdapterBase: TypeAlias = Adapter[Any, Any, Any, Any]
else:  # Construct's classes take no type arguments
    Format = FormatBase = Construct
    PartBase = Subconstruct
    AdapterBase = Adapter


@dataclass(slots=True, eq=False)
class Node:
    """A named part of the bytes.

    Attributes:
        name: what it is.
        start, end: it is `data[start:end]`; where it is not whole, `end` is where reading stopped.
        value: what the bytes say; None where that is in the children, or the part is not whole.
        children: its parts, in order.
        is_whole: it could be read to its end.
    """

    name: str
    start: int
    end: int
    value: Any = None
    children: list[Node] = attribute(default_factory=list)
    is_whole: bool = False

    def child(self, name: str) -> Node | None:
        """Return the first child of that name."""
        return next((node for node in self.children if node.name == name), None)

    def walk(self) -> Iterator[tuple[int, Node]]:
        """Yield (depth, node) of this node and all below it, from first to last."""
        waiting = [(0, self)]
        while waiting:
            depth, node = waiting.pop()
            yield depth, node
            waiting += [(depth + 1, child) for child in reversed(node.children)]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why bytes do not fit a format.

    Attributes:
        offset: of the first byte that is wrong; where bytes are missing, of the first of those.
        reason: what was expected, and what came.
    """

    offset: int
    reason: str

    def __str__(self) -> str:
        return f"byte {self.offset}: {self.reason}"


def torn(size: int, begin: int, found: int) -> Problem:
    """Return what is wrong with a file whose last record has too few bytes."""
    reason = f"the last record is cut short: expected {size} bytes, got {found}"
    return Problem(begin + found, reason)


@dataclass(frozen=True, slots=True)
class Dissection:
    """What a format found in bytes.

    Attributes:
        root: the tree, as far as it could be read.
        value: all of it as Construct gives it, None where there is a problem.
        problem: None if all is well.
    """

    root: Node
    value: Any
    problem: Problem | None

    @property
    def end(self) -> int:
        """Position after the last byte that was read."""
        return self.root.end


class Wrong(ConstructError):
    """A byte is wrong; for formats to raise."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.problem: Final = Problem(offset, reason)


def _missing(what: str, size: int, start: int, end: int) -> Problem:
    octets = "1 byte" if size == 1 else f"{size} bytes"
    return Problem(end, f"expected {octets} of {what}, got {end - start}")


class Tape:
    """Bytes that are read once, from `position` to `end`, and the tree of what was read.

    It stands where Construct expects a file, for formats that read on and on: one that looks back
    or ahead (Pointer, Peek, Select) does not work.
    """

    def __init__(self, data: bytes, start: int, end: int, name: str) -> None:
        self.data: Final = data
        self.position = start
        self.end = end
        self.root: Final = Node(name, start, end)
        self.missing: Problem | None = None
        self._open = [self.root]
        self._parts = 1

    @property
    def is_at_end(self) -> bool:
        """The part in hand has no more bytes."""
        return self.position >= self.end

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, or what there is; all of it for -1."""
        start = self.position
        after = self.end if size < 0 else start + size
        if after > self.end:
            self.missing = _missing(self._open[-1].name, size, start, self.end)
            after = self.end
        self.position = after
        return self.data[start:after]

    @contextmanager
    def narrowed(self, size: int, what: str) -> Iterator[None]:
        """Let only the next `size` bytes be read, which the format must do to their end."""
        begin, outer = self.position, self.end
        if begin + size > outer:
            raise Wrong(*astuple(_missing(what, size, begin, outer)))
        self.end = begin + size
        yield
        self.end = outer

    def begin(self, name: str) -> None:
        """A part begins here."""
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Wrong(self.position, f"expected at most {MAX_PARTS} parts, got more")
        node = Node(name, self.position, self.position)
        self._open[-1].children.append(node)
        self._open.append(node)

    def finish(self, value: object) -> None:
        """The part that began last ends here; it is `value` unless it has parts itself."""
        node = self._open.pop()
        node.end = self.position
        node.is_whole = True
        if not node.children:
            node.value = value

    def stop(self, offset: int) -> None:
        """No part that is not whole goes on from `offset`."""
        for node in self._open:
            node.end = max(node.start, offset)


def tape_of(stream: object) -> Tape:
    """Return the tape that Construct hands a format as its stream."""
    return cast(Tape, stream)


class _Field(PartBase):
    def __init__(self, name: str, subcon: Format) -> None:
        super().__init__(subcon)
        self.name = name

    def _parse(self, stream: IO[bytes], context: Any, path: str) -> Any:
        tape = tape_of(stream)
        tape.begin(self.name or "")
        value = self.subcon._parsereport(stream, context, path)
        tape.finish(value)
        return value


def field(name: str, format: Format) -> Format:
    """Return `format` as a part of that name: in the tree, and in the value of a Struct."""
    return _Field(name, format)


def dissect(
    format: Format, data: bytes, start: int = 0, end: int | None = None, *, name: str = "data"
) -> Dissection:
    """Read one `format` from `data[start:end]`; offsets in the result are those in `data`.

    It need not reach to the end: see `Dissection.end`. Raises nothing, whatever the bytes are.
    """
    tape = Tape(data, start, len(data) if end is None else end, name)
    try:
        value = format.parse_stream(cast(IO[bytes], tape))
    except Wrong as wrong:
        problem = wrong.problem
    except ConstructError as error:
        problem = tape.missing or Problem(tape.position, str(error))
    else:
        tape.finish(value)
        return Dissection(tape.root, value, None)
    tape.stop(problem.offset)
    return Dissection(tape.root, None, problem)


def parse(
    format: Format, data: bytes, start: int = 0, end: int | None = None, *, name: str = "data"
) -> tuple[Any, int]:
    """Return a value as `dissect` reads it, and where it ends; raises Wrong with the problem."""
    found = dissect(format, data, start, end, name=name)
    if found.problem is not None:
        raise Wrong(found.problem.offset, found.problem.reason)
    return found.value, found.end


def build(format: Format, value: object) -> bytes:
    """Return the bytes of `value`; raises EncodingError where it does not fit."""
    try:
        data: bytes = format.build(value)
    except EncodingError:
        raise
    except (ConstructError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise EncodingError(f"a value does not fit: {error}") from error
    return data


def refuse(value: object, expected: str) -> NoReturn:
    """Refuse to build from `value`."""
    raise EncodingError(f"expected {expected}, got {type(value).__name__}")


def plain(value: Any) -> Any:
    """Return a value of Construct as dicts, lists and scalars."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if not key.startswith("_")}
    return [plain(each) for each in value] if isinstance(value, list) else value
