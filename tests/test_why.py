"""``why`` says step by step what the engine decides at once, and foresees what a claim is then answered."""

from __future__ import annotations

import ast
import inspect
import io
import json
import random
import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import (
    ACTIVE,
    COLA,
    DRAW_SECRET,
    GTIN,
    HOUR_MS,
    NOW_MS,
    PROGRAM_SECRET,
    SLOT,
    Shop,
    an_empty_shop,
    replaced,
)
from helpers_cli import Run, ok
from redis_servers import RedisServer
from scanengine.cli.words import NAMES, WORDS, language_of, sentence
from scanengine.errors import ScanError
from scanengine.keys import Keyring
from scanengine.model import Adjustment, Role, Scene, SegmentState, Status
from scanengine.program import Program, explaining, foreseeing, open_program
from scanengine.program.explaining import explain
from scanengine.program.foreseeing import why
from scanengine.program.importing import import_batch
from scanengine.program.moving import no_progress
from scanengine.program.publishing import SceneChange, create_batch
from scanengine.program.settings import load_settings, override_ledger

DAY_MS = 24 * HOUR_MS
CAMPAIGN = """
id = "spring"
title = "Open a cap, win"
opens = 2026-04-30T00:00:00+08:00
closes = 2026-05-06T00:00:00+08:00
timezone = "Asia/Shanghai"
[limits]
per_user = 8
per_user_per_day = 4
[budget]
currency = "CNY"
total = 44_000
per_day = 26_400
[[prizes]]
id = "cash-88"
kind = "cash"
amount = 8800
title = "88 yuan"
fallback = "coupon"
[[prizes]]
id = "coupon"
kind = "coupon"
title = "A coupon"
stock = 3
stock_per_day = 2
[[prizes]]
id = "points-10"
kind = "points"
amount = 10
title = "10 points"
[[rules]]
id = "night"
draw = { mode = "certain", prize = "cash-88" }
when = { hours = ["22:00-06:00"], regions = ["44", "110101"] }
[[rules]]
id = "holiday"
draw = { mode = "certain", prize = "cash-88" }
when = { opens = 2026-05-03T00:00:00+08:00, closes = 2026-05-04T00:00:00+08:00, products = ["6901234567892"] }
[[rules]]
id = "tea"
draw = { mode = "weighted", weights = { points-10 = 1, none = 3 } }
when = { batches = ["tea"] }
[[rules]]
id = "south"
draw = { mode = "weighted", weights = { cash-88 = 1, coupon = 1, points-10 = 1, none = 4 } }
when = { regions = ["44"] }
[[rules]]
id = "shop"
draw = { mode = "certain", prize = "points-10" }
when = { roles = ["retailer", "associate"] }
"""
STATES = (SegmentState.INACTIVE, SegmentState.FROZEN, SegmentState.VOID, SegmentState.RECALLED)


def a_varied_shop(folder: Path) -> Shop:
    """Two batches in one campaign, with codes in every state, in windows, without marketing, in no campaign."""
    shop = an_empty_shop(folder)
    create_batch(shop.workspace, shop.keyring, "cola", 100, product=COLA)
    create_batch(shop.workspace, shop.keyring, "tea", 100)
    create_batch(shop.workspace, shop.keyring, "gone", 1)
    create_batch(shop.workspace, shop.keyring, "trial", 20, product=COLA, test=True)
    shop.publish(CAMPAIGN)
    for label, count in (("cola", 100), ("tea", 100), ("trial", 20)):
        change = ACTIVE if label != "tea" else SceneChange(SegmentState.ACTIVE, Scene.MARKETING, "spring")
        shop.assign(0, count, change, label)
    for place, state in enumerate(STATES):
        shop.assign(place, place + 1, SceneChange(state))
    shop.assign(4, 6, SceneChange(active_from_ms=NOW_MS, active_until_ms=NOW_MS + DAY_MS))
    shop.assign(6, 7, SceneChange(scenes=Scene.AUTHENTICITY))
    shop.assign(7, 8, SceneChange(campaign=""))
    shop.assign(8, 9, SceneChange(campaign="nobody"))
    shop.assign(9, 10, SceneChange(link="https://example.com/{code}", market="44"))
    return shop


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return a_varied_shop(tmp_path_factory.mktemp("why") / "shop")


