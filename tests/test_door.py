"""The consumer's door without a login: who gets what, what is counted, and who may claim."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from helpers import Shop
from helpers_door import ALIPAY, DESKTOP, MINI_PROGRAM, SAFARI, WECHAT, WECHAT_WORK, Browser, configure, wechat_serving
from redis_servers import free_port
from scanengine.keys import load_keyring
from scanengine.ledger import PENDING
from scanengine.ledger.memory import MemoryLedger
from scanengine.model import ClaimRequest, Receipt, Scene, SegmentState
from scanengine.program import Program
from scanengine.program.publishing import SceneChange
from scanengine.server import make_app
from serving import Market, Served, a_copy, a_market, run_cli, serving
from wechat_stand_in import SECRET, WechatStandIn

ALL = Scene.AUTHENTICITY | Scene.MARKETING | Scene.LINK
LANDING = "https://brand.example/欢迎?code={code}&from=scan"
JSON = "application/json"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Market:
    market = a_market(tmp_path_factory.mktemp("template") / "shop")
    market.shop.assign(2200, 2300, SceneChange(SegmentState.ACTIVE, ALL, "spring", link=LANDING))
    # A link whose scene is off, and one of codes that are not valid.
    market.shop.assign(2300, 2310, SceneChange(SegmentState.ACTIVE, Scene.AUTHENTICITY, link=LANDING))
    market.shop.assign(2310, 2320, SceneChange(SegmentState.RECALLED, ALL, "spring", link=LANDING))
    return market


@pytest.fixture(scope="module")
def market(template: Market, tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_copy(template, tmp_path_factory.mktemp("door") / "shop")


@pytest.fixture(scope="module")
def stand_in() -> Iterator[WechatStandIn]:
    with WechatStandIn() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def server(market: Market, stand_in: WechatStandIn) -> Iterator[Served]:
    """A server with login and guests, on which bad codes cost nothing."""
    path = market.folder / "scanengine.toml"
    path.write_text(path.read_text().replace("[server]\n", "[server]\nbad_codes_per_minute = 0\n"))
    with wechat_serving(market, stand_in, page_guests=True) as served:
        yield served
    assert run_cli(market.folder, "audit").returncode == 0


@pytest.fixture
def browser(server: Served) -> Browser:
    """A browser outside WeChat."""
    return Browser(f"http://127.0.0.1:{server.port}", SAFARI)


def look(browser: Browser, code: str) -> int:
    """Return the counted scans of a code, without counting."""
    count: int = Browser(browser.home, SAFARI).get(f"/s/{code}", Accept=JSON).json["scan"]["count"]
    return count


# Who gets what ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", [SAFARI, ALIPAY, MINI_PROGRAM, WECHAT_WORK])
def test_browsers_that_cannot_log_in_get_the_page(market: Market, browser: Browser, agent: str) -> None:
    code = market.take("cash")
    browser.agent = agent
    page = browser.get(f"/s/{code}")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (page.headers["cache-control"], page.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert f'action="/s/{code}"' in page.body.decode()
    assert look(browser, code) == 1


@pytest.mark.parametrize("agent", [WECHAT, DESKTOP])
def test_browsers_that_can_log_in_do(market: Market, browser: Browser, agent: str) -> None:
    browser.agent = agent
    assert browser.get(f"/S/{market.take('cash')}").status == 302


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        (JSON, True), (f"{JSON}, */*;q=0.1", True), (f"text/html, {JSON}", False), ("*/*", False),
        ("image/avif,*/*", False), ("text/html", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("agent", [SAFARI, WECHAT])
def test_programs_get_json_and_are_not_counted(
    market: Market, browser: Browser, agent: str, accept: str, is_json: bool
) -> None:
    code = market.take("cash")
    browser.agent = agent
    reply = browser.get(f"/s/{code}", Accept=accept)
    if is_json:
        assert (reply.status, reply.json["status"], reply.json["scan"]["count"]) == (200, "valid", 0)
    elif agent == WECHAT and "text/html" in accept:
        assert reply.status == 302
    else:
        assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    if "text/html" not in accept or is_json:
        assert (browser.cookies, look(browser, code)) == ({}, 0)


@pytest.mark.parametrize("agent", ["curl/8.5.0", "python-requests/2.31", "Go-http-client/2.0", WECHAT])
def test_tools_that_take_anything_are_no_persons(market: Market, browser: Browser, agent: str) -> None:
    code = market.take("cash")
    browser.agent = agent
    for _ in range(12):
        assert browser.get(f"/s/{code}", Accept="*/*").status == 200
    assert (browser.cookies, look(browser, code)) == ({}, 0)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}, {"X_Moz": "prefetch"}, {"X_Purpose": "preview"},
        {"Sec_Fetch_Dest": "image"}, {"Sec_Fetch_Dest": "iframe"}, {"Sec_Fetch_Dest": "empty"},
        {"User_Agent": "facebookexternalhit/1.1"}, {"User_Agent": "Slackbot-LinkExpanding 1.0"},
        {"User_Agent": "Mozilla/5.0 (compatible; Baiduspider/2.0)"}, {"User_Agent": "WhatsApp/2.23"},
        {"User_Agent": f"{WECHAT} bot"},
    ],
)  # fmt: skip
def test_who_only_looks_ahead_gets_the_page_and_counts_nothing(
    market: Market, browser: Browser, headers: dict[str, str]
) -> None:
    code = market.take("cash")
    browser.agent = WECHAT
    reply = browser.get(f"/s/{code}", **headers)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (browser.cookies, look(browser, code)) == ({}, 0)


def test_head_is_get_that_counts_nothing(market: Market, browser: Browser) -> None:
    code = market.take("cash")
    head = browser.ask("HEAD", f"/s/{code}")
    assert (head.status, head.body, head.headers["content-type"]) == (200, b"", "text/html; charset=utf-8")
    assert (browser.cookies, look(browser, code)) == ({}, 0)


def test_a_telephone_is_not_a_program_by_its_name(market: Market, browser: Browser) -> None:
    code = market.take("cash")
    browser.agent = "Mozilla/5.0 (Linux; Android 9; CUBOT X19 Build/PPR1) Chrome/90 Mobile Safari/537.36"
    browser.get(f"/s/{code}")
    assert look(browser, code) == 1


@pytest.mark.parametrize("kind", ["forged", "unknown", "unknown_key", "mistyped", "malformed", "inactive", "scene_off"])
def test_codes_without_anything_to_claim_do_not_log_in(market: Market, browser: Browser, kind: str) -> None:
    code = market.take("cash")
    made = {
        "forged": lambda: market.forged(code),
        "unknown": market.unknown,
        "unknown_key": market.unknown_key,
        "mistyped": lambda: market.mistyped(code),
        "malformed": lambda: "hello",
    }
    code = made[kind]() if kind in made else market.take(kind)
    browser.agent = WECHAT
    page = browser.get(f"/s/{code}")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "<form" not in page.body.decode()


@pytest.mark.parametrize("kind", ["recalled", "frozen", "void", "expired", "ended", "early"])
def test_codes_that_may_have_been_claimed_before_log_in(market: Market, browser: Browser, kind: str) -> None:
    browser.agent = WECHAT
    assert browser.get(f"/s/{market.take(kind)}").status == 302


def test_invalid_codes_all_look_alike(market: Market, browser: Browser) -> None:
    pages = set()
    for code in (market.forged(market.take("cash")), market.unknown(), market.unknown_key()):
        pages.add(re.sub(re.escape(code), "CODE", browser.get(f"/s/{code}").body.decode()))
    assert len(pages) == 1


# Visits -------------------------------------------------------------------------------------------------------------


def test_reloads_are_one_visit_and_another_browser_is_another(market: Market, browser: Browser) -> None:
    code = market.take("cash")
    for _ in range(3):
        assert browser.get(f"/s/{code}").status == 200
    assert look(browser, code) == 1
    Browser(browser.home, SAFARI).get(f"/s/{code}")
    assert look(browser, code) == 2
    browser.cookies["scan_visit"] = "made-up"
    browser.get(f"/s/{code}")
    assert re.fullmatch("[0-9a-f]{24}", browser.cookies["scan_visit"])
    assert look(browser, code) == 3


def test_each_page_and_claim_prolongs_the_visit(market: Market, browser: Browser) -> None:
    """Goal: the button pressed just before the visit ends is the same scan. Method: the cookie comes anew each time."""
    code = market.take("cash")
    browser.get(f"/s/{code}")
    visit = browser.cookies["scan_visit"]
    for again in (browser.get, browser.claim, browser.press, browser.get):
        del browser.attributes["scan_visit"]
        assert again(f"/s/{code}").status == 200
        assert browser.attributes["scan_visit"] == "Max-Age=1800; Path=/; HttpOnly; SameSite=Lax"
        assert browser.cookies["scan_visit"] == visit
    assert look(browser, code) == 1


def test_one_visit_counts_for_each_code_it_looks_at(market: Market, browser: Browser) -> None:
    codes = [market.take("cash") for _ in range(3)]
    for code in codes * 2:
        browser.get(f"/s/{code}")
    assert [look(browser, code) for code in codes] == [1, 1, 1]


# Landing links ------------------------------------------------------------------------------------------------------


def test_a_landing_link_is_filled_in_and_the_scan_counted(market: Market, browser: Browser) -> None:
    (code,) = market.shop.codes(2200, 2201)
    for agent in (SAFARI, WECHAT, ALIPAY):
        browser.agent = agent
        reply = browser.get(f"/s/{code}")
        assert (reply.status, reply.body) == (302, b"")
        assert reply.headers["location"] == f"https://brand.example/{quote('欢迎')}?code={code}&from=scan"
        assert (reply.headers["cache-control"], reply.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert browser.get(f"/s/{code}", Accept=JSON).status == 200
    assert browser.ask("HEAD", f"/s/{code}").status == 302
    assert browser.get(f"/s/{code}", User_Agent="Slackbot 1.0").status == 302
    assert look(browser, code) == 1


def test_a_landing_link_needs_its_scene_and_a_valid_code(market: Market, browser: Browser) -> None:
    for code in (*market.shop.codes(2300, 2301), *market.shop.codes(2310, 2311)):
        assert browser.get(f"/s/{code}").status == 200


# Claims -------------------------------------------------------------------------------------------------------------


def test_a_link_of_an_older_table_leads_nowhere_but_to_the_web(
    template: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a table from before the rule is served, without its link. Method: write one with the rule switched off."""
    copy = a_copy(template, tmp_path / "shop")
    monkeypatch.setattr("scanengine.program.publishing.link_fault", lambda link: None)
    copy.shop.assign(2200, 2201, SceneChange(link="javascript:alert(1)//{code}"))
    good, bad = copy.shop.codes(2201, 2202)[0], copy.shop.codes(2200, 2201)[0]
    with serving(copy.folder) as served:
        browser = Browser(f"http://127.0.0.1:{served.port}", SAFARI)
        assert (browser.get(f"/s/{good}").status, browser.get(f"/s/{bad}").status) == (302, 200)
    # What stands beside it can still be set.
    monkeypatch.undo()
    copy.shop.assign(2201, 2202, SceneChange(lot="L1"))


