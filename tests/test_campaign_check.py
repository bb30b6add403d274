"""What ``campaign check`` tells: oddities, the worst-case spend and the expected winners, worked out by hand."""

from __future__ import annotations

import re

import pytest

from helpers_campaigns import BUDGET, CASH, HEAD, POINTS, RULE, WHOLE, changed, conditioned, goods, parsed
from scanengine.campaigns import check_campaign

ODDITIES = {
    "per_user_per_day above per_user": (
        changed("[budget]", "[limits]\nper_user = 5\nper_user_per_day = 20\n[budget]"),
        "limits.per_user_per_day: 20 is above per_user (5): never binds",
    ),
    "stock_per_day above stock": (
        changed("stock = 150", "stock = 150\nstock_per_day = 151"),
        "prizes[0].stock_per_day: 151 is above stock (150): never binds",
    ),
    "daily above total budget": (
        changed("total = 1_500_000", "total = 1_000\nper_day = 1_001"),
        "budget.per_day: 1,001 is above total (1,000): never binds",
    ),
    "per_user that no number of days reaches": (
        changed("[budget]", "[limits]\nper_user = 731\nper_user_per_day = 2\n[budget]"),
        "limits.per_user: 731 never binds: per_user_per_day allows at most 730 in 365 days",
    ),
    "total budget that no number of days reaches": (
        changed("total = 1_500_000", "total = 3_650_001\nper_day = 10_000"),
        "budget.total: 3,650,001 never binds: per_day allows at most 3,650,000 in 365 days",
    ),
    "stock that no number of days reaches": (
        changed("stock = 150", "stock = 366\nstock_per_day = 1"),
        "prizes[0].stock: 366 never binds: stock_per_day allows at most 365 in 365 days",
    ),
    "stock that one day cannot reach": (
        changed("2027-03-01", "2026-03-02", changed("stock = 150", "stock = 150\nstock_per_day = 149")),
        "prizes[0].stock: 150 never binds: stock_per_day allows at most 149 in 1 day",
    ),
    "total budget above the stock of all days": (
        changed("stock = 150", "stock_per_day = 3", changed("1_500_000", "9_636_001")),
        "budget.total: 9,636,001 is above the worth of all cash (9,636,000): never binds",
    ),
    "daily budget above the stock of a day": (
        changed("total = 1_500_000", "per_day = 26_401", changed("stock = 150", "stock_per_day = 3")),
        "budget.per_day: 26,401 is above the worth of the cash of one day (26,400): never binds",
    ),
    "budget above all stock but that of cash nobody draws": (
        changed(POINTS, CASH.replace("cash-88", "cash-9").replace("stock = 150\n", "") + POINTS),
        "budget.total: 1,500,000 is above the worth of all cash (1,320,000): never binds",
    ),
    "budget above all stock but that of cash above the day's": (
        changed(
            "[[rules]]",
            '[[prizes]]\nid = "car"\nkind = "cash"\namount = 1_320_001\ntitle = "A car"\n[[rules]]',
            changed("{ cash", "{ car = 1, cash", changed("1_500_000", "1_500_000\nper_day = 1_320_000")),
        ),
        "budget.total: 1,500,000 is above the worth of all cash (1,320,000): never binds",
    ),
    "total budget above all stock of cash that takes a whole day's": (
        changed("stock = 150", "stock = 364", changed("1_500_000", "3_203_201\nper_day = 8_800")),
        "budget.total: 3,203,201 is above the worth of all cash (3,203,200): never binds",
    ),
    "budget above all stock": (
        WHOLE,
        "budget.total: 1,500,000 is above the worth of all cash (1,320,000): never binds",
    ),
    "budget without cash": (
        HEAD + BUDGET + POINTS + RULE.replace("cash-88 = 1, ", ""),
        "budget: no prize is cash, so it is never spent",
    ),
    "prize above the budget": (
        changed("1_500_000", "8_799"),
        "prizes[0].amount: 8,800 is above budget.total (8,799): never given",
    ),
    "prize above the day's budget": (
        changed("1_500_000", "1_000_000\nper_day = 100"),
        "prizes[0].amount: 8,800 is above budget.per_day (100): never given",
    ),
    "no stock": (
        changed("stock = 150", "stock = 0"),
        "prizes[0].stock: 'cash-88' has none, so it is never given",
    ),
    "no daily stock": (
        changed("stock = 150", "stock_per_day = 0"),
        "prizes[0].stock_per_day: 'cash-88' has none, so it is never given",
    ),
    "prize nobody gets": (
        changed(RULE, goods("extra") + RULE),
        "prizes[2]: 'extra' is never given: no rule that is reached draws it, "
        "and no prize that can run out falls back on it",
    ),
    "prize of weight 0": (
        changed("cash-88 = 1,", "cash-88 = 0,"),
        "prizes[0]: 'cash-88' is never given: no rule that is reached draws it, "
        "and no prize that can run out falls back on it",
    ),
    "fallback of a prize without limit": (
        changed("amount = 10\n", 'amount = 10\nfallback = "extra"\n', WHOLE + goods("extra")),
        "prizes[1].fallback: 'extra' is never used: 'points-10' has no limit to run into",
    ),
    "rule after one that decides": (
        WHOLE + RULE.replace("everyone", "late"),
        "rules[1]: 'late' is never reached: 'everyone' before it already decides for every consumer",
    ),
    "rule after two that decide": (
        WHOLE
        + RULE.replace("everyone", "shops").rstrip()
        + '\nwhen = { roles = ["retailer"] }\n'
        + RULE.replace("everyone", "late").rstrip()
        + '\nwhen = { roles = ["retailer", "consumer"], regions = ["44"] }\n',
        "rules[2]: 'late' is never reached: 'everyone', 'shops' before it already decides for every retailer, consumer",
    ),
    "rule outside the campaign": (
        conditioned("closes = 2026-03-01T00:00:00+08:00"),
        "rules[0]: 'everyone' is never reached: its window lies outside the campaign's",
    ),
}


