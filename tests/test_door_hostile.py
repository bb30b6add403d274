"""The door against who means harm, and against browsers that do not keep what they are given."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import aiohttp
import pytest

from helpers_door import HTML, SAFARI, WECHAT, Browser, configure, wechat_serving
from redis_servers import free_port, wait_until
from scanengine.model import SegmentState
from scanengine.program.publishing import SceneChange
from scanengine.server.limits import WINDOW_S
from serving import BOTH, Market, Reply, Served, a_copy, a_market, in_threads, run_cli, serving
from wechat_stand_in import WechatStandIn

BUDGET = 20
FAILED = "login did not work"
_numbers = itertools.count(1)


class Person(Browser):
    """Somebody whom nobody else is: a browser behind the proxy, from an address and with a WeChat of its own."""

    def __init__(self, home: str, agent: str = WECHAT, source: str | None = None) -> None:
        number = next(_numbers)
        super().__init__(home, agent, f"openid-{number}")
        self.source = source or f"2001:db8:0:{number:x}::1"

    def ask(self, method: str, url: str, body: bytes | None = None, **headers: str) -> Reply:
        return super().ask(method, url, body, **({"X_Forwarded_For": self.source} | headers))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("template") / "shop")


@pytest.fixture(scope="module")
def market(template: Market, tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_copy(template, tmp_path_factory.mktemp("hostile") / "shop")


@pytest.fixture(scope="module")
def the_stand_in() -> Iterator[WechatStandIn]:
    with WechatStandIn() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def server(market: Market, the_stand_in: WechatStandIn) -> Iterator[Served]:
    """A server behind a proxy, so that a test can come from anywhere."""
    path = market.folder / "scanengine.toml"
    limits = f'bad_codes_per_minute = {BUDGET}\ntrusted_proxies = ["127.0.0.1"]\n'
    path.write_text(path.read_text().replace("[server]\n", f"[server]\n{limits}"))
    with wechat_serving(market, the_stand_in, concurrency=8) as served:
        yield served


@pytest.fixture
def stand_in(the_stand_in: WechatStandIn) -> Iterator[WechatStandIn]:
    """The stand-in in good health, without calls."""
    the_stand_in.calls.clear()
    yield the_stand_in
    the_stand_in.latency_s = 0.0
    the_stand_in.release()


@pytest.fixture
def browser(server: Served) -> Person:
    return Person(f"http://127.0.0.1:{server.port}")


def is_logged_in(browser: Person) -> bool:
    return any(name.endswith("scan_session") for name in browser.cookies)


# Sessions that do not hold ------------------------------------------------------------------------------------------


def test_a_browser_that_keeps_no_session_does_not_go_round(
    market: Market, browser: Person, stand_in: WechatStandIn
) -> None:
    """Goal: a login that went well and yet did not hold ends at the page, which offers to try again by hand."""

    class Forgetful(Person):
        def _take(self, lines: list[str]) -> None:
            super()._take([line for line in lines if "scan_session" not in line])

    code = market.take("cash")
    forgetful = Forgetful(browser.home)
    for times in (1, 2):
        page = forgetful.open(f"/s/{code}")
        assert page.status == 200
        assert [urlsplit(url).path for url in forgetful.trail].count("/wechat/callback") == 1
        assert FAILED in page.body.decode()
        assert f'href="/s/{code}"' in page.body.decode()
        assert len(stand_in.calls) == times
        # The page that was reached can be loaded again without end.
        assert forgetful.get(forgetful.trail[-1]).status == 200


def test_a_session_that_is_none_does_not_hide_the_one_that_is(
    market: Market, browser: Person, stand_in: WechatStandIn
) -> None:
    browser.open(f"/s/{market.take('cash')}")
    ours = f"scan_session={browser.cookies.pop('scan_session')}"
    code = market.take("cash")
    for cookies in (f"scan_session=junk; {ours}", f"{ours}; scan_session=junk", f"x=; {ours};scan_session="):
        assert browser.get(f"/s/{code}", Cookie=cookies).status == 200
    assert len(stand_in.calls) == 1


def test_an_address_that_was_passed_on_logs_in_whoever_opens_it(
    market: Market, browser: Person, stand_in: WechatStandIn
) -> None:
    """Goal: the end of one person's login in an address is no failure of the next person's."""
    browser.open(f"/s/{market.take('cash')}")
    other = Person(browser.home)
    page = other.open(browser.trail[-1])
    assert (page.status, is_logged_in(other), FAILED in page.body.decode()) == (200, True, False)


@pytest.mark.parametrize("word", ["failed", "slow", "done"])
def test_who_is_logged_in_is_not_told_of_failure(market: Market, browser: Person, word: str) -> None:
    code = market.take("cash")
    browser.open(f"/s/{code}")
    page = browser.get(f"/s/{code}?login={word}").body.decode()
    assert page == browser.get(f"/s/{code}").body.decode()
    assert "<form" in page


# Codes of WeChat that are made up -----------------------------------------------------------------------------------


@contextmanager
def a_flood(home: str, callbacks: list[tuple[str, str]], source: str) -> Iterator[list[int]]:
    """Send callbacks, each (address, visit), with ever new codes all the time; yields the statuses of the replies."""
    statuses: list[int] = []
    is_over = threading.Event()

    async def send() -> None:
        connector, jar = aiohttp.TCPConnector(limit=0), aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:

            async def one(number: int, back: str, visit: str) -> None:
                headers = {"User-Agent": WECHAT, "Accept": HTML, "Cookie": f"scan_visit={visit}"}
                headers["X-Forwarded-For"] = source
                while not is_over.is_set():
                    number += 1_000
                    url = re.sub("code=[^&]*", f"code=junk{number}", back)
                    async with session.get(url, headers=headers, allow_redirects=False) as reply:
                        statuses.append(reply.status)
                    if reply.status != 302:
                        await asyncio.sleep(0.1)  # The machine has other tests to run.

            await asyncio.gather(*(one(number, *callbacks[number % len(callbacks)]) for number in range(100)))

    thread = threading.Thread(target=lambda: asyncio.run(send()))
    thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        thread.join(60)


def begun(browser: Person, market: Market) -> tuple[str, str]:
    """Begin a login; return the address it ends at and its visit."""
    mine = Person(browser.home)
    return mine.begin(f"/s/{market.take('load')}"), mine.cookies["scan_visit"]


@pytest.mark.parametrize("visits", [1, 100])
def test_made_up_codes_of_one_source_keep_nobody_else_out(
    market: Market, browser: Person, stand_in: WechatStandIn, visits: int
) -> None:
    """Goal: junk fills neither the places of those who log in, nor WeChat's quota."""
    callbacks = [begun(browser, market) for _ in range(visits)]
    stand_in.latency_s = 0.4
    began_s = monotonic()
    with a_flood(browser.home, callbacks, browser.source) as statuses:
        wait_until(lambda: len(statuses) > 100, "the flood")
        for person in (Person(browser.home) for _ in range(4)):
            page = person.open(f"/s/{market.take('load')}")
            assert (page.status, is_logged_in(person)) == (200, True), person.trail
        wait_until(lambda: 429 in statuses, "the end of the budget")
    junk = sum(call["code"].startswith("junk") for call in stand_in.calls)
    # The budget, and what came back to it meanwhile.
    assert BUDGET <= junk <= 1 + BUDGET * (1 + (monotonic() - began_s) / WINDOW_S)