def test_a_guest_claims_once_and_is_known_again(market: Market, browser: Browser) -> None:
    code = market.take("cash")
    browser.get(f"/s/{code}")
    assert browser.attributes["scan_guest"] == f"Max-Age={365 * 86_400}; Path=/; HttpOnly; SameSite=Lax"
    first = browser.claim(f"/s/{code}")
    assert (first.status, first.headers["content-type"]) == (200, "application/json")
    assert (first.json["claim"]["status"], first.json["scan"]["count"]) == ("awarded", 1)
    assert browser.claim(f"/s/{code}").json["claim"] == {**first.json["claim"], "replayed": True}
    page = browser.press(f"/s/{code}")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "88" in page.body.decode()
    assert "<form" not in page.body.decode()
    taken = Browser(browser.home, SAFARI).claim(f"/s/{code}").json
    assert (taken["claim"]["status"], taken["scan"]["count"]) == ("taken", 2)


def test_a_guest_that_we_did_not_make_is_a_new_one(market: Market, browser: Browser) -> None:
    code = market.take("cash")
    browser.claim(f"/s/{code}")
    whole = browser.cookies["scan_guest"]
    name, _, tag = whole.partition(".")
    for wrong in (f"{'0' * 32}.{tag}", name, f"{name}.{tag[:-1]}", f"{name}.{'0' * 32}", ""):
        browser.cookies["scan_guest"] = wrong
        assert browser.claim(f"/s/{code}").json["claim"]["status"] == "taken"
        assert browser.cookies["scan_guest"] != wrong
    browser.cookies["scan_guest"] = whole
    assert browser.claim(f"/s/{code}").json["claim"]["status"] == "awarded"