def oddities(notes: list[str]) -> list[str]:
    """Return what `check` says before the spend and the winners."""
    return notes[: next(index for index, note in enumerate(notes) if note.startswith("spend: "))]


def cash_prize(prize_id: str, amount: int, more: str = "") -> str:
    return f'[[prizes]]\nid = "{prize_id}"\nkind = "cash"\namount = {amount}\ntitle = "Cash"\n{more}\n'


@pytest.mark.parametrize(("text", "expected"), ODDITIES.values(), ids=ODDITIES.keys())
def test_an_oddity_is_told(text: str, expected: str) -> None:
    assert expected in check_campaign(parsed(text))


def test_limits_that_can_just_be_reached_are_not_odd() -> None:
    """Each limit at the very value above which it would never bind; one more is told above."""
    text = (
        HEAD
        + "[limits]\nper_user = 730\nper_user_per_day = 2\n"
        + BUDGET.replace("1_500_000", "3_212_000\nper_day = 8_800")
        + CASH.replace("stock = 150", "stock = 365\nstock_per_day = 1")
        + POINTS
        + RULE
    )
    assert oddities(check_campaign(parsed(text))) == []


def test_a_day_may_have_all_of_it() -> None:
    """Limits of a day that equal those of the whole, and a budget of exactly one award."""
    limits = "[limits]\nper_user = 2\nper_user_per_day = 2\n[budget]"
    text = changed("1_500_000", "8_800\nper_day = 8_800", changed("[budget]", limits))
    notes = check_campaign(parsed(changed("stock = 150", "stock = 1\nstock_per_day = 1", text)))
    assert notes[:2] == [
        "spend: at most 8,800 minor units of CNY in all",
        "spend: at most 8,800 minor units of CNY on the worst day",
    ]


def test_a_budget_that_refuses_a_prize_binds() -> None:
    """Goal: a limit is never called idle while it keeps a prize from being given, whatever the other one does."""
    for budget in ("8_799", "1_000_000\nper_day = 8_799"):
        notes = oddities(check_campaign(parsed(changed("1_500_000", budget))))
        assert [note.split(": ")[0] for note in notes] == ["prizes[0].amount"]