def test_one_visit_asks_wechat_for_two_codes_at_a_time(
    market: Market, browser: Person, stand_in: WechatStandIn
) -> None:
    back, visit = begun(browser, market)
    stand_in.hold()
    found: list[str] = []

    def work(number: int) -> None:
        mine = Person(browser.home)
        mine.cookies = {"scan_visit": visit}
        found.append(mine.get(re.sub("code=[^&]*", f"code=junk{number}", back)).headers["location"])
        if len(found) == 6:
            stand_in.release()

    in_threads(8, work)
    assert len(stand_in.calls) == 2
    assert [place.endswith("?login=slow") for place in found].count(True) == 6


def test_a_code_that_wechat_does_not_know_is_a_bad_code(market: Market, browser: Person) -> None:
    back, visit = begun(browser, market)
    browser.cookies = {"scan_visit": visit}
    for number in range(BUDGET):
        assert browser.get(re.sub("code=[^&]*", f"code=junk{number}", back)).status == 302
    refused = browser.get(back)
    assert (refused.status, refused.headers["content-type"]) == (429, "text/html; charset=utf-8")
    assert int(refused.headers["retry-after"]) >= 1
    assert browser.get(back, X_Forwarded_For="198.51.100.1").status == 302


# Guessers among others ----------------------------------------------------------------------------------------------


