"""Runs a case: a Python coroutine here, its twin of the same name in Node. Knows no protocol.

`interop()` makes a test of a coroutine `test_NAME(peer)` in a module `test_MODULE`: for each of its
ways it starts `node peer.mjs MODULE/NAME`, runs both sides, and passes when both are content.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import shutil
import subprocess
import tempfile
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import pytest

from .twin import Inbox, Peer

__all__ = [
    "FOUR",
    "LIMIT",
    "NODE_OPENS",
    "NO_ROLES",
    "SYMMETRIC",
    "Way",
    "interop",
    "missing",
    "over_udx",
    "place",
]

HERE: Final = Path(__file__).parent
LIMIT: Final = 30.0
"""Seconds that a case may take, unless it asks for more."""
DEADLINE_FACTOR: Final = 1.5
"""So much later is Node's own deadline: the harness tells more, and Node's only ends an orphan."""
END_LIMIT: Final = 5.0
"""Seconds in which Node has to end after its stdin did."""


class Way(NamedTuple):
    """The role of the Python side; in a symmetric case nobody opens more than the other."""

    initiator: bool
    opener: bool
    is_symmetric: bool = False

    def __str__(self) -> str:
        role = "initiator" if self.initiator else "responder"
        if self.is_symmetric:
            return role
        return f"{role}-{'opens' if self.opener else 'opened_to'}"


FOUR: Final = tuple(
    Way(initiator, opener) for initiator in (True, False) for opener in (True, False)
)
"""Python as initiator and as responder, as the opener and as the one opened to."""
NODE_OPENS: Final = tuple(way for way in FOUR if not way.opener)
SYMMETRIC: Final = (Way(True, True, True), Way(False, True, True))
"""Both sides do the same, so only who is the initiator makes a difference."""
NO_ROLES: Final = (pytest.param(Way(True, True, True), id="peers"),)
"""Nobody is the initiator, and nobody opens."""

Case: TypeAlias = Callable[[Peer], Awaitable[None]]
Test: TypeAlias = Callable[..., Awaitable[None]]


@cache
def missing() -> str | None:
    """Return what the originals need that is not here, None if all is."""
    node = shutil.which("node")
    if node is None:
        return "no node on the PATH"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < 18:
        return f"expected Node 18 or later, got {version.strip()}"
    if not (HERE / "node_modules" / "protomux").is_dir():
        return "tests/interop/node_modules is missing: run `npm ci` there"
    return None


def interop(
    *, ways: Sequence[Any] = FOUR, limit: float = LIMIT, **choices: Sequence[Any]
) -> Callable[[Case], Test]:
    """Make a test of a case, for each of `ways` and of every combination of `choices`.

    A choice is a name and its values; both sides find it in their options. `limit` is in seconds.
    """

    def decorate(case: Case) -> Test:
        name = case.__name__.removeprefix("test_")
        module = case.__module__.rpartition(".")[2].removeprefix("test_")
        return _test(_Plan(f"{module}/{name}", case, ways, choices, limit))

    return decorate


def over_udx(test: Test, *, ways: Sequence[Any] = (), **choices: Sequence[Any]) -> Test:
    """Make a test of the same case with all of its secret streams over UDX.

    The case must take none of its connections as TCP. `ways`, unless there are none, and `choices`
    replace its own.
    """
    plan: _Plan = vars(test)["plan"]
    return _test(
        plan._replace(ways=ways or plan.ways, choices={**plan.choices, **choices, "over": ["udx"]})
    )


class _Plan(NamedTuple):
    """What a test is made of."""

    name: str
    case: Case
    ways: Sequence[Any]
    choices: Mapping[str, Sequence[Any]]
    limit: float


def _test(plan: _Plan) -> Test:
    async def test(way: Way, **chosen: Any) -> None:
        await _run(plan, way, chosen)

    # pytest reads the parameters from the signature, the rest from here.
    parameters = [
        inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY) for each in ("way", *plan.choices)
    ]
    vars(test).update(__signature__=inspect.Signature(parameters), plan=plan)
    test.__name__ = plan.case.__name__
    test.__module__ = plan.case.__module__
    test.__doc__ = plan.case.__doc__
    marked: Test = pytest.mark.parametrize("way", plan.ways, ids=str)(test)
    for each, values in plan.choices.items():
        marked = pytest.mark.parametrize(each, values)(marked)
    return marked


class _Node:
    """One Node process, and the lines that go to it and come from it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.last_words: deque[str] = deque(maxlen=20)
        self._process = process
        self._queues: defaultdict[str, Inbox[Any]] = defaultdict(Inbox)

    def say(self, line: Mapping[str, Any]) -> None:
        """Send one line; a process that is gone reads none."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")

    def queue(self, name: str) -> Inbox[Any]:
        """What it said under `name`; its port is under "port"."""
        return self._queues[name]

    async def read_stdout(self) -> None:
        """Sort its lines until it ends; set the verdict."""
        assert self._process.stdout is not None
        async for text in self._process.stdout:
            line = json.loads(text)
            if "verdict" in line:
                if line["verdict"] == "ok":
                    self.verdict.set_result(None)
                else:
                    self.verdict.set_exception(
                        AssertionError(f"on the Node side: {line['error']}\nseen: {line['seen']}")
                    )
            elif "port" in line:
                self._queues["port"].push(line["port"])
            else:
                self.last_words.append(f"told: {text.decode().rstrip()[:200]}")
                self._queues[line["sync"]].push(line["data"])
        if not self.verdict.done():
            self.verdict.set_exception(AssertionError("node ended without a verdict"))

    async def read_stderr(self) -> None:
        """Keep what it complains about."""
        assert self._process.stderr is not None
        async for text in self._process.stderr:
            self.last_words.append(f"stderr: {text.decode().rstrip()}")

    async def end(self) -> int:
        """End its stdin, at which it ends itself; return its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(END_LIMIT):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()


