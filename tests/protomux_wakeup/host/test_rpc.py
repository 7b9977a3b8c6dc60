from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protomux.errors import LimitExceeded, ProtocolError, ProtomuxError, StreamClosed
from protomux_wakeup.host.errors import RemoteError, RequestTimeout
from protomux_wakeup.host.rpc import Limits, Rpc


def joined(limits: Limits = Limits()) -> tuple[Rpc, Rpc]:
    """Two that talk to each other, each in a tick of its own."""
    loop = asyncio.get_running_loop()
    one = Rpc(lambda text: loop.call_soon(other.received, text), limits=limits)
    other = Rpc(lambda text: loop.call_soon(one.received, text), limits=limits)
    return one, other


def alone(limits: Limits = Limits()) -> tuple[Rpc, list[dict[str, Any]]]:
    """One, and what it has written."""
    said: list[dict[str, Any]] = []
    return Rpc(lambda text: said.append(json.loads(text)), limits=limits), said


async def idle(rpc: Rpc) -> None:
    """Wait until no handler is at work."""
    ended = asyncio.Event()
    rpc.on_settled = ended.set
    while rpc.in_flight:
        ended.clear()
        await ended.wait()


def text(**message: Any) -> bytes:
    return json.dumps(message).encode()


async def test_both_sides_ask_and_answer() -> None:
    one, other = joined()

    async def later(params: int) -> int:
        await asyncio.sleep(0)
        return params + 1

    one.respond("later", later)
    other.respond("plain", lambda params: [params])
    assert await one.request("plain", {"a": None}) == [{"a": None}]
    assert await other.request("later", 1) == 2
    assert one.is_idle
    assert other.is_idle


async def test_what_is_written() -> None:
    rpc, said = alone()
    answer = rpc.request("a", [1])
    rpc.request("b")
    rpc.notify("c", "params")
    assert said == [
        {"method": "a", "id": 1, "params": [1]},
        {"method": "b", "id": 2},
        {"method": "c", "id": 0, "params": "params"},
    ]
    rpc.received(text(result=5, error=None, id=1))
    assert await answer == 5


async def test_what_is_answered() -> None:
    rpc, said = alone()
    rpc.respond("a", lambda params: params)
    rpc.received(text(method="a", params={"x": 1}, id=7))
    rpc.received(text(method="a", id=8))
    rpc.received(text(method="a", params=1, id=0))
    rpc.received(text(method="a"))
    rpc.received(text(method="b", id=9))
    rpc.received(text(method="b"))
    unknown = {"message": "Unknown method: b", "code": None, "stack": None}
    assert said == [
        {"result": {"x": 1}, "error": None, "id": 7},
        {"result": None, "error": None, "id": 8},
        {"result": None, "error": unknown, "id": 9},
    ]


async def test_a_responder_that_is_taken_back() -> None:
    one, other = joined()
    other.respond("a", lambda params: params)
    other.unrespond("a")
    other.unrespond("a")
    with pytest.raises(RemoteError, match="Unknown method: a"):
        await one.request("a")


class WithCode(Exception):
    code = "ENOENT"


class WithNumber(Exception):
    code = 5


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (ValueError("no"), "no", None),
        (KeyError(), "KeyError", None),
        (WithCode("gone"), "gone", "ENOENT"),
        (WithNumber("five"), "five", None),
        (RemoteError("relayed", "EPERM", "at secret.js:1"), "relayed", "EPERM"),
        (Exception("\ud800"), "the answer cannot be sent", None),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_error_crosses_without_its_stack(
    error: Exception, message: str, code: str | None, is_async: bool
) -> None:
    one, other = joined()

    def fail(_params: object) -> None:
        raise error

    async def fail_later(_params: object) -> None:
        raise error

    other.respond("fail", fail_later if is_async else fail)
    with pytest.raises(RemoteError, match=message) as caught:
        await one.request("fail")
    assert caught.value.code == code
    assert caught.value.stack is None
    assert other.is_idle


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "m", "code": "C", "stack": "s"}, ("m", "C", "s")),
        ({"message": "m"}, ("m", None, None)),
        ({}, ("", None, None)),
        ({"message": "m", "code": 404, "name": "Error"}, ("m", "404", None)),
        ({"message": 5, "code": False, "stack": ["a"]}, ("5", "false", None)),
        ({"message": None, "code": {"a": [1]}}, ("null", '{"a":[1]}', None)),
    ],
)
async def test_errors_of_javascript(
    error: dict[str, Any], expected: tuple[str, str | None, str | None]
) -> None:
    rpc, _ = alone()
    answer = rpc.request("a")
    rpc.received(text(error=error, id=1))
    with pytest.raises(RemoteError) as caught:
        await answer
    assert (caught.value.message, caught.value.code, caught.value.stack) == expected