@pytest.mark.parametrize(("opens", "closes"), [("23:59:59.999", "00:00:00.001"), ("00:00:00", "23:59:59")])
def test_days_are_the_local_dates_that_the_campaign_touches(opens: str, closes: str) -> None:
    """From 1 to 2 March in Shanghai: two dates, however little of each."""
    text = changed("2026-03-01T00:00:00", f"2026-03-01T{opens}", changed("2027-03-01T00:00:00", f"2026-03-02T{closes}"))
    notes = check_campaign(parsed(changed("stock = 150", "stock = 150\nstock_per_day = 1", text)))
    assert "prizes[0].stock: 150 never binds: stock_per_day allows at most 2 in 2 days" in notes


def test_every_oddity_has_its_place() -> None:
    """Goal: before its first colon each oddity names a key or a table of the file."""
    for text, _ in ODDITIES.values():
        for note in oddities(check_campaign(parsed(text))):
            assert re.match(r"(limits|budget|prizes\[\d+\]|rules\[\d+\])(\.[a-z_]+)?: ", note), note


def test_a_rule_with_other_conditions_or_roles_stays_reachable() -> None:
    conditional = conditioned('regions = ["44"]') + RULE.replace("everyone", "rest")
    channel = WHOLE + RULE.replace("everyone", "shops").rstrip() + '\nwhen = { roles = ["retailer"] }\n'
    for text in (conditional, channel):
        assert not [note for note in check_campaign(parsed(text)) if "never reached" in note]


SPENDS = {
    "stock below budget": (WHOLE, "1,320,000", "1,320,000"),
    "budget below stock": (changed("1_500_000", "500_000"), "500,000", "500,000"),
    "daily budget": (changed("1_500_000", "1_500_000\nper_day = 50_000"), "1,320,000", "50,000"),
    "daily budget times days": (
        changed("total = 1_500_000", "per_day = 10_000", changed("stock = 150\n", "")),
        "3,650,000",
        "10,000",
    ),
    "daily stock": (changed("stock = 150", "stock_per_day = 3"), "1,500,000", "26,400"),
    "daily stock times days": (
        changed("total = 1_500_000", "", changed("stock = 150", "stock_per_day = 3")),
        "9,636,000",
        "26,400",
    ),
}


@pytest.mark.parametrize(("text", "in_all", "one_day"), SPENDS.values(), ids=SPENDS.keys())
def test_the_worst_case_is_the_least_of_budget_and_stock(text: str, in_all: str, one_day: str) -> None:
    """365 local dates from 1 March to 1 March; amounts worked out by hand."""
    notes = check_campaign(parsed(text))
    assert f"spend: at most {in_all} minor units of CNY in all" in notes
    assert f"spend: at most {one_day} minor units of CNY on the worst day" in notes


def test_spend_without_budget_and_stock_is_unbounded() -> None:
    notes = check_campaign(parsed(changed("total = 1_500_000", "", changed("stock = 150\n", ""))))
    assert "spend: unbounded, as there is no budget and no stock for 'cash-88'" in notes
    assert "spend: unbounded on the worst day" in notes


def test_cash_that_nobody_gets_costs_nothing() -> None:
    assert "spend: none, as no cash is given" in check_campaign(parsed(changed("cash-88 = 1,", "cash-88 = 0,")))


@pytest.mark.parametrize("budget", ["total = 1_500_000\nper_day = 5_000", "total = 8_799", "per_day = 0"])
def test_cash_above_the_budget_costs_nothing(budget: str) -> None:
    """88 yuan are never given where a day, or all days, have less; so nothing is ever spent."""
    notes = check_campaign(parsed(changed("total = 1_500_000", budget)))
    assert [note for note in notes if note.startswith("spend: ")] == ["spend: none, as no cash is given"]


