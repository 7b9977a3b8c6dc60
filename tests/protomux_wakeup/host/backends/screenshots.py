"""Pictures of the page: `python -m tests.protomux_wakeup.host.backends.screenshots DIRECTORY`.

Half a minute: what is to be seen are real processes and real peers.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from tests.protomux_wakeup.host.local import RemotePeer

from .chromium import Tab, chromium, tab
from .page_stage import Stage, monitored, python, shell, staged, wakeup_service

LOG = """for i in range(1, 41):
    print(f"indexed {i * 25} blocks of 1000", flush=True)
"""
COMMANDS = {
    "replica": python("import time; time.sleep(0.6); ready(); time.sleep(1000)"),
    "indexer": python(f"import time; time.sleep(1.4)\n{LOG}\nready(); time.sleep(1000)"),
    "mailer": python("import time; time.sleep(0.3); ready(); time.sleep(5)"),
    "import": shell("echo cannot read the archive; sleep 2; exit 1"),
    "stubborn": shell("trap '' TERM; while :; do sleep 1; done"),
    "slow": python("import time; time.sleep(1000)"),
}


def capability(number: int) -> bytes:
    return bytes([number * 37]) * 32


async def play(stage: Stage) -> dict[str, str]:
    """Start and end backends for half a minute; return their ids."""
    ids = {}

    async def start(key: str, tag: str, then: float) -> None:
        ids[key] = await stage.start(key, tag)
        await asyncio.sleep(then)

    await start("photos of the summer", "replica", 1)
    await start("search index", "indexer", 2)
    await start("thumbnails", "stubborn", 2)
    await start("news for alice", "mailer", 2)
    await start("archive of 2019", "import", 2)
    stage.manager.terminate(ids["thumbnails"])
    await start("shared notes", "replica", 3)
    stage.manager.terminate(ids["thumbnails"], hard=True)
    await start("music", "replica", 4)
    stage.manager.terminate(ids["music"])
    await start("letters", "stubborn", 4)
    stage.manager.terminate(ids["letters"])
    await start("maps", "slow", 3)
    return ids


async def take(directory: Path) -> None:
    """Write the pictures into `directory`."""
    place = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        address = stack.enter_context(chromium(place / "chromium"))
        service = await stack.enter_async_context(wakeup_service(place))
        for number in (1, 2, 3):
            peer = RemotePeer(capability(number))
            stack.push_async_callback(peer.close)
            await service.watch(capability(number), watcher=f"watcher {number}")
            await service.announce(capability(number), [(bytes([number]) * 32, 7)])
            await service.connect(await peer.listen())
            await peer.asked.get()
            peer.announce(*((bytes([each]) * 32, each) for each in range(1, number * 4)))
        await service.listen("127.0.0.1:0")
        stage = await stack.enter_async_context(staged(place, COMMANDS, monitored, service.status))
        page = await stack.enter_async_context(tab(address))
        await page.look(width=1280, height=1180)
        await page.goto(stage.link)
        ids = await play(stage)
        await page.until("document.querySelectorAll('.backend').length === 9")
        await save(page, directory / "page-light.png", width=1280, height=1980)
        await save(page, directory / "page-dark.png", width=1280, height=1980, dark=True)
        await page.look(width=390, height=844)
        await page.evaluate("document.querySelector('#backends').scrollIntoView()")
        await save(page, directory / "page-phone.png", width=390, height=844)
        await page.click(f"[data-backend='{ids['search index']}'] .show-log")
        await page.until("document.querySelector('#log-text').textContent")
        await save(page, directory / "page-log.png", width=390, height=844, dark=True)


async def save(page: Tab, file: Path, *, width: int, height: int, dark: bool = False) -> None:
    """Take one picture, of a screen of that size."""
    await page.look(width=width, height=height, dark=dark, scale=1.5)
    # Two frames later it is drawn so, and the bars have moved on.
    await page.evaluate("new Promise((done) => setTimeout(done, 1100))")
    file.write_bytes(await page.picture())  # noqa: ASYNC240 - nobody waits for us


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1])))
