from __future__ import annotations

import asyncio
import logging
import os
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protomux_wakeup.host.backends.cluster import (
    Backoff,
    Cluster,
    ClusterLimits,
    Malformed,
    Refused,
    Unreachable,
)
from protomux_wakeup.host.backends.engine import EngineError
from protomux_wakeup.host.backends.plane import PlaneEngine
from protomux_wakeup.host.backends.types import (
    BackendStatus,
    Terminated,
    TerminationReason,
)

from .clustered import (
    DIALECTS,
    IMPATIENT,
    A,
    dialects,
    launch,
    live,
    opened,
)
from .scripted import (
    SECRET,
    TOKEN,
    ScriptedCluster,
    Told,
    answer,
    hang_up,
    never,
    play,
)

# Another manager.


@dialects
async def test_the_next_manager_takes_a_backend_over(dialect: str, place: Path) -> None:
    async with ScriptedCluster(dialect).running() as cluster:
        async with opened(cluster, place) as engine:
            first = Told()
            running = await engine.start(launch(), first)
            await cluster.say("starting")
            await cluster.say("ready")
            await first.reached("ready")
        await running.close()
        running.deliver([A])
        running.terminate(TerminationReason.SWEPT, hard=True)
        await cluster.say("terminating", termination_reason="external")
        async with opened(cluster, place, term=2) as engine:
            second = Told()
            adopted = await engine.adopt(launch(), second, BackendStatus.READY)
            assert adopted.response == running.response
            await second.reached("terminating")
            await cluster.say("terminated")
            await second.reached("terminated")
            await engine.forget("0" * 32)
            await engine.forget("0" * 32)
        assert first.statuses == ["starting", "ready"]
        assert second.statuses == ["terminating", "terminated"]
        assert len(cluster.requests("/connect")) == 1
        assert len(cluster.requests("terminate")) == len(cluster.requests("/hints")) == 0
        assert os.listdir(place) == ["term"]


def test_what_is_kept_is_for_our_eyes_only(place: Path) -> None:
    async def start() -> None:
        async with (
            ScriptedCluster("jamsocket").running() as cluster,
            opened(cluster, place / "engine") as engine,
        ):
            await engine.start(launch(), Told())

    asyncio.run(start())
    assert (place / "engine").stat().st_mode & 0o777 == 0o700
    kept = place / "engine" / f"{'0' * 32}.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert SECRET in kept.read_text()


@dialects
@pytest.mark.parametrize("kept", [None, b"", b"{}", b"\xff"])
async def test_without_what_was_kept_a_backend_is_found_by_its_key(
    dialect: str, kept: bytes | None, place: Path
) -> None:
    async with ScriptedCluster(dialect).running() as cluster:
        async with opened(cluster, place) as engine:
            await engine.start(launch(), Told())
        path = place / f"{'0' * 32}.json"
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)
        cluster.connects.extend([answer(503), answer(401), answer(200, b"{}"), never])
        limits = ClusterLimits(first_wait=0.001, longest_wait=0.01, request_time=0.1)
        async with opened(cluster, place, limits=limits) as engine:
            told = Told()
            adopted = await engine.adopt(launch(news=(A,)), told, BackendStatus.SCHEDULED)
            assert adopted.response is None
            adopted.terminate(TerminationReason.SWEPT, hard=False)
            await cluster.say("ready")
            await told.reached("ready")
            assert adopted.response is not None
            assert adopted.response.backend_id == "ba-0"
            await told.until(lambda: told.acknowledgements == [[A]])
            await cluster.until(1, "terminate")
            asked = cluster.requests("/connect")[-1].body
            if dialect == "jamsocket":
                assert asked == {"key": "room", "spawn": False}
            else:
                assert asked == {"key": {"name": "room", "tag": ""}}
        async with opened(cluster, place) as engine:
            adopted_again = await engine.adopt(launch(), told, BackendStatus.READY)
            assert adopted_again.response == adopted.response