def test_cash_that_stands_in_for_cash_above_the_budget_counts() -> None:
    """Of 8800, 6000 and 20, a day of 5,000 leaves only the last, 100 units; it binds, as it refuses the others."""
    text = (
        HEAD
        + BUDGET.replace("1_500_000", "1_500_000\nper_day = 5_000")
        + cash_prize("large", 8800, 'fallback = "middle"')
        + cash_prize("middle", 6000, 'fallback = "small"')
        + cash_prize("small", 20, "stock = 100")
        + '[[rules]]\nid = "all"\ndraw = { mode = "certain", prize = "large" }'
    )
    assert check_campaign(parsed(text), 150) == [
        "budget.total: 1,500,000 is above the worth of all cash (2,000): never binds",
        "prizes[0].amount: 8,800 is above budget.per_day (5,000): never given",
        "prizes[1].amount: 6,000 is above budget.per_day (5,000): never given",
        "spend: at most 2,000 minor units of CNY in all",
        "spend: at most 2,000 minor units of CNY on the worst day",
        "rule 'all': of 150 scans 150 draw 'large', which is never given: they get 'small'",
        "rule 'all': of 150 scans 150 are to get 'small'; its stock of 100 is short by 50, who get nothing",
    ]


def test_cash_reached_only_as_a_fallback_counts() -> None:
    text = changed('fallback = "points-10"', "").replace(
        "amount = 10\n", 'amount = 10\nstock = 5\nfallback = "cash-88"\n'
    )
    assert "spend: at most 1,320,000 minor units of CNY in all" in check_campaign(
        parsed(changed("cash-88 = 1,", "cash-88 = 0,", text))
    )


def test_odds_are_told_per_thousand_scans() -> None:
    notes = check_campaign(parsed(changed("none = 900", "none = 2900")))
    assert (
        "rule 'everyone': about 0.333 of 1,000 scans draw 'cash-88'; its stock of 150 is expected to end "
        "after 450,000 scans" in notes
    )
    assert "rule 'everyone': 33 of 1,000 scans draw 'points-10'" in notes


@pytest.mark.parametrize(
    ("none", "expected"), [(99_901, "about 0.01"), (900, "1"), (899, "about 1.001"), (8, "about 9.259"), (0, "10")]
)
def test_odds_are_rounded_as_a_reader_would(none: int, expected: str) -> None:
    """Of 1, 99 and `none`; 1 in 100 and 1 in 1,000 are exact, the others are rounded."""
    notes = check_campaign(parsed(changed("none = 900", f"none = {none}")))
    assert any(note.startswith(f"rule 'everyone': {expected} of 1,000 scans draw 'cash-88'") for note in notes)


def test_odds_just_above_a_whole_number_lose_the_point() -> None:
    text = changed("cash-88 = 1, points-10 = 99, none = 900", "cash-88 = 10_000_001, none = 9_989_999_999")
    assert any(": about 1 of 1,000 scans draw 'cash-88'" in note for note in check_campaign(parsed(text)))


def test_a_prize_that_nobody_wants_is_not_held_against_stock() -> None:
    notes = check_campaign(parsed(WHOLE + goods("extra")), 1_000)
    assert not [note for note in notes if note.startswith("rule ") and "extra" in note]


def test_odds_of_any_size_are_told() -> None:
    notes = check_campaign(parsed(changed("none = 900", f"none = {1 << 4000:#x}")))
    assert (
        "rule 'everyone': less than 0.001 of 1,000 scans draw 'cash-88'; its stock of 150 is expected to end "
        "in no number of scans that will happen" in notes
    )


def test_expected_winners_are_held_against_stock() -> None:
    notes = check_campaign(parsed(changed("amount = 10\n", "amount = 10\nstock = 99_900\n")), 1_000_000)
    assert (
        "rule 'everyone': of 1,000,000 scans 1,000 are to get 'cash-88'; its stock of 150 is short by 850, "
        "who get 'points-10'" in notes
    )
    # 99,000 drawn and 850 instead of cash.
    assert "rule 'everyone': of 1,000,000 scans 99,850 are to get 'points-10'; its stock of 99,900 is enough" in notes


def test_a_shortage_without_fallback_gets_nothing() -> None:
    notes = check_campaign(parsed(changed('fallback = "points-10"', "")), 300_000)
    assert (
        "rule 'everyone': of 300,000 scans 300 are to get 'cash-88'; its stock of 150 is short by 150, who get nothing"
        in notes
    )
    assert "rule 'everyone': of 300,000 scans 29,700 are to get 'points-10', which has no stock limit" in notes


