"""The report card of a load test: every form says the same, what is wrong comes first, and no text is markup."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from msgspec.structs import replace
from PIL import Image
from playwright.sync_api import Browser
from rich.console import Console

from browser import a_browser, a_page
from helpers_load import (
    COUNTS,
    PRIZES,
    a_profile,
    a_result,
    a_search,
    a_void_run,
    a_window,
    a_wrong_run,
    an_outcome,
)
from scanengine.errors import SettingsError
from scanengine.load import report
from scanengine.load.report import (
    PNG_WIDTH,
    card_html,
    card_json,
    card_png,
    card_svg,
    check_card_path,
    print_card,
    read_card,
    write_card,
)
from scanengine.load.report_card import make_card, milliseconds
from scanengine.load.report_words import LANGUAGES, WORDS, Language
from scanengine.load.results import Latencies, LoadResult, WrongAnswer

RUNS: dict[str, Callable[..., LoadResult]] = {
    "good": a_result, "wrong": a_wrong_run, "void": a_void_run, "search": a_search,
}  # fmt: skip
HOSTILE = "<script>alert(1)</script>\"'&amp;[red]{count}{{ 7*7 }}\x1b[2J\x00\u202e\ud800]]>"
FIGURES = ("168,008,760", "46,669", "0.97", "2.13", "4.83", "9.57", "31.4")
DARK = {"color_scheme": "dark"}


def printed(result: LoadResult, language: Language = "en", **options: object) -> str:
    """Return what a terminal of 80 columns would be sent."""
    out = io.StringIO()
    print_card(result, language, Console(**{"file": out, "width": 80, **options}))
    return out.getvalue()


class Seen(HTMLParser):
    """Reads a page strictly: every element that is opened is closed, in order."""

    EMPTY = frozenset({"meta", "path", "rect"})

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "head" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def everything(result: LoadResult, language: Language = "en") -> dict[str, str]:
    """Return the text of each form for people."""
    terminal = " ".join(printed(result, language).split())
    return {"terminal": terminal, "page": Seen(card_html(result, language)).text}


# What it says -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", RUNS)
def test_all_figures_are_in_every_form(name: str, language: Language) -> None:
    result = RUNS[name]()
    figures = [*FIGURES, *(f"{count:,}" for count in [*COUNTS.values(), *PRIZES.values()]), result.commit, result.date]
    for form, text in everything(result, language).items():
        assert [figure for figure in figures if figure not in text] == [], form
    picture = " ".join(ElementTree.fromstring(card_svg(make_card(result, language))).itertext())
    assert [figure for figure in [*FIGURES, result.commit, result.date] if figure not in picture] == []


def test_the_card_says_what_was_run_and_where() -> None:
    for form, text in everything(a_result()).items():
        for word in (
            "--mix new=70,repeat=10,taken=15,forged=5", "Some Processor 2.60GHz", "8.0 GiB", "Linux 6.1",
            "scanengine 0.1.0", "open, 46,700 arrivals a second", "new 70, repeat 10, taken 15, forged 5",
            "300,000, spread zipf", "110000 3, 310000 5", "from the moment a scan was due",
            "a power cut loses up to about two seconds",
            "0 wrong answers of 2,800,144", "1,960,123 claims",
        ):  # fmt: skip
            assert word in text, (form, word)


@pytest.mark.parametrize("durability", ["strict", "everysec", "volatile", "unverified"])
def test_every_durability_is_said_in_words(durability: str) -> None:
    text = printed(a_result(profile=a_profile(durability=durability)))
    assert f"({durability})" in " ".join(text.split())


def test_names_that_came_later_than_the_words_are_shown_as_they_are() -> None:
    outcome = an_outcome(
        counts={"teapot": 3}, wrong=1, wrong_answers=[WrongAnswer("sorcery", 4, "this", "that")],
        errors={"http_500": 2, "lost": 0},
    )  # fmt: skip
    result = a_result(outcome=outcome, profile=a_profile(durability="eventual", spread="pareto"))
    for text in everything(result).values():
        for word in ("teapot 3", "sorcery, item 4", "http_500 2", "eventual", "spread pareto"):
            assert word in text
        assert "lost 0," not in text.partition("Audit")[0]


def test_of_many_regions_some_are_named_and_the_others_counted() -> None:
    regions = {str(110_000 + number): 1 for number in range(31)}
    for text in everything(a_result(profile=a_profile(regions=regions))).values():
        assert "110000 1, 110001 1" in text
        assert "and 25 more" in text
        assert "110030" not in text


def test_a_closed_loop_says_what_its_latency_leaves_out() -> None:
    text = " ".join(printed(a_result(profile=a_profile(rate=None, duration_s=0, requests=5000))).split())
    assert "closed: each connection waits" in text
    assert "who waits sends nothing meanwhile" in text
    assert "5,000 scans" in text


def test_both_languages_have_the_same_words_with_the_same_values() -> None:
    names = re.compile(r"{(\w+)}")
    assert [key for key, (en, zh) in WORDS.items() if sorted(names.findall(en)) != sorted(names.findall(zh))] == []
    assert [key for key, (en, zh) in WORDS.items() if not en or not zh] == []


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0.00"), (0.974, "0.97"), (12.34, "12.3"), (1234.5, "1,234")])
def test_milliseconds_have_as_many_digits_as_mean_something(value: float, shown: str) -> None:
    assert milliseconds(value) == shown


# What must not be overlooked ----------------------------------------------------------------------------------------


def test_wrong_answers_come_first_and_in_red() -> None:
    for form, text in everything(a_wrong_run()).items():
        assert "0 wrong answers" not in text, form
        assert text.index("wrong answers: 1,234") < text.index("awarded twice, item 17: expected taken")
        assert text.index("and 1,232 more") < text.index("item 17: answered, not recorded") < text.index(FIGURES[0])
    assert "<title>wrong answers: 1,234 · " in card_html(a_wrong_run(), "en").decode()
    coloured = printed(a_wrong_run(), force_terminal=True, no_color=False)
    assert coloured.startswith("\x1b[1;31mwrong answers: 1,234")
    assert '<p class="verdict bad">wrong answers' in card_html(a_wrong_run(), "en").decode()


def test_a_ledger_that_does_not_agree_is_never_a_good_run() -> None:
    """Goal: 0 wrong answers do not hide a claim that was answered and is lost."""
    result = replace(a_wrong_run(), outcome=an_outcome())
    assert not make_card(result, "en").is_good
    for text in everything(result).values():
        assert text.index("the ledger does not agree") < text.index(FIGURES[0])


def test_a_run_without_an_answer_is_never_a_good_run() -> None:
    outcome = an_outcome(sent=9, answered=0, per_second=0.0, counts={}, prizes={}, latencies=Latencies())
    card = make_card(a_result(outcome=outcome, windows=[], audit=None), "en")
    assert not card.is_good
    assert "nothing was checked" in card.verdict
    assert [*card.charts] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_void_run_says_so_first_in_every_form(language: Language) -> None:
    mark = WORDS["void"][0 if language == "en" else 1]
    texts = everything(a_void_run(), language)
    texts["picture"] = " ".join(ElementTree.fromstring(card_svg(make_card(a_void_run(), language))).itertext())
    for form, text in texts.items():
        assert mark in text[: text.index(FIGURES[0], 60)], form
        assert "fell 812 ms" in re.sub(r"[│\s]+", " ", text)
        assert mark not in everything(a_result(), language).get(form, "")


# For programs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_the_json_is_the_whole_result_and_reads_back(name: str) -> None:
    result = RUNS[name]()
    assert read_card(card_json(result)) == result
    found = json.loads(card_json(result))
    assert found["outcome"]["per_hour"] == pytest.approx(168_008_760)
    assert found["is_right"] == (name != "wrong")
    assert found["outcome"]["is_void"] == (name == "void")


def test_what_is_no_result_is_refused() -> None:
    for data in (b"", b"{}", b"[1]", b'{"command": 1}'):
        with pytest.raises(SettingsError, match="not the JSON of a load test"):
            read_card(data)


# Terminal -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", RUNS)
def test_the_table_fits_80_columns(name: str, language: Language) -> None:
    result = RUNS[name](command="scanengine load " + "--regions=" + "110000=1," * 40)
    lines = printed(result, language).splitlines()
    assert max(Console(width=80).measure(line, options=None).maximum for line in lines) <= 80
    assert "110000=1," * 5 in printed(result, language).replace("\n", "").replace(" ", "")


def test_the_terminal_shows_the_trend_of_a_run_that_stalled() -> None:
    windows = [a_window(second, answered=0 if second == 5 else 1000) for second in range(10)]
    assert "█████▁████" in printed(a_result(windows=windows))


def test_a_second_that_did_not_end_is_no_drop() -> None:
    """Goal: a run of 60.02 s does not seem to collapse in its 61st second."""
    windows = [a_window(second, answered=3 if second == 60 else 1000) for second in range(61)]
    result = a_result(windows=windows)
    assert "between 1,000 and 1,000 answers a second" in str(make_card(result, "en").charts.throughput)
    assert "▁" not in printed(result)


# Hostile texts ------------------------------------------------------------------------------------------------------


def a_hostile_run() -> LoadResult:
    """Return a run in which every text that comes from elsewhere wants to be more than a text."""
    outcome = an_outcome(
        counts={HOSTILE: 5}, prizes={HOSTILE: 5}, errors={HOSTILE: 1}, wrong=1, is_void=True, void_reason=HOSTILE,
        wrong_answers=[WrongAnswer(HOSTILE, 1, HOSTILE, HOSTILE)],
    )  # fmt: skip
    profile = a_profile(target=HOSTILE, ledger=HOSTILE, durability=HOSTILE, burst=HOSTILE, spread=HOSTILE)
    machine = replace(a_result().machine, cpu=HOSTILE, system=HOSTILE)
    return a_result(
        outcome=outcome, profile=profile, machine=machine, command=HOSTILE, date=HOSTILE, version=HOSTILE,
        commit=HOSTILE, notes=[HOSTILE],
    )  # fmt: skip


def test_no_text_is_taken_for_markup() -> None:
    page = card_html(a_hostile_run(), "en")
    seen = Seen(page)
    assert "script" not in seen.tags
    assert b"<script" not in page
    assert seen.text.count("{{ 7*7 }}") > 10
    assert "[red]{count}" in printed(a_hostile_run())


def test_no_text_is_a_command_to_the_terminal() -> None:
    found = printed(a_hostile_run())
    assert not set(found) & {"\x1b", "\x00", "\u202e", "\ud800"}


def test_a_picture_of_hostile_texts_is_made() -> None:
    assert Image.open(io.BytesIO(card_png(a_hostile_run(), "en"))).width == PNG_WIDTH


def test_very_long_texts_stay_in_the_picture() -> None:
    long = "word " * 2_000 + "x" * 5_000
    result = replace(a_hostile_run(), command=long, notes=[long], profile=a_profile(target=long, burst=long))
    assert Image.open(io.BytesIO(card_png(result, "en"))).height < 2_000


# Picture ------------------------------------------------------------------------------------------------------------


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def reds(png: bytes) -> int:
    found = pixels(png)
    return int(((found[..., 0] > 150) & (found[..., 1] < 90) & (found[..., 2] < 90)).sum())


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_picture_has_its_size_and_is_not_blank(language: Language) -> None:
    found = pixels(card_png(a_result(), language))
    height, width, _ = found.shape
    assert width == PNG_WIDTH
    assert 1_000 < height < 1_600
    dark = found.sum(axis=2) < 3 * 128
    # The headline, the charts and the facts below: none of the thirds is empty, and nothing touches the edge.
    assert [int(third.sum()) > 2_000 for third in np.array_split(dark, 3)] == [True, True, True]
    assert not dark[:, :40].any()
    assert not dark[:, -40:].any()


def test_only_what_is_wrong_is_red_in_the_picture() -> None:
    assert reds(card_png(a_result(), "en")) == 0
    assert reds(card_png(a_wrong_run(), "en")) > 1_000
    assert reds(card_png(a_void_run(), "en")) > 1_000


def test_a_machine_without_fonts_is_told_which_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Goal: a picture without its letters is never taken for a card. Method: a renderer that draws none."""
    monkeypatch.setattr(report, "_render", lambda svg: b"blank")
    for language, package in (("en", "fonts-dejavu"), ("zh", "fonts-noto-cjk, or take --lang en")):
        with pytest.raises(SettingsError, match=package):
            check_card_path(tmp_path / "card.png", language)