async def test_a_reply_may_lack_its_result() -> None:
    rpc, _ = alone()
    answer = rpc.request("a")
    rpc.received(b'{"id":1}')
    assert await answer is None


async def test_replies_to_nothing_are_ignored() -> None:
    rpc, said = alone()
    for id in (0, 1, 2**70):
        rpc.received(text(result=1, error=None, id=id))
    rpc.received(b"{}")
    assert said == []
    assert rpc.is_idle


async def test_an_answer_comes_once() -> None:
    rpc, _ = alone()
    answer = rpc.request("a")
    rpc.received(text(result=1, id=1))
    rpc.received(text(result=2, id=1))
    assert await answer == 1


HOSTILE = [
    b"",
    b"{",
    b"null",
    b"1",
    b"[]",
    b'"a"',
    b"\xff\xfe",
    b'{"id":-1}',
    b'{"id":"1"}',
    b'{"id":1.5}',
    b'{"id":true}',
    b'{"id":null}',
    b'{"method":1}',
    b'{"method":["a"],"id":1}',
    b'{"error":"no","id":1}',
    b'{"method":"a","params":' + b"[" * 100_000,
    b'{"method":"a","params":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    b'{"method":"a","params":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
    b'{"method":"a","params":"\\ud800"}',
    b'{"method":"a","params":1e999}',
    b'{"method":"a","params":' + b"1" * 5_000 + b"}",
    b'{"method":"a","params":NaN}',
    b'{"method":"a"}{"method":"a"}',
]


@pytest.mark.parametrize("message", HOSTILE, ids=range(len(HOSTILE)))
async def test_what_is_no_message_is_refused(message: bytes) -> None:
    rpc, said = alone()
    rpc.respond("a", lambda params: params)
    with pytest.raises(ProtocolError):
        rpc.received(message)
    assert said == []


async def test_an_answer_that_json_cannot_say_becomes_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, other = joined()
    other.respond("bytes", lambda _: b"bytes")
    with pytest.raises(RemoteError, match="got bytes"):
        await one.request("bytes")
    assert "got bytes" in caplog.text


ITSELF: list[Any] = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    "params",
    [
        b"bytes",
        {"a": [b""]},
        {1: 2},
        {(1,): 2},
        {1, 2},
        object(),
        1j,
        ITSELF,
        "\ud800",
        [Exception],
    ],
    ids=range(10),
)
async def test_params_that_json_cannot_say(params: Any) -> None:
    rpc, said = alone()
    with pytest.raises(TypeError):
        rpc.request("a", params)
    with pytest.raises(TypeError):
        rpc.notify("a", params)
    assert said == []
    assert rpc.is_idle


@pytest.mark.parametrize(
    "params", [None, True, 0, -(2**60), 1.5, "ü\n\0", [], {}, [[None, {"a": [1, "x"]}]], {"": {}}]
)
async def test_what_json_can_say_crosses(params: Any) -> None:
    one, other = joined()
    other.respond("echo", lambda params: params)
    assert await one.request("echo", params) == params
    assert await one.request("echo", [params, (1, 2)]) == [params, [1, 2]]


@pytest.mark.parametrize("method", [None, 1, b"a"])
async def test_a_method_is_a_str(method: Any) -> None:
    rpc, _ = alone()
    for call in (rpc.request, rpc.notify, lambda method: rpc.respond(method, print)):
        with pytest.raises(TypeError, match="method"):
            call(method)


async def test_misuse() -> None:
    rpc, said = alone()
    with pytest.raises(ValueError, match="a name"):
        rpc.request("")
    with pytest.raises(TypeError, match="can be called"):
        rpc.respond("a", 5)  # type: ignore[arg-type]
    for timeout in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            rpc.request("a", timeout=timeout)
    assert said == []