def test_in_wechat_nobody_claims_as_a_guest(market: Market, browser: Browser) -> None:
    code = market.take("cash")
    browser.claim(f"/s/{market.take('cash')}")
    browser.agent = WECHAT
    reply = browser.claim(f"/s/{code}")
    assert (reply.status, reply.json["type"]) == (401, "urn:scanengine:problem:unauthorized")
    page = browser.press(f"/s/{code}")
    assert (page.status, page.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert f'href="/s/{code}"' in page.body.decode()
    browser.agent = SAFARI
    assert browser.claim(f"/s/{code}").json["claim"]["replayed"] is False


@pytest.mark.parametrize(
    ("headers", "has_visit", "status"),
    [
        ({"Sec_Fetch_Site": "same-origin"}, False, 200),
        ({"Sec_Fetch_Site": "none"}, False, 200),
        ({"Sec_Fetch_Site": "cross-site"}, True, 403),
        ({"Sec_Fetch_Site": "same-site"}, True, 403),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "HOME"}, True, 403),
        ({"Origin": "HOME"}, False, 200),
        ({"Origin": "https://evil.example"}, True, 403),
        ({"Origin": "http://[broken"}, True, 403),
        ({"Origin": "HOME.evil.example"}, True, 403),
        # The plain form of a page that tells no referrer, in a browser without Sec-Fetch-Site.
        ({"Origin": "null"}, True, 200),
        ({"Origin": "null"}, False, 403),
        ({}, True, 200),
        ({}, False, 403),
    ],
)
def test_only_our_own_page_claims(
    market: Market, browser: Browser, headers: dict[str, str], has_visit: bool, status: int
) -> None:
    code = market.take("points")
    browser.get(f"/s/{code}")
    if not has_visit:
        del browser.cookies["scan_visit"]
    sent = {name: value.replace("HOME", browser.home) for name, value in headers.items()}
    reply = browser.ask("POST", f"/s/{code}", Accept=JSON, **sent)
    assert reply.status == status
    if status == 403:
        assert reply.json["type"] == "urn:scanengine:problem:forbidden"
        assert browser.claim(f"/s/{code}").json["claim"]["replayed"] is False


