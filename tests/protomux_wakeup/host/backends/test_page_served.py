"""What the control API serves for browsers, and to whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from protomux_wakeup.host.backends.manager import Manager
from protomux_wakeup.host.backends.serving import serving
from tests.protomux_wakeup.host.backends.world import opened, request

TOKEN = "0123456789" * 4
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def manager(place: Path) -> AsyncIterator[Manager]:
    async with opened(place) as world:
        yield world.manager


@pytest.fixture
async def client(manager: Manager) -> AsyncIterator[aiohttp.ClientSession]:
    anywhere = ("127.0.0.1", 0)
    async with (
        serving(manager, anywhere, anywhere, token=TOKEN) as urls,
        aiohttp.ClientSession(urls.control) as session,
    ):
        yield session


async def test_the_shell_comes_with_401_without_the_token_and_holds_no_data(
    manager: Manager, client: aiohttp.ClientSession
) -> None:
    await manager.connect(request("a very secret key"))
    bodies = []
    for headers, status in (({}, 401), ({"Authorization": "Bearer x"}, 401), (BEARER, 200)):
        async with client.get("/", headers=headers) as answer:
            assert answer.status == status
            assert ("WWW-Authenticate" in answer.headers) == (status == 401)
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            bodies.append(await answer.text())
    assert len(set(bodies)) == 1
    assert "a very secret key" not in bodies[0]
    assert TOKEN not in bodies[0]


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/page/page.css", "/page/icon.svg"])
async def test_nothing_comes_from_elsewhere_and_nothing_is_kept_or_framed(
    client: aiohttp.ClientSession, path: str
) -> None:
    async with client.get(path, headers=BEARER) as answer:
        assert answer.status == 200
        policy = dict(
            rule.strip().split(" ", 1)
            for rule in answer.headers["Content-Security-Policy"].split(";")
        )
        headers = answer.headers
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert {value for name, value in policy.items() if name.endswith("-src")} == {
        "'none'",
        "'self'",
    }
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert policy[name] == "'none'"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Set-Cookie" not in headers
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/page.html", "/page/__init__.py", "/page/..%2fapi.py", "/page/%2e%2e/api.py"],
)
async def test_nothing_but_the_parts_of_the_page_is_served(
    client: aiohttp.ClientSession, path: str
) -> None:
    async with client.get(URL(path, encoded=True)) as answer:
        assert answer.status == 404
        assert answer.content_type == "application/json"


@pytest.mark.parametrize("path", ["/overview", "/backends", "/events", "/b/x/log"])
async def test_data_needs_the_token(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as answer:
        assert answer.status == 401
        told: dict[str, Any] = await answer.json()
        assert set(told) == {"id", "kind", "message"}
