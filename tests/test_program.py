"""Claims and looks through a program: what a person is told, first and ever after."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from helpers import (
    CASH,
    CODES,
    COLA,
    GTIN,
    HOUR_MS,
    NOON,
    NOW_MS,
    POINTS,
    SPRING,
    Shop,
    replaced,
)
from scanengine.ledger import Ledger, MemoryLedger, SqliteLedger
from scanengine.model import (
    NO_PRIZE,
    Answer,
    ClaimReply,
    Party,
    PrizeReply,
    ProductReply,
    ScanReply,
    Scene,
    SegmentState,
)
from scanengine.program import Program
from scanengine.program.publishing import SceneChange
from scanengine.program.scans import Scan

NOON_TEXT = "2026-05-01T12:00:00.000+08:00"
COLA_REPLY = ProductReply(GTIN, COLA.title)
SCENES = ("authenticity", "marketing")
CASH_REPLY = PrizeReply("cash-88", "cash", 8_800, "CNY", "88 yuan")
POINTS_REPLY = PrizeReply("points-10", "points", 10, None, "10 points")
BEFORE, AFTER = datetime.fromisoformat("2026-02-28T23:59:59+08:00"), datetime.fromisoformat("2027-03-01T00:00:00+08:00")


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, shop: Shop) -> Ledger:
    """Each ledger in turn; the program closes it."""
    if request.param == "memory":
        return MemoryLedger()
    return SqliteLedger(shop.workspace.ledger_path, "program-for-tests")


@pytest.fixture
def program(shop: Shop, ledger: Ledger) -> Iterator[Program]:
    with shop.program(ledger) as program:
        yield program


def claim_of(answer: Answer) -> ClaimReply:
    assert answer.claim is not None
    return answer.claim


def state(state: SegmentState) -> SceneChange:
    return SceneChange(state=state)


# ---- what a claim says ----


def test_a_winner_is_told_everything(shop: Shop, program: Program) -> None:
    (code,) = shop.drawing(CASH)
    claim_id = shop.keyring.claim_id(program.decide(code).item, Party.CONSUMER)
    assert program.claim(code, user="u1", visit="v1") == Answer(
        "valid", code, "first_scan", ScanReply(1, NOON_TEXT), COLA_REPLY, "cola", SCENES,
        ClaimReply(claim_id, "awarded", replayed=False, at=NOON_TEXT, prize=CASH_REPLY),
    )  # fmt: skip


def test_who_wins_nothing_is_told_so(shop: Shop, program: Program) -> None:
    (code,) = shop.drawing(NO_PRIZE)
    claim = claim_of(program.claim(code, user="u1"))
    assert (claim.status, claim.replayed, claim.prize, claim.reason) == ("no_prize", False, None, None)
    assert claim_of(program.claim(code, user="u1")).replayed is True


def test_a_retry_gets_the_same_claim_and_counts_once(shop: Shop, program: Program) -> None:
    (code,) = shop.drawing(CASH)
    first = program.claim(code, user="u1", visit="v1")
    for _ in range(3):
        again = program.claim(code, user="u1", visit="v1", now=NOON + timedelta(hours=1))
        assert again == Answer(
            "valid", code, "first_scan", ScanReply(1, NOON_TEXT), COLA_REPLY, "cola", SCENES,
            ClaimReply(claim_of(first).id, "awarded", replayed=True, at=NOON_TEXT, prize=CASH_REPLY),
        )  # fmt: skip
    later = program.claim(code, user="u1", visit="v2", now=NOON + timedelta(hours=2))
    assert later.claim == again.claim
    assert (later.verdict, later.scan) == ("repeat", ScanReply(2, NOON_TEXT))


def test_scans_without_a_visit_are_visits_of_their_own(shop: Shop, program: Program) -> None:
    code = shop.code(0)
    counts = [program.claim(code, user="u1").scan for _ in range(3)]
    assert [scan.count for scan in counts if scan] == [1, 2, 3]


def test_many_scans_of_one_code_look_copied(shop: Shop, program: Program) -> None:
    code = shop.code(0)
    verdicts = [program.claim(code, user=f"u{number}", visit=f"v{number}").verdict for number in range(12)]
    assert verdicts == ["first_scan"] + ["repeat"] * 9 + ["suspect"] * 2
    assert program.claim(code, user="u0", visit="v0").verdict == "first_scan"
    assert program.verify(code).verdict == "suspect"


def test_without_the_authenticity_scene_there_is_no_verdict(shop: Shop, program: Program) -> None:
    shop.assign(0, CODES, SceneChange(scenes=Scene.MARKETING))
    program.refresh()
    answer = program.claim(shop.code(0), user="u1")
    assert (answer.verdict, answer.scan, answer.scenes) == (None, ScanReply(1, NOON_TEXT), ("marketing",))


def test_a_code_is_awarded_to_one_person(shop: Shop, program: Program) -> None:
    (code,) = shop.drawing(CASH)
    first = program.claim(code, user="u1", visit="v1")
    second = program.claim(code, user="u2", visit="v2", now=NOON + timedelta(minutes=5))
    assert second.claim == ClaimReply(claim_of(first).id, "taken", at=NOON_TEXT)
    assert (second.verdict, second.scan) == ("repeat", ScanReply(2, NOON_TEXT))
    assert claim_of(program.claim(code, user="u1", visit="v3")).prize == CASH_REPLY


def test_who_is_over_a_limit_does_not_use_the_code_up(shop: Shop, program: Program) -> None:
    codes = shop.drawing(NO_PRIZE, 6)
    statuses = [claim_of(program.claim(code, user="u1")).status for code in codes]
    assert statuses == ["no_prize"] * 5 + ["limited"]
    limited = claim_of(program.claim(codes[5], user="u1"))
    assert (limited.reason, limited.at, limited.replayed) == ("per_user", None, None)
    assert claim_of(program.claim(codes[5], user="u2")).status == "no_prize"


@pytest.mark.parametrize(("now", "reason"), [(BEFORE, "not_started"), (AFTER, "ended")])
def test_outside_its_time_a_campaign_gives_nothing(shop: Shop, program: Program, now: datetime, reason: str) -> None:
    (code,) = shop.drawing(CASH)
    answer = program.claim(code, user="u1", now=now)
    assert (claim_of(answer).status, claim_of(answer).reason) == ("closed", reason)
    assert answer.scan is not None
    assert answer.scan.count == 1


def test_a_claim_made_in_time_is_answered_for_ever(shop: Shop, program: Program) -> None:
    (code,) = shop.drawing(CASH)
    program.claim(code, user="u1")
    late = claim_of(program.claim(code, user="u1", now=AFTER + timedelta(days=999)))
    assert (late.status, late.replayed, late.at, late.prize) == ("awarded", True, NOON_TEXT, CASH_REPLY)


@pytest.mark.parametrize(
    ("change", "role", "reason"),
    [
        (SceneChange(scenes=Scene.AUTHENTICITY), "consumer", "scene_off"),
        (SceneChange(campaign="unpublished"), "consumer", "no_rule"),
        (SceneChange(campaign=""), "consumer", "no_rule"),
        (SceneChange(), "distributor", "no_rule"),
        (SceneChange(), "inspector", "no_rule"),
    ],
)
def test_where_nothing_is_offered_nothing_is_recorded(
    shop: Shop, program: Program, change: SceneChange, role: str, reason: str
) -> None:
    shop.assign(0, CODES, change)
    program.refresh()
    answer = program.claim(shop.code(0), user="u1", role=role)
    assert (claim_of(answer).status, claim_of(answer).reason) == ("ineligible", reason)
    assert (answer.status, answer.scan) == ("valid", ScanReply(1, NOON_TEXT))
    assert program.ledger.totals().claims == 0


@pytest.mark.parametrize("fate", [SegmentState.VOID, SegmentState.FROZEN, SegmentState.RECALLED, SegmentState.INACTIVE])
def test_what_was_won_stays_won_whatever_becomes_of_the_code(shop: Shop, program: Program, fate: SegmentState) -> None:
    won, other = shop.drawing(CASH, 2)
    first = program.claim(won, user="u1", visit="v1")
    shop.assign(0, CODES, state(fate))
    program.refresh()
    answer = program.claim(won, user="u1", visit="v2")
    assert (answer.status, answer.verdict, answer.scan) == (fate.name.lower(), None, ScanReply(1, NOON_TEXT))
    assert claim_of(answer).replayed is True
    assert claim_of(answer).prize == claim_of(first).prize
    assert claim_of(program.claim(won, user="u2")).status == "taken"
    refused = program.claim(other, user="u1")
    assert (refused.status, refused.claim, refused.scan, refused.batch) == (fate.name.lower(), None, None, "cola")


def test_a_claim_is_told_with_the_words_of_its_own_day(shop: Shop, program: Program) -> None:
    before, after = shop.drawing(CASH, 2)
    program.claim(before, user="u1")
    shop.publish(replaced(SPRING, 'title = "88 yuan"', 'title = "Eighty-eight yuan!"'))
    program.refresh()
    assert claim_of(program.claim(before, user="u1")).prize == CASH_REPLY
    new = claim_of(program.claim(after, user="u1")).prize
    assert new is not None
    assert new.title == "Eighty-eight yuan!"
    with shop.program(program.ledger) as reopened:
        assert claim_of(reopened.claim(before, user="u1")).prize == CASH_REPLY


def test_a_prize_that_left_the_campaign_is_still_told(shop: Shop, program: Program) -> None:
    (code,) = shop.drawing(CASH)
    program.claim(code, user="u1")
    rest = SPRING[: SPRING.index("[[prizes]]")] + SPRING[SPRING.index('[[prizes]]\nid = "points-10"') :]
    rest = rest.replace("cash-88 = 1, ", "").replace('prize = "cash-88"', 'prize = "points-10"')
    shop.publish(rest)
    program.refresh()
    assert program.snapshot.prizes["spring"].prize(CASH) is None
    assert claim_of(program.claim(code, user="u1")).prize == CASH_REPLY


def test_explaining_old_claims_holds_one_table_for_each_file(shop: Shop) -> None:
    ledger = MemoryLedger()
    codes = shop.drawing(POINTS, 4)
    with shop.program(ledger) as program:
        for number, code in enumerate(codes):
            program.claim(code, user=f"u{number}")
            shop.assign(0, CODES, SceneChange(lot=f"L{number}"))
            program.refresh()
        shop.publish(SPRING)
        program.refresh()
        tables = {id(program.answerer.prize_table("spring", number, program.snapshot)) for number in range(2, 8)}
        assert len(tables) == 1
        for number, code in enumerate(codes):
            assert claim_of(program.claim(code, user=f"u{number}")).prize == POINTS_REPLY


def test_a_fallback_is_told_as_the_prize(shop: Shop, program: Program) -> None:
    shop.publish(replaced(SPRING, "stock = 150", "stock = 1"))
    program.refresh()
    prizes = [claim_of(program.claim(code, user="u1")).prize for code in shop.drawing(CASH, 2)]
    assert prizes == [CASH_REPLY, POINTS_REPLY]


def test_the_channel_claims_beside_the_consumer(shop: Shop, program: Program) -> None:
    (code,) = shop.drawing(CASH)
    consumer = claim_of(program.claim(code, user="u1"))
    retailer = claim_of(program.claim(code, user="shop-1", role="retailer"))
    assert (consumer.prize, retailer.prize) == (CASH_REPLY, POINTS_REPLY)
    assert consumer.id != retailer.id
    assert claim_of(program.claim(code, user="shop-2", role="retailer")).status == "taken"
    assert claim_of(program.claim(code, user="shop-1", role="retailer")).replayed is True
    # All roles but the consumer's are one party.
    assert claim_of(program.claim(code, user="chain", role="distributor")).status == "taken"


def test_a_region_wins_by_its_own_rule(shop: Shop, program: Program) -> None:
    codes = shop.drawing(NO_PRIZE, 4)
    forms: list[str | int] = ["44", 4403, "440305", 440_305]
    for code, region in zip(codes, forms, strict=True):
        assert claim_of(program.claim(code, user="u1", region=region)).prize == CASH_REPLY


# ---- many ----


def test_many_scans_are_answered_in_order_each_for_itself(shop: Shop, program: Program) -> None:
    won, lost = shop.drawing(CASH)[0], shop.drawing(NO_PRIZE)[0]
    scans = [
        Scan.of("nonsense", "u1", None),
        Scan.of(won, "u1", "v1"),
        Scan.of(won, "u1", "v1"),
        Scan.of(won, "u2", "v2"),
        Scan.of(lost, "u2", "v2"),
        Scan.of(won, "shop-1", "v3", "retailer"),
    ]
    answers = program.claim_many(scans)
    assert [answer.status for answer in answers] == ["malformed"] + ["valid"] * 5
    assert [answer.claim and (answer.claim.status, answer.claim.replayed) for answer in answers] == [
        None, ("awarded", False), ("awarded", True), ("taken", None), ("no_prize", False), ("awarded", False),
    ]  # fmt: skip
    assert [answer.scan and answer.scan.count for answer in answers] == [None, 1, 1, 2, 1, 3]
    assert program.claim_many([]) == []


async def test_the_same_is_said_without_blocking(shop: Shop, program: Program) -> None:
    codes = shop.codes(0, 300)  # More than are decided between two turns of the event loop.
    many = await program.claim_many_async([Scan.of(code, f"u{n}", f"v{n}") for n, code in enumerate(codes)])
    assert [answer.code for answer in many] == codes
    drawn = program.decide_many(codes).prize.tolist()
    ids = {NO_PRIZE: None, CASH: "cash-88", POINTS: "points-10"}
    assert [answer.claim and answer.claim.prize and answer.claim.prize.id for answer in many] == [
        ids[prize] for prize in drawn
    ]
    again = await program.claim_async(codes[0], user="u0", visit="v0")
    assert again == program.claim(codes[0], user="u0", visit="v0")
    assert await program.verify_async(codes[0]) == program.verify(codes[0])


def test_bad_codes_never_reach_the_ledger(shop: Shop, program: Program) -> None:
    code = shop.code(0)
    bad = ["", "nonsense", code[:-1] + ("0" if code[-1] != "0" else "1"), "0" * 20, "Z" * 20, code[:-2]]
    for text in bad:
        answer = program.claim(text, user="u1")
        assert (answer.claim, answer.scan, answer.product, answer.batch, answer.scenes) == (None, None, None, None, ())
        assert program.verify(text) == answer
    program.claim_many([Scan.of(text, "u1", None) for text in bad])
    assert program.ledger.calls == 0


# ---- looks ----


def test_looking_never_claims_and_never_counts(shop: Shop, program: Program) -> None:
    (code,) = shop.drawing(CASH)
    for _ in range(3):
        assert program.verify(code) == Answer(
            "valid", code, "first_scan", ScanReply(0, None), COLA_REPLY, "cola", SCENES
        )
    program.claim(code, user="u1", visit="v1")
    assert program.verify(code).scan == ScanReply(1, NOON_TEXT)
    assert program.verify(code).verdict == "repeat"
    assert program.ledger.totals().claims == 1
    assert claim_of(program.claim(code, user="u1", visit="v1")).replayed is True


def test_times_are_told_in_the_zone_of_the_program(shop: Shop) -> None:
    path = shop.workspace.settings_path
    path.write_text(replaced(path.read_text(), "Asia/Shanghai", "America/New_York"))
    with shop.program(MemoryLedger(), now_ms=NOW_MS + 7) as program:
        assert claim_of(program.claim(shop.code(0), user="u1")).at == "2026-05-01T00:00:00.007-04:00"


def test_times_are_given_in_any_zone_or_in_milliseconds(shop: Shop) -> None:
    with shop.program(MemoryLedger(), now_ms=0) as program:
        for offset, now in enumerate((NOON, NOON.astimezone(UTC), NOW_MS)):
            assert claim_of(program.claim(shop.code(offset), user="u1", now=now)).at == NOON_TEXT
        late = program.claim(shop.code(9), user="u1", now=NOW_MS + HOUR_MS)
        assert claim_of(late).at == "2026-05-01T13:00:00.000+08:00"
