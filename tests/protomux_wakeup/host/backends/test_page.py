"""The page in a real browser, before a real manager with real processes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from protomux_wakeup.host.backends.engine import Launch, News
from protomux_wakeup.host.backends.store import BackendStore
from protomux_wakeup.host.backends.types import (
    BackendStatus,
    ConnectRequest,
    Scheduled,
    Terminated,
)
from tests.protomux_wakeup.host.local import RemotePeer

from .chromium import Tab, chromium, missing, tab
from .page_stage import TOKEN, Stage, local, monitored, python, shell, staged, wakeup_service

CAPABILITY = b"\1" * 32
TOPIC = b"\2" * 32
HOSTILE = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>"
COMMANDS = {
    "default": shell("exec sleep 1000"),
    "told": python("import time; sys.stdin.readline(); ready(); time.sleep(1000)"),
    "stubborn": shell("trap '' TERM; echo it stays; while :; do sleep 1000; done"),
    "fails": shell("echo it cannot; exit 3"),
    "writes": shell(r"printf '\033[31mred\033[0m and %s\n' " + f'"{HOSTILE}"; exec sleep 1000'),
}
AXE = Path(__file__).parents[3] / "interop" / "node_modules" / "axe-core" / "axe.min.js"
shipped = pytest.mark.parametrize("stage", [monitored], indirect=True)
LIVE = "document.querySelector('#link')?.dataset.link === 'on'"
AREAS = "button, input, select"


@pytest.fixture(scope="module", autouse=True)
def _needed() -> None:
    _need(missing())


def _need(reason: str | None) -> None:
    """Skip the test where there is a reason to; with INTEROP=required it fails."""
    if reason is None:
        return
    if os.environ.get("INTEROP") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, _needed: None) -> Iterator[str]:
    with chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def stage(place: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    async with staged(place, COMMANDS, getattr(request, "param", local)) as stage:
        yield stage


@pytest.fixture
async def blank(browser: str) -> AsyncIterator[Tab]:
    """A page that is empty yet."""
    async with tab(browser) as page:
        yield page


@pytest.fixture
async def page(blank: Tab, stage: Stage) -> AsyncIterator[Tab]:
    """The page, open; the browser may have nothing to say of what it does."""
    await blank.goto(stage.link)
    await blank.until(LIVE)
    yield blank
    # A browser does not show the token when it opens a page, which is 401 then.
    shell = (f"{stage.url}/", stage.link)
    assert [each for each in blank.complaints if each.get("url") not in shell] == []


def badge(list: str, status: str) -> str:
    """Whether the first backend of a list is in that state."""
    return f"document.querySelector('#{list} .badge')?.textContent === '{status}'"


def says(selector: str, text: str) -> str:
    """Whether that is written in an element that is to be seen."""
    return (
        f"[...document.querySelectorAll({selector!r})].some((element) => "
        f"element.checkVisibility() && element.textContent.includes({text!r}))"
    )


def sees(selector: str) -> str:
    """Whether an element is there to be seen."""
    return f"document.querySelector({selector!r})?.checkVisibility() === true"


# The token


async def test_the_token_comes_in_the_link_and_does_not_stay_there(page: Tab, stage: Stage) -> None:
    assert await page.evaluate("location.href") == f"{stage.url}/"
    history = await page.call("Page.getNavigationHistory")
    assert not any(TOKEN in entry["url"] for entry in history["entries"])
    assert await page.evaluate("document.cookie") == ""
    assert await page.evaluate("localStorage.length") == 0
    assert TOKEN not in await page.evaluate("document.documentElement.outerHTML")
    await page.call("Page.reload")
    await page.until(LIVE)


async def test_without_the_token_it_asks_for_it_and_shows_nothing(blank: Tab, stage: Stage) -> None:
    await stage.start("a secret")
    await blank.goto(stage.url)
    await blank.until(sees("#unlock"))
    assert not await blank.evaluate(sees("#content"))
    assert await blank.evaluate("document.activeElement.id") == "token"
    await blank.write("#token", "not the token of it")
    await blank.press("Enter")
    await blank.until(says("#why", "not taken"))
    assert "a secret" not in await blank.evaluate("document.documentElement.textContent")
    await blank.write("#token", TOKEN)
    await blank.press("Enter")
    await blank.until(says("#running .key", "a secret"))
    assert not await blank.evaluate(sees("#gate"))


@pytest.mark.parametrize("given", ["ü" * 20, "with a blank in the middle"])
async def test_what_can_be_no_token_is_asked_for_again(
    blank: Tab, stage: Stage, given: str
) -> None:
    await blank.goto(stage.url)
    await blank.write("#token", given)
    await blank.press("Enter")
    await blank.until(says("#why", "not taken"))


async def test_a_link_that_is_followed_in_an_open_tab_is_taken(blank: Tab, stage: Stage) -> None:
    await blank.goto(stage.url)
    await blank.until(sees("#unlock"))
    await blank.goto(stage.link)
    await blank.until(LIVE)
    assert await blank.evaluate("location.hash") == ""


async def test_locked_it_forgets_the_token_and_all_that_was_shown(page: Tab, stage: Stage) -> None:
    await stage.start("a secret")
    await page.until(says("#running .key", "a secret"))
    await page.click("#lock")
    await page.until(sees("#unlock"))
    assert await page.evaluate("sessionStorage.length") == 0
    assert not await page.evaluate("!!document.querySelector('.backend')")
    await page.call("Page.reload")
    await page.until(sees("#unlock"))


async def test_nothing_is_asked_of_anybody_else_and_the_token_goes_to_the_api_alone(
    page: Tab, stage: Stage
) -> None:
    await stage.start("notes")
    await page.until(badge("running", "ready"))
    await page.click(".show-log")
    await page.until(says("#log-note", "nothing"))
    assert len(page.requests) > 8
    for request in page.requests:
        assert request["url"].startswith(f"{stage.url}/")
        assert TOKEN not in request["url"]
        assert "Cookie" not in request["headers"]
        is_data = request["url"].removeprefix(stage.url).startswith(("/overview", "/b/", "/v2/"))
        assert ("Authorization" in request["headers"]) == is_data


# Backends


@shipped
async def test_states_move_while_one_looks_on(page: Tab, stage: Stage) -> None:
    await page.evaluate("window.isTheSame = true")
    await page.until(says("#running-empty", "Nothing is running"))
    await page.until(says("#ended-empty", "None has ended"))
    id = await stage.start("notes", "told")
    await page.until(badge("running", "waiting"))
    assert await page.text("#count-running") == "1"
    assert await page.text("#count-ready") == "0"
    assert not await page.evaluate(sees("#running-empty"))
    stage.manager.deliver(id, [News(TOPIC, TOPIC, 1)])
    await page.until(badge("running", "ready"))
    assert await page.text("#count-ready") == "1"
    await page.until(says("#spoken", "notes: ready"))
    steps = await page.evaluate("[...document.querySelectorAll('.steps li')].map(s => s.innerText)")
    assert [step.split()[0] for step in steps] == ["scheduled", "starting", "waiting", "ready"]
    bar = "document.querySelector('.track [data-status=ready]')"
    width = await page.evaluate(f"{bar}.getBoundingClientRect().width")
    await page.until(f"{bar}.getBoundingClientRect().width > {width}")
    await page.click("#running .end")
    await page.until(sees("#ending"))
    assert "notes" in await page.text("#ending-title")
    await page.click("#ending-soft")
    await page.until(badge("ended", "terminated"))
    assert "by request" in await page.text("#ended .outcome")
    assert await page.text("#count-running") == "0"
    assert await page.text("#count-ended") == "1"
    assert not await page.evaluate(sees("#ended .end"))
    assert stage.manager.backend(id).state.status == BackendStatus.TERMINATED
    assert await page.evaluate("window.isTheSame")


@shipped
async def test_what_does_not_end_when_it_is_asked_is_ended_by_force(
    page: Tab, stage: Stage
) -> None:
    await stage.start("notes", "stubborn")
    await page.until(badge("running", "ready"))
    await page.click(".show-log")
    await page.until(says("#log-text", "it stays"))
    await page.press("Escape")
    await page.click("#running .end")
    await page.click("#ending-soft")
    await page.until(badge("running", "terminating"))
    await page.click("#running .end")
    await page.until(sees("#ending-hard"))
    assert not await page.evaluate(sees("#ending-soft"))
    await page.click("#ending-hard")
    await page.until(badge("ended", "terminated"))
    assert await page.text("#ended .outcome") == "somebody wanted it ended, by force"


async def test_nothing_ends_without_being_asked_twice(page: Tab, stage: Stage) -> None:
    id = await stage.start("notes")
    await page.until(badge("running", "ready"))
    await page.click("#running .end")
    await page.click("#ending-cancel")
    await page.until("!document.querySelector('#ending').open")
    await page.click("#running .end")
    await page.until(sees("#ending"))
    await page.press("Enter")  # the focus is on what does no harm
    await page.until("!document.querySelector('#ending').open")
    assert not any(request["method"] == "POST" for request in page.requests)
    assert stage.manager.backend(id).state.status == BackendStatus.READY


async def test_the_question_goes_away_when_there_is_nothing_to_end(page: Tab, stage: Stage) -> None:
    id = await stage.start("notes")
    await page.until(badge("running", "ready"))
    await page.click("#running .end")
    await page.until(sees("#ending"))
    stage.manager.terminate(id, hard=True)
    await page.until("!document.querySelector('#ending').open")


async def test_what_cannot_be_done_is_said(page: Tab, stage: Stage) -> None:
    await stage.start("notes")
    await page.until(badge("running", "ready"))
    await page.hold("*/terminate")
    await page.click("#running .end")
    await page.click("#ending-soft")
    await page.call("Fetch.failRequest", requestId=await page.paused.get(), errorReason="Failed")
    await page.until(says("#failure", "“notes” was not ended"))
    await page.click("#dismiss")
    await page.until("!" + sees("#failure"))
    page.complaints.clear()


@shipped
async def test_who_failed_says_why_in_the_log(page: Tab, stage: Stage) -> None:
    await stage.start("notes", "fails")
    await page.until(badge("ended", "terminated"))
    assert await page.text("#ended .outcome") == "it ended by itself, with an error"
    await page.click("#ended .show-log")
    await page.until(says("#log-text", "it cannot"))
    await page.click("#log-close")
    await page.until("!document.querySelector('#log').open")


@shipped
async def test_text_stays_text(page: Tab, stage: Stage) -> None:
    await stage.start(HOSTILE, "writes")
    await page.until(badge("running", "ready"))
    assert await page.text("#running .key") == HOSTILE
    await page.click(".show-log")
    await page.until(says("#log-text", "red and"))
    assert await page.text("#log-text") == f"red and {HOSTILE}\n"
    await page.press("Escape")
    await page.click("#running .end")
    assert HOSTILE in await page.text("#ending-title")
    await page.press("Escape")
    assert await page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert await page.evaluate("window.hacked") is None
    # Nor could a part of the page make markup of it.
    forbidden = "try { document.body.innerHTML = '<b>'; false } catch (error) { true }"
    assert await page.evaluate(forbidden)
    page.complaints.clear()


async def test_the_clock_of_a_phone_may_be_wrong(blank: Tab, stage: Stage) -> None:
    late = "const right = Date.now; Date.now = () => right() - 3_600_000;"
    await blank.call("Page.addScriptToEvaluateOnNewDocument", source=late)
    await stage.start("notes")
    await blank.goto(stage.link)
    await blank.until(badge("running", "ready"))
    shown = "parseFloat(document.querySelector('.track [data-status=ready]').style.width)"
    await blank.until(f"{shown} > 0")
    assert "min" not in await blank.text("#running .since")


@pytest.fixture
async def crowd(place: Path) -> AsyncIterator[Stage]:
    """Forty-five backends that ended long ago."""
    store = BackendStore(place / "backends.db")
    for number in range(45):
        launch = Launch(
            backend_id=f"{number:f>32}",
            key=f"key {number}",
            fencing_token=number + 1,
            term=1,
            request=ConnectRequest(),
        )
        time = f"2026-01-01T00:00:{number:02d}.000Z"
        store.add_backend(launch, "even" if number % 2 == 0 else "odd", 0.0, Scheduled(time=time))
        store.move(launch.backend_id, Terminated(time=time))
    store.close()
    async with staged(place, COMMANDS, local) as stage:
        yield stage


async def test_of_many_the_newest_are_shown_and_the_others_are_found(
    blank: Tab, crowd: Stage
) -> None:
    await blank.goto(crowd.link)
    keys = "[...document.querySelectorAll('#ended .key')].map((key) => key.textContent)"
    await blank.until(f"{keys}.length === 20")
    assert await blank.evaluate(keys) == [f"key {44 - number}" for number in range(20)]
    assert await blank.text("#count-ended") == "45"
    await blank.click("#more")
    await blank.until(f"{keys}.length === 40")
    assert await blank.text("#more") == "Show 5 more of 5"
    await blank.click("#more")
    await blank.until(f"{keys}.length === 45")
    assert not await blank.evaluate(sees("#more"))
    await blank.write("#find", "KEY 1 EVEN")
    await blank.until(f"{keys}.join() === 'key 18,key 16,key 14,key 12,key 10'")
    await blank.write("#find", " nobody")
    await blank.until(says("#ended-empty", "None matches"))


async def test_what_was_before_the_time_shown_is_said_to_be_earlier(
    blank: Tab, crowd: Stage
) -> None:
    await blank.goto(crowd.link)
    await blank.until(f"{LIVE} && document.querySelectorAll('#ended .row').length")
    await blank.until("document.querySelectorAll('#axis span').length > 1")
    earlier = "document.querySelectorAll('.track.before').length"
    assert await blank.evaluate(earlier) == 0
    await blank.evaluate(
        """(() => {
          const range = document.querySelector("#range");
          range.value = "60";
          range.dispatchEvent(new Event("change"));
        })()"""
    )
    await blank.until(f"{earlier} === 20")


# The service


async def test_topics_peers_and_hints_are_shown_as_they_come(blank: Tab, place: Path) -> None:
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(wakeup_service(place))
        stage = await stack.enter_async_context(staged(place, COMMANDS, local, service.status))
        peer = RemotePeer(CAPABILITY)
        stack.push_async_callback(peer.close)
        await blank.goto(stage.link)
        await blank.until(says("#topics-empty", "No topics"))
        assert await blank.evaluate(sees("#peers-empty"))
        topic = await service.watch(CAPABILITY, watcher="gui")
        await blank.until(says("#topics .hex", topic.hex()))
        assert await blank.text("#topics .watchers") == "1"
        address = await peer.listen()
        await service.connect(address)
        await blank.until(says("#peers .where", address))
        await blank.until(says("#links .where", "connected"))
        await blank.until(says("#count-peers", "1"))
        await peer.asked.get()
        peer.announce((TOPIC, 1), (CAPABILITY, 2))
        await blank.until(says("#topics .hints", "2"))
        assert await blank.text("#count-hints") == "2"
        await service.announce(CAPABILITY, [(TOPIC, 3)])
        await blank.until(says("#topics .announced", "1"))
        await peer.close()
        await blank.until(sees("#peers-empty"))
        await blank.until(says("#links .where", "not connected"))
        await service.leave()
        await blank.until(says("#service-empty", "does not answer"))
        assert not await blank.evaluate(sees("#topics"))
        assert await blank.text("#count-hints") == "\N{EN DASH}"


async def test_no_service_is_said_to_be_none(page: Tab) -> None:
    await page.until(says("#service-empty", "No wakeup service"))


# What is between the page and the manager


async def test_until_something_is_known_it_is_loading(blank: Tab, stage: Stage) -> None:
    await blank.hold("*/overview")
    await blank.goto(stage.link)
    await blank.until(says("#link", "Connecting"))
    assert await blank.evaluate(sees("#loading"))
    assert await blank.evaluate("document.querySelector('#backends').ariaBusy") == "true"
    await blank.paused.get()
    await blank.let_go()
    await blank.until(sees("#lists"))
    assert not await blank.evaluate(sees("#loading"))
    assert await blank.evaluate("document.querySelector('#backends').ariaBusy") == "false"


@shipped
async def test_it_goes_on_with_the_next_manager(blank: Tab, stage: Stage) -> None:
    ids = [await stage.start(key) for key in ("stays", "ends")]
    await blank.goto(stage.link)
    await blank.until(
        "document.querySelectorAll('#running [data-status=ready].badge').length === 2"
    )
    await stage.leave()
    await blank.until(says("#lost", "Disconnected since"))
    assert await blank.text("#link") == "Disconnected"
    assert await blank.evaluate("document.querySelectorAll('#running .backend').length") == 2
    await stage.open()
    stage.manager.terminate(ids[1], hard=True)
    async with asyncio.timeout(60):
        async for _ in stage.manager.follow(ids[1]):
            pass
    await blank.evaluate("document.querySelector('#retry').click()")
    await blank.until(LIVE)
    await blank.until(says("#ended .key", "ends"))
    await blank.until(says("#running .key", "stays"))
    assert not await blank.evaluate(sees("#lost"))
    # It did not ask for what it knew.
    again = [request for request in blank.requests if request["url"].endswith("/overview")]
    assert "Last-Event-ID" not in again[0]["headers"]
    assert int(again[-1]["headers"]["Last-Event-ID"]) >= 8


async def test_a_manager_that_is_not_there_is_said_not_to_answer(blank: Tab, stage: Stage) -> None:
    await blank.goto(stage.link)
    await blank.until(LIVE)
    await stage.leave()
    await blank.until(sees("#lost"))
    await blank.evaluate("document.querySelector('#lock').click()")
    await blank.until(sees("#unlock"))
    assert not await blank.evaluate(sees("#lost"))
    await blank.write("#token", TOKEN)
    await blank.press("Enter")
    await blank.until(says("#lost", "does not answer"))
    await stage.open()
    await blank.until(LIVE)  # by itself


async def test_a_token_that_is_good_no_more_is_asked_for_again(blank: Tab, stage: Stage) -> None:
    await stage.start("a secret")
    await blank.goto(stage.link)
    await blank.until(says("#running .key", "a secret"))
    await stage.leave()
    stage.token = TOKEN[::-1]
    await stage.open()
    await blank.until(says("#why", "not taken"))
    assert await blank.evaluate("sessionStorage.length") == 0
    assert "a secret" not in await blank.evaluate("document.querySelector('main').textContent")


async def test_events_may_come_in_any_parts(page: Tab) -> None:
    whole = ": alive\r\nid: 1\ndata: a\r\ndata:b\n\nevent: x\rdata: ü\rid: 2\r\rdata\n\nid: 3\n\n"
    expected = [["1", "a\nb"], ["2", "ü"], ["2", ""]]
    found = await page.evaluate(
        f"""import("/page/api.js").then(({{ Parser }}) => {{
          const whole = {json.dumps(whole)};
          const ways = [];
          for (let first = 0; first <= whole.length; first += 1) {{
            for (let last = first; last <= whole.length; last += 1) {{
              const parser = new Parser();
              const parts = [whole.slice(0, first), whole.slice(first, last), whole.slice(last)];
              const events = parts.flatMap((part) => [...parser.feed(part)]);
              ways.push(JSON.stringify(events.map(({{ id, data }}) => [id, data])));
            }}
          }}
          return [...new Set(ways)];
        }})"""
    )
    assert [json.loads(way) for way in found] == [expected]
    endless = "[...new Parser().feed('x'.repeat(2 ** 21))]"
    with pytest.raises(AssertionError, match="too long"):
        await page.evaluate(f"import('/page/api.js').then(({{ Parser }}) => {endless})")


# For everybody


async def crowded(page: Tab, stage: Stage) -> None:
    """Fill the page with all that it can show."""
    await stage.start("k" * 256, "default")
    await stage.start("terminates", "stubborn")
    await stage.start("waits", "told")
    await stage.start("fails", "fails")
    await page.until("document.querySelectorAll('#running .badge').length === 3")
    id = await stage.start("terminates", "stubborn")
    async with asyncio.timeout(60):
        await stage.manager.wait_ready(id)
    stage.manager.terminate(id)
    await page.until(says(".badge", "terminating"))
    await page.until(badge("ended", "terminated"))


async def test_a_small_phone_shows_all_of_it(page: Tab, stage: Stage) -> None:
    await page.look(width=320, height=640)
    await crowded(page, stage)
    await page.evaluate("for (const n of document.querySelectorAll('.notice')) n.hidden = false")
    for opener, closer in ((None, None), (".show-log", "#log-close"), (".end", "#ending-cancel")):
        if opener:
            await page.click(opener)
            await page.until(sees(closer or ""))
        assert await page.evaluate("document.documentElement.scrollWidth") == 320
        small = await page.evaluate(
            f"""[...document.querySelectorAll({AREAS!r})]
              .filter((element) => element.checkVisibility())
              .map((element) => [element.id, element.getBoundingClientRect()])
              .filter(([, box]) => box.width < 40 || box.height < 40 || box.right > 320)"""
        )
        assert small == []
        if closer:
            await page.click(closer)
    await page.click("#lock")
    assert await page.evaluate("document.documentElement.scrollWidth") == 320


async def test_the_keyboard_is_enough(page: Tab, stage: Stage) -> None:
    await stage.start("notes")
    await page.until(badge("running", "ready"))
    reached = []
    while "end" not in reached:
        await page.press("Tab")
        reached.append(
            await page.evaluate("document.activeElement.id || document.activeElement.className")
        )
        assert len(reached) < 12
    assert reached == ["skip", "lock", "find", "range", "show-log", "end"]
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert await page.evaluate(outline) == "solid"
    await page.press("Enter")
    await page.until(sees("#ending"))
    assert await page.evaluate("document.activeElement.id") == "ending-cancel"
    await page.press("Escape")
    await page.until("!document.querySelector('#ending').open")
    assert await page.evaluate("document.activeElement.className") == "end"
    await page.press("Enter")
    for _ in range(2):
        await page.press("Tab")
    assert await page.evaluate("document.activeElement.id") == "ending-hard"
    await page.press("Enter")
    await page.until(badge("ended", "terminated"))
    # Who ended it is not sent back to where the page begins.
    assert await page.evaluate("document.activeElement.className") == "show-log"


@pytest.mark.parametrize("dark", [False, True])
async def test_a_checker_of_accessibility_finds_nothing(
    page: Tab, stage: Stage, dark: bool
) -> None:
    _need(None if AXE.exists() else "tests/interop/node_modules is missing: run `npm ci` there")
    await page.look(width=1280, height=900, dark=dark)
    await page.evaluate(AXE.read_text())
    await crowded(page, stage)
    await page.evaluate("for (const n of document.querySelectorAll('.notice')) n.hidden = false")
    assert await faults(page) == []
    await page.click("#running .end")
    await page.until(sees("#ending"))
    assert await faults(page) == []
    await page.press("Escape")
    await page.click("#ended .show-log")
    await page.until(says("#log-text", "it cannot"))
    assert await faults(page) == []
    await page.press("Escape")
    await page.click("#lock")
    assert await faults(page) == []


async def faults(page: Tab) -> list[Any]:
    found: list[Any] = await page.evaluate(
        """axe.run().then(({ violations }) => violations.map(
          ({ id, nodes }) => [id, ...nodes.map((node) => [node.html, node.failureSummary])]))"""
    )
    return found