async def test_a_request_that_is_not_answered_in_time() -> None:
    rpc, _ = alone()
    quick = [rpc.request("a", timeout=0.01 * number) for number in range(5)]
    slow = rpc.request("a")
    never = rpc.request("a", timeout=None)
    for answer in quick:
        with pytest.raises(RequestTimeout):
            await answer
    assert not slow.done()
    assert not never.done()
    rpc.received(text(result=1, id=3))  # too late
    rpc.received(text(result=1, id=6))
    rpc.received(text(result=2, id=7))
    assert await slow == 1
    assert await never == 2
    assert rpc.is_idle


async def test_a_short_time_behind_a_long_one() -> None:
    rpc, _ = alone()
    slow = rpc.request("a", timeout=1000)
    with pytest.raises(RequestTimeout):
        await rpc.request("a", timeout=0)
    assert not slow.done()
    rpc.destroy()


async def test_a_cancelled_request_is_forgotten() -> None:
    rpc, _ = alone()
    settled: list[bool] = []
    rpc.on_settled = lambda: settled.append(rpc.is_idle)
    answer = rpc.request("a")
    task = asyncio.ensure_future(asyncio.wait_for(answer, 1000))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert answer.cancelled()
    assert rpc.is_idle
    rpc.received(text(result=1, id=1))
    await asyncio.sleep(0)
    assert settled == [True]