def texts_of(shop: Shop) -> list[str]:
    """Return texts of every kind that a scanner hands over."""
    codes = shop.codes(0, 20) + shop.codes(0, 10, "tea") + shop.codes(0, 5, "trial")
    code = codes[12]
    foreign = Keyring([(7, bytes(32), "active")], DRAW_SECRET, PROGRAM_SECRET).code_keys.encode(7, 3)
    forged = Keyring([(SLOT, bytes(32), "active")], DRAW_SECRET, PROGRAM_SECRET).code_keys.encode(SLOT, 3)
    unmade = shop.keyring.code_keys.encode(SLOT, 9_999_999)
    links = [f"https://example.com/s/{code}", f"https://example.com/01/{GTIN}/21/{code}", f" {code[:5]}-{code[5:]} "]
    wrong = f"https://example.com/01/06901234567823/21/{code}"
    mistyped = code[:-1] + ("0" if code[-1] != "0" else "1")
    odd = ["", "/", "x" * 600, "https://example.com/other", GTIN, f"https://example.com/01/{GTIN}", "可乐", code[:-1]]
    return [*codes, *links, wrong, mistyped, foreign, forged, unmade, *odd]


@given(data=st.data())
def test_every_step_agrees_with_the_engine(varied: Shop, data: st.DataObject) -> None:
    """Goal: an explanation never contradicts the answer. Method: any scan, both ways; words for it in both tongues."""
    engine = varied.engine
    text = data.draw(st.sampled_from(texts_of(varied)))
    role = data.draw(st.sampled_from(Role))
    region = data.draw(st.sampled_from([0, 110101, 110102, 440000, 440300, 449999, 450000]))
    now_ms = NOW_MS + data.draw(st.integers(-2 * DAY_MS, 6 * DAY_MS))
    found = explain(engine, text, now_ms, role, region, str)
    decision = engine.decide(text, now_ms, role, region)
    offer = [(each.rule, each.drawn) for each in decision.offers]
    assert found.status is decision.status
    assert ([(found.rule, found.drawn)] if found.rule >= 0 else []) == offer
    for step in found.steps:
        assert {sentence(step, "zh"), sentence(step, "en")}.isdisjoint({"", text})


def test_every_kind_of_text_is_told_apart(varied: Shop) -> None:
    statuses = {explain(varied.engine, text, NOW_MS, Role.CONSUMER, 0, str).status for text in texts_of(varied)}
    assert statuses >= set(Status) - {Status.EXPIRED}


@pytest.mark.parametrize("serial", ["A", "LONGER-A"])
def test_an_imported_link_names_no_product_but_is_a_code(varied: Shop, tmp_path: Path, serial: str) -> None:
    """Goal: nothing is said of a product that the engine does not read. The shorter link has the length of a code."""
    shop = Shop(type(varied.workspace)(shutil.copytree(varied.folder, tmp_path / "own")), varied.keyring)
    link = f"/01/96385074/21/{serial:4}".replace(" ", "B")
    data = io.BytesIO(f"{link}\n{serial}C\n".encode())
    import_batch(shop.workspace, shop.keyring, "links", data, product=COLA, progress=no_progress)
    shop.assign(0, 2, ACTIVE, "links")
    whole = explain(shop.engine, link, NOW_MS, Role.CONSUMER, 0, str)
    assert whole.status is whole.decision.status is Status.VALID
    assert {step.key for step in whole.steps}.isdisjoint({"product_right", "product_wrong"})
    inside = explain(shop.engine, f"/01/96385074/21/{serial}C", NOW_MS, Role.CONSUMER, 0, str)
    assert inside.status is inside.decision.status is Status.WRONG_PRODUCT
    right = explain(shop.engine, f"/01/{GTIN}/21/{serial}C", NOW_MS, Role.CONSUMER, 0, str)
    assert "product_right" in {step.key for step in right.steps}


# The ledger.