@pytest.mark.parametrize("status", [404, 409, 410])
async def test_a_backend_that_nobody_knows_is_lost_at_once(status: int, place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        cluster.connects.append(answer(status))
        told = Told()
        await engine.adopt(launch(), told, BackendStatus.SCHEDULED)
        state = await told.reached("terminated")
        assert isinstance(state, Terminated)
        assert state.termination_reason is TerminationReason.LOST
        assert [each.path for each in cluster.received] == ["/v2/service/acme/rooms/connect"]


async def test_a_backend_that_cannot_be_found_is_lost_in_the_end(place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place, limits=IMPATIENT) as engine,
    ):
        cluster.connects.extend([answer(500)] * 1_000)
        told = Told()
        await engine.adopt(launch(), told, BackendStatus.SCHEDULED)
        await told.reached("terminated")
        assert len(cluster.received) > 2


async def test_nothing_starts_for_an_earlier_manager(place: Path) -> None:
    async with ScriptedCluster("jamsocket").running() as cluster:
        async with opened(cluster, place, term=7) as engine:
            await engine.open(7)
            await engine.open(8)
            with pytest.raises(EngineError, match="expected a term of 8 or later, got 7"):
                await engine.start(launch(term=7), Told())
            with pytest.raises(EngineError, match="got 7"):
                await engine.open(7)
        with pytest.raises(EngineError, match="got 7"):
            async with opened(cluster, place, term=7):
                pass
        (place / "term").write_text("?")
        async with opened(cluster, place, term=1) as engine:
            await engine.start(launch(term=1), Told())
        assert len(cluster.requests("/connect")) == 1


async def test_an_engine_that_is_not_open_is_misused(place: Path) -> None:
    engine = PlaneEngine("http://127.0.0.1:9", DIALECTS["plane"], place)
    with pytest.raises(RuntimeError, match="an engine that is open"):
        await engine.start(launch(), Told())
    await engine.close()


async def test_a_directory_that_cannot_be_had_is_an_error(place: Path) -> None:
    (place / "file").touch()
    engine = PlaneEngine("http://127.0.0.1:9", DIALECTS["plane"], place / "file")
    with pytest.raises(EngineError, match="cannot keep anything"):
        await engine.open(1)


async def test_what_cannot_be_kept_runs_all_the_same(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = place / "engine"
    async with ScriptedCluster("jamsocket").running() as cluster:
        async with opened(cluster, directory) as engine:
            (directory / f"{'0' * 32}.json").mkdir()
            told = Told()
            await engine.start(launch(), told)
            await cluster.say("ready")
            await told.reached("ready")
        async with opened(cluster, directory) as engine:
            await engine.adopt(launch(), told, BackendStatus.READY)
            await cluster.say("terminated")
            await told.reached("terminated")
    assert any("cannot keep where" in each for each in caplog.messages)
    assert any("cannot read where" in each for each in caplog.messages)


# Starting.


@pytest.mark.parametrize(
    "broken", [answer(500), answer(429, Retry_After="0"), answer(408), play(), play(b"{")]
)
async def test_asking_goes_on_until_there_is_an_answer(broken: Any, place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        cluster.connects.extend([broken] * 3)
        running = await engine.start(launch(), Told())
        assert running.response is not None
        assert len(cluster.requests("/connect")) == 4


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        (answer(401, b'{"kind":"Other"}'), Refused, "the cluster has answered 401, Other"),
        (answer(409, b'{"kind":"KeyHeld","id":"x"}'), Refused, "answered 409, KeyHeld"),
        (answer(400, b"{" * 100_000), Refused, "answered 400$"),
        (answer(400, b"x" * 100_000), Refused, "answered 400$"),
        (answer(200, b"x" * 100_000), Malformed, "an answer of at most 65536 bytes"),
        (answer(200), Malformed, "no backend"),
        (answer(200, b"{"), Malformed, "no backend"),
        (answer(200, b'{"backend_id":"x"}'), Malformed, "no backend"),
        (answer(200, b"[" * 10_000), Malformed, "no backend"),
        (play(*[b"x" * 4_096] * 100), Malformed, "an answer of at most"),
        (answer(204), Malformed, "no backend"),
    ],
)
async def test_an_answer_that_will_not_change_is_an_error(
    broken: Any, error: type[EngineError], message: str, place: Path
) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        cluster.connects.append(broken)
        with pytest.raises(error, match=message):
            await engine.start(launch(), Told())
        assert len(cluster.requests("/connect")) == 1


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (never, "not answered in time"),
        (answer(503), "503"),
        (play(), "has failed: Client"),
        (hang_up, "has failed: Server"),
    ],
)
async def test_asking_ends_after_a_while(broken: Any, message: str, place: Path) -> None:
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place, limits=replace(IMPATIENT, request_time=0.05)) as engine,
    ):
        cluster.connects.extend([broken] * 1_000)
        with pytest.raises(EngineError, match=f"started none in 1 s: .*{message}"):
            await engine.start(launch(), Told())


