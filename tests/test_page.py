"""The consumer's page as bytes: what it says in each state, in both languages, and what it lets nobody do."""

from __future__ import annotations

import base64
import hashlib
import re
import string
import tomllib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from helpers_page import (
    CASH,
    CLAIM_ID,
    CODE,
    COLA,
    RED_PACKET,
    STATES,
    a_decision,
    a_view,
    an_answer,
    claimed,
    nameless,
    not_valid,
    won,
)
from scanengine.model import HIDDEN_STATUSES, Answer, ClaimStatus, PrizeReply, Product, ProductReply, Status
from scanengine.server.page import Action, PageView, language_of, render
from scanengine.server.pages.colors import CONTRAST_MIN, PAPER, contrast, palette_of
from scanengine.server.pages.words import WORDS
from scanengine.tables.themes import PageTheme

SOURCE = Path(__file__).parents[1] / "src" / "scanengine"
DOCS = SOURCE.parents[1] / "docs"
ZH, EN = "zh-CN,zh;q=0.9", "en-GB,en;q=0.8"
LANGUAGES = {"zh": ZH, "en": EN}
BYTES_MAX = 60_000
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><style>*{display:none}",
    "{{ 7 * 7 }} {% raw %} {count} %s",
    "' onmouseover='alert(1)",
    "&lt;b&gt; &amp; \u202e",
)


def page(view: PageView, language: str = ZH) -> str:
    """Return the text of a page, which must fit in its bound."""
    response = render(view, accept_language=language)
    assert isinstance(response.body, bytes)
    assert len(response.body) <= BYTES_MAX
    return response.body.decode()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.shown: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.shown.append(data)


def read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    return reader


def shown(view: PageView, language: str = ZH) -> str:
    """Return what a person sees."""
    return " ".join(" ".join(read(page(view, language)).shown).split())


# Words --------------------------------------------------------------------------------------------------------------


def test_both_languages_have_the_same_words_with_the_same_places_to_fill() -> None:
    places = {
        language: {
            key: {name for _, name, _, _ in string.Formatter().parse(text) if name} for key, text in all_.items()
        }
        for language, all_ in ((language, words.entries) for language, words in WORDS.items())
    }
    assert places["zh"] == places["en"]
    assert all(text.strip() == text and text for words in WORDS.values() for text in words.entries.values())


def test_the_chinese_words_are_chinese_and_the_english_ones_are_not() -> None:
    han = re.compile(r"[\u4e00-\u9fff]")
    assert [key for key, text in WORDS["zh"].entries.items() if not han.search(text)] == ["lang"]
    assert [key for key, text in WORDS["en"].entries.items() if han.search(text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_status_has_words_of_its_own(language: str) -> None:
    public = {status.name.lower() for status in Status} - HIDDEN_STATUSES - {"valid"} | {"invalid"}
    titles = {status: WORDS[language](f"status.{status}.title") for status in public}
    assert len(set(titles.values())) == len(public)
    for status, title in titles.items():
        assert title in shown(a_view(Answer(status, None)), LANGUAGES[language])


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_outcome_of_a_claim_has_words(language: str) -> None:
    for status in set(ClaimStatus) - {ClaimStatus.STALE}:
        title = WORDS[language](f"claim.{status}.title")
        assert title in shown(claimed(status.value, at="2026-05-01T12:04:05.000+08:00"), LANGUAGES[language])


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_that_nobody_foresaw_are_still_kind(language: str) -> None:
    """Goal: a status, verdict, reason or notice of a later version does not become an error page."""
    odd = [
        a_view(Answer("melted", None)),
        a_view(an_answer(verdict="odd")),
        claimed("limited", "per_moon"),
        claimed("exploded"),
        a_view(action=Action.CLAIM, notice="odd"),
        PageView(None, None, Action.NONE, "/", notice="odd"),
        PageView(None, None, Action.NONE, "/"),
        won(PrizeReply("x", "car", None, None, "A car")),
    ]
    assert all(shown(view, LANGUAGES[language]) for view in odd)


def test_nobody_reads_fake_because_somebody_forgot_a_step() -> None:
    """Goal: an honest buyer is not told, or made to think, that the product is not genuine."""
    states = [name for name in STATES if name not in ("suspect",)]
    accusing = re.compile(r"假|伪造|仿冒|山寨|盗版|\b(fake|counterfeit|forged|illegal|fraud)", re.IGNORECASE)
    found = {
        name for name in states for language in LANGUAGES.values() if accusing.search(shown(STATES[name], language))
    }
    assert found == set()
    assert "并不说明商品有问题" in shown(not_valid("inactive"))
    assert "It does not mean that anything is wrong" in shown(not_valid("inactive"), EN)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9", "en"),
        ("en-US,en;q=0.9,zh-CN;q=0.8", "en"),
        ("en;q=0.5, zh;q=0.8", "zh"),
        ("zh;q=0.5, en;q=0.8", "en"),
        ("fr-FR,fr;q=0.9,en;q=0.5", "en"),
        ("fr", "zh"),
        ("*", "zh"),
        ("en;q=0", "zh"),
        ("EN-gb ; q = 0.9", "en"),
        ("zh-Hant-TW", "zh"),
        ("english", "zh"),
        ("en;q=1.5", "zh"),
        ("en;q=0.1e9", "zh"),
        ("," * 5_000 + "en", "zh"),
        ("\N{SNOWMAN};q=1", "zh"),
    ],
)
def test_chinese_unless_english_is_preferred(header: str, language: str) -> None:
    assert language_of(header) == language