def outcomes_of(program: Program, shop: Shop) -> set[tuple[str, str | None]]:
    """Foresee and then make claims of every kind, one after the other; return what they were answered."""
    moves = random.Random(20260501)
    codes = shop.codes(0, 40) + shop.codes(0, 15, "tea") + shop.codes(0, 5, "trial")
    seen = set()
    made: list[tuple[str, str, str, str | None]] = []
    now_ms = NOW_MS - 2 * DAY_MS
    for turn in range(320):
        now_ms += moves.randrange(HOUR_MS)
        if turn in (60, 70, 300):
            action = {60: "pause", 70: "resume", 300: "close"}[turn]
            program.ledger.adjust(Adjustment(f"a{turn}", "spring", action, at_ms=now_ms))
        if turn == 150:
            program.ledger.adjust(Adjustment("more", "spring", "stock", prize=1, amount=2, at_ms=now_ms))
            program.ledger.adjust(Adjustment("money", "spring", "budget", amount=8_800, at_ms=now_ms))
        scan = (
            moves.choice(codes),
            moves.choice("abcd"),
            moves.choice(["CONSUMER"] * 4 + list(Role.__members__)).lower(),
            moves.choice(["44", "4403", "11", None]),
        )
        if made and not turn % 4:
            scan = moves.choice(made)
        made.append(scan)
        code, user, role, region = scan
        foreseen = why(program, code, user=user, role=role, region=region, now_ms=now_ms).answer
        answer = program.claim(code, user=user, role=role, region=region, now=now_ms)
        claim = answer.claim
        assert foreseen.status == answer.status
        assert foreseen.claim == (claim.status if claim else None), (turn, foreseen, answer)
        if claim is not None:
            assert (foreseen.reason, foreseen.replayed) == (claim.reason, bool(claim.replayed)), turn
            assert foreseen.prize_id == (claim.prize.id if claim.prize else None), turn
            seen.add((claim.status + ("_again" if claim.replayed else ""), claim.reason))
    return seen


EVERY_OUTCOME = {
    ("awarded", None), ("awarded_again", None), ("no_prize", None), ("no_prize_again", None), ("taken", None),
    ("limited", "per_user"), ("limited", "per_user_per_day"), ("closed", "not_started"), ("closed", "paused"),
    ("closed", "ended"), ("ineligible", "no_rule"), ("ineligible", "scene_off"),
}  # fmt: skip


def test_what_is_foreseen_is_what_a_claim_then_gets(tmp_path: Path) -> None:
    shop = a_varied_shop(tmp_path / "shop")
    with open_program(shop.folder) as program:
        assert outcomes_of(program, shop) >= EVERY_OUTCOME


