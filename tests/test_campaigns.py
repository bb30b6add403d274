"""Campaign files that are right: they mean what they say, and nothing else is ever raised than what is documented."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_campaigns import CASH, HEAD, POINTS, RULE, WHOLE, changed, conditioned, faults_of, parsed
from scanengine.campaigns import EXAMPLE_CAMPAIGN, check_campaign, check_campaign_id
from scanengine.campaigns.model import Budget, Limits
from scanengine.codes import gtin_fault
from scanengine.errors import CampaignError
from scanengine.model import Role


def test_a_valid_file_means_what_it_says() -> None:
    campaign = parsed(changed("[budget]", "[limits]\nper_user = 100\nper_user_per_day = 20\n[budget]"))
    assert (campaign.id, campaign.title, campaign.timezone) == ("spring", "Open a cap, win", "Asia/Shanghai")
    assert campaign.opens == datetime(2026, 2, 28, 16, tzinfo=UTC)
    assert campaign.closes == datetime(2027, 2, 28, 16, tzinfo=UTC)
    assert campaign.limits == Limits(100, 20)
    assert campaign.budget == Budget("CNY", 1_500_000, None)
    cash, points = campaign.prizes
    assert (cash.kind, cash.amount, cash.currency, cash.stock, cash.fallback) == (
        "cash",
        8800,
        "CNY",
        150,
        "points-10",
    )
    assert (points.kind, points.amount, points.currency, points.stock) == ("points", 10, None, None)
    assert campaign.rules[0].weights == (("cash-88", 1), ("points-10", 99), ("none", 900))
    assert campaign.rules[0].when.roles == (Role.CONSUMER,)


def test_prizes_are_found_by_id() -> None:
    campaign = parsed(WHOLE)
    assert campaign.prize("points-10") is campaign.prizes[1]
    with pytest.raises(KeyError, match="points-1"):
        campaign.prize("points-1")


def test_outcomes_keep_the_order_of_the_file() -> None:
    text = changed("{ cash-88 = 1, points-10 = 99, none = 900 }", "{ none = 900, points-10 = 99, cash-88 = 1 }")
    assert [outcome for outcome, _ in parsed(text).rules[0].weights] == ["none", "points-10", "cash-88"]


def test_the_source_digest_changes_with_the_text() -> None:
    assert parsed(WHOLE).source_digest == parsed(WHOLE).source_digest
    assert parsed(WHOLE).source_digest != parsed(WHOLE + "# a comment\n").source_digest


def test_cash_takes_the_budgets_currency_or_its_own() -> None:
    own = changed("amount = 8800", 'amount = 8800\ncurrency = "CNY"', HEAD + CASH + POINTS + RULE)
    assert parsed(own).currency == "CNY"
    assert parsed(own).budget is None
    assert parsed(WHOLE).currency == "CNY"
    assert parsed(HEAD + POINTS + RULE.replace("cash-88 = 1, ", "")).currency is None


def test_all_conditions_are_read() -> None:
    rule = parsed(
        conditioned(
            'roles = ["retailer", "associate"], regions = ["44", "4403", "440305"], products = ["6901234567892", '
            '"96385074"], batches = ["cola"], hours = ["18:00-23:00", "22:30-24:00", "23:00-01:00"], '
            "opens = 2026-05-01T00:00:00+08:00, closes = 2026-05-02T00:00:00+08:00"
        )
    ).rules[0]
    assert rule.when.roles == (Role.RETAILER, Role.ASSOCIATE)
    assert rule.when.regions == ("44", "4403", "440305")
    assert rule.when.products == (6901234567892, 96385074)
    assert rule.when.batches == ("cola",)
    assert rule.when.hours == ((1080, 1380), (1350, 1440), (1380, 60))
    assert rule.when.opens == datetime(2026, 4, 30, 16, tzinfo=UTC)
    assert rule.when.closes == datetime(2026, 5, 1, 16, tzinfo=UTC)


@pytest.mark.parametrize("campaign_id", ["spring", "春节-2026", "Été_1.b", "x" * 64, "節" * 21])
def test_campaign_ids_may_be_in_any_script(campaign_id: str) -> None:
    assert check_campaign_id(campaign_id) is None
    assert parsed(changed('"spring"', f'"{campaign_id}"')).id == campaign_id


@pytest.mark.parametrize(
    ("campaign_id", "expected"),
    [
        ("", "expected 1 to 64 bytes of UTF-8, found 0"),
        ("節" * 22, "expected 1 to 64 bytes of UTF-8, found 66"),
        ("a/b", "expected letters, digits, '.', '_' and '-', not starting with '.', found 'a/b'"),
        (".a", "expected letters, digits, '.', '_' and '-', not starting with '.', found '.a'"),
        ("a\n", "expected letters, digits, '.', '_' and '-', not starting with '.', found 'a\\n'"),
        ("\udcff", "expected letters, digits, '.', '_' and '-', not starting with '.', found '\\udcff'"),
        (
            "e\u0301" * 2,
            "expected letters, digits, '.', '_' and '-', not starting with '.', found 'e\u0301e\u0301'",
        ),
        (
            "\u1112\u1161\u11ab",
            "expected Unicode normal form C: the same letters in another form would be another campaign",
        ),
    ],
)
def test_a_campaign_id_that_cannot_be_published_is_named(campaign_id: str, expected: str) -> None:
    assert check_campaign_id(campaign_id) == expected


@given(st.text(max_size=70) | st.text(alphabet="aZ0é節._-/ \u0301", max_size=70))
def test_a_campaign_file_takes_exactly_the_ids_that_can_be_used(campaign_id: str) -> None:
    """Goal: whoever asks for an id and whoever writes it in a file get one answer."""
    text = changed('"spring"', '"' + "".join(f"\\U{ord(char):08x}" for char in campaign_id) + '"')
    fault = check_campaign_id(campaign_id)
    if fault is None:
        assert parsed(text).id == campaign_id
    else:
        assert faults_of(text) == [f"id: {fault}"]


def test_cash_may_be_as_much_as_the_ledger_can_add_up() -> None:
    """Up to 10**12 minor units an award; points are not money and may be more."""
    assert parsed(changed("8800", "1_000_000_000_000")).prizes[0].amount == 10**12
    assert parsed(changed("amount = 10\n", "amount = 1_000_000_000_001\n")).prizes[1].amount == 10**12 + 1


def test_weights_are_integers_of_any_size() -> None:
    weight = 2**4096 - 1
    assert parsed(changed("cash-88 = 1", f"cash-88 = {weight:#x}")).rules[0].weights[0] == ("cash-88", weight)


def test_deep_nesting_is_a_fault_not_a_crash() -> None:
    assert faults_of("a = " + "[" * 100_000)[0].startswith("not valid TOML: ")


@given(st.text(max_size=60) | st.text(alphabet='[]{}=".\n0 ab-', max_size=60))
def test_any_text_is_a_campaign_or_a_documented_error(text: str) -> None:
    with pytest.raises(CampaignError):
        parsed(text)


toml_values = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.datetimes() | st.dates() | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(data=st.data())
def test_any_value_at_any_place_is_read_or_named(data: st.DataObject) -> None:
    """Goal: a wrong type anywhere is a fault, never another exception.

    Method: replace one value at any depth of the example by one of any type, past the TOML reader.
    """
    document = tomllib.loads(EXAMPLE_CAMPAIGN)
    holder: Any = document
    while True:
        key = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else list(range(len(holder)))))
        if not isinstance(holder[key], (dict, list)) or not holder[key] or data.draw(st.booleans()):
            break
        holder = holder[key]
    holder[key] = data.draw(toml_values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scanengine.campaigns.parse.tomllib.loads", lambda text: document)
        try:
            assert parsed("").id
        except CampaignError as refusal:
            faults = refusal.faults
        else:
            faults = None
    assert faults is None or all(": " in fault for fault in faults)


def test_check_digits_of_published_numbers() -> None:
    """Numbers that GS1 uses in its own examples, and a well-known EAN-13 and UPC-A."""
    for gtin in ("96385074", "036000291452", "4006381333931", "9501101530003", "10614141000415"):
        assert gtin_fault(gtin) is None


def test_the_example_is_valid_and_nothing_about_it_is_odd() -> None:
    campaign = parsed(EXAMPLE_CAMPAIGN)
    assert campaign.opens.isoformat() == "2026-03-01T00:00:00+08:00"
    assert campaign.closes.isoformat() == "2027-03-01T00:00:00+08:00"
    assert [note for note in check_campaign(campaign) if not note.startswith(("spend:", "rule '"))] == []
