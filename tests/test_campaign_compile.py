"""Compiled campaigns: odds, conditions, wall clock and numbers are those of the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from helpers_campaigns import ITEM, KEY, NOON_MS, TEXT, WEIGHTED, compiled, goods, local_ms, published, rule
from scanengine.campaigns.compile import merged
from scanengine.campaigns.odds import build_alias, probabilities
from scanengine.errors import CampaignError
from scanengine.model import NO_PRIZE, PrizeTerms, Role
from scanengine.tables import prizes
from scanengine.tables.prizes import PrizeTable, build_prize_table


def decides(when: str, batch_items: Mapping[str, tuple[int, int]] | None = None) -> Callable[..., bool]:
    """Return a function that tells whether a rule with these conditions draws."""
    _, sections = compiled(TEXT + rule("only", when), batch_items=batch_items)
    rules = prizes.RuleSet(KEY, *(sections[number] for number in prizes.LAYOUT))

    def holds(
        *, item: int = ITEM, at: int = NOON_MS, role: Role = Role.CONSUMER, region: int = 0, gtin: int = 0
    ) -> bool:
        return bool(rules.decide(item, at, int(role), region, gtin) != (-1, -1))

    return holds


# Odds ---------------------------------------------------------------------------------------------------------------


def written_columns(path: Path, weights: list[int]) -> tuple[list[int], list[int]]:
    """Return thresholds and aliases of a published table, read back from its file; ``none`` comes last, weight 0."""
    entries = "".join(goods(f"p{i}") for i in range(len(weights)))
    odds = ", ".join(f"p{i} = {weight:#x}" for i, weight in enumerate(weights))
    text = TEXT + entries + rule("all", draw=f'{{ mode = "weighted", weights = {{ {odds}, none = 0 }} }}')
    file = path / "odds.prizes"
    file.unlink(missing_ok=True)
    build_prize_table(file, *compiled(text))
    with PrizeTable(file) as table:
        assert table.metadata.rules[0].weights == (*map(str, weights), "0")
        thresholds, aliases, outcomes = table.columns(0)
        # The prizes of TEXT have the numbers 0 and 1.
        assert outcomes == [*range(2, len(weights) + 2), NO_PRIZE]
        return thresholds, aliases


def column_odds(thresholds: list[int], aliases: list[int]) -> list[Fraction]:
    """Return the odds if all columns are equally likely: what the table itself says, before a column is drawn."""
    odds = [Fraction(0)] * len(thresholds)
    for column, (threshold, alias) in enumerate(zip(thresholds, aliases, strict=True)):
        odds[column] += Fraction(threshold, len(odds) << 64)
        odds[alias] += Fraction((1 << 64) - threshold, len(odds) << 64)
    return odds


def assert_odds(weights: list[int], thresholds: list[int], aliases: list[int]) -> None:
    exact = [Fraction(weight, sum(weights)) for weight in [*weights, 0]]
    in_table, drawn = column_odds(thresholds, aliases), probabilities(thresholds, aliases)
    assert all(abs(chance - want) <= Fraction(1, 1 << 64) for chance, want in zip(in_table, exact, strict=True))
    # The draw of a column from 64 bits adds up to one part in 2**64 a column.
    slack = Fraction(len(exact), 1 << 63)
    assert all(abs(chance - want) <= slack for chance, want in zip(drawn, exact, strict=True))
    assert all(chance == 0 for chance, want in zip(drawn, exact, strict=True) if want == 0)


weights_lists = st.lists(st.integers(0, 100) | st.integers(0, 2**4096 - 1), min_size=1, max_size=30).filter(any)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(weights=weights_lists)
def test_published_odds_are_what_the_campaign_says(tmp_path: Path, weights: list[int]) -> None:
    assert_odds(weights, *written_columns(tmp_path, weights))


@pytest.mark.parametrize("weights", [[70, 20, 7, 3], [600, 250, 100, 35, 15], [29, 71], [1, 9_999]])
def test_odds_that_slot_tables_distort_stay_as_written(tmp_path: Path, weights: list[int]) -> None:
    assert_odds(weights, *written_columns(tmp_path, weights))


def test_rules_have_alias_tables_of_their_own(tmp_path: Path) -> None:
    text = TEXT + rule("shop", 'roles = ["retailer"]') + rule("everyone", draw=WEIGHTED)
    with published(tmp_path, text) as table:
        assert table.columns(0) == ([2**64 - 1], [0], [1])
        assert table.columns(1) == (*build_alias([1, 99, 900]), [0, 1, NO_PRIZE])
        with pytest.raises(IndexError):
            table.columns(2)


# Conditions ---------------------------------------------------------------------------------------------------------


def test_a_rule_without_roles_is_for_consumers_only() -> None:
    holds = decides("")
    assert [holds(role=role) for role in Role] == [True, False, False, False, False]


def test_roles_are_those_named() -> None:
    holds = decides('roles = ["distributor", "retailer", "associate"]')
    assert [holds(role=role) for role in Role] == [False, True, True, True, False]


def test_region_prefixes_cover_all_that_begins_with_them() -> None:
    holds = decides('regions = ["44", "5101", "110105"]')
    inside = (440000, 440305, 449999, 510100, 510199, 110105)
    outside = (0, 439999, 450000, 510099, 510200, 110104, 110106, 44, 4403)
    assert [holds(region=region) for region in inside] == [True] * len(inside)
    assert [holds(region=region) for region in outside] == [False] * len(outside)


@given(
    prefix=st.integers(10, 99) | st.integers(1000, 9999) | st.integers(100_000, 999_999),
    region=st.integers(0, 999_999),
)
def test_a_region_holds_if_its_code_starts_with_the_prefix(prefix: int, region: int) -> None:
    holds = decides(f'regions = ["{prefix}"]')
    assert holds(region=region) == f"{region:06}".startswith(str(prefix))
    assert holds(region=int(f"{prefix}".ljust(6, "9")))


def test_products_match_in_any_length_of_the_same_number() -> None:
    holds = decides('products = ["036000291452", "96385074"]')
    assert holds(gtin=36000291452)
    assert holds(gtin=96385074)
    assert not holds(gtin=36000291453)
    assert not holds(gtin=0)


def test_batches_are_ranges_of_items() -> None:
    holds = decides('batches = ["cola", "beer"]', {"cola": (100, 10), "beer": (2**41, 1), "wine": (200, 5)})
    assert [holds(item=item) for item in (99, 100, 109, 110, 200, 2**41, 2**41 + 1)] == [
        False, True, True, False, False, True, False,
    ]  # fmt: skip


def test_an_unknown_batch_is_refused() -> None:
    with pytest.raises(CampaignError) as caught:
        compiled(TEXT + rule("only", 'batches = ["cola", "bear"]'), batch_items={"cola": (0, 1), "beer": (1, 1)})
    assert caught.value.faults == ["rules[0].when.batches[1]: unknown batch 'bear'; did you mean 'beer'?"]


def test_hours_are_local_and_half_open() -> None:
    holds = decides('hours = ["18:00-23:00"]')
    at = {hour: holds(at=local_ms(f"2026-06-01T{hour}")) for hour in ("17:59", "18:00", "22:59", "23:00", "10:00")}
    assert at == {"17:59": False, "18:00": True, "22:59": True, "23:00": False, "10:00": False}


@pytest.mark.parametrize("span", ["22:00-02:00", "22:00-00:00", "00:00-24:00", "23:59-00:01", "06:30-24:00"])
def test_hours_may_go_over_midnight(span: str) -> None:
    """Method: every minute of the day against the same walk on a clock face."""
    holds = decides(f'hours = ["{span}"]')
    start, end = (int(part[:2]) * 60 + int(part[3:]) for part in span.split("-"))
    expected = {minute % 1440 for minute in range(start, end if end > start else end + 1440)}
    midnight = local_ms("2026-06-01T00:00")
    assert {minute for minute in range(1440) if holds(at=midnight + minute * 60_000)} == expected


def test_a_rules_window_is_half_open() -> None:
    holds = decides("opens = 2026-05-01T00:00:00+08:00, closes = 2026-05-02T00:00:00+08:00")
    start, end = local_ms("2026-05-01"), local_ms("2026-05-02")
    assert [holds(at=at) for at in (start - 1, start, end - 1, end)] == [False, True, True, False]
    opens, closes = (
        decides("opens = 2026-05-01T00:00:00+08:00"),
        decides("closes = 2026-05-01T00:00:00+08:00"),
    )
    assert [opens(at=at) for at in (0, start - 1, start, 2**62 - 1)] == [False, False, True, True]
    assert [closes(at=at) for at in (0, start - 1, start, 2**62 - 1)] == [True, True, False, False]


def test_all_conditions_must_hold() -> None:
    holds = decides('roles = ["retailer"], regions = ["44"], products = ["96385074"]')
    good = {"role": Role.RETAILER, "region": 440100, "gtin": 96385074}
    assert holds(**good)
    for name, other in (("role", Role.CONSUMER), ("region", 0), ("gtin", 0)):
        assert not holds(**{**good, name: other})


def test_the_first_rule_that_holds_draws(tmp_path: Path) -> None:
    text = TEXT + rule("south", 'regions = ["44"]') + rule("everyone", draw='{ mode = "certain", prize = "none" }')
    with published(tmp_path, text) as table:
        rules = table.rule_set(KEY)
        assert rules.decide(ITEM, NOON_MS, 0, 440100, 0) == (0, 1)
        assert rules.decide(ITEM, NOON_MS, 0, 110000, 0) == (1, NO_PRIZE)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)).map(lambda pair: (pair[0], sum(pair))), max_size=8))
def test_merged_ranges_hold_the_same_numbers_in_order(ranges: list[tuple[int, int]]) -> None:
    result = merged(ranges)
    assert {n for start, end in result for n in range(start, end)} == {n for s, e in ranges for n in range(s, e)}
    bounds = [bound for pair in result for bound in pair]
    assert bounds == sorted(set(bounds))


# The wall clock -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "zone",
    ["Europe/Berlin", "America/New_York", "Asia/Shanghai", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"],
)
def test_local_dates_and_minutes_are_those_of_the_time_zone(tmp_path: Path, zone: str) -> None:
    """Goal: no reader of a table needs a time-zone database, and no day starts early or late.

    Method: the standard library's answer, every 47 minutes of three years, and around each change of the clock.
    """
    text = (TEXT + rule("everyone")).replace("Asia/Shanghai", zone).replace("2027-03-01", "2028-03-01")
    with published(tmp_path, text) as table:
        rules = table.rule_set(KEY)
        _, sections = compiled(text)
        changes = sections[prizes.TRANSITIONS]["at_ms"].tolist()[1:]
        first = int(datetime(2026, 2, 28, tzinfo=UTC).timestamp())
        last = int(datetime(2029, 4, 1, tzinfo=UTC).timestamp())
        instants = list(range(first * 1000, last * 1000, 47 * 60_000))
        instants += [change + step for change in changes for step in (-3_600_000, -1, 0, 1, 3_600_000)]
        for at in instants:
            there = datetime.fromtimestamp(at // 1000, ZoneInfo(zone))
            assert rules.local_date(at) == (there.date() - date(1970, 1, 1)).days
            assert rules.local_minute(at) == there.hour * 60 + there.minute


def test_clock_changes_are_found_to_the_second() -> None:
    """The European Union changes at 01:00 UTC on the last Sunday of March and of October."""
    _, sections = compiled((TEXT + rule("everyone")).replace("Asia/Shanghai", "Europe/Berlin"))
    found = [
        (datetime.fromtimestamp(row["at_ms"] / 1000, UTC).isoformat(), int(row["offset_s"]))
        for row in sections[prizes.TRANSITIONS][1:]
    ]
    assert found == [
        ("2026-03-29T01:00:00+00:00", 7200),
        ("2026-10-25T01:00:00+00:00", 3600),
        ("2027-03-28T01:00:00+00:00", 7200),
        ("2027-10-31T01:00:00+00:00", 3600),
        ("2028-03-26T01:00:00+00:00", 7200),
    ]
    assert sections[prizes.TRANSITIONS][0].tolist() == (-(2**63), 3600, 0)


@settings(max_examples=25)
@example(zone="Europe/Lisbon", year=2027, hours=[0, 24 * 365])
@example(zone="Europe/Lisbon", year=2025, hours=[0, 24 * 365])
@given(
    zone=st.sampled_from(["Europe/Lisbon", "America/Sao_Paulo", "Africa/Cairo", "Asia/Tehran", "Pacific/Apia"]),
    year=st.integers(1971, 2040),
    hours=st.lists(st.integers(0, 24 * 765), min_size=20, max_size=40),
)
def test_local_dates_hold_in_any_year(zone: str, year: int, hours: list[int]) -> None:
    text = (TEXT + rule("everyone")).replace("Asia/Shanghai", zone)
    # By its key: an opening that moved to 2027 must not move again.
    text = text.replace("opens = 2026", f"opens = {year}").replace("closes = 2027", f"closes = {year + 1}")
    _, sections = compiled(text)
    rules = prizes.RuleSet(KEY, *(sections[number] for number in prizes.LAYOUT))
    first = datetime(year, 2, 28, tzinfo=UTC)
    for hour in hours:
        there = (first + timedelta(hours=hour)).astimezone(ZoneInfo(zone))
        at = int((first + timedelta(hours=hour)).timestamp()) * 1000
        assert rules.local_date(at) == (there.date() - date(1970, 1, 1)).days


# Numbers for life ---------------------------------------------------------------------------------------------------


BARE = TEXT[: TEXT.index("[[prizes]]")]


def numbered(prizes_text: str, first: str, rules_text: str = "") -> str:
    return BARE + prizes_text + (rules_text or rule("all", draw=f'{{ mode = "certain", prize = "{first}" }}'))


def test_numbers_stay_with_their_ids(tmp_path: Path) -> None:
    """Goal: whatever is dropped, added or moved, a number never means another prize than it once meant."""
    first = published(tmp_path, numbered(goods("a") + goods("b") + goods("c"), "a"), generation=1)
    assert first.metadata.prize_numbers == {"a": 0, "b": 1, "c": 2}
    # b is dropped, the order turns round, d is new: it gets a number of its own, not b's.
    second = published(tmp_path, numbered(goods("d") + goods("c") + goods("a"), "a"), first, 2)
    assert {entry.id: entry.number for entry in second.metadata.prizes} == {"a": 0, "c": 2, "d": 3}
    assert second.metadata.prize_numbers == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert second.terms.prizes == (PrizeTerms(0), None, PrizeTerms(2), PrizeTerms(3))
    assert second.prize(1) is None
    # b comes back, and is b again.
    third = published(tmp_path, numbered(goods("b") + goods("e"), "b"), second, 5)
    assert {entry.id: entry.number for entry in third.metadata.prizes} == {"b": 1, "e": 4}


def test_rule_numbers_stay_with_their_ids(tmp_path: Path) -> None:
    first = published(tmp_path, TEXT + rule("a", 'regions = ["44"]') + rule("b"), generation=1)
    second = published(tmp_path, TEXT + rule("new", 'regions = ["44"]') + rule("b"), first, 2)
    assert second.metadata.rule_numbers == {"a": 0, "b": 1, "new": 2}
    rules = second.rule_set(KEY)
    assert rules.decide(ITEM, NOON_MS, 0, 440000, 0)[0] == 2
    assert rules.decide(ITEM, NOON_MS, 0, 110000, 0)[0] == 1


def test_a_new_id_may_choose_its_number_and_the_rest_go_round_it() -> None:
    metadata, _ = compiled(numbered(goods("a") + goods("b", "number = 0") + goods("c", "number = 200"), "a"))
    assert metadata.prize_numbers == {"a": 1, "b": 0, "c": 200}


def test_changed_and_stolen_numbers_are_refused(tmp_path: Path) -> None:
    first = published(tmp_path, numbered(goods("a") + goods("b"), "a"), generation=1)
    again = numbered(goods("a", "number = 0") + goods("b", "number = 1"), "a")
    assert compiled(again, first, 2)[0].prize_numbers == {"a": 0, "b": 1}
    with pytest.raises(CampaignError) as caught:
        compiled(
            numbered(goods("a", "number = 5") + goods("c", "number = 1"), "a").replace(
                'id = "all"', 'id = "all"\nnumber = 9'
            ),
            first,
            2,
        )
    assert caught.value.faults == [
        "prizes[0].number: 'a' has number 0 for the life of the campaign, found 5",
        "prizes[1].number: 1 belongs to 'b' for the life of the campaign",
        "rules[0].number: 'all' has number 0 for the life of the campaign, found 9",
    ]


def test_numbers_can_be_used_up(tmp_path: Path) -> None:
    first = published(tmp_path, numbered("".join(goods(f"p{i}") for i in range(256)), "p0"), generation=1)
    with pytest.raises(CampaignError) as caught:
        compiled(numbered(goods("fresh"), "fresh"), first, 2)
    assert caught.value.faults == ["prizes[0]: all 256 numbers are given out, and none is given twice"]


def test_a_previous_table_must_be_older_and_of_the_same_campaign(tmp_path: Path) -> None:
    first = published(tmp_path, TEXT + rule("everyone"), generation=3)
    with pytest.raises(ValueError, match="generation 3 does not follow 3"):
        compiled(TEXT + rule("everyone"), first, 3)
    with pytest.raises(ValueError, match="the previous table is of campaign 'spring', expected 'autumn'"):
        compiled((TEXT + rule("everyone")).replace('"spring"', '"autumn"'), first, 4)
