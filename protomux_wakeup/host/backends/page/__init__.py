"""The page at the root of the control API, for browsers. Knows no backend and no token.

What is served here are files that hold no data: the shell, which asks for the token, and what it
loads. A browser does not show a token when it opens a page, so the shell comes with the answer 401
as well. All data is fetched by the page, with the token, from the API.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import PurePath
from typing import Final

from aiohttp import hdrs, web

__all__ = ["add_page"]

_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Nothing from elsewhere, nothing to elsewhere, in nobody's frame; no text becomes markup."""


def add_page(
    application: web.Application, is_authorized: Callable[[web.BaseRequest], bool]
) -> None:
    """Serve the page at the root of `application`, and what it loads under /page/.

    Without the token the root is 401, with the same body.
    """
    served = {
        file.name: (file.read_bytes(), _TYPES[PurePath(file.name).suffix])
        for file in files(__name__).iterdir()
        if PurePath(file.name).suffix in _TYPES
    }
    shell = served.pop("page.html")

    async def root(request: web.Request) -> web.Response:
        if is_authorized(request):
            return _answer(*shell)
        answer = _answer(*shell, status=401)
        answer.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
        return answer

    async def part(request: web.Request) -> web.Response:
        found = served.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        return _answer(*found)

    application.router.add_get("/", root)
    application.router.add_get("/page/{name}", part)


def _answer(body: bytes, kind: str, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=body, content_type=kind, charset="utf-8", headers=_HEADERS
    )
