"""The ``[page]`` of a campaign file: read, refused with its place, published, and given to the page."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from msgspec.structs import replace

from helpers import SPRING, Shop, replaced
from helpers_campaigns import RULE, WHOLE, changed, faults_of, parsed, published
from scanengine.campaigns import example_campaign, parse_campaign
from scanengine.campaigns.page import RULES_CHARS_MAX
from scanengine.model import TEST_SUFFIX
from scanengine.tables.themes import PageTheme

PAGE = """
[page]
moment = "wheel"
color = "#0B6E5F"
title = "开盖有奖"
title_en = "Open a cap"
rules = "一人一次。\\n送完为止。"
rules_en = "Once each."
"""
WITH_PAGE = changed(RULE, PAGE + RULE)
THEME = PageTheme("wheel", "#0b6e5f", "开盖有奖", "Open a cap", "一人一次。\n送完为止。", "Once each.")


def test_a_page_is_read_as_it_is_written() -> None:
    assert parsed(WITH_PAGE).page == THEME


def test_a_campaign_without_a_page_has_none() -> None:
    assert parsed(WHOLE).page is None


def test_an_empty_page_is_a_plain_one() -> None:
    assert parsed(changed(RULE, "[page]\n" + RULE)).page == PageTheme()


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            '"wheel"',
            '"weel"',
            "page.moment: expected plain or red_packet or wheel, found 'weel'; did you mean 'wheel'?",
        ),
        ('"wheel"', "3", "page.moment: expected a string, found 3"),
        ('"#0B6E5F"', '"red"', "page.color: expected '#' and six hexadecimal digits such as '#c8102e', found 'red'"),
        (
            '"#0B6E5F"',
            '"#fff}*{x:url(a)"',
            "page.color: expected '#' and six hexadecimal digits such as '#c8102e', found '#fff}*{x:url(a)'",
        ),
        ('"#0B6E5F"', "false", "page.color: expected a string, found false"),
        ('"Open a cap"', '""', "page.title_en: expected 1 to 200 characters on one line, found ''"),
        ('"Open a cap"', '"a\\nb"', "page.title_en: expected 1 to 200 characters on one line, found 'a\\nb'"),
        ('"Once each."', '"  "', "page.rules_en: expected 1 to 4,000 characters of plain text, found 0"),
        ('"Once each."', '"a\\u0000"', "page.rules_en: expected plain text in lines, found a control character"),
        ("title_en", "titel", "page.titel: unknown key; did you mean 'title'? (known: moment, color, title,"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_place(old: str, new: str, fault: str) -> None:
    (found,) = faults_of(changed(old, new, WITH_PAGE))
    assert found.startswith(fault)


def test_a_page_that_is_no_table_is_refused() -> None:
    assert faults_of("page = 3\n" + WHOLE)[0].startswith("page: expected")


def test_rules_have_an_end() -> None:
    assert parsed(changed("Once each.", "x" * RULES_CHARS_MAX, WITH_PAGE)).page is not None
    (fault,) = faults_of(changed("Once each.", "x" * (RULES_CHARS_MAX + 1), WITH_PAGE))
    assert fault == "page.rules_en: expected 1 to 4,000 characters of plain text, found 4,001"


def test_the_page_is_in_the_table(tmp_path: Path) -> None:
    with published(tmp_path, WITH_PAGE) as table:
        assert table.metadata.page == THEME


def test_the_bytes_of_a_table_without_a_page_do_not_mention_one(tmp_path: Path) -> None:
    """Goal: a reader that knows nothing of pages reads such a table too."""
    with published(tmp_path, WHOLE) as table:
        assert b"page" not in table.path.read_bytes()


def test_the_example_shows_every_key_of_a_page() -> None:
    page = parse_campaign(example_campaign(date(2026, 6, 1)), "example").page
    assert page is not None
    assert all(getattr(page, name) for name in PageTheme.__struct_fields__)


# What the program gives the page -----------------------------------------------------------------------------------


def test_a_program_gives_the_page_of_the_campaign(shop: Shop) -> None:
    program = shop.program()
    decision = program.decide(shop.code(1))
    assert program.page_of(decision) == PageTheme(title="Open a cap, win")
    shop.publish(replaced(SPRING, "[limits]", PAGE + "[limits]"))
    assert program.page_of(decision).moment == "plain"
    program.refresh()
    assert program.page_of(program.decide(shop.code(1))) == THEME


def test_a_test_code_has_the_page_of_its_campaign(shop: Shop) -> None:
    """Goal: a brand sees on test labels what buyers will see."""
    shop.publish(replaced(SPRING, "[limits]", PAGE + "[limits]"))
    program = shop.program()
    decision = program.decide(shop.code(1))
    assert program.page_of(replace(decision, campaign=f"{decision.campaign}{TEST_SUFFIX}", test=True)) == THEME


def test_a_code_without_a_campaign_has_the_plain_page(shop: Shop) -> None:
    program = shop.program()
    assert program.page_of(program.decide("nonsense")) == PageTheme()