def test_the_language_is_told_to_browser_and_reader() -> None:
    for header, tag in ((ZH, "zh-CN"), (EN, "en")):
        response = render(a_view(), accept_language=header)
        assert response.headers["Content-Language"] == tag
        assert f'<html lang="{tag}">' in page(a_view(), header)
        assert response.headers["Vary"] == "Accept-Language"


# Figures ------------------------------------------------------------------------------------------------------------


def test_a_product_is_named_in_the_language_of_the_page() -> None:
    assert COLA.title in shown(a_view())
    assert "Orange soda" in shown(a_view(), EN)
    nameless_product = a_decision(product=Product(COLA.gtin, COLA.title))
    assert f'<p class="name" lang="zh-CN">{COLA.title}</p>' in page(a_view(decision=nameless_product), EN)


@pytest.mark.parametrize(
    ("at", "zh", "en"),
    [
        ("2026-05-01T12:03:04.000+08:00", "2026年5月1日 12:03", "1 May 2026, 12:03 (UTC+8)"),
        ("2026-12-31T23:59:59.999+05:30", "2026年12月31日 23:59（UTC+5:30）", "31 Dec 2026, 23:59 (UTC+5:30)"),
        ("2026-01-02T03:04:05.000-03:30", "2026年1月2日 03:04（UTC-3:30）", "2 Jan 2026, 03:04 (UTC-3:30)"),
    ],
)
def test_times_are_those_of_the_answer(at: str, zh: str, en: str) -> None:
    answer = an_answer()
    assert answer.scan is not None
    view = a_view(replace(answer, scan=replace(answer.scan, first_at=at)))
    assert zh in shown(view)
    assert en in shown(view, EN)
    assert f'<time datetime="{at}">' in page(view).replace("&#43;", "+")


@pytest.mark.parametrize(
    ("amount", "currency", "zh"),
    [
        (8800, "CNY", "88 元"),
        (30, "CNY", "0.30 元"),
        (1, "CNY", "0.01 元"),
        (123_456_789, "CNY", "1,234,567.89 元"),
        (500, "JPY", "500 日元"),
        (1500, "KWD", "1.500 KWD"),
        (199, "XYZ", "1.99 XYZ"),
    ],
)
def test_money_is_shown_in_units_and_not_in_minor_units(amount: int, currency: str, zh: str) -> None:
    assert zh in shown(won(PrizeReply("p", "cash", amount, currency, "红包")))


def test_a_prize_that_is_called_what_it_is_is_not_said_twice() -> None:
    assert shown(won(PrizeReply("p", "points", 10, None, "10 积分"))).count("10 积分") == 1
    assert "88 元现金红包" in shown(won(CASH))