async def test_the_end_fails_what_waits() -> None:
    rpc, said = alone()
    ended: list[str] = []

    async def handler(_params: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("handler")

    rpc.respond("wait", handler)
    rpc.received(text(method="wait", id=1))
    await asyncio.sleep(0)
    answers = [rpc.request("a") for _ in range(3)]
    assert rpc.in_flight == 1
    assert not rpc.is_idle
    cause = ConnectionResetError("reset")
    rpc.destroy(cause)
    rpc.destroy()
    for answer in (*answers, rpc.request("late")):
        with pytest.raises(StreamClosed, match="reset") as caught:
            await answer
        assert caught.value.__cause__ is cause
    await asyncio.sleep(0)
    assert ended == ["handler"]
    rpc.notify("late")
    rpc.received(text(method="wait", id=2))
    assert len(said) == 3
    assert rpc.is_idle


async def test_nobody_has_to_look_at_what_the_end_failed() -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    rpc, _ = alone()
    rpc.request("a")
    rpc.destroy()
    rpc.request("a")
    gc.collect()
    assert problems == []


async def test_the_peer_may_end_and_still_be_answered() -> None:
    rpc, said = alone()
    gate = asyncio.Event()

    async def handler(_params: object) -> str:
        await gate.wait()
        return "done"

    rpc.respond("wait", handler)
    rpc.received(text(method="wait", id=1))
    answer = rpc.request("a")
    rpc.peer_ended(StreamClosed("it has ended"))
    with pytest.raises(StreamClosed):
        await answer
    with pytest.raises(StreamClosed):
        await rpc.request("a")
    gate.set()
    await idle(rpc)
    assert said[-1] == {"result": "done", "error": None, "id": 1}


async def test_a_future_of_the_handler_is_not_cancelled() -> None:
    rpc, said = alone()
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    rpc.respond("wait", lambda _: future)
    rpc.received(text(method="wait", id=1))
    rpc.received(text(method="wait", id=2))
    assert rpc.in_flight == 2
    rpc.destroy()
    assert not future.cancelled()
    future.set_exception(ValueError("nobody asks any more"))
    await asyncio.sleep(0)
    assert said == []


async def test_a_handler_that_was_cancelled_is_answered() -> None:
    rpc, said = alone()
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    rpc.respond("wait", lambda _: future)
    rpc.received(text(method="wait", id=1))
    future.cancel()
    await asyncio.sleep(0)
    assert said[0]["error"]["message"] == "CancelledError"
    assert rpc.is_idle


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_notification_that_fails_is_logged(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rpc, said = alone()

    def fail(_params: object) -> None:
        raise ValueError("no")

    async def fail_later(_params: object) -> None:
        raise ValueError("no")

    rpc.respond("fail", fail_later if is_async else fail)
    with caplog.at_level(logging.WARNING):
        rpc.received(text(method="fail", id=0))
        await idle(rpc)
    assert "the handler of a notification failed" in caplog.text
    assert said == []


async def test_it_is_full_until_a_handler_ends() -> None:
    rpc, said = alone(Limits(in_flight=2))
    gates: list[asyncio.Future[None]] = []
    settled: list[int] = []
    rpc.on_settled = lambda: settled.append(rpc.in_flight)

    def handler(_params: object) -> asyncio.Future[None]:
        gates.append(asyncio.get_running_loop().create_future())
        return gates[-1]

    rpc.respond("wait", handler)
    rpc.received(text(method="wait", id=1))
    assert not rpc.is_full
    rpc.received(text(method="wait", id=0))
    assert rpc.is_full
    gates[1].set_result(None)
    await asyncio.sleep(0)
    assert not rpc.is_full
    gates[0].set_result(None)
    await asyncio.sleep(0)
    assert settled == [1, 0]
    assert [reply["id"] for reply in said] == [1]


async def test_a_line_that_is_too_long() -> None:
    one, other = joined(Limits(line_size=1_000))
    with pytest.raises(LimitExceeded, match="at most 1000 bytes"):
        one.request("a", "x" * 1_000)
    assert one.is_idle
    other.respond("long", lambda size: "x" * size)
    with pytest.raises(RemoteError, match="at most 1000 bytes"):
        await one.request("long", 1_000)
    assert await one.request("long", 900) == "x" * 900


async def test_a_handler_may_end_it_all() -> None:
    rpc, said = alone()

    def handler(_params: object) -> str:
        rpc.destroy()
        return "an answer that nobody gets"

    rpc.respond("end", handler)
    rpc.received(text(method="end", id=1))
    assert said == []


async def test_write_may_end_it_all() -> None:
    rpc = Rpc(lambda _: rpc.destroy(LimitExceeded("too much")))
    with pytest.raises(StreamClosed, match="too much"):
        await rpc.request("a")


async def test_nothing_is_held_of_what_has_ended() -> None:
    rpc, _ = alone()
    answers = [weakref.ref(rpc.request("a")) for _ in range(3)]
    await asyncio.sleep(0)
    rpc.received(text(result=1, id=1))
    answer = answers[1]()
    assert answer is not None
    answer.cancel()
    del answer
    rpc.destroy()
    gc.collect()
    assert [answer() for answer in answers] == [None] * 3


@pytest.mark.parametrize("field", ["line_size", "in_flight", "unsent_size", "unsent_most"])
def test_limits_are_numbers_above_0(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Limits(**{field: 0})
    with pytest.raises(TypeError, match=field):
        Limits(**{field: "1"})  # type: ignore[arg-type]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["method", "params", "id", "result", "error", "message", "code", "x"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)
MESSAGES = (
    st.binary(max_size=64)
    | JSON.map(lambda value: json.dumps(value).encode(errors="replace"))
    | st.fixed_dictionaries(
        {},
        optional={
            "method": st.sampled_from(["plain", "later", "fail", "odd", "none", ""]) | JSON,
            "params": JSON,
            "id": st.integers(-1, 5) | JSON,
            "result": JSON,
            "error": JSON,
        },
    ).map(lambda value: json.dumps(value).encode(errors="replace"))
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MESSAGES, max_size=12))
def test_whatever_comes_raises_nothing_but_our_errors(messages: list[bytes]) -> None:
    asyncio.run(_hear(messages))


async def _hear(messages: list[bytes]) -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    rpc, said = alone()
    handlers: dict[str, Callable[[Any], Any]] = {
        "plain": lambda params: params,
        "later": lambda params: asyncio.sleep(0, params),
        "fail": lambda params: params.nothing,
        "odd": lambda _: {1: b""},
    }
    for name, handler in handlers.items():
        rpc.respond(name, handler)
    answers = [rpc.request("a") for _ in range(3)]
    for message in messages:
        try:
            rpc.received(message)
        except ProtomuxError as error:
            rpc.destroy(error)
            break
    await idle(rpc)
    assert all(reply.keys() == {"result", "error", "id"} for reply in said[3:])
    rpc.destroy()
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert not [
        each
        for each in results
        if isinstance(each, Exception) and not isinstance(each, ProtomuxError)
    ]
    assert problems == []
