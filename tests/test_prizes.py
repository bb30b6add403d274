"""Prize tables: what one promises when it opens, and what it refuses."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers_campaigns import ITEM, KEY, NOON_MS, TEXT, WEIGHTED, Sections, compiled, local_ms, published, rule
from scanengine.campaigns import EXAMPLE_CAMPAIGN, parse_campaign
from scanengine.errors import TableClosedError, TableFormatError
from scanengine.model import NO_PRIZE, CampaignTerms, PrizeTerms
from scanengine.tables import prizes
from scanengine.tables.container import KIND_CODE, KIND_PRIZE, write_container
from scanengine.tables.prizes import PrizeInfo, PrizeTable, build_prize_table


def test_a_table_gives_back_what_was_published(tmp_path: Path) -> None:
    text = TEXT + rule("everyone", draw=WEIGHTED)
    with published(tmp_path, text, generation=7) as table:
        assert (table.id, table.title, table.generation) == ("spring", "Open a cap, win", 7)
        assert table.terms == CampaignTerms(
            id="spring",
            opens_ms=local_ms("2026-03-01"),
            closes_ms=local_ms("2027-03-01"),
            prizes=(PrizeTerms(0, 8800, 150, 10, 1), PrizeTerms(1, points=10)),
            per_user=100,
            per_user_per_day=20,
            budget_total=1_500_000,
            budget_per_day=100_000,
        )
        assert table.prize(0) == PrizeInfo(0, "cash-88", "cash", 8800, "CNY", "88 yuan")
        assert table.prize(1) == PrizeInfo(1, "points-10", "points", 10, None, "10 points")
        assert table.prize(2) is table.prize(-1) is None
        metadata = table.metadata
        assert (metadata.timezone, metadata.currency, metadata.draw_key_id) == (
            "Asia/Shanghai",
            "CNY",
            "draw-1",
        )
        assert metadata.rules[0].weights == ("1", "99", "900")
        assert metadata.source_digest == parse_campaign(text, "").source_digest
        assert table.verify() > 0


def test_a_published_file_is_read_only_and_never_replaced(tmp_path: Path) -> None:
    table = published(tmp_path, TEXT + rule("everyone"))
    assert stat.S_IMODE(table.path.stat().st_mode) == 0o444
    with pytest.raises(FileExistsError):
        published(tmp_path, TEXT + rule("other"))
    assert PrizeTable(table.path).metadata.rules[0].id == "everyone"


def test_a_closed_table_says_so_and_keeps_its_terms(tmp_path: Path) -> None:
    table = published(tmp_path, TEXT + rule("everyone"))
    rules = table.rule_set(KEY)
    table.close()
    table.close()
    for read in (table.verify, lambda: table.rule_set(KEY), lambda: table.columns(0)):
        with pytest.raises(TableClosedError, match="the table is closed"):
            read()
    assert table.terms.id == "spring"
    assert table.prize(1) is not None
    # Rules in use keep their bytes: a snapshot that is replaced may still be deciding.
    assert rules.decide(ITEM, NOON_MS, 0, 0, 0) == (0, 1)


def test_the_example_compiles_and_draws(tmp_path: Path) -> None:
    with published(tmp_path, EXAMPLE_CAMPAIGN) as table:
        rules = table.rule_set(KEY)
        drawn = {rules.decide(item, NOON_MS, 0, 0, 0) for item in range(20_000)}
        assert drawn == {(1, 0), (1, 1), (1, NO_PRIZE)}
        assert rules.decide(ITEM, NOON_MS, 1, 0, 0) == (2, 1)
        assert rules.decide(ITEM, NOON_MS, 2, 0, 0) == (-1, -1)


def test_a_draw_key_of_another_length_is_refused(tmp_path: Path) -> None:
    with (
        published(tmp_path, TEXT + rule("everyone")) as table,
        pytest.raises(TableFormatError, match="16 bytes"),
    ):
        table.rule_set(b"short")


# Damage -------------------------------------------------------------------------------------------------------------


def good() -> tuple[dict[str, Any], Sections]:
    metadata, sections = compiled(TEXT + rule("shop", 'roles = ["retailer"]') + rule("everyone", draw=WEIGHTED))
    return msgspec.msgpack.decode(msgspec.msgpack.encode(metadata)), sections


def refusal(tmp_path: Path, metadata: object, sections: Sections, kind: int = KIND_PRIZE) -> str:
    """Return why a file with this content does not open; the file itself is undamaged."""
    file = tmp_path / "bad.prizes"
    file.unlink(missing_ok=True)
    write_container(file, kind, metadata, sections)
    with pytest.raises(TableFormatError) as caught:
        PrizeTable(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


def test_the_undamaged_content_opens(tmp_path: Path) -> None:
    write_container(tmp_path / "good.prizes", KIND_PRIZE, *good())
    assert PrizeTable(tmp_path / "good.prizes").id == "spring"


METADATA_DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "generation": (lambda m: m.update(generation=0), "`int` >= 1"),
    "generation as text": (lambda m: m.update(generation="1"), "Expected `int`, got `str`"),
    "an unknown term": (lambda m: m.update(first_claims=3), "unknown field `first_claims`"),
    "a missing term": (lambda m: m.pop("limits"), "missing required field `limits`"),
    "another draw version": (lambda m: m.update(draw_version=2), "Invalid enum value 2"),
    "negative limit": (lambda m: m["limits"].update(per_user=-1), "`int` >= 1"),
    "negative stock": (lambda m: m["prizes"][0].update(stock=-1), "`int` >= 0"),
    "unknown kind": (lambda m: m["prizes"][0].update(kind="gold"), "Invalid enum value 'gold'"),
    "number above a byte": (lambda m: m["prizes"][0].update(number=256), "`int` <= 255"),
    "a weight that is no number": (lambda m: m["rules"][1].update(weights=["1", "x", "3"]), "matching regex"),
    "closes first": (lambda m: m.update(closes_ms=m["opens_ms"]), "closes at 1772294400000, expected after"),
    "missing fallback": (
        lambda m: m["prizes"][0].update(fallback=9),
        "prize 0 falls back on 9, which is missing or",
    ),
    "fallbacks in a circle": (
        lambda m: m["prizes"][1].update(fallback=0),
        "prize 0 falls back on 0, which is missing or in a circle",
    ),
    "fallback on itself": (
        lambda m: m["prizes"][1].update(fallback=1),
        "prize 0 falls back on 1, which is missing or in a circle",
    ),
    "cash of nothing": (
        lambda m: m["prizes"][0].update(amount=0),
        "prize 0 is cash without an amount in the campaign's currency",
    ),
    "cash in another currency": (
        lambda m: m["prizes"][0].update(currency="USD"),
        "prize 0 is cash without an amount in the campaign's currency",
    ),
    "prize twice": (lambda m: m["prizes"].append(m["prizes"][0]), "two prizes have one id"),
    "history disagrees": (
        lambda m: m["prize_numbers"].update({"cash-88": 7}),
        "prize 'cash-88' has number 0, its history says 7",
    ),
    "history lacks a rule": (
        lambda m: m["rule_numbers"].pop("shop"),
        "rule 'shop' has number 0, its history says None",
    ),
    "history with one number twice": (
        lambda m: m["prize_numbers"].update(gone=1),
        "two prizes of the history have one number",
    ),
    "a rule too few": (lambda m: m["rules"].pop(), "2 rules in the section, 1 in the metadata"),
    "a weight too few": (
        lambda m: m["rules"][1].update(weights=["1", "999"]),
        "rule 1 has number, mode and columns (1, 'weighted', 3), expected (1, 'weighted', 2)",
    ),
    "another mode": (
        lambda m: m["rules"][0].update(mode="weighted"),
        "rule 0 has number, mode and columns (0, 'certain', 1), expected (0, 'weighted', 1)",
    ),
    "a prize that is drawn is gone": (
        lambda m: (m["prizes"].pop(0), m["prize_numbers"].pop("cash-88")),
        "a rule draws prize 0, which the metadata does not have",
    ),
}


@pytest.mark.parametrize(("damage", "expected"), METADATA_DAMAGE.values(), ids=METADATA_DAMAGE.keys())
def test_metadata_that_contradicts_itself_is_refused(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], expected: str
) -> None:
    metadata, sections = good()
    damage(metadata)
    assert expected in refusal(tmp_path, metadata, sections)


@pytest.mark.parametrize("metadata", [None, 7, "text", [], {}, {1: 2}, {"id": "spring"}, [[[]]], 2**63])
def test_metadata_of_another_shape_is_refused(tmp_path: Path, metadata: object) -> None:
    assert refusal(tmp_path, metadata, good()[1]).startswith("the metadata is not that of a prize table: ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_any_metadata_opens_or_is_a_table_format_error(tmp_path: Path, data: st.DataObject) -> None:
    """Method: replace one value at any depth; whatever opens must have terms the ledger can follow to their end."""
    metadata, sections = good()
    holder: Any = metadata
    while True:
        key = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else list(range(len(holder)))))
        if not isinstance(holder[key], (dict, list)) or not holder[key] or data.draw(st.booleans()):
            break
        holder = holder[key]
    holder[key] = data.draw(json_values)
    file = tmp_path / "any.prizes"
    file.unlink(missing_ok=True)
    write_container(file, KIND_PRIZE, metadata, sections)
    try:
        table = PrizeTable(file)
    except TableFormatError:
        return
    for first in table.terms.prizes:
        current, steps = first, 0
        while current is not None and current.fallback != NO_PRIZE:
            current, steps = table.terms.prizes[current.fallback], steps + 1
            assert current is not None
            assert steps <= len(table.terms.prizes)


def put(number: int, field: str, row: int, value: int) -> Callable[[Sections], None]:
    def change(sections: Sections) -> None:
        sections[number] = sections[number].copy()
        sections[number][field][row] = value

    return change


def cut(number: int) -> Callable[[Sections], None]:
    return lambda sections: sections.update({number: sections[number][:-1]})


SECTION_DAMAGE: dict[str, tuple[Callable[[Sections], object], str]] = {
    "missing": (lambda s: s.pop(prizes.OUTCOMES), "section 7 is missing"),
    "odd size": (
        lambda s: s.update({prizes.RULES: np.zeros(23, "u1")}),
        "section 2 has 23 bytes, expected a multiple",
    ),
    "fewer outcomes": (cut(prizes.OUTCOMES), "4 thresholds, 4 aliases and 3 outcomes do not agree"),
    "fewer ranges": (cut(prizes.RANGES), "predicate 1: ranges 1+1 are outside the 1 given"),
    "fewer predicates": (cut(prizes.PREDICATES), "rule 1: predicates 1+1 are outside the 1 given"),
    "no transitions": (
        lambda s: s.update({prizes.TRANSITIONS: s[prizes.TRANSITIONS][:0]}),
        "at least one transition is needed",
    ),
    "late first transition": (
        put(prizes.TRANSITIONS, "at_ms", 0, 0),
        "the first transition must be the beginning of time",
    ),
    "columns outside": (
        put(prizes.RULES, "column_start", 1, 2),
        "rule 1: columns 2+3 are outside the 4 given",
    ),
    "unknown mode": (put(prizes.RULES, "mode", 0, 2), "rule 0: mode 2 is not 0 or 1"),
    "unknown field": (put(prizes.PREDICATES, "field", 0, 6), "predicate 0: field 6 is not 0 to 5"),
    "other rule number": (
        put(prizes.RULES, "number", 1, 4),
        "rule 1 has number, mode and columns (4, 'weighted', 3), expected (1, 'weighted', 3)",
    ),
    "alias outside": (
        lambda s: s.update({prizes.ALIASES: s[prizes.ALIASES] + np.uint32(3)}),
        "rule 0: alias 3 of column 0 is outside its 1 columns",
    ),
    "a prize of nobody": (
        lambda s: s.update({prizes.OUTCOMES: s[prizes.OUTCOMES] + np.int16(1)}),
        "a rule draws prize 2, which the metadata does not have",
    ),
}


@pytest.mark.parametrize(("damage", "expected"), SECTION_DAMAGE.values(), ids=SECTION_DAMAGE.keys())
def test_sections_out_of_bounds_are_refused(
    tmp_path: Path, damage: Callable[[Sections], object], expected: str
) -> None:
    metadata, sections = good()
    damage(sections)
    assert refusal(tmp_path, metadata, sections).startswith(expected)


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, *good(), kind=KIND_CODE) == "a code table, expected a prize table"


def test_a_certain_rule_has_one_column(tmp_path: Path) -> None:
    metadata, sections = good()
    metadata["rules"][1]["mode"] = "certain"
    put(prizes.RULES, "mode", 1, 1)(sections)
    # The core refuses it, or the metadata's check does; either way the file does not open.
    assert "rule 1" in refusal(tmp_path, metadata, sections)


def test_every_flipped_byte_and_every_cut_is_refused(tmp_path: Path) -> None:
    """Goal: no damage to a file passes for a campaign. Method: each byte in turn, then each length."""
    table = published(tmp_path, TEXT + rule("everyone", draw=WEIGHTED))
    content = table.path.read_bytes()
    file = tmp_path / "damaged.prizes"
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :])
        with pytest.raises(TableFormatError):
            PrizeTable(file)
    for size in range(len(content)):
        file.write_bytes(content[:size])
        with pytest.raises(TableFormatError):
            PrizeTable(file)


def test_nothing_is_written_that_would_not_open(tmp_path: Path) -> None:
    metadata, sections = compiled(TEXT + rule("everyone"))
    file = tmp_path / "spring@1.prizes"
    cut(prizes.OUTCOMES)(sections)
    with pytest.raises(TableFormatError, match="do not agree"):
        build_prize_table(file, metadata, sections)
    with pytest.raises(TableFormatError, match="not that of a prize table"):
        build_prize_table(file, msgspec.structs.replace(metadata, generation=0), sections)
    assert list(tmp_path.iterdir()) == []