def test_a_count_is_shown_only_with_a_verdict() -> None:
    assert "42 次" in shown(STATES["suspect"])
    assert "次数暂时查不到" in shown(STATES["counts_unavailable"])
    assert "扫码次数" not in shown(STATES["plain_valid"])


def test_a_verdict_needs_the_authenticity_scene() -> None:
    """Goal: a code that is only for marketing says nothing about what it is on."""
    assert "正品" not in shown(STATES["plain_valid"])
    assert "正品" in shown(STATES["first_scan"])


def test_a_repeated_claim_is_told_as_one_of_before() -> None:
    assert "2026年5月1日 12:04" in shown(STATES["won_again"])
    assert "恭喜" not in shown(STATES["won_again"])
    assert "88 元" in shown(STATES["won_again"])


def test_a_test_code_says_so() -> None:
    assert "测试码" in shown(a_view(an_answer(test=True)))
    assert "测试码" not in shown(a_view())


# What outsiders are not told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(HIDDEN_STATUSES))
def test_four_statuses_are_one_page(status: str) -> None:
    """Goal: a guesser learns nothing, whatever the caller hands over."""
    view = a_view(an_answer(status), decision=a_decision(Status[status.upper()]), theme=PageTheme())
    assert page(view) == page(nameless("invalid"))


def test_the_code_is_nowhere_but_in_the_address_of_the_form() -> None:
    """Goal: a picture of the page, sent to friends, gives nothing away."""
    for view in STATES.values():
        text = page(view)
        assert CODE not in text.replace(f'action="/s/{CODE}"', "")
        assert CODE not in repr(view)
    assert f'action="/s/{CODE}"' in page(STATES["claim_plain"])


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_text_holds_it_is_shown_as_it_is(text: str) -> None:
    prize = PrizeReply("p", "goods", None, None, text)
    view = won(prize, replace(RED_PACKET, title=text, rules=text))
    product = ProductReply(COLA.gtin, text)
    view = replace(view, decision=a_decision(product=Product(COLA.gtin, text, brand=text), lot=text))
    assert view.answer is not None
    view = replace(view, answer=replace(view.answer, product=product))
    found, expected = read(page(view)), read(page(STATES["won_goods"]))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in expected.tags]
    assert sum(part == text for part in found.shown) == 6


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_path_holds_the_form_posts_to_this_host(text: str) -> None:
    reader = read(page(a_view(action=Action.CLAIM, path=f"/s/{text}")))
    (action,) = [attributes["action"] for tag, attributes in reader.tags if tag == "form"]
    assert action == f"/s/{text}"


@pytest.mark.parametrize("path", ["//evil.example/s/x", "/\\evil.example/s/x", "\\/evil.example/s/x", "///x"])
def test_a_path_is_never_another_host(path: str) -> None:
    reader = read(page(a_view(action=Action.CLAIM, path=path)))
    (action,) = [attributes["action"] for tag, attributes in reader.tags if tag == "form"]
    assert action is not None
    assert re.match(r"/[^/\\]", action)


# One reply ----------------------------------------------------------------------------------------------------------


def digests(text: str, tag: str) -> list[str]:
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts]


@pytest.mark.parametrize("name", STATES)
def test_style_and_script_are_those_the_policy_allows(name: str) -> None:
    for header in LANGUAGES.values():
        response = render(STATES[name], accept_language=header)
        policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
        text = page(STATES[name], header)
        assert policy["default-src"] == "'none'"
        assert policy["style-src"].split() == digests(text, "style")
        assert set(digests(text, "script")) <= set(policy["script-src"].split())
        assert len(policy["script-src"].split()) == 1
        assert (policy["base-uri"], policy["frame-ancestors"], policy["form-action"]) == ("'none'", "'none'", "'self'")
        assert "unsafe" not in response.headers["Content-Security-Policy"]


def test_a_page_is_kept_nowhere_framed_nowhere_and_tells_nobody_where_it_was() -> None:
    response = render(a_view(), accept_language="")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"


def test_a_page_has_the_status_asked_for() -> None:
    response = render(STATES["pending"], accept_language="", status=503)
    assert isinstance(response, web.Response)
    assert response.status == 503