async def test_a_host_where_nobody_listens_is_named(place: Path) -> None:
    engine = PlaneEngine("http://127.0.0.1:9/", DIALECTS["plane"], place, limits=IMPATIENT)
    await engine.open(1)
    with pytest.raises(EngineError, match=r"Cannot connect to host 127\.0\.0\.1:9"):
        await engine.start(launch(), Told())
    await engine.close()


async def test_a_start_ends_with_the_engine(place: Path) -> None:
    async with ScriptedCluster("jamsocket").running() as cluster:
        for broken in (never, answer(503)):
            async with opened(cluster, place) as engine:
                cluster.connects.extend([broken] * 100)
                starting = asyncio.create_task(engine.start(launch(), Told()))
                before = len(cluster.received)
                await cluster.until(before + 1, "/connect")
            with pytest.raises(EngineError):
                await starting
            cluster.connects.clear()


# What is a secret.


async def test_a_redirect_is_not_followed(place: Path) -> None:
    other = ScriptedCluster("jamsocket")
    async with (
        other.running(),
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        for status in (301, 302, 303, 307, 308):
            cluster.connects.append(answer(status, Location=f"{other.base}/connect"))
            with pytest.raises(Refused, match=str(status)):
                await engine.start(launch(), Told())
        cluster.statuses.append(answer(307, Location=f"{other.base}/status"))
        cluster.streams.append(answer(307, Location=f"{other.base}/stream"))
        cluster.ends.append(answer(307, Location=f"{other.base}/terminate"))
        cluster.hints.append(answer(307, Location=f"{other.base}/hints"))
        told = Told()
        running = await engine.start(launch(news=(A,)), told)
        await cluster.say("ready")
        running.terminate(TerminationReason.SWEPT, hard=False)
        await told.until(lambda: told.acknowledgements == [[A]])
        await cluster.until(1, "/terminate")
    assert other.received == []


async def test_a_token_is_in_no_error_and_no_log(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def echo(request: web.Request) -> web.StreamResponse:
        text = str(dict(request.headers))
        return web.json_response(
            {"kind": request.headers.get("Authorization", SECRET), "message": text}, status=400
        )

    async def unreadable(request: web.Request) -> web.StreamResponse:
        return web.json_response({"backend_id": request.headers["Authorization"], "url": TOKEN})

    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place, limits=IMPATIENT) as engine,
    ):
        errors = []
        for broken in (echo, unreadable):
            cluster.connects.append(broken)
            with pytest.raises(EngineError) as caught:
                await engine.start(launch(), Told())
            errors.append(repr(caught.value) + str(caught.value.__context__))
        told = Told()
        running = await engine.start(launch(news=(A,)), told)
        cluster.ends.extend([answer(500), echo])
        cluster.hints.extend([answer(500), echo, hang_up])
        await cluster.say("ready")
        running.terminate(TerminationReason.SWEPT, hard=False)
        await told.until(lambda: bool(told.acknowledgements))
        await cluster.until(2, "/terminate")
        said = [*errors, repr(engine), repr(running), caplog.text]
    assert len(caplog.messages) > 4
    for text in said:
        assert TOKEN not in text
        assert SECRET not in text