# Page ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as started:
        yield started


@pytest.mark.parametrize("name", RUNS)
def test_the_page_names_nothing_outside_itself(name: str) -> None:
    page = card_html(RUNS[name](), "en")
    links = [value for key, value in Seen(page).attributes if key in ("src", "href", "srcset", "action", "xlink:href")]
    assert links == []
    # The name of the SVG language is no address that is asked.
    assert set(re.findall(rb"https?://[^\"'\s]+", page)) == {b"http://www.w3.org/2000/svg"}
    assert not re.findall(rb"@import|url\(", page)


def test_ids_of_a_page_are_its_own() -> None:
    ids = [value for key, value in Seen(card_html(a_wrong_run(), "en")).attributes if key == "id"]
    assert len(ids) == len(set(ids)) == 8
    wanted = [value for key, value in Seen(card_html(a_result(), "en")).attributes if key == "aria-labelledby"]
    assert sorted(" ".join(wanted).split()) == sorted(ids)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "options", [{}, DARK, {"viewport": {"width": 1100, "height": 900}}], ids=["phone", "dark", "desk"]
)
def test_the_page_is_readable_by_everybody(
    browser: Browser, tmp_path: Path, options: dict[str, object], language: Language
) -> None:
    """Method: axe-core, all its rules, and no sideways scrolling; a good run, and one of which nothing is good."""
    path = tmp_path / "card.html"
    for result in (a_search(), replace(a_wrong_run(), outcome=replace(a_wrong_run().outcome, is_void=True))):
        write_card(result, path, language)
        with a_page(browser, **options) as (page, seen):
            page.goto(path.as_uri())
            assert [one["id"] for one in Axe().run(page).response["violations"]] == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.locator("html").get_attribute("lang") == ("zh-CN" if language == "zh" else "en")
            assert FIGURES[0] in page.inner_text(".headline")
            # Axe runs a script in the page, which the policy of the page does not know.
            assert [line for line in seen.console if "Content Security Policy" not in line] == []
            assert seen.requests == [path.as_uri()]


