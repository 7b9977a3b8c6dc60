"""Drives a headless Chromium, by its DevTools protocol. Knows no page of ours.

Nothing here waits by the clock: `Tab.until` looks each time that the document changes.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Thread
from typing import IO, Any, Final

import aiohttp

__all__ = ["Tab", "chromium", "missing", "tab"]

_START_TIME: Final = 60.0
"""Seconds in which Chromium has to be there, on a machine that is busy."""

_WAIT: Final = 30.0
"""Seconds in which it has to answer, and the page to come to what is waited for."""

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--lang=en-GB",
    "--remote-debugging-port=0",
)

_UNTIL: Final = """new Promise((resolve) => {
  let observer = null;
  const look = () => {
    const found = (() => (%s))();
    if (!found) return;
    observer?.disconnect();
    resolve(found);
  };
  observer = new MutationObserver(look);
  observer.observe(document, {
    subtree: true, childList: true, attributes: true, characterData: true,
  });
  look();
})"""


def _program() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def missing() -> str | None:
    """Return what is not here, None if all is."""
    return None if _program() else "no chromium on the PATH"


@contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """Run a Chromium with an empty `profile`; yield the address of its DevTools."""
    program = _program()
    assert program is not None
    with subprocess.Popen(
        [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TZ": "UTC", "LANG": "en_GB.UTF-8", "LANGUAGE": "en_GB"},
        text=True,
    ) as process:
        assert process.stderr is not None
        address: Future[str] = Future()
        # What it writes is read to the end, or it would block.
        reader = Thread(target=_read, args=(process.stderr, address))
        reader.start()
        try:
            yield address.result(_START_TIME)
        finally:
            process.terminate()
            process.wait()
            reader.join()


def _read(lines: IO[str], address: Future[str]) -> None:
    written = []
    for line in lines:
        written.append(line)
        _, is_it, found = line.strip().partition("DevTools listening on ")
        if is_it:
            address.set_result(found)
    if not address.done():
        address.set_exception(RuntimeError(f"Chromium did not start: {''.join(written)}"))


class Tab:
    """One page in a browser context of its own: nobody's cookies, nobody's storage.

    Attributes:
        requests: what the page has asked for, as "Network.requestWillBeSent" has it, in order.
        complaints: what the browser has said of the page on its console: errors, and what a policy
            has forbidden.
        paused: requests that are held, where `hold` was called.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self.requests: list[dict[str, Any]] = []
        self.complaints: list[dict[str, Any]] = []
        self.paused: asyncio.Queue[str] = asyncio.Queue()
        self._events: dict[str, Callable[[dict[str, Any]], object]] = {
            "Network.requestWillBeSent": self._sent,
            "Runtime.exceptionThrown": lambda event: self._complain(event["exceptionDetails"]),
            "Log.entryAdded": lambda event: self._complain(event["entry"]),
            "Fetch.requestPaused": lambda event: self.paused.put_nowait(event["requestId"]),
        }

    def _sent(self, event: dict[str, Any]) -> None:
        self.requests.append(event["request"])

    def _complain(self, what: dict[str, Any]) -> None:
        self.complaints.append(what)

    async def _receive(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                waiting = self._open.pop(told["id"])
                if not waiting.done():
                    waiting.set_result(told)
            elif told.get("sessionId") == self._session and told["method"] in self._events:
                self._events[told["method"]](told["params"])
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError("Chromium has gone"))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._numbers)
        self._open[number] = asyncio.get_running_loop().create_future()
        asked = {"id": number, "method": method, "params": params}
        if self._session is not None:
            asked["sessionId"] = self._session
        waiting = self._open[number]
        await self._socket.send_json(asked)
        try:
            async with asyncio.timeout(_WAIT):
                told = await waiting
        except TimeoutError:
            raise AssertionError(f"{method} takes too long: {params}") from None
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        result: dict[str, Any] = told["result"]
        return result

    async def begin(self) -> None:
        """Make the page, empty."""
        # It goes with the connection, and the page with it.
        made = await self.call("Target.createBrowserContext", disposeOnDetach=True)
        context = made["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")

    async def goto(self, url: str) -> None:
        """Open `url`."""
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """Return what `expression` is in the page, or what its promise becomes."""
        told = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in told:
            raise AssertionError(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until `expression` is truthy in the page; return it.

        A page that is left meanwhile counts as one that has changed.
        """
        while True:
            try:
                return await self.evaluate(_UNTIL % expression)
            except RuntimeError as error:
                if "navigated" not in str(error) and "destroyed" not in str(error):
                    raise

    async def text(self, selector: str) -> str:
        """Return what is written in the first element of `selector`."""
        text: str = await self.evaluate(f"document.querySelector({selector!r}).innerText")
        return text

    async def click(self, selector: str) -> None:
        """Click with the mouse in the middle of an element; whatever lies above gets it."""
        await self.until(f"document.querySelector({selector!r})?.checkVisibility()")
        place = await self.evaluate(
            f"""(() => {{
              const element = document.querySelector({selector!r});
              element.scrollIntoView({{ block: "center", behavior: "instant" }});
              const box = element.getBoundingClientRect();
              return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place[0],
                y=place[1],
                button="left",
                clickCount=1,
            )

    async def write(self, selector: str, text: str) -> None:
        """Write `text` into a field that is empty."""
        await self.click(selector)
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press a key: "Tab", "Enter", "Escape"."""
        code, text = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, "")}[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def look(
        self, *, width: int, height: int, dark: bool = False, scale: float = 1.0
    ) -> None:
        """Be a screen of that size, in CSS pixels, that is light or dark."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ],
        )

    async def hold(self, pattern: str) -> None:
        """Hold requests of URLs like `pattern` back, until `let_go`."""
        await self.call("Fetch.enable", patterns=[{"urlPattern": pattern}])

    async def let_go(self) -> None:
        """Hold nothing back any more."""
        await self.call("Fetch.disable")

    async def picture(self) -> bytes:
        """Return what is on the screen, as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


@asynccontextmanager
async def tab(address: str) -> AsyncIterator[Tab]:
    """Yield a page of the Chromium at `address`."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(address, max_msg_size=0) as socket,
    ):
        page = Tab(socket)
        receiving = asyncio.create_task(page._receive())
        try:
            await page.begin()
            yield page
        finally:
            await socket.close()
            await receiving