@pytest.mark.parametrize(
    "base",
    [
        "",
        "127.0.0.1",
        "ftp://127.0.0.1",
        "http://",
        "http://user:pass@127.0.0.1",
        "http://127.0.0.1/?a=b",
        "http://127.0.0.1/#a",
        "http://example.com",
        "http://127.0.0.1.example.com",
        "http://10.0.0.1",
    ],
)
def test_an_address_is_checked(base: str, place: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        PlaneEngine(base, DIALECTS["plane"], place, token=TOKEN)


@pytest.mark.parametrize("token", ["", " ", "a\r\nb: c", "ä", "\0"])
def test_a_token_is_checked(token: str, place: Path) -> None:
    with pytest.raises(ValueError, match="a token of printable ASCII") as caught:
        PlaneEngine("https://example.com", DIALECTS["plane"], place, token=token)
    assert not token.strip() or token not in str(caught.value)


@pytest.mark.parametrize(
    "base",
    ["https://example.com/api/", "http://localhost:1", "http://[::1]:1", "http://127.9.9.9"],
)
def test_a_token_goes_over_tls_or_stays_here(base: str, place: Path) -> None:
    PlaneEngine(base, DIALECTS["plane"], place, token=TOKEN)
    PlaneEngine("http://example.com", DIALECTS["plane"], place)


def certificate(place: Path) -> Path:
    """Make a certificate for this host that nobody knows; return its file, with the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    begin = datetime.now(UTC) - timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = place / "certificate.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


async def test_a_certificate_has_to_be_known(place: Path) -> None:
    path = certificate(place)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(path)
    known = ssl.create_default_context(cafile=str(path))
    async with ScriptedCluster("jamsocket").running(ours) as cluster:
        for tls in (None, known):
            engine = PlaneEngine(
                cluster.base,
                DIALECTS["jamsocket"],
                place / "engine",
                token=TOKEN,
                tls=tls,
                limits=IMPATIENT,
            )
            await engine.open(1)
            if tls is None:
                with pytest.raises(EngineError, match="certificate verify failed"):
                    await engine.start(launch(), Told())
                assert cluster.received == []
            else:
                await cluster.say("ready")
                told = Told()
                await engine.start(launch(), told)
                await told.reached("ready")
            await engine.close()


# Many.


async def test_each_of_many_backends_has_its_stream(place: Path) -> None:
    count = 150  # aiohttp's own bound is 100 connections
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        all_told = [Told() for _ in range(count)]
        for number, told in enumerate(all_told):
            await engine.start(launch(backend_id=f"{number:032x}", key=str(number)), told)
        await cluster.until(count, "/stream")
        await live(cluster)
        for told in all_told:
            await told.reached("terminated")
        await engine.start(launch(), Told())
        assert len(engine._backends) == 1


# How long we wait.


def test_waits_grow_to_a_bound_and_begin_again() -> None:
    backoff = Backoff(ClusterLimits(first_wait=1, longest_wait=5, lost_time=60))
    for wait in (1, 2, 4, 5, 5):
        assert wait / 2 <= backoff.next() <= wait
    backoff.reset()
    assert backoff.next(Unreachable("x")) <= 1
    assert backoff.next(Refused(429, "", 30.0)) == 30
    assert backoff.next(Refused(429, "", 1e300)) == 60
    assert backoff.next(Refused(429, "", 0.0)) <= 5


@pytest.mark.parametrize(
    ("after", "least", "most"),
    [
        ("7", 7, 7),
        ("9" * 400, float("inf"), float("inf")),
        (timedelta(hours=1), 3_000, 3_600),
        (timedelta(hours=-1), 0, 0),
        ("-7", 0, 0),
        ("soon", 0, 0),
        ("Wed, 99 Foo 2026 99:99:99 GMT", 0, 0),
    ],
    ids=["seconds", "endless", "in an hour", "an hour ago", "negative", "a word", "no date"],
)
async def test_when_to_come_again_is_read(
    after: str | timedelta, least: float, most: float, place: Path
) -> None:
    if isinstance(after, timedelta):
        after = format_datetime(datetime.now(UTC) + after, usegmt=True)
    async with (
        ScriptedCluster("jamsocket").running() as cluster,
        opened(cluster, place) as engine,
    ):
        cluster.connects.append(answer(400, Retry_After=after))
        with pytest.raises(Refused) as caught:
            await engine.start(launch(), Told())
        assert least <= caught.value.retry_after <= most


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="expected silence above 0"):
        ClusterLimits(silence=0)


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".example"])
async def test_a_host_that_can_be_none_is_not_reached(host: str) -> None:
    cluster = Cluster("http://127.0.0.1:1", token="t", tls=None, limits=ClusterLimits())
    try:
        with pytest.raises(Unreachable):
            await cluster.tell_backend(f"http://{host}/", b"{}")
    finally:
        await cluster.close()