def test_what_is_foreseen_of_a_ledger_in_redis_is_what_a_claim_then_gets(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    shop = a_varied_shop(tmp_path / "shop")
    settings = override_ledger(
        load_settings(shop.workspace.settings_path), url=redis_server.url(), durability="volatile"
    )
    with open_program(shop.folder, settings=settings) as program:
        assert outcomes_of(program, shop) >= EVERY_OUTCOME


def test_a_redis_that_promises_too_little_is_foreseen(tmp_path: Path, redis_server: RedisServer, shop: Shop) -> None:
    loose = override_ledger(load_settings(shop.workspace.settings_path), url=redis_server.url(), durability="volatile")
    open_program(shop.folder, settings=loose).close()
    strict = override_ledger(loose, durability="strict")
    with open_program(shop.folder, ledger="none", settings=strict) as program:
        found = why(program, shop.code(5), user="ann", region="44", now_ms=NOW_MS)
    assert (found.answer.claim, found.steps[-2].key) == ("pending", "ledger_trouble")


def test_tables_behind_the_ledger_are_foreseen(shop: Shop) -> None:
    with open_program(shop.folder) as program:
        program.ledger.announce(99)
        assert why(program, shop.code(5), user="ann", region="44", now_ms=NOW_MS).answer.claim == "pending"
        assert program.claim(shop.code(5), user="ann", region="44", now=NOW_MS).is_pending


def test_nobody_and_no_ledger_are_no_trouble(shop: Shop) -> None:
    """Before anything was opened, and of a person who is not named, it says what the first comer would get."""
    with open_program(shop.folder, ledger="none") as program:
        found = why(program, shop.code(5), region="44", now_ms=NOW_MS)
    assert (found.answer.claim, found.answer.prize_id, found.item) == ("awarded", "cash-88", shop.item(5))
    assert not (shop.folder / "ledger.sqlite").exists()


# The command.


def test_the_command_tells_every_step_and_never_the_code(shop: Shop, run: Run) -> None:
    code = shop.code(5)
    at = ("--at", "2026-05-01T12:00:00+08:00")
    lines = ok(run("-w", shop.folder, "why", f"https://example.com/s/{code}", "--user", "ann", *at, "--lang", "en"))
    assert code not in lines
    assert "- rule south does not hold: region is -, expected 44" in lines
    assert "rule everyone holds and draws (it asked for: role)" in lines
    assert lines.splitlines()[-1].startswith(("+ so a claim now would be ", "- so a claim now"))
    chinese = ok(run("-w", shop.folder, "why", code, "--role", "inspector", *at, "--lang", "zh"))
    assert "规则 shop 不成立:角色为 稽查,应为 零售商" in chinese
    assert chinese.splitlines()[-1] == "- 因此现在领取会被拒绝:没有适用的规则;码未被使用"


def test_json_holds_the_steps_and_their_words(shop: Shop, run: Run) -> None:
    found = json.loads(ok(run("-w", shop.folder, "why", shop.code(5), "--region", "44", "--json", "--lang", "en",
                              "--at", "2026-05-01T12:00:00+08:00")))  # fmt: skip
    assert (found["item"], found["answer"]["prize_id"]) == (shop.item(5), "cash-88")
    assert [step["key"] for step in found["steps"]][-1] == "answer_awarded"
    assert all(step["text"] and step["outcome"] in ("yes", "no", "info") for step in found["steps"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--at", "1960-01-01T00:00:00+08:00"), "now: expected a time from 1970"),
        (("--role", "king"), "role: expected one of consumer"),
        (("--region", "1"), "region: expected an adcode"),
        (("--user", ""), "user: expected 1 to 64 bytes"),
        (("--user", "x" * 65), "user: expected 1 to 64 bytes"),
    ],
)
def test_wrong_arguments_are_named(shop: Shop, run: Run, arguments: tuple[str, ...], said: str) -> None:
    done = run("-w", shop.folder, "why", shop.code(5), *arguments)
    assert (done.code, done.out) == (1, "")
    assert said in done.err


def test_a_text_that_is_too_long_is_refused(shop: Shop) -> None:
    with open_program(shop.folder, ledger="none") as program, pytest.raises(ScanError, match="at most 512"):
        why(program, "x" * 513)


# The words.


def said_keys() -> Iterator[str]:
    """Every key that is written whole in the sources of an explanation."""
    calls = [node for module in (explaining, foreseeing) for node in ast.walk(ast.parse(inspect.getsource(module)))]
    for call in calls:
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "_say":
            texts = [each.value for each in ast.walk(call.args[0]) if isinstance(each, ast.Constant)]
            yield from (text for text in texts if text[0].isalpha() and text[-1].isalpha())


def test_every_step_has_words_in_both_languages() -> None:
    assert set(said_keys()) - set(WORDS) == set()
    assert {f"answer_{name}" for name, reason in EVERY_OUTCOME if reason is None} <= set(WORDS)
    assert {f"answer_{name}_{reason}" for name, reason in EVERY_OUTCOME if reason} <= set(WORDS)
    for key, words in WORDS.items():
        english, chinese = ({field for _, field, _, _ in string.Formatter().parse(text) if field} for text in words)
        assert english == chinese, key
        assert words[0].isascii(), key
        assert not words[1].isascii(), key


def test_every_name_has_a_chinese_word() -> None:
    enums: list[Any] = [Status, Role, Scene, SegmentState]
    assert {member.name.lower() for each in enums for member in each} <= set(NAMES)
    assert set(explaining.FIELD_NAMES.values()) <= set(NAMES)


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LC_ALL": "", "LANG": "zh"}, "zh"),
    ],
)
def test_the_language_is_that_of_the_terminal(environment: dict[str, str], language: str) -> None:
    assert language_of(environment) == language


def test_a_code_that_is_claimed_says_whose_it_is(shop: Shop) -> None:
    with open_program(shop.folder) as program:
        program.claim(shop.code(5), user="ann", region="44", now=NOW_MS)
        keys = {
            user: [step.key for step in why(program, shop.code(5), user=user, region="44", now_ms=NOW_MS).steps]
            for user in ("ann", "bob", None)
        }
    assert keys["ann"][-2:] == ["claimed_mine", "answer_awarded_again"]
    assert keys["bob"][-2:] == ["claimed_other", "answer_taken"]
    assert keys[None][-2:] == ["claimed", "answer_taken"]


def test_stock_that_is_left_counts_what_was_added(shop: Shop) -> None:
    shop.publish(replaced((shop.folder / "campaigns" / "spring.toml").read_text(), "stock = 150", "stock = 0"))
    with open_program(shop.folder) as program:
        before = why(program, shop.code(5), user="ann", region="44", now_ms=NOW_MS)
        program.ledger.adjust(Adjustment("one", "spring", "stock", prize=0, amount=1))
        after = why(program, shop.code(5), user="ann", region="44", now_ms=NOW_MS)
    assert (before.answer.prize_id, after.answer.prize_id) == ("points-10", "cash-88")
    assert {"not_given", "given"} <= {step.key for step in before.steps}
