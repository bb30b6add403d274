"""The tour is what happens: its recorded parts are what the commands print today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from phones import Phone
from record_tour import (
    PICTURE_BYTES_MAX,
    PICTURES,
    TOUR,
    demo_served,
    part_of,
    record_once,
    record_screen,
    shape,
    with_part,
)
from terminal import qr_of


@pytest.fixture(scope="module")
def tour() -> str:
    return TOUR.read_text("utf-8")


def test_the_demo_that_ends_prints_what_the_tour_shows(tour: str, tmp_path: Path) -> None:
    assert shape(record_once(tmp_path)) == shape(part_of(tour, "once"))


def test_the_demo_that_serves_on_prints_what_the_tour_shows(tour: str, tmp_path: Path) -> None:
    with demo_served(tmp_path / "shop", 0) as (said, urls):
        assert shape(said) == shape(part_of(tour, "serving"))
        assert len(urls) == 3


def test_the_screen_for_phones_is_what_the_tour_shows(tour: str, tmp_path: Path) -> None:
    recorded = part_of(tour, "screen")
    assert shape(record_screen(tmp_path / "shop", 0, Phone().open)) == shape(recorded)
    assert qr_of(recorded.splitlines()) == re.search(r"or open (\S+)", recorded)[1]


def test_the_pictures_of_the_tour_are_there_and_small(tour: str) -> None:
    shown = re.findall(r"\(pictures/(tour-[\w-]+\.png)\)", tour)
    assert sorted(shown) == sorted(path.name for path in PICTURES.glob("tour-*.png"))
    assert 3 <= len(shown) <= 5
    assert [name for name in shown if (PICTURES / name).stat().st_size > PICTURE_BYTES_MAX] == []


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("item 12: won", "item 7: won", True),
        ("item 12: won", "item 7: lost", False),
        (
            "http://127.0.0.1:80/s/0123456789ABCDEFGHJK  wins",
            "http://127.0.0.1:8080/s/ZZZZZZZZZZZZZZZZZZZZ  wins",
            True,
        ),
        ("claim 0123456789ABCDEFGHJKMNPQRS", "claim 0123456789ABCDEFGHJKMNPQR", False),
        ("valid 2, 2.8/s", "valid 2, 0.1/s", True),
        ("valid 2, 2.8/s", "valid 3, 2.8/s", False),
    ],
)
def test_the_comparison_sees_what_differs(one: str, other: str, is_same: bool) -> None:
    assert (shape(one) == shape(other)) == is_same


def test_a_part_is_recorded_in_its_place(tour: str) -> None:
    changed = with_part(tour, "serving", "other\n")
    assert part_of(changed, "serving") == "other\n"
    assert part_of(changed, "once") == part_of(tour, "once")
    assert with_part(changed, "serving", part_of(tour, "serving")) == tour
