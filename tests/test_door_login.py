"""The login with WeChat end to end: a real server, a stand-in for WeChat, and browsers, all over sockets."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

import pytest

from helpers_door import DESKTOP, HTML, SAFARI, Browser, configure, wechat_serving
from redis_servers import RedisServer, free_port, wait_until
from scanengine.keys import derive_key
from scanengine.model import SegmentState
from scanengine.program.publishing import SceneChange
from scanengine.server.sessions import STATE_S, Sessions
from serving import BOTH, Market, Served, a_copy, a_market, in_threads, run_cli, serving, use_redis
from wechat_stand_in import APP_ID, ORDER, SECRET, WechatStandIn

OPENID = "openid-of-ann"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("template") / "shop")


@pytest.fixture(scope="module")
def market(template: Market, tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_copy(template, tmp_path_factory.mktemp("login") / "shop")


@pytest.fixture(scope="module")
def the_stand_in() -> Iterator[WechatStandIn]:
    with WechatStandIn() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def server(market: Market, the_stand_in: WechatStandIn) -> Iterator[Served]:
    with wechat_serving(market, the_stand_in, timeout_s=1.0, concurrency=8) as served:
        yield served
    text = served.log_path.read_text()
    # Secrets, people and codes are in no log, whatever went wrong above.
    assert not re.search(rf"{SECRET}|openid-of|code=|state=|access_token|/s/", text), text
    assert run_cli(market.folder, "audit").returncode == 0


@pytest.fixture
def stand_in(the_stand_in: WechatStandIn) -> Iterator[WechatStandIn]:
    """The stand-in in good health, without calls."""
    the_stand_in.calls.clear()
    the_stand_in.at_once_max = 0
    yield the_stand_in
    the_stand_in.trouble, the_stand_in.latency_s = None, 0.0
    the_stand_in.release()


@pytest.fixture
def browser(server: Served) -> Browser:
    return Browser(f"http://127.0.0.1:{server.port}")


def count_of(home: str, code: str) -> int:
    """Return the counted scans of a code, without counting."""
    look = Browser(home, SAFARI).get(f"/s/{code}", Accept="application/json").json
    count: int = look["scan"]["count"]
    return count


def sessions_of(market: Market, now_ms: int, **changes: Any) -> Sessions:
    """Return sessions as the server makes them, at another time or of another account."""

    class Clock:
        def clock(self) -> int:
            return now_ms

    settings = {"app_id": APP_ID, "is_secure": False, "session_s": 7_200, "visit_s": 1_800, **changes}
    keys = settings.pop("keys", market.shop.keyring.session_keys)
    return Sessions(keys, program=Clock(), **settings)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# All goes well ------------------------------------------------------------------------------------------------------


def test_a_first_page_in_wechat_is_a_login_as_wechat_wants_it(
    market: Market, browser: Browser, stand_in: WechatStandIn, server: Served
) -> None:
    code = market.take("cash")
    reply = browser.get(f"/s/{code}")
    location = reply.headers["location"]
    assert (reply.status, reply.body, location[-16:]) == (302, b"", "#wechat_redirect")
    assert (reply.headers["cache-control"], reply.headers["referrer-policy"]) == ("no-store", "no-referrer")
    query = parse_qsl(urlsplit(location).query, strict_parsing=True)
    assert [name for name, _ in query] == ORDER
    values = dict(query)
    assert values["redirect_uri"] == f"{browser.home}/wechat/callback"
    assert re.fullmatch(r"[a-zA-Z0-9]{1,128}", values["state"])
    assert code not in location
    assert browser.attributes["scan_visit"] == "Max-Age=1800; Path=/; HttpOnly; SameSite=Lax"
    assert re.fullmatch("[0-9a-f]{24}", browser.cookies["scan_visit"])
    assert stand_in.calls == []
    assert count_of(browser.home, code) == 0


def flow(browser: Browser, stand_in: WechatStandIn, code: str) -> None:
    """Log in, look, claim with and without JavaScript, again and again: one scan, one prize."""
    page = browser.open(f"/s/{code}")
    assert page.status == 200
    assert [urlsplit(url).path for url in browser.trail] == [
        f"/s/{code}", "/connect/oauth2/authorize", "/wechat/callback", f"/s/{code}",
    ]  # fmt: skip
    assert browser.attributes["scan_session"] == "Max-Age=7200; Path=/; HttpOnly; SameSite=Lax"
    assert count_of(browser.home, code) == 1
    first = browser.claim(f"/s/{code}")
    assert (first.status, first.headers["cache-control"]) == (200, "no-store")
    answer = first.json
    assert (answer["claim"]["status"], answer["claim"]["replayed"], answer["scan"]["count"]) == ("awarded", False, 1)
    assert answer["claim"]["prize"]["id"] == "cash-88"
    again = browser.claim(f"/s/{code}").json["claim"]
    assert again == {**answer["claim"], "replayed": True}
    assert browser.press(f"/s/{code}").status == 200
    assert browser.open(f"/s/{code}").status == 200
    assert len(browser.trail) == 1
    assert count_of(browser.home, code) == 1
    assert len(stand_in.calls) == 1
    assert {**stand_in.calls[0], "code": ""} == {
        "appid": APP_ID, "secret": SECRET, "code": "", "grant_type": "authorization_code",
    }  # fmt: skip


def test_login_page_claim_and_retries_are_one_scan_and_one_prize(
    market: Market, browser: Browser, stand_in: WechatStandIn
) -> None:
    code = market.take("cash")
    flow(browser, stand_in, code)
    other = Browser(browser.home, openid="openid-of-bob")
    assert other.open(f"/s/{code}").status == 200
    taken = other.claim(f"/s/{code}").json
    assert (taken["claim"]["status"], taken["scan"]["count"]) == ("taken", 2)


def test_the_same_on_a_redis(
    template: Market, stand_in: WechatStandIn, redis_server: RedisServer, tmp_path: Path
) -> None:
    copy = a_copy(template, tmp_path / "shop")
    use_redis(copy, redis_server.url())
    with wechat_serving(copy, stand_in) as served:
        flow(Browser(f"http://127.0.0.1:{served.port}"), stand_in, copy.take("cash"))


def test_wechat_on_a_computer_logs_in_too(market: Market, browser: Browser, stand_in: WechatStandIn) -> None:
    browser.agent = DESKTOP
    assert browser.open(f"/s/{market.take('cash')}").status == 200
    assert "scan_session" in browser.cookies


def test_the_next_code_needs_no_login(market: Market, browser: Browser, stand_in: WechatStandIn) -> None:
    browser.open(f"/s/{market.take('cash')}")
    code = market.take("points")
    assert browser.get(f"/s/{code}").status == 200
    assert browser.claim(f"/s/{code}").json["claim"]["prize"]["id"] == "points-10"
    assert len(stand_in.calls) == 1


def test_40_people_at_once_log_in_and_claim_over_8_connections(
    market: Market, browser: Browser, stand_in: WechatStandIn
) -> None:
    stand_in.latency_s = 0.02
    codes = [market.take("purse") for _ in range(40)]

    def work(index: int) -> tuple[int, str]:
        mine = Browser(browser.home, openid=f"openid-of-{index}")
        mine.open(f"/s/{codes[index]}")
        return mine.claim(f"/s/{codes[index]}").status, mine.cookies["scan_session"].split(".")[2]

    found = in_threads(40, work)
    assert found == [(200, f"openid-of-{index}") for index in range(40)]
    assert len(stand_in.calls) == 40
    assert 1 < stand_in.at_once_max <= 8


FOREIGN = [
    "P.URL.CN/0P$M%LZ4LHSVSDCR2L2", "P.URL.CN/0V/L$O*CBI/WJATNX+Y", "044GZ*J10", "%2F%252F+/..:",
    # As long as a login can carry, longer, and as long as codes may be.
    "L" * 48, "L" * 49, "%" * 64, "HTTPS://P.URL.CN/" + "0" * 47,
]  # fmt: skip


def test_codes_of_another_maker_log_in_and_claim(template: Market, tmp_path: Path, stand_in: WechatStandIn) -> None:
    """Goal: a code is never folded, decoded once more, or lost on its way through WeChat and back."""
    market = a_copy(template, tmp_path / "shop")
    listed = tmp_path / "codes.txt"
    listed.write_text("".join(f"{code}\n" for code in FOREIGN))
    done = run_cli(market.folder, "batch", "import", "bought", listed)
    assert done.returncode == 0, done.stderr
    market.shop.assign(0, len(FOREIGN), SceneChange(SegmentState.ACTIVE, BOTH, "purse"), "bought")
    with wechat_serving(market, stand_in) as served:
        for number, code in enumerate(FOREIGN):
            browser = Browser(f"http://127.0.0.1:{served.port}", openid=f"openid-of-{number}")
            path = f"/s/{quote(code, safe='')}"
            assert browser.open(path).status == 200
            assert browser.trail[-1] == f"{browser.home}{path}?login=done"
            answer = browser.claim(path).json
            assert (answer["code"], answer["claim"]["status"], answer["scan"]["count"]) == (code, "awarded", 1)


# The callback, again and again --------------------------------------------------------------------------------------


def test_reloading_the_callback_asks_wechat_once(market: Market, browser: Browser, stand_in: WechatStandIn) -> None:
    back = browser.begin(f"/s/{market.take('cash')}")
    first = browser.get(back)
    session = browser.cookies["scan_session"]
    assert (first.status, browser.get(back).status, browser.cookies["scan_session"]) == (302, 302, session)
    # The reply with the session was lost: what WeChat said is still known to whoever has the visit.
    del browser.cookies["scan_session"]
    again = browser.get(back)
    assert first.headers["location"].endswith("?login=done")
    assert again.headers["location"] == first.headers["location"]
    assert browser.cookies["scan_session"].split(".")[2] == OPENID
    assert len(stand_in.calls) == 1


def test_one_callback_many_times_at_once_asks_wechat_once(
    market: Market, browser: Browser, stand_in: WechatStandIn
) -> None:
    back = browser.begin(f"/s/{market.take('cash')}")
    stand_in.latency_s = 0.1

    def work(_: int) -> str:
        mine = Browser(browser.home)
        mine.cookies = dict(browser.cookies)
        assert mine.get(back).status == 302
        return mine.cookies["scan_session"].split(".")[2]

    assert set(in_threads(16, work)) == {OPENID}
    assert len(stand_in.calls) == 1


def test_a_browser_that_goes_away_does_not_lose_its_login(
    market: Market, browser: Browser, stand_in: WechatStandIn, server: Served
) -> None:
    back = browser.begin(f"/s/{market.take('cash')}")
    stand_in.hold()
    path = back.removeprefix(browser.home)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        cookie = f"Cookie: scan_visit={browser.cookies['scan_visit']}"
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {HTML}\r\n{cookie}\r\n\r\n"
        connection.sendall(head.encode())
        wait_until(lambda: len(stand_in.calls) == 1, "the exchange")
    stand_in.release()
    assert browser.open(back).status == 200
    assert browser.cookies["scan_session"].split(".")[2] == OPENID
    assert len(stand_in.calls) == 1


def test_looking_ahead_does_not_spend_the_code(market: Market, browser: Browser, stand_in: WechatStandIn) -> None:
    back = browser.begin(f"/s/{market.take('cash')}")
    assert browser.ask("HEAD", back).status == 302
    assert browser.get(back, Sec_Purpose="prefetch").status == 302
    assert (stand_in.calls, "scan_session" in browser.cookies) == ([], False)
    assert browser.open(back).status == 200
    assert "scan_session" in browser.cookies


# WeChat says no, or nothing -----------------------------------------------------------------------------------------


def test_an_expired_code_begins_another_login_by_itself(
    market: Market, browser: Browser, stand_in: WechatStandIn
) -> None:
    back = browser.begin(f"/s/{market.take('cash')}")
    stand_in.advance(301)
    assert browser.open(back).status == 200
    assert "scan_session" in browser.cookies
    assert len(stand_in.calls) == 2


def test_a_code_that_is_none_begins_another_login_by_itself(
    market: Market, browser: Browser, stand_in: WechatStandIn
) -> None:
    back = browser.begin(f"/s/{market.take('cash')}")
    assert browser.open(re.sub("code=[^&]*", "code=nonsense", back)).status == 200
    assert "scan_session" in browser.cookies
    assert [call["code"] == "nonsense" for call in stand_in.calls] == [True, False]


def ends_at_the_page(browser: Browser, code: str, word: str) -> None:
    """Open a page whose login fails: it is shown all the same, says so, and does not go round."""
    page = browser.open(f"/s/{code}")
    assert page.status == 200
    assert browser.trail[-1] == f"{browser.home}/s/{code}?login={word}"
    assert f'href="/s/{code}"' in page.body.decode()
    assert "scan_session" not in browser.cookies
    assert count_of(browser.home, code) == 1


def the_button_logs_in(browser: Browser, code: str) -> None:
    assert browser.open(f"/s/{code}").status == 200
    assert browser.cookies["scan_session"].split(".")[2] == browser.openid
    assert browser.claim(f"/s/{code}").json["scan"]["count"] == 1


@pytest.mark.parametrize("errcode", [40029, 40163, 42003])
def test_codes_that_are_never_good_end_at_the_page(
    market: Market, browser: Browser, stand_in: WechatStandIn, errcode: int
) -> None:
    code = market.take("cash")
    stand_in.trouble = errcode
    ends_at_the_page(browser, code, "failed")
    assert len(stand_in.calls) == 2
    stand_in.trouble = None
    the_button_logs_in(browser, code)


@pytest.mark.parametrize("errcode", [40001, 40013, 40125, 48001])
def test_an_account_that_wechat_does_not_take_is_told_to_the_operator(
    market: Market, browser: Browser, stand_in: WechatStandIn, server: Served, errcode: int
) -> None:
    code = market.take("cash")
    stand_in.trouble = errcode
    ends_at_the_page(browser, code, "failed")
    assert len(stand_in.calls) == 1
    assert f"(errcode {errcode}), nobody can log in: check app_id in [wechat]" in server.log_path.read_text()
    stand_in.trouble = None
    the_button_logs_in(browser, code)


@pytest.mark.parametrize(
    "trouble", [-1, 45011, 12345, "status", "garbage", "no_openid", "huge", "drop_before", "drop_after"]
)
def test_while_wechat_is_in_trouble_the_page_is_shown(
    market: Market, browser: Browser, stand_in: WechatStandIn, trouble: int | str
) -> None:
    code = market.take("cash")
    stand_in.trouble = trouble
    ends_at_the_page(browser, code, "slow")
    stand_in.trouble = None
    the_button_logs_in(browser, code)


def test_a_code_spent_by_a_broken_connection_begins_another_login(
    market: Market, browser: Browser, stand_in: WechatStandIn
) -> None:
    back = browser.begin(f"/s/{market.take('cash')}")
    stand_in.trouble = "drop_after"
    assert browser.get(back).headers["location"].endswith("?login=slow")
    stand_in.trouble = None
    assert browser.open(back).status == 200
    assert "scan_session" in browser.cookies


@pytest.mark.parametrize(("latency_s", "is_in_time"), [(0.4, True), (20.0, False)])
def test_the_deadline_holds(
    market: Market, browser: Browser, stand_in: WechatStandIn, latency_s: float, is_in_time: bool
) -> None:
    code = market.take("cash")
    stand_in.latency_s = latency_s
    if is_in_time:
        the_button_logs_in(browser, code)
    else:
        ends_at_the_page(browser, code, "slow")


# States and cookies that are not right ------------------------------------------------------------------------------


def with_state(back: str, state: str) -> str:
    return re.sub("state=.*", f"state={state}", back)


def state_of(back: str) -> str:
    return parse_qs(urlsplit(back).query)["state"][0]


def other_letter(text: str, place: int) -> str:
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


@pytest.mark.parametrize("kind", ["none", "empty", "letters", "one_wrong", "foreign", "long", "no_letters"])
def test_a_state_that_is_not_ours_ends_at_once(
    market: Market, browser: Browser, stand_in: WechatStandIn, kind: str
) -> None:
    code = market.take("cash")
    back = browser.begin(f"/s/{code}")
    visit = browser.cookies["scan_visit"]
    foreign = sessions_of(market, now_ms(), keys=[bytes(16)]).state_of(code, visit)
    states = {
        "empty": "", "letters": "abc", "one_wrong": other_letter(state_of(back), 10), "foreign": foreign,
        "long": "A" * 5000, "no_letters": "%00%ff%E7%A0%81", "none": "",
    }  # fmt: skip
    url = back.partition("&state=")[0] if kind == "none" else with_state(back, str(states[kind]))
    reply = browser.get(url)
    assert (reply.status, reply.headers["content-type"]) == (400, "text/html; charset=utf-8")
    assert (stand_in.calls, "scan_session" in browser.cookies) == ([], False)


def test_an_expired_state_begins_another_login(market: Market, browser: Browser, stand_in: WechatStandIn) -> None:
    code = market.take("cash")
    back = browser.begin(f"/s/{code}")
    old = sessions_of(market, now_ms() - STATE_S * 1000).state_of(code, browser.cookies["scan_visit"])
    assert old is not None
    assert browser.open(with_state(back, old)).status == 200
    assert "scan_session" in browser.cookies
    # The code that came with the old state was not exchanged.
    assert [call["code"] in back for call in stand_in.calls] == [False]


def test_nobody_is_logged_in_by_the_end_of_somebody_elses_login(
    market: Market, browser: Browser, stand_in: WechatStandIn
) -> None:
    """Goal: no prize is taken with the account of whoever sent a link. Method: the thief sends his callback's."""
    code = market.take("cash")
    thief = Browser(browser.home, openid="openid-of-thief")
    back = thief.begin(f"/s/{market.take('cash')}")
    browser.open(f"/s/{code}")
    for name in ("scan_session", "scan_visit"):
        fresh = Browser(browser.home)
        fresh.cookies = {key: value for key, value in browser.cookies.items() if key != "scan_session"}
        fresh.cookies.pop(name, None)
        assert fresh.open(back).status == 200
        assert fresh.cookies["scan_session"].split(".")[2] == OPENID
    assert all(call["code"] not in back for call in stand_in.calls)