def test_shortages_run_down_a_chain_in_any_order_of_the_file() -> None:
    text = (
        HEAD
        + goods("c", "stock = 10")
        + goods("b", 'stock = 10\nfallback = "c"')
        + goods("a", 'stock = 10\nfallback = "b"')
        + '[[rules]]\nid = "all"\ndraw = { mode = "certain", prize = "a" }'
    )
    assert check_campaign(parsed(text), 35)[-3:] == [
        "rule 'all': of 35 scans 35 are to get 'a'; its stock of 10 is short by 25, who get 'b'",
        "rule 'all': of 35 scans 25 are to get 'b'; its stock of 10 is short by 15, who get 'c'",
        "rule 'all': of 35 scans 15 are to get 'c'; its stock of 10 is short by 5, who get nothing",
    ]


def test_odds_of_a_prize_that_is_never_given_go_to_its_fallback() -> None:
    text = changed("1_500_000", "1_500_000\nper_day = 5_000", changed("amount = 10\n", "amount = 10\nstock = 200\n"))
    assert check_campaign(parsed(text))[-2:] == [
        "rule 'everyone': 1 of 1,000 scans draw 'cash-88', which is never given: they get 'points-10'",
        "rule 'everyone': 100 of 1,000 scans are to get 'points-10'; its stock of 200 is expected to end "
        "after 2,000 scans",
    ]
    assert check_campaign(parsed(text), 3_000)[-2:] == [
        "rule 'everyone': of 3,000 scans 3 draw 'cash-88', which is never given: they get 'points-10'",
        "rule 'everyone': of 3,000 scans 300 are to get 'points-10'; its stock of 200 is short by 100, who get nothing",
    ]


def test_a_shortage_passes_over_what_is_never_given() -> None:
    text = (
        HEAD
        + goods("a", 'stock = 10\nfallback = "b"')
        + goods("b", 'stock_per_day = 0\nfallback = "c"')
        + goods("c")
        + '[[rules]]\nid = "all"\ndraw = { mode = "certain", prize = "a" }'
    )
    assert check_campaign(parsed(text), 35)[-2:] == [
        "rule 'all': of 35 scans 35 are to get 'a'; its stock of 10 is short by 25, who get 'c'",
        "rule 'all': of 35 scans 25 are to get 'c', which has no stock limit",
    ]


@pytest.mark.parametrize(("scans", "share"), [(None, "1,000 of 1,000 scans"), (35, "of 35 scans 35")])
def test_a_rule_whose_prizes_are_never_given_has_no_winner(scans: int | None, share: str) -> None:
    text = HEAD + goods("a", "stock = 0") + '[[rules]]\nid = "all"\ndraw = { mode = "certain", prize = "a" }'
    assert check_campaign(parsed(text), scans)[-2:] == [
        f"rule 'all': {share} draw 'a', which is never given: they get nothing",
        "rule 'all': nobody wins",
    ]


def test_winners_are_held_against_the_stock_of_all_days() -> None:
    """One a day for 365 days: the stock of 400 is never reached, so it neither suffices nor ends."""
    text = changed("stock = 150", "stock = 400\nstock_per_day = 1")
    assert "rule 'everyone': 1 of 1,000 scans draw 'cash-88'" in check_campaign(parsed(text))
    assert (
        "rule 'everyone': of 366,000 scans 366 are to get 'cash-88'; its stock of 365 in 365 days is short by 1, "
        "who get 'points-10'" in check_campaign(parsed(text), 366_000)
    )
    assert (
        "rule 'everyone': of 365,000 scans 365 are to get 'cash-88'; its stock of 365 in 365 days is enough"
        in check_campaign(parsed(text), 365_000)
    )


def test_a_rule_without_a_prize_is_told() -> None:
    text = changed("{ cash-88 = 1, points-10 = 99, none = 900 }", "{ none = 1 }")
    assert "rule 'everyone': nobody wins" in check_campaign(parsed(text))


def test_expected_scans_are_not_negative() -> None:
    with pytest.raises(ValueError, match="expected scans are not negative, found -1"):
        check_campaign(parsed(WHOLE), -1)
