"""Decisions: each status, each refusal, each spelling; one code and many codes alike; nothing but the scan decides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import (
    ACTIVE,
    CASH,
    CODES,
    COLA,
    EVERYONE,
    HOUR_MS,
    NOW_MS,
    POINTS,
    SHOP,
    SLOT,
    SLOT_SECRET,
    SOUTH,
    Shop,
    a_code_with,
    a_shop,
)
from scanengine.codes import hyphenate
from scanengine.engine import NO_CAMPAIGN, Engine
from scanengine.keys import Keyring
from scanengine.model import NO_ITEM, NO_PRIZE, Offer, Role, Scene, SegmentState, Status
from scanengine.program.publishing import SceneChange, create_batch, delete_batch

SCENES = Scene.AUTHENTICITY | Scene.MARKETING
LATER, EARLIER = NOW_MS + HOUR_MS, NOW_MS - HOUR_MS


@dataclass
class World:
    """A shop in which each status has a code, and its engine."""

    shop: Shop
    engine: Engine
    codes: dict[Status, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    shop = a_shop(tmp_path_factory.mktemp("engine") / "shop")
    states = (SegmentState.INACTIVE, SegmentState.FROZEN, SegmentState.VOID, SegmentState.RECALLED)
    for offset, state in enumerate(states, 900):
        shop.assign(offset, offset + 1, SceneChange(state=state))
    shop.assign(904, 905, SceneChange(active_until_ms=NOW_MS))
    shop.assign(905, 906, SceneChange(active_from_ms=NOW_MS + 1))
    shop.assign(906, 907, SceneChange(scenes=Scene.AUTHENTICITY))
    shop.assign(907, 908, SceneChange(campaign="unpublished"))
    shop.assign(908, 909, SceneChange(campaign=""))
    create_batch(shop.workspace, shop.keyring, "gone", 5)
    gone = shop.code(0, "gone")
    delete_batch(shop.workspace, "gone")
    valid = shop.code(0)
    forger = Keyring([(SLOT, bytes(32), "active"), (9, SLOT_SECRET, "active")], bytes(32), bytes(32))
    codes = {
        Status.MALFORMED: "NOT-A-CODE",
        Status.MISTYPED: a_code_with(valid, 7, "Z" if valid[7] != "Z" else "Y"),
        Status.UNKNOWN_KEY: forger.code_keys.encode(9, 0),
        Status.FORGED: forger.code_keys.encode(SLOT, 0),
        Status.UNKNOWN: gone,
        Status.INACTIVE: shop.code(900),
        Status.FROZEN: shop.code(901),
        Status.VOID: shop.code(902),
        Status.RECALLED: shop.code(903),
        Status.EXPIRED: shop.code(904),
        Status.VALID: valid,
    }
    return World(shop, shop.engine, codes)


def test_each_status_is_decided_alike_one_by_one_and_together(world: World) -> None:
    """Goal: decide and all forms of decide_many agree on every status, column by column."""
    texts = list(world.codes.values())
    alone = [world.engine.decide(text, NOW_MS) for text in texts]
    assert [decision.status for decision in alone] == list(world.codes)
    padded = [text if len(text) == 20 else "?" * 20 for text in texts]
    rows = np.array(padded, "S20")
    letters = rows.view(np.uint8).reshape(-1, 20)
    for codes in (texts, rows, letters, letters[::-1][::-1], np.repeat(rows, 2)[::2]):
        many = world.engine.decide_many(codes, NOW_MS)
        assert len(many) == len(texts)
        assert many.status.tolist() == [decision.status for decision in alone]
        assert many.item.tolist() == [decision.item for decision in alone]
        assert many.scenes.tolist() == [decision.scenes for decision in alone]
        for row, decision in enumerate(alone):
            part = slice(many.offer_start[row], many.offer_start[row + 1])
            offers = tuple(map(Offer, many.rule[part].tolist(), many.prize[part].tolist()))
            assert offers == decision.offers
            index = many.campaign[row]
            is_bound = decision.campaign in many.campaigns
            assert (many.campaigns[index] == decision.campaign) if is_bound else (index == NO_CAMPAIGN)
    types = [many.status, many.item, many.scenes, many.campaign, many.offer_start, many.rule, many.prize, many.amount]
    assert [column.dtype.str for column in types] == ["|u1", "<u8", "|u1", "<u2", "<i8", "|u1", "<i2", "<u8"]


def test_what_is_not_located_says_nothing_of_any_item(world: World) -> None:
    for status in list(Status)[:5]:
        decision = world.engine.decide(world.codes[status], NOW_MS, Role.RETAILER, 440_000)
        assert (decision.item, decision.scenes, decision.batch, decision.product) == (NO_ITEM, Scene(0), None, None)
        assert (decision.lot, decision.campaign, decision.offers, decision.terms) == (None, None, (), None)
        assert (decision.refusal, decision.local_date) == ("not_valid", 0)
        assert decision.code == (None if status == Status.MALFORMED else world.codes[status])


def test_what_is_located_but_not_valid_offers_nothing(world: World) -> None:
    for status in (Status.INACTIVE, Status.FROZEN, Status.VOID, Status.RECALLED, Status.EXPIRED):
        decision = world.engine.decide(world.codes[status], NOW_MS, region=440_000)
        assert (decision.status, decision.offers, decision.refusal) == (status, (), "not_valid")
        assert decision.terms is None
        assert (decision.batch, decision.product, decision.lot) == ("cola", COLA, "L1")
        assert decision.item == world.shop.item(900 + list(world.codes).index(status) - 5)


def test_a_window_is_half_open(world: World) -> None:
    expiring, starting = world.shop.code(904), world.shop.code(905)
    assert [world.engine.decide(expiring, now).status for now in (0, NOW_MS - 1, NOW_MS)] == [
        Status.VALID, Status.VALID, Status.EXPIRED,
    ]  # fmt: skip
    assert [world.engine.decide(starting, now).status for now in (NOW_MS, NOW_MS + 1, LATER)] == [
        Status.INACTIVE, Status.VALID, Status.VALID,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("offset", "role", "refusal", "has_terms"),
    [
        (906, Role.CONSUMER, "scene_off", False),
        (907, Role.CONSUMER, "no_rule", False),
        (908, Role.CONSUMER, "no_rule", False),
        (0, Role.DISTRIBUTOR, "no_rule", True),
        (0, Role.INSPECTOR, "no_rule", True),
        (0, Role.CONSUMER, None, True),
        (0, Role.RETAILER, None, True),
    ],
)
def test_a_refusal_says_why_nothing_can_be_claimed(
    world: World, offset: int, role: Role, refusal: str | None, has_terms: bool
) -> None:
    decision = world.engine.decide(world.shop.code(offset), NOW_MS, role)
    assert decision.status == Status.VALID
    assert decision.refusal == refusal
    assert (decision.terms is not None) == has_terms
    assert bool(decision.offers) == (refusal is None)


def test_role_and_region_choose_the_rule(world: World) -> None:
    code = world.codes[Status.VALID]
    offers = {
        (role, region): world.engine.decide(code, NOW_MS, role, region).offers
        for role in (Role.CONSUMER, Role.RETAILER)
        for region in (0, 440_300, 449_999, 450_000, 310_000)
    }
    everyone = offers[Role.CONSUMER, 0]
    assert everyone[0].rule == EVERYONE
    for region in (440_300, 449_999):
        assert offers[Role.CONSUMER, region] == (Offer(SOUTH, CASH),)
        assert offers[Role.RETAILER, region] == (Offer(SHOP, POINTS),)
    for region in (0, 450_000, 310_000):
        assert offers[Role.CONSUMER, region] == everyone
        assert offers[Role.RETAILER, region] == (Offer(SHOP, POINTS),)


def test_roles_and_regions_may_differ_from_row_to_row(world: World) -> None:
    source = np.random.default_rng(5)
    codes = world.shop.codes(0, 200)
    roles = source.integers(0, 5, 200).astype(np.uint8)
    regions = source.choice(np.array([0, 440_300, 310_000], np.uint32), 200)
    many = world.engine.decide_many(codes, NOW_MS, roles, regions)
    alone = [
        world.engine.decide(code, NOW_MS, Role(role), region)
        for code, role, region in zip(codes, roles.tolist(), regions.tolist(), strict=True)
    ]
    assert many.offer_start.tolist() == np.cumsum([0] + [len(decision.offers) for decision in alone]).tolist()
    flat = [offer for decision in alone for offer in decision.offers]
    assert list(map(Offer, many.rule.tolist(), many.prize.tolist())) == flat
    amounts = {NO_PRIZE: 0, CASH: 8_800, POINTS: 10}
    assert many.amount.tolist() == [amounts[offer.drawn] for offer in flat]
    assert {0, 8_800, 10} == set(many.amount.tolist())


def test_the_odds_are_about_those_of_the_campaign(world: World) -> None:
    """1,000 codes at 1 : 3 : 6; beyond five standard deviations the draw is not the one that was published."""
    drawn = world.engine.decide_many(world.shop.codes(0, 900), NOW_MS).prize
    for prize, chance in ((CASH, 0.1), (POINTS, 0.3), (NO_PRIZE, 0.6)):
        assert abs((drawn == prize).sum() - 900 * chance) < 5 * (900 * chance * (1 - chance)) ** 0.5


def test_every_spelling_of_a_code_is_decided_alike(world: World) -> None:
    code = world.codes[Status.VALID]
    expected = world.engine.decide(code, NOW_MS)
    spellings = [
        code.lower(),
        hyphenate(code),
        f" {hyphenate(code).lower()} ",
        f"HTTPS://EXAMPLE.COM/S/{code}",
        f"https://example.com/s/{hyphenate(code)}?from=timeline",
        f"https://mp.example.com/x?q=https%3A%2F%2Fexample.com%2Fs%2F{code.lower()}",
        code.replace("0", "o").replace("1", "l"),
    ]
    assert [world.engine.decide(text, NOW_MS) for text in spellings] == [expected] * len(spellings)
    many = world.engine.decide_many(spellings, NOW_MS)
    assert many.item.tolist() == [expected.item] * len(spellings)
    lower = world.engine.decide_many(np.array([code.lower()], "S20"), NOW_MS)
    assert lower.item.tolist() == [expected.item]


@pytest.mark.parametrize(
    "text",
    ["", " ", "码" * 20, "\ud800" * 20, "0" * 19, "0" * 21, "-" * 20, "U" * 20, "\0" * 20, "x" * 513, "é" * 20, "?",
     "/", "0" * 19 + "\n", "0" * 18 + "--", "https://example.com/s/", "４" * 20],
)  # fmt: skip
def test_a_bad_text_is_a_status_and_never_an_exception(world: World, text: str) -> None:
    decision = world.engine.decide(text, NOW_MS)
    assert (decision.status, decision.code, decision.item) == (Status.MALFORMED, None, NO_ITEM)
    assert world.engine.decide_many([text], NOW_MS).status.tolist() == [Status.MALFORMED]


@given(text=st.text(st.characters(exclude_categories=())), now_ms=st.integers(0, 2**62 - 1))
def test_any_text_is_decided_alike_one_by_one_and_together(world: World, text: str, now_ms: int) -> None:
    decision = world.engine.decide(text, now_ms)
    assert world.engine.decide_many([text], now_ms).status.tolist() == [decision.status]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    offset=st.integers(0, CODES - 1),
    now_ms=st.integers(EARLIER, LATER),
    role=st.sampled_from(list(Role)),
    region=st.sampled_from([0, 440_300, 110_000]),
)
def test_the_same_scan_on_the_same_tables_is_the_same_decision(
    world: World, offset: int, now_ms: int, role: Role, region: int
) -> None:
    """Goal: nothing but snapshot and scan decides. Method: an engine made anew, and the scan among many others."""
    again = Engine(world.shop.keyring, world.shop.snapshot)
    code = world.shop.code(offset)
    decision = world.engine.decide(code, now_ms, role, region)
    assert again.decide(code, now_ms, role, region) == decision
    assert world.engine.decide(code, now_ms, role, region) == decision
    many = again.decide_many([*world.codes.values(), code], now_ms, role, region)
    assert many.item[-1] == decision.item
    last = slice(many.offer_start[-2], many.offer_start[-1])
    assert tuple(map(Offer, many.rule[last].tolist(), many.prize[last].tolist())) == decision.offers


def test_nothing_to_decide_is_decided(world: World) -> None:
    for codes in ([], np.zeros((0, 20), np.uint8), np.zeros(0, "S20")):
        many = world.engine.decide_many(codes, NOW_MS)
        assert (len(many), many.offer_start.tolist(), many.amount.tolist()) == (0, [0], [])


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros(3, "S65"),
        np.zeros(3, "U20"),
        np.zeros((3, 65), np.uint8),
        np.zeros(20, np.uint8),
        np.zeros((1, 3, 20), np.uint8),
        np.zeros((3, 20), np.int64),
        np.zeros((3, 1), "S20"),
        np.array(["a"], object),
    ],
)
def test_a_wrong_shape_is_refused(world: World, codes: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"codes must be uint8 of shape \(n, 20\)"):
        world.engine.decide_many(codes, NOW_MS)


@pytest.mark.parametrize(
    ("now_ms", "role", "region"),
    [
        (-1, 0, 0), (2**62, 0, 0), (NOW_MS, 5, 0), (NOW_MS, -1, 0), (NOW_MS, 0, -1), (NOW_MS, 0, 1_000_000),
        (NOW_MS, np.zeros(2, np.uint8), 0), (NOW_MS, 0, np.zeros(2, np.uint32)), (NOW_MS, np.full(1, 5, np.uint8), 0),
        (NOW_MS, 0, np.full(1, 1_000_000, np.uint32)),
    ],
)  # fmt: skip
def test_a_scan_out_of_range_is_refused(world: World, now_ms: int, role: object, region: object) -> None:
    code = world.codes[Status.VALID]
    with pytest.raises(ValueError):
        world.engine.decide_many([code], now_ms, role, region)
    if isinstance(role, int) and isinstance(region, int):
        with pytest.raises(ValueError):
            world.engine.decide(code, now_ms, role, region)


def test_a_product_whose_line_is_gone_keeps_its_gtin(tmp_path: Path) -> None:
    shop = a_shop(tmp_path / "shop")
    shop.workspace.products_path.unlink()
    product = shop.engine.decide(shop.code(0), NOW_MS).product
    assert (product.gtin, product.title) == (COLA.gtin, "")


def test_a_batch_without_anything_assigned_is_inactive(shop: Shop) -> None:
    create_batch(shop.workspace, shop.keyring, "blank", 5)
    decision = shop.engine.decide(shop.code(4, "blank"), NOW_MS)
    assert (decision.status, decision.scenes, decision.product) == (Status.INACTIVE, Scene(0), None)
    shop.assign(4, 5, ACTIVE, batch="blank")
    decision = shop.engine.decide(shop.code(4, "blank"), NOW_MS)
    assert (decision.status, decision.scenes, decision.product) == (Status.VALID, SCENES, COLA)