def test_a_guesser_locks_out_nobody_who_is_logged_in(market: Market, browser: Person) -> None:
    """Goal: one phone behind the gateway of a network does not keep all its other phones from their prizes."""
    browser.open(f"/s/{market.take('cash')}")
    guesser, other = (Person(browser.home, SAFARI, browser.source) for _ in range(2))
    statuses = [guesser.get(f"/s/{market.unknown(number)}").status for number in range(BUDGET + 5)]
    assert statuses == [200] * BUDGET + [429] * 5
    assert other.get(f"/s/{market.take('cash')}").status == 429
    code = market.take("cash")
    assert browser.get(f"/s/{code}").status == 200
    assert browser.claim(f"/s/{code}").json["claim"]["status"] == "awarded"
    # Guesses of a person are that person's.
    for number in range(BUDGET):
        assert browser.get(f"/s/{market.unknown(number)}").status == 200
    assert browser.get(f"/s/{code}").status == 429
    assert browser.claim(f"/s/{code}", X_Forwarded_For="198.51.100.1").status == 429


@pytest.mark.parametrize("cookie", ["junk", "1.wx0123456789abcdef.openid." + "0" * 32])
def test_a_made_up_session_buys_no_budget(market: Market, browser: Person, cookie: str) -> None:
    browser.agent = SAFARI
    for number in range(BUDGET):
        browser.get(f"/s/{market.unknown(number)}", Cookie=f"scan_session={cookie}{number % 10}")
    assert browser.get(f"/s/{market.take('cash')}", Cookie=f"scan_session={cookie}").status == 429


def test_a_guest_is_as_good_as_its_address(template: Market, stand_in: WechatStandIn, tmp_path: Path) -> None:
    """Goal: nobody gets a budget for each cookie that is handed out to anybody."""
    copy = a_copy(template, tmp_path / "shop")
    path = copy.folder / "scanengine.toml"
    configure(copy.folder, stand_in, free_port(), page_guests=True)
    path.write_text(path.read_text().replace("[server]\n", f"[server]\nbad_codes_per_minute = {BUDGET}\n"))
    with serving(copy.folder) as served:
        guesser = Browser(f"http://127.0.0.1:{served.port}", SAFARI)
        for number in range(BUDGET):
            guesser.cookies.clear()
            guesser.get(f"/s/{copy.take('cash')}")
            assert "scan_guest" in guesser.cookies
            assert guesser.get(f"/s/{copy.unknown(number)}").status == 200
        assert guesser.get(f"/s/{copy.take('cash')}").status == 429


# Tables that change meanwhile ---------------------------------------------------------------------------------------


def test_a_long_code_that_is_gone_when_its_login_ends_is_scanned_again(
    template: Market, stand_in: WechatStandIn, tmp_path: Path
) -> None:
    copy = a_copy(template, tmp_path / "shop")
    long = "L" * 64
    listed = tmp_path / "codes.txt"
    listed.write_text(f"{long}\n")
    assert run_cli(copy.folder, "batch", "import", "bought", listed).returncode == 0
    copy.shop.assign(0, 1, SceneChange(SegmentState.ACTIVE, BOTH, "spring"), "bought")
    with wechat_serving(copy, stand_in) as served:
        browser = Browser(f"http://127.0.0.1:{served.port}")
        back = browser.begin(f"/s/{long}")
        done = run_cli(copy.folder, "batch", "delete", "bought", "--yes")
        assert done.returncode == 0, done.stderr
        wait_until(lambda: Browser(browser.home).get(f"/s/{long}").status == 200, "the server to see it gone")
        page = browser.get(back)
        assert (page.status, page.headers["content-type"]) == (400, "text/html; charset=utf-8")
        assert (stand_in.calls, is_logged_in(browser), long in page.body.decode()) == ([], False, False)
        assert long not in served.log_path.read_text()