@pytest.mark.parametrize("field", ["user", "role", "region", "audience", "openid", "visit", "code"])
@pytest.mark.parametrize("kind", ["json", "form"])
def test_a_claim_may_not_say_who_it_is_for(market: Market, browser: Browser, field: str, kind: str) -> None:
    code = market.take("daily")
    body = json.dumps({field: "x"}) if kind == "json" else f"{field}=x"
    content_type = "application/json" if kind == "json" else "application/x-www-form-urlencoded"
    headers = {"Content_Type": content_type, "Sec_Fetch_Site": "same-origin", "Accept": JSON}
    reply = browser.ask("POST", f"/s/{code}", body.encode(), **headers)
    assert (reply.status, reply.json["field"]) == (400, field)
    assert browser.claim(f"/s/{code}?user=bob&openid=bob").json["claim"]["replayed"] is False


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 200), ("application/json", b" \n", 200), ("application/json", b"[]", 400),
        ("application/json", b"{", 400), ("application/json", b"\xff", 400), ("text/plain", b"x", 400),
        ("application/json", b"[" * 60_000, 400), ("application/json", b"x" * 70_000, 413),
        ("application/x-www-form-urlencoded", b"x", 400), ("application/x-www-form-urlencoded", b"\xff=1", 400),
        ("multipart/form-data; boundary=x", b"--x--", 400), ("nonsense", b"", 200),
    ],
)  # fmt: skip
def test_a_claim_has_no_body(market: Market, browser: Browser, content_type: str, body: bytes, status: int) -> None:
    code = market.take("load")
    reply = browser.ask(
        "POST", f"/s/{code}", body, Content_Type=content_type, Sec_Fetch_Site="same-origin", Accept=JSON
    )
    assert reply.status == status
    if status != 200:
        assert reply.json["field" if status == 400 else "status"] in ("body", "x", "\ufffd", 413)


def test_codes_that_are_not_valid_are_claimed_as_what_they_are(market: Market, browser: Browser) -> None:
    for code, status in ((market.forged(market.take("cash")), "invalid"), (market.take("frozen"), "frozen")):
        reply = browser.claim(f"/s/{code}")
        assert (reply.status, reply.json["status"], reply.json["claim"]) == (200, status, None)