@asynccontextmanager
async def _node(case: str, options: Mapping[str, Any]) -> AsyncIterator[_Node]:
    node = _Node(
        await asyncio.create_subprocess_exec(
            "node",
            "peer.mjs",
            case,
            cwd=HERE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**26,
        )
    )
    node.say(options)
    readers = asyncio.gather(node.read_stdout(), node.read_stderr())
    try:
        yield node
    finally:
        code = await node.end()
        await readers
        if node.verdict.done():
            node.verdict.exception()  # it is told with the failure, or there is a better one
    assert code == 0, f"node ended with {code}"


async def _run(plan: _Plan, way: Way, chosen: Mapping[str, Any]) -> None:
    options = {
        "initiator": not way.initiator,
        "opener": not way.opener,
        "deadline": DEADLINE_FACTOR * plan.limit,
        **chosen,
    }
    problems: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: problems.append(f"{context['message']}: {context.get('exception')!r}")
    )
    with _errors_logged() as logged:
        node = None
        try:
            async with _node(plan.name, options) as node:
                peer = Peer(node, initiator=way.initiator, opener=way.opener, options=chosen)
                peer.logged = logged
                try:
                    await _both(plan.case(peer), node, plan.limit)
                finally:
                    await peer.close()
            assert logged == []
            assert problems == []
        except BaseException as error:
            for note in (*(node.last_words if node else ()), *logged, *problems):
                error.add_note(note)
            raise


async def _both(case: Awaitable[None], node: _Node, limit: float) -> None:
    """Wait until both sides are content, or one is not, or it takes too long."""
    ours = asyncio.ensure_future(_ours(case))
    await asyncio.wait({ours, node.verdict}, timeout=limit, return_when=asyncio.FIRST_EXCEPTION)
    ours.cancel()
    (failure,) = await asyncio.gather(ours, return_exceptions=True)
    if node.verdict.done():
        theirs = node.verdict.exception()
        if theirs is not None:
            raise theirs from failure
    if failure is not None:
        raise failure
    assert node.verdict.done(), f"Node is not done after {limit} s"


async def _ours(case: Awaitable[None]) -> None:
    try:
        await case
    except asyncio.CancelledError as here:
        raise AssertionError("the Python side was not done when the case had to end") from here


@contextmanager
def _errors_logged() -> Iterator[list[str]]:
    """Collect what the packages log as errors."""
    logged: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            logged.append(f"{record.getMessage()}: {error!r}")

    handler = Handler(logging.ERROR)
    loggers = [logging.getLogger(name) for name in ("protomux", "protomux_wakeup")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield logged
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


@contextmanager
def place() -> Iterator[Path]:
    """A directory whose name is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path)