def test_a_browser_without_cookies_does_not_go_round(market: Market, browser: Browser, stand_in: WechatStandIn) -> None:
    class Forgetful(Browser):
        def _take(self, lines: list[str]) -> None:
            pass

    code = market.take("cash")
    forgetful = Forgetful(browser.home)
    assert forgetful.open(f"/s/{code}").status == 200
    assert forgetful.trail[-1].endswith(f"/s/{code}?login=failed")
    assert [urlsplit(url).path for url in forgetful.trail].count("/connect/oauth2/authorize") == 2
    assert stand_in.calls == []


@pytest.mark.parametrize("query", ["", "&code=", f"&code={'x' * 513}", "&code=%00", "&code=%ff"])
def test_a_callback_without_a_good_code_ends_at_a_page(
    market: Market, browser: Browser, stand_in: WechatStandIn, query: str
) -> None:
    code = market.take("cash")
    back = browser.begin(f"/s/{code}")
    page = browser.open(f"{browser.home}/wechat/callback?state={state_of(back)}{query}")
    assert page.status == 200
    assert all(len(call["code"]) <= 512 for call in stand_in.calls)


@pytest.mark.parametrize(("change", "is_known"), [("rotated", True), ("rotated_out", False), ("other_account", False)])
def test_a_session_holds_for_its_account_and_while_its_key_is_listed(
    template: Market, tmp_path: Path, the_stand_in: WechatStandIn, change: str, is_known: bool
) -> None:
    market = a_copy(template, tmp_path / "shop")
    port = free_port()
    configure(market.folder, the_stand_in, port)
    old, new = "ab" * 32, "cd" * 32
    keys = market.folder / "keys.toml"
    listed = {"rotated": [new, old], "rotated_out": [new]}.get(change, [old])
    keys.write_text(f"{keys.read_text()}\n[sessions]\nsecrets = {json.dumps(listed)}\n")
    made = sessions_of(
        market,
        now_ms(),
        keys=[derive_key(bytes.fromhex(old), "scan-session")],
        app_id="wxfedcba9876543210" if change == "other_account" else APP_ID,
    ).session_cookie("openid-of-ann")
    with serving(market.folder, "--port", port):
        browser = Browser(f"http://127.0.0.1:{port}")
        browser.cookies = {"scan_session": made.partition(";")[0].partition("=")[2]}
        code = market.take("cash")
        found = browser.claim(f"/s/{code}").status, browser.get(f"/s/{code}").status
        assert found == ((200, 200) if is_known else (401, 302))