def test_a_text_that_is_too_long_is_refused(browser: Browser) -> None:
    for method in ("GET", "POST"):
        reply = browser.ask(method, f"/s/{'A' * 513}", Sec_Fetch_Site="same-origin", Accept=JSON)
        assert (reply.status, reply.json["field"]) == (400, "code")


@pytest.mark.parametrize(
    ("method", "path", "status", "headline"),
    [
        ("GET", "/", 404, "Nothing here"),
        ("GET", "/nothing.html", 404, "Nothing here"),
        ("GET", "/a/folder/of/nothing", 404, "Nothing here"),
        ("GET", "/s/", 404, "Nothing here"),
        ("GET", "/s/A/B", 404, "Nothing here"),
        ("GET", f"/s/{'A' * 513}", 400, "Nothing here"),
        ("POST", "/s/A", 403, "Something went wrong"),
        ("POST", "/", 404, "Something went wrong"),
        ("PUT", "/s/A", 405, "Something went wrong"),
    ],
)
def test_a_browser_that_goes_astray_is_told_in_words(
    browser: Browser, method: str, path: str, status: int, headline: str
) -> None:
    page = browser.ask(method, path)
    assert (page.status, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert f"<h1>{headline}</h1>" in re.sub(r"<h1[^>]*>", "<h1>", page.body.decode())
    assert page.headers["x-request-id"]
    assert ("allow" in page.headers) == (status == 405)
    problem = browser.ask(method, path, Accept=JSON)
    assert (problem.status, problem.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1", "/v1/codes/", "/metrics/", "/readyz/"])
def test_what_is_for_programs_answers_with_problems_even_in_a_browser(browser: Browser, path: str) -> None:
    reply = browser.get(path)
    assert (reply.status, reply.headers["content-type"]) == (404, "application/problem+json")


def test_an_address_may_end_with_a_slash(market: Market, browser: Browser) -> None:
    for number, path in enumerate(("/s/", "/S/", "/01/06901234567892/10/L1/21/")):
        code = market.take("cash")
        page = browser.get(f"{path}{code}/")
        assert (page.status, "<form" in page.body.decode()) == (200, True), number
        assert browser.get(f"{path}{code}/", Accept=JSON).json["code"] == code
        assert browser.claim(f"{path}{code}/").json["claim"]["status"] == "awarded"
        assert browser.claim(f"/s/{code}").json["claim"]["replayed"] is True


def test_looks_and_claims_of_the_page_are_counted(market: Market, server: Served, browser: Browser) -> None:
    code = market.take("cash")
    with server.client() as client:
        before = client.metrics()
        browser.get(f"/s/{code}")
        browser.claim(f"/s/{code}")
        after = client.metrics()
    for name, labels in (
        ("scanengine_looks_total", ("valid",)),
        ("scanengine_scans_total", ("valid",)),
        ("scanengine_claims_total", ("awarded",)),
        ("scanengine_http_requests_total", ("200", "/s/{code}")),
    ):
        (key,) = [key for key in after if key[0] == name and set(key[1:]) == set(labels)]
        assert after[key] - before.get(key, 0.0) == (2.0 if "http" in name else 1.0)


# Digital Links ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/01/06901234567892/21/", "/01/06901234567892/10/L%2F1/21/"])
def test_a_digital_link_is_a_door_too(market: Market, browser: Browser, path: str) -> None:
    code = market.take("cash")
    page = browser.get(f"{path}{code}?linkType=all")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert f'action="{path}{code}"' in page.body.decode()
    assert browser.get(f"{path}{code}", Accept=JSON).json["status"] == "valid"
    answer = browser.claim(f"{path}{code}").json
    assert (answer["claim"]["status"], answer["claim"]["replayed"], answer["scan"]["count"]) == ("awarded", False, 1)
    assert browser.claim(f"/s/{code}").json["claim"]["replayed"] is True


@pytest.mark.parametrize("tail", ["", "/", "/10/L%2F1", "/22/2A", "/22/2A/10/L1"])
def test_a_digital_link_without_a_serial_is_a_product_number(market: Market, browser: Browser, tail: str) -> None:
    path = f"/01/06901234567892{tail}"
    assert browser.get(path, Accept=JSON).json["status"] == "product_only"
    page = browser.get(path)
    assert (page.status, "This is a product number" in page.body.decode()) == (200, True)
    assert browser.claim(path).status == 405


@pytest.mark.parametrize("middle", ["/22/2A", "/22/2A/10/L1"])
def test_a_digital_link_may_name_the_variant(market: Market, browser: Browser, middle: str) -> None:
    path = f"/01/06901234567892{middle}/21/{market.take('cash')}"
    assert browser.get(path).status == 200
    assert browser.claim(path).json["claim"]["status"] == "awarded"


def test_a_login_from_a_digital_link_comes_back_to_its_code(market: Market, browser: Browser) -> None:
    code = market.take("cash")
    browser.agent = WECHAT
    assert browser.open(f"/01/06901234567892/10/L1/21/{code}").status == 200
    assert [urlsplit(url).path for url in browser.trail[2:]] == ["/wechat/callback", f"/s/{code}"]
    assert browser.claim(f"/01/06901234567892/21/{code}").json["scan"]["count"] == 1


def test_a_digital_link_of_another_product_is_like_any_invalid_code(market: Market, browser: Browser) -> None:
    code = market.take("cash")
    browser.agent = WECHAT
    path = f"/01/06901234567885/21/{code}"
    assert browser.get(path, Accept=JSON).json["status"] == "invalid"
    page = browser.get(path)
    assert (page.status, "<form" in page.body.decode()) == (200, False)
    assert look(browser, code) == 0


# Settings -----------------------------------------------------------------------------------------------------------


def test_cookies_go_over_tls_only_where_there_is_tls(template: Market, tmp_path: Path, stand_in: WechatStandIn) -> None:
    copy = a_copy(template, tmp_path / "shop")
    path = copy.folder / "scanengine.toml"
    configure(copy.folder, stand_in, 8080, page_guests=True)
    path.write_text(path.read_text().replace("http://127.0.0.1:8080", "https://brand.example/shop"))
    with serving(copy.folder) as served:
        browser = Browser(f"http://127.0.0.1:{served.port}", SAFARI)
        browser.get(f"/s/{copy.take('cash')}")
        assert set(browser.attributes) == {"__Host-scan_visit", "__Host-scan_guest"}
        for line in browser.attributes.values():
            assert re.fullmatch(r"Max-Age=\d+; Path=/; HttpOnly; SameSite=Lax; Secure", line)
        # What a sibling's page can write is nothing: names that begin so are taken from this host alone.
        tossed = Browser(browser.home, SAFARI)
        tossed.cookies = {name.removeprefix("__Host-"): value for name, value in browser.cookies.items()}
        tossed.get(f"/s/{copy.take('cash')}")
        for name in ("__Host-scan_visit", "__Host-scan_guest"):
            assert tossed.cookies[name] != browser.cookies[name]
        # A proxy in front may pass on a Host of its own; the outside knows us by base_url.
        reply = browser.ask("POST", f"/s/{copy.take('cash')}", Accept=JSON, Origin="https://brand.example")
        assert reply.status == 200
        browser.agent = WECHAT
        location = browser.get(f"/s/{copy.take('cash')}").headers["location"]
        assert f"&redirect_uri={quote('https://brand.example/shop/wechat/callback', safe='')}&" in location


@pytest.mark.parametrize("guests", [False, True])
def test_without_an_account_nobody_logs_in(
    template: Market, tmp_path: Path, stand_in: WechatStandIn, guests: bool
) -> None:
    copy = a_copy(template, tmp_path / "shop")
    configure(copy.folder, stand_in, 8080, app_id=None, page_guests=guests)
    with serving(copy.folder) as served:
        browser = Browser(f"http://127.0.0.1:{served.port}")
        code = copy.take("cash")
        page = browser.get(f"/s/{code}")
        assert (page.status, "<form" in page.body.decode()) == (200, guests)
        assert browser.claim(f"/s/{code}").status == (200 if guests else 401)
        callback = browser.get("/wechat/callback?code=x&state=y", Accept=JSON)
        assert (callback.status, callback.json["type"]) == (404, "urn:scanengine:problem:not-found")


@pytest.mark.parametrize(
    ("base_url", "secret", "words"),
    [
        ("http://brand.example", "x", "base_url in [program] is http://brand.example"),
        ("http://192.168.1.2:8080", "x", "use https (http is for loopback only)"),
        ("https://brand.example", None, "keys.toml has no secret in [wechat]"),
    ],
)
def test_a_login_that_cannot_work_is_refused_at_the_start(
    template: Market, tmp_path: Path, stand_in: WechatStandIn, base_url: str, secret: str | None, words: str
) -> None:
    copy = a_copy(template, tmp_path / "shop")
    configure(copy.folder, stand_in, 8080)
    path, keys = copy.folder / "scanengine.toml", copy.folder / "keys.toml"
    path.write_text(re.sub("^base_url = .*$", f'base_url = "{base_url}"', path.read_text(), flags=re.MULTILINE))
    if secret is None:
        keys.write_text(keys.read_text().replace(f'[wechat]\nsecret = "{SECRET}"', ""))
    done = run_cli(copy.folder, "serve", "--port", 0)
    assert done.returncode == 1
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_source_that_guesses_is_told_to_wait_in_words(template: Market, tmp_path: Path) -> None:
    copy = a_copy(template, tmp_path / "shop")
    path = copy.folder / "scanengine.toml"
    path.write_text(path.read_text().replace("[server]\n", "[server]\nbad_codes_per_minute = 3\n"))
    with serving(copy.folder) as served:
        browser = Browser(f"http://127.0.0.1:{served.port}", SAFARI)
        replies = [browser.get(f"/s/{copy.unknown(number)}") for number in range(6)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429, 429, 429]
        assert browser.claim(f"/s/{copy.take('cash')}").status == 429
        assert int(browser.get(f"/s/{copy.take('cash')}").headers["retry-after"]) >= 1


# In somebody else's application, and while the ledger does not answer -----------------------------------------------


class SilentLedger(MemoryLedger):
    """A ledger that never says what became of a claim, and keeps the visits it was asked with."""

    def __init__(self) -> None:
        super().__init__()
        self.visits: list[str] = []

    def claim(self, request: ClaimRequest) -> Receipt:
        if request.terms is not None:
            self.visits.append(request.visit)
        return PENDING


@asynccontextmanager
async def mounted(program: Program, prefix: str) -> AsyncIterator[str]:
    """Serve a program below a prefix of another application; yield the address of that place."""
    outer = web.Application()
    outer.add_subapp(prefix, make_app(program))
    server = TestServer(outer)
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{server.port}{prefix}"
    finally:
        await server.close()


async def test_while_the_outcome_is_unknown_the_button_sends_the_same_visit(shop: Shop, tmp_path: Path) -> None:
    use_guests(shop)
    ledger = SilentLedger()
    async with mounted(shop.program(ledger), "/brand") as place:
        home = place.removesuffix("/brand")
        browser = Browser(home, SAFARI)
        path = f"/brand/s/{shop.code(0)}"

        def work() -> None:
            assert browser.get(path).status == 200
            page = browser.press(path)
            assert (page.status, page.headers["retry-after"]) == (503, "1")
            assert f'action="{path}"' in page.body.decode()
            reply = browser.claim(path)
            assert (reply.status, reply.json["claim"]["status"], reply.headers["retry-after"]) == (503, "pending", "1")

        await asyncio.to_thread(work)
        assert ledger.visits == [browser.cookies["__Host-scan_visit"]] * 2


async def test_login_and_claim_work_below_a_prefix(shop: Shop) -> None:
    with WechatStandIn() as stand_in:
        port = free_port()
        configure(shop.folder, stand_in, port)
        path = shop.folder / "scanengine.toml"
        path.write_text(path.read_text().replace(f"127.0.0.1:{port}", f"127.0.0.1:{port}/brand"))
        keyring = load_keyring(shop.workspace.keys_path)
        program = Shop(shop.workspace, keyring).program(MemoryLedger())
        outer = web.Application()
        outer.add_subapp("/brand", make_app(program))
        runner = web.AppRunner(outer)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        browser = Browser(f"http://127.0.0.1:{port}")
        code = shop.code(0)

        def work() -> None:
            assert browser.open(f"/brand/s/{code}").status == 200
            assert [urlsplit(url).path for url in browser.trail] == [
                f"/brand/s/{code}", "/connect/oauth2/authorize", "/brand/wechat/callback", f"/brand/s/{code}",
            ]  # fmt: skip
            answer = browser.claim(f"/brand/s/{code}").json
            assert (answer["claim"]["replayed"], answer["scan"]["count"]) == (False, 1)

        try:
            await asyncio.to_thread(work)
        finally:
            await runner.cleanup()


def use_guests(shop: Shop) -> None:
    path = shop.folder / "scanengine.toml"
    path.write_text(path.read_text().replace("[page]\n", "[page]\nguests = true\n"))