def test_dark_paper_has_light_ink_and_print_does_not(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "card.html"
    write_card(a_result(), path, "en")
    ink = "getComputedStyle(document.querySelector('svg .ink')).fill"
    with a_page(browser, **DARK) as (page, _):
        page.goto(path.as_uri())
        assert page.evaluate(ink) == "rgb(241, 238, 233)"
        page.emulate_media(media="print")
        assert page.evaluate(ink) == "rgb(0, 0, 0)"


def test_markup_in_a_text_does_nothing_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "card.html"
    write_card(a_hostile_run(), path, "en")
    with a_page(browser) as (page, seen):
        page.goto(path.as_uri())
        assert page.locator("script").count() == 0
        assert seen.console == []


# Files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["json", "html", "png"])
def test_a_file_is_whole_or_what_it_was(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"card.{ending}"
    write_card(a_result(), path, "en")
    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        write_card(a_wrong_run(), path, "en")
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("card.pdf", r"a report ends in .json, .html, .png; found '.pdf'"),
        ("card", r"found 'no ending'"),
        ("none/card.html", r"is no folder that can be written to"),
        ("folder.json", r"is a folder: name a file"),
    ],
)
def test_a_path_that_cannot_be_is_refused_before_the_run(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(SettingsError, match=said):
        check_card_path(tmp_path / name, "en")
