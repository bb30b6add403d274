"""The consumer's page in a real Chromium: every state shown, the button pressed, the network gone, the script off."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from msgspec.structs import replace
from playwright.sync_api import Browser, Page, expect

from browser import a_browser, a_page
from helpers_page import RED_PACKET, STATES, VISIT, WHEEL, Desk, a_view, one_of_each_markup, page_server
from scanengine.server.page import Action
from scanengine.server.pages.words import WORDS
from scanengine.tables.themes import PageTheme
from serving import a_market, recorded_claims, serving

LANGUAGES = ("zh-CN", "en-US")
QUICK = """
window.pauses = [];
const later = window.setTimeout;
window.setTimeout = (work, ms) => {
  if (ms === 20000) return later(work, ms);
  window.pauses.push(ms);
  return later(work, 0);
};
"""
"""Pauses between questions last no time and are written down; the patience with one question stays."""
MOVING = "document.getAnimations().filter((one) => one.playState === 'running').length"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as started:
        yield started


def text_of(page: Page) -> str:
    return " ".join(page.inner_text("body").split())


def press(page: Page) -> None:
    page.locator("#stage button").click()


def outcome(page: Page, title_key: str) -> None:
    """Wait until the outcome of this name is announced."""
    expect(page.locator("#outcome .title")).to_have_text(WORDS["zh"](f"{title_key}.title"))


# Every state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_state_is_shown_without_an_error_or_a_request_elsewhere(browser: Browser, language: str) -> None:
    words = WORDS["zh" if language.startswith("zh") else "en"]
    with page_server(Desk("pending")) as base, a_page(browser, language=language) as (page, seen):
        for name in STATES:
            if name == "pending":
                continue  # Asks at once, and has tests of its own.
            page.goto(f"{base}/s/{name}")
            assert page.locator("html").get_attribute("lang") == words("lang")
            assert page.locator("h1").inner_text().strip()
            assert page.locator("main").inner_text().strip()
        assert seen.console == []
        assert seen.outside(base) == []
        assert len(seen.requests) == len(STATES) - 1


def test_nothing_is_lost_without_the_script(browser: Browser) -> None:
    with (
        page_server() as base,
        a_page(browser) as (page, _),
        a_page(browser, java_script_enabled=False) as (still, _),
    ):
        for name in one_of_each_markup():
            if name != "pending":
                page.goto(f"{base}/s/{name}")
                still.goto(f"{base}/s/{name}")
                assert text_of(still) == text_of(page), name


def test_no_state_has_a_barrier(browser: Browser) -> None:
    """Method: axe-core, all its rules, on one state of each markup; in English what has most words."""
    found: dict[str, list[Any]] = {}
    views = [("zh-CN", one_of_each_markup()), ("en-US", ["suspect", "login_slow"])]
    with page_server(Desk("pending")) as base:
        for language, states in views:
            with a_page(browser, language=language) as (page, _):
                for name in states:
                    page.goto(f"{base}/s/{name}")
                    violations = Axe().run(page).response["violations"]
                    if violations:
                        found[name] = [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations]
    assert found == {}


def test_a_barrier_would_be_found(browser: Browser) -> None:
    with page_server() as base, a_page(browser) as (page, _):
        page.goto(f"{base}/s/claim_plain")
        page.evaluate("document.querySelector('#stage button').style.color = '#c96a64'")
        violations = Axe().run(page).response["violations"]
        assert [one["id"] for one in violations] == ["color-contrast"]


@pytest.mark.parametrize("color", ["#ffffff", "#000000", "#ffe600", "#777777"])
def test_any_accent_leaves_text_readable(browser: Browser, color: str) -> None:
    views = {
        moment: a_view(action=Action.CLAIM, theme=PageTheme(moment, color, "开盖有奖"))
        for moment in ("plain", "red_packet", "wheel")
    }
    views["won"] = replace(STATES["won_points"], theme=replace(WHEEL, color=color))
    with page_server(views=views) as base, a_page(browser) as (page, _):
        for name in views:
            page.goto(f"{base}/s/{name}")
            assert [one["id"] for one in Axe().run(page).response["violations"]] == [], name


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_narrow_screen_with_large_text_needs_no_sideways_scrolling(browser: Browser, language: str) -> None:
    too_wide = """
        [...document.querySelectorAll("body *")].filter((one) => {
          const box = one.getBoundingClientRect();
          return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);
        }).map((one) => one.outerHTML.slice(0, 80))
    """
    found = {}
    with (
        page_server(Desk("pending")) as base,
        a_page(browser, language=language, viewport={"width": 320, "height": 640}) as (page, _),
    ):
        for name in STATES:
            page.goto(f"{base}/s/{name}")
            page.evaluate("document.documentElement.style.fontSize = '200%'")
            wide = page.evaluate(too_wide)
            if wide or page.evaluate("document.documentElement.scrollWidth") > 320:
                found[name] = wide
    assert found == {}


def test_markup_in_a_text_is_text(browser: Browser) -> None:
    bad = "<img src=x onerror=alert(1)></style><script>alert(1)</script>"
    views = {"bad": a_view(action=Action.CLAIM, theme=replace(RED_PACKET, title=bad, rules=bad))}
    with page_server(views=views) as base, a_page(browser) as (page, seen):
        page.goto(f"{base}/s/bad")
        assert page.locator("h2").first.inner_text() == bad
        assert page.locator("img").count() == 0
        assert seen.console == []


def test_what_got_in_all_the_same_would_do_nothing(browser: Browser) -> None:
    """Goal: the policy is in force. Method: markup put into the page asks for a script, a style and a picture."""
    markup = "<b style='color:red' onclick='window.done=1'></b><img src='http://127.0.0.1:9/x.png'>"
    with page_server() as base, a_page(browser) as (page, seen):
        page.goto(f"{base}/s/first_scan")
        page.evaluate("(html) => document.body.insertAdjacentHTML('beforeend', html)", markup)
        page.locator("b").dispatch_event("click")
        assert page.evaluate("window.done") is None
        assert page.evaluate("getComputedStyle(document.querySelector('b')).color") != "rgb(255, 0, 0)"
        assert sum("Content Security Policy" in line for line in seen.console) >= 3


# The button ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["red_packet", "wheel", "plain"])
def test_pressed_twice_it_claims_once(browser: Browser, moment: str) -> None:
    desk = Desk("won_cash")
    desk.open.clear()
    with page_server(desk) as base, a_page(browser) as (page, seen):
        page.goto(f"{base}/s/claim_{moment}")
        page.locator("#stage button").dblclick()
        page.locator("#stage button").click(force=True)
        expect(page.locator("#prize")).to_have_attribute("data-state", "waiting")
        expect(page.locator("#outcome")).to_have_text(WORDS["zh"]("action.waiting"))
        desk.open.set()
        outcome(page, "claim.awarded")
        expect(page.locator(".figure")).to_have_text("88元")
        assert desk.claims == [(f"/s/claim_{moment}", VISIT)]
        assert page.locator("#stage button").count() == 0
        assert seen.console == []


def test_without_the_script_the_button_claims_too(browser: Browser) -> None:
    desk = Desk("pending", "won_cash")
    with page_server(desk) as base, a_page(browser, java_script_enabled=False) as (page, seen):
        page.goto(f"{base}/s/claim_red_packet")
        press(page)
        assert WORDS["zh"]("claim.pending.title") in text_of(page)
        page.get_by_text(WORDS["zh"]("action.again")).click()
        assert WORDS["zh"]("claim.awarded.title") in text_of(page)
        assert desk.claims == [("/s/claim_red_packet", VISIT)] * 2
        assert [line for line in seen.console if "503" not in line] == []


def test_a_pending_claim_is_asked_for_again_with_the_same_visit_until_it_is_known(browser: Browser) -> None:
    desk = Desk("pending", "503", "429", "pending", "won_cash")
    with page_server(desk) as base, a_page(browser) as (page, _):
        page.add_init_script(QUICK)
        page.goto(f"{base}/s/claim_red_packet")
        press(page)
        outcome(page, "claim.awarded")
        assert desk.claims == [("/s/claim_red_packet", VISIT)] * 5
        assert page.evaluate("window.pauses") == [1000, 2000, 4000, 8000]


def test_a_page_that_arrives_pending_asks_by_itself(browser: Browser) -> None:
    desk = Desk("pending", "no_prize")
    with page_server(desk) as base, a_page(browser) as (page, _):
        page.add_init_script(QUICK)
        page.goto(f"{base}/s/pending")
        outcome(page, "claim.no_prize")
        assert len(desk.claims) == 2


def test_it_gives_up_in_the_end_and_the_person_may_go_on(browser: Browser) -> None:
    desk = Desk(*["pending"] * 7, "won_cash")
    with page_server(desk) as base, a_page(browser) as (page, _):
        page.add_init_script(QUICK)
        page.goto(f"{base}/s/claim_wheel")
        press(page)
        expect(page.locator("#outcome")).to_have_text(WORDS["zh"]("action.give_up"))
        pauses = page.evaluate("window.pauses")
        assert pauses == sorted(set(pauses))
        assert len(desk.claims) == len(pauses) + 1 == 7
        press(page)
        outcome(page, "claim.awarded")
        assert desk.claims == [("/s/claim_wheel", VISIT)] * 8


def test_what_the_server_refuses_is_not_asked_for_again(browser: Browser) -> None:
    desk = Desk("403")
    with page_server(desk) as base, a_page(browser) as (page, _):
        page.add_init_script(QUICK)
        page.goto(f"{base}/s/claim_plain")
        press(page)
        expect(page.locator("#outcome")).to_have_text(WORDS["zh"]("action.give_up"))
        assert len(desk.claims) == 1


def test_a_lost_connection_is_tried_again(browser: Browser) -> None:
    desk = Desk("won_cash")
    lost = ["connectionreset", "internetdisconnected"]
    with page_server(desk) as base, a_page(browser) as (page, _):
        page.add_init_script(QUICK)
        page.goto(f"{base}/s/claim_red_packet")
        page.route("**/s/*", lambda route: route.abort(lost.pop()) if lost else route.continue_())
        press(page)
        outcome(page, "claim.awarded")
        assert page.evaluate("window.pauses") == [1000, 2000]
        assert len(desk.claims) == 1


@pytest.mark.parametrize("name", ["taken", "limited_today", "ended", "ineligible", "no_prize", "won_again"])
def test_every_outcome_is_put_in_place_of_the_button(browser: Browser, name: str) -> None:
    with page_server(Desk(name)) as base, a_page(browser) as (page, seen):
        page.goto(f"{base}/s/{name}")
        expected = text_of(page)
        page.goto(f"{base}/s/claim_red_packet")
        press(page)
        expect(page.locator("#prize")).to_have_attribute("data-state", "done")
        assert text_of(page) == expected
        assert seen.console == []


def test_who_is_no_longer_logged_in_is_shown_the_way(browser: Browser) -> None:
    with page_server(Desk("login")) as base, a_page(browser) as (page, _):
        page.goto(f"{base}/s/claim_red_packet")
        press(page)
        link = page.get_by_role("link", name=WORDS["zh"]("action.login"))
        expect(link).to_be_focused()
        assert link.get_attribute("href") == "/login"


def test_the_keyboard_is_enough(browser: Browser) -> None:
    with page_server(Desk("won_cash")) as base, a_page(browser) as (page, _):
        page.goto(f"{base}/s/claim_red_packet")
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name=WORDS["zh"]("moment.red_packet.button"))).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.locator("summary")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        outcome(page, "claim.awarded")
        expect(page.get_by_role("status")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.locator("summary")).to_be_focused()


@pytest.mark.parametrize(("motion", "is_moving"), [("reduce", False), ("no-preference", True)])
@pytest.mark.parametrize("moment", ["red_packet", "wheel"])
def test_who_wants_no_motion_gets_none(browser: Browser, moment: str, motion: str, is_moving: bool) -> None:
    desk = Desk("won_points" if moment == "wheel" else "won_cash")
    desk.open.clear()
    with page_server(desk) as base, a_page(browser, reduced_motion=motion) as (page, _):
        page.goto(f"{base}/s/claim_{moment}")
        press(page)
        assert (page.evaluate(MOVING) > 0) == is_moving
        desk.open.set()
        outcome(page, "claim.awarded")
        assert (page.evaluate(MOVING) > 0) == is_moving


# Pictures, and a server ---------------------------------------------------------------------------------------------


def test_pictures_of_states_are_taken(tmp_path: Path) -> None:
    script = Path(__file__).with_name("page_shots.py")
    command = [sys.executable, str(script), str(tmp_path), "first_scan", "won_cash"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    taken = [Path(line) for line in done.stdout.split()]
    assert [path.name for path in taken] == [
        "first_scan-zh.png",
        "won_cash-zh.png",
        "first_scan-en.png",
        "won_cash-en.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in taken)


def test_a_prize_is_won_on_a_real_server_and_told_again(browser: Browser, tmp_path: Path) -> None:
    """Goal: page, door and ledger fit together, with one scan counted and one claim recorded."""
    market = a_market(tmp_path / "shop")
    path = market.shop.workspace.settings_path
    text = re.sub(r'base_url = ".*?"', 'base_url = "http://127.0.0.1"', path.read_text())
    path.write_text(text.replace("[page]", "[page]\nguests = true", 1))
    code = market.take("cash")
    with serving(market.folder) as served, a_page(browser) as (page, seen):
        address = f"http://127.0.0.1:{served.port}/s/{code}"
        page.goto(address)
        assert page.locator("h1").inner_text() == WORDS["zh"]("verdict.first_scan.title")
        page.locator("#stage button").dblclick()
        outcome(page, "claim.awarded")
        expect(page.locator(".figure")).to_have_text("88元")
        page.goto(address)
        outcome(page, "claim.awarded_again")
        with served.client() as client:
            found = json.loads(client.ask("GET", f"/v1/codes/{code}", Accept="application/json").body)
        assert found["scan"]["count"] == 1
        assert seen.console == []
        assert seen.outside(address.rpartition("/s/")[0]) == []
    assert len(recorded_claims(market.shop)) == 1