def test_the_largest_page_that_a_campaign_file_can_make_is_small() -> None:
    """Method: every text as long as its file may have it, of characters that escaping makes longest."""
    title, rules = '"' * 200, '"' * 4_000
    theme = PageTheme("wheel", "#c8102e", title, title, rules, rules)
    view = a_view(action=Action.CLAIM, theme=theme)
    assert 20_000 < len(page(view)) <= BYTES_MAX
    assert len(page(replace(view, theme=replace(theme, rules="字" * 4_000))).encode()) <= BYTES_MAX


@pytest.mark.parametrize("name", STATES)
def test_a_page_has_landmarks_one_headline_and_no_inline_handlers(name: str) -> None:
    reader = read(page(STATES[name]))
    tags = [tag for tag, _ in reader.tags]
    assert (tags.count("h1"), tags.count("main"), tags.count("footer")) == (1, 1, 1)
    names = {attribute for _, attributes in reader.tags for attribute in attributes}
    assert not {attribute for attribute in names if attribute.startswith("on") or attribute == "style"}
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_reply_to_the_button_has_what_the_script_looks_for() -> None:
    for name in ("won_cash", "pending", "login", "taken", "limited"):
        assert {"prize", "stage", "outcome"} <= {found.get("id") for _, found in read(page(STATES[name])).tags}
    assert CLAIM_ID in shown(STATES["won_cash"])


def test_every_part_of_the_page_is_installed() -> None:
    settings = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text("utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["scanengine"]
    named = {path for pattern in patterns for path in SOURCE.glob(pattern)}
    parts = {path for path in (SOURCE / "server" / "pages").iterdir() if path.is_file() and path.suffix != ".py"}
    assert parts <= named
    assert {path.suffix for path in parts} == {".html", ".css", ".js", ".toml"}


# Documentation ------------------------------------------------------------------------------------------------------


def test_the_documented_headlines_are_those_of_the_page() -> None:
    text = DOCS.joinpath("page.md").read_text("utf-8")
    kinds = ("verdict.", "status.", "claim.")
    titles = {
        key: f"{WORDS['zh'](key)} {title}"
        for key, title in WORDS["en"].entries.items()
        if key.startswith(kinds) and key.endswith(".title") and not key.endswith("_again.title")
    }
    assert len(titles) > 20
    assert [key for key, title in titles.items() if title not in text and key != "claim.closed.title"] == []


def test_the_documented_pauses_are_those_of_the_script() -> None:
    script = (SOURCE / "server" / "pages" / "page.js").read_text("utf-8")
    found = re.search(r"PAUSES_MS = \[(.*?)\]", script)
    assert found is not None
    *pauses, last = (str(int(pause) // 1000) for pause in found[1].split(","))
    assert f"after {', '.join(pauses)} and {last} seconds" in DOCS.joinpath("page.md").read_text("utf-8")


def test_pictures_are_small() -> None:
    pictures = re.findall(r"\]\((pictures/[^)]+)\)", DOCS.joinpath("page.md").read_text("utf-8"))
    assert len(pictures) == 6
    assert all((DOCS / picture).stat().st_size <= BYTES_MAX for picture in pictures)


# Colours ------------------------------------------------------------------------------------------------------------


@given(st.from_regex(r"\A#[0-9a-f]{6}\Z"))
def test_text_is_readable_beside_any_accent(color: str) -> None:
    palette = palette_of(color)
    assert palette.accent == color
    pairs = [
        (palette.text_on, palette.accent),
        (palette.text_on, palette.shade),
        (palette.text_in, PAPER),
        (palette.text_in, palette.tint),
    ]
    assert all(contrast(*pair) >= CONTRAST_MIN for pair in pairs), palette


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert palette_of("#c8102e").text_in == "#c8102e"
    assert palette_of("#ffe600").text_in != "#ffe600"


def test_a_theme_colours_the_page() -> None:
    assert "--accent:#0b6e5f" in page(STATES["claim_wheel"])
    assert unescape(page(STATES["claim_wheel"])).count("--accent:") == 1
