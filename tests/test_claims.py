"""The native way of a claim equals the plain one, whatever is scanned and whatever the ledger says."""

from __future__ import annotations

import gc
import io
import pickle
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from helpers import (
    ACTIVE,
    CODES,
    GTIN,
    HOUR_MS,
    NOW_MS,
    PROGRAM_SECRET,
    SLOT,
    SLOT_SECRET,
    Shop,
    a_code_with,
    a_shop,
)
from plain_claims import PlainClaims, claim_id, hash_of, scan_of
from scanengine._claim_keys import ClaimKeys
from scanengine._decider import Decider
from scanengine.codes import hyphenate
from scanengine.engine import Engine
from scanengine.errors import ScanError, TableFormatError
from scanengine.keys import Keyring
from scanengine.ledger import PENDING
from scanengine.model import NO_PRIZE, ClaimStatus, Decision, Party, Receipt, Role, ScanFacts, Scene, SegmentState
from scanengine.program._claims import Names
from scanengine.program.answers import Answerer
from scanengine.program.claims import Claims, claim_request
from scanengine.program.importing import import_batch
from scanengine.program.moving import no_progress
from scanengine.program.publishing import SceneChange, create_batch, delete_batch
from scanengine.program.scans import Scan
from scanengine.program.settings import load_settings

OTHER_GTIN = "6900000000014"
IMPORTED = (
    "U7", "a+b", "100%/off", "x" * 20, "0123-4567-89AB-CDEF-GHJK", "0000000000000", "P.URL.CN/ABCDEFGHJKLMNPQRSTU",
    f"https://example.com/01/{GTIN}/21/U8", "=U9",
)  # fmt: skip


@dataclass
class World:
    """A shop with all kinds of codes, its engine, and what both must equal."""

    shop: Shop
    engine: Engine
    plain: PlainClaims
    codes: list[str]
    keyring: Keyring
    answerer: Answerer

    def refresh(self) -> bool:
        return False


def a_world(folder: Path, *, has_imports: bool) -> World:
    shop = a_shop(folder)
    states = (SegmentState.INACTIVE, SegmentState.FROZEN, SegmentState.VOID, SegmentState.RECALLED)
    changes = [*(SceneChange(state=state) for state in states), SceneChange(active_until_ms=NOW_MS)]
    changes += [SceneChange(scenes=Scene.AUTHENTICITY), SceneChange(scenes=Scene.MARKETING)]
    changes += [SceneChange(campaign="unpublished"), SceneChange(campaign=""), SceneChange(product="")]
    changes += [SceneChange(scenes=Scene.LINK, link="https://example.com/{code}", market="south")]
    for offset, change in enumerate(changes, 900):
        shop.assign(offset, offset + 1, change)
    create_batch(shop.workspace, shop.keyring, "trial", 50, test=True)
    create_batch(shop.workspace, shop.keyring, "gone", 5)
    create_batch(shop.workspace, shop.keyring, "blank", 5)
    labels = ["trial"]
    if has_imports:
        for label, prefix, is_test in (("u", "", False), ("trial-u", "T", True)):
            lines = "".join(f"{prefix}{text}\n" for text in IMPORTED).encode()
            import_batch(shop.workspace, shop.keyring, label, io.BytesIO(lines), test=is_test, progress=no_progress)
            labels.append(label)
    for label in labels:
        shop.assign(0, 50 if label == "trial" else len(IMPORTED), ACTIVE, label)
    forger = Keyring([(SLOT, bytes(32), "active"), (9, SLOT_SECRET, "active")], bytes(32), bytes(32))
    valid = shop.code(0)
    codes = [*shop.codes(0, 30), *shop.codes(900, 900 + len(changes)), *shop.codes(0, 20, "trial")]
    codes += [shop.code(0, "gone"), shop.code(0, "blank"), forger.code_keys.encode(9, 0)]
    codes += [forger.code_keys.encode(SLOT, 0), a_code_with(valid, 7, "Z" if valid[7] != "Z" else "Y")]
    delete_batch(shop.workspace, "gone")
    engine = shop.engine
    answerer = Answerer(shop.workspace, load_settings(shop.workspace.settings_path))
    return World(shop, engine, PlainClaims(shop, engine), codes, shop.keyring, answerer)


@pytest.fixture(scope="module", params=["generated", "imported"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Where nothing was imported, fewer texts need a second look."""
    return a_world(tmp_path_factory.mktemp("claims") / "shop", has_imports=request.param == "imported")


SPELLINGS: list[Callable[[str], str]] = [
    str,
    str,
    str.lower,
    hyphenate,
    lambda code: f" {hyphenate(code).lower()}\n",
    lambda code: f"\t{code}",
    lambda code: f" {code} ",
    lambda code: f"HTTPS://EXAMPLE.COM/S/{code}",
    lambda code: f"https://example.com/x?q=https%3A%2F%2Fexample.com%2Fs%2F{code}",
    lambda code: f"https://example.com/01/{GTIN}/10/L1/21/{code}",
    lambda code: f"https://example.com/01/{OTHER_GTIN}/21/{code}",
    lambda code: f"https://example.com/01/{GTIN}",
    lambda code: code + "-" * 492,
    lambda code: code + "-" * 493,
    lambda code: code.replace("0", "o"),
    lambda code: f"https://{code}",
    lambda code: code[:-1],
]
OTHERS = [*IMPORTED, *(f"T{text}" for text in IMPORTED), GTIN, OTHER_GTIN, "6901234567891", f" {GTIN}", "", "\ud800"]
VISITS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16)
TIMES = st.integers(NOW_MS - HOUR_MS, NOW_MS + HOUR_MS) | st.integers(0, 2**47)


class SubText(str):
    """Text of a class of its own, as array libraries hand over."""


@st.composite
def texts(draw: st.DrawFn, world: World) -> str:
    match draw(st.integers(0, 5)):
        case 0:
            return draw(st.sampled_from(OTHERS))
        case 1:
            return draw(st.text(st.characters(exclude_categories=()), max_size=24))
        case 2:
            return SubText(draw(st.sampled_from([*world.codes, *OTHERS])))
    return draw(st.sampled_from(SPELLINGS))(draw(st.sampled_from(world.codes)))


@st.composite
def scans(draw: st.DrawFn, world: World) -> Scan:
    role, region = draw(st.sampled_from(Role)), draw(st.sampled_from([0, 440_300, 110_000]))
    return Scan(draw(texts(world)), draw(VISITS), draw(VISITS), role, region)


@st.composite
def receipts(draw: st.DrawFn, world: World, decision: Decision) -> Receipt:
    """Whatever a ledger might say of a claim: fitting the decision or not, but of a prize that there is."""
    status = draw(st.sampled_from(ClaimStatus))
    facts = st.none() | st.builds(ScanFacts, st.integers(0, 12), st.none() | TIMES, st.integers(0, 3))
    prize = draw(st.sampled_from([NO_PRIZE, 0, 1])) if status == ClaimStatus.AWARDED else NO_PRIZE
    campaign = draw(st.sampled_from([None, "spring", "spring~test"]))
    at_ms = draw(st.just(NOW_MS) | TIMES)
    reason = draw(st.none() | st.just("paused"))
    generation = decision.generation
    return Receipt(
        status, reason, draw(st.booleans()), at_ms, campaign, generation, prize=prize, unit=1, scan=draw(facts)
    )


@given(data=st.data())
def test_any_scan_is_decided_as_in_plain_python(world: World, data: st.DataObject) -> None:
    text = data.draw(texts(world))
    now_ms, role = data.draw(TIMES), data.draw(st.sampled_from(Role))
    region = data.draw(st.sampled_from([0, 440_300]))
    assert world.engine.decide(text, now_ms, role, region) == world.plain.decide(text, now_ms, role, region)


def test_every_code_in_every_spelling_is_decided_as_in_plain_python(world: World) -> None:
    for text in [*OTHERS, *(spell(code) for code in [*world.codes, *OTHERS] for spell in SPELLINGS)]:
        assert world.engine.decide(text, NOW_MS) == world.plain.decide(text, NOW_MS, Role.CONSUMER, 0), text


@given(data=st.data())
def test_claims_ask_and_answer_as_in_plain_python(world: World, data: st.DataObject) -> None:
    """Goal: each scan of a call has its own request, and its own answer at its place, through stale receipts too."""
    asked = data.draw(st.lists(scans(world), max_size=8))
    claims = Claims(world, asked, NOW_MS)
    expected: dict[int, Any] = {}
    waiting = list(range(len(asked)))
    for is_last in (False, False, True):
        decisions = {
            place: world.plain.decide(asked[place].code, NOW_MS, asked[place].role, asked[place].region)
            for place in waiting
        }
        expected |= {
            place: world.plain.verified(decision, None) for place, decision in decisions.items() if not decision.batch
        }
        waiting = [place for place in waiting if decisions[place].batch]
        requests = claims.requests()
        assert requests == [world.plain.request(asked[place], decisions[place], NOW_MS) for place in waiting]
        if not requests:
            break
        said = [data.draw(receipts(world, decisions[place])) for place in waiting]
        claims.receive(said)
        stale = []
        for place, request, receipt in zip(waiting, requests, said, strict=True):
            if receipt.status == ClaimStatus.STALE and not is_last:
                stale.append(place)
            else:
                told = PENDING if receipt.status == ClaimStatus.STALE else receipt
                expected[place] = world.plain.claimed(decisions[place], request.claim_id, told)
        waiting = stale
        assert claims.are_stale == bool(waiting)
    assert claims.requests() == []
    assert claims.answers() == [expected[place] for place in range(len(asked))]


@given(data=st.data())
def test_single_claims_and_looks_are_worded_as_in_plain_python(world: World, data: st.DataObject) -> None:
    scan = data.draw(scans(world))
    decision = world.engine.decide(scan.code, NOW_MS, scan.role, scan.region)
    receipt = data.draw(receipts(world, decision))
    assert world.answerer.verified(decision, receipt.scan) == world.plain.verified(decision, receipt.scan)
    if decision.batch is not None:
        request = claim_request(world.keyring, scan, decision, NOW_MS)
        assert request == world.plain.request(scan, decision, NOW_MS)
        told = world.answerer.claimed(decision, request.claim_id, receipt, world.engine.snapshot)
        assert told == world.plain.claimed(decision, request.claim_id, receipt)


def test_every_receipt_has_its_request(world: World) -> None:
    claims = Claims(world, [Scan.of(world.codes[0], "ann", "v"), Scan.of(world.codes[1], "bob", "v")], NOW_MS)
    claims.requests()
    with pytest.raises(ValueError, match="1 receipts for 2 requests"):
        claims.receive([PENDING])


def test_a_prize_whose_table_is_gone_leaves_its_own_claim_pending(world: World) -> None:
    asked = [Scan.of(code, "ann", "v") for code in world.codes[:3]]
    claims = Claims(world, asked, NOW_MS)
    generation = world.engine.snapshot.generation
    claims.requests()
    claims.receive(
        [
            Receipt(ClaimStatus.AWARDED, campaign=campaign, generation=generation, prize=0)
            for campaign in ("spring", "autumn", "spring")
        ]
    )
    assert [answer.claim.status for answer in claims.answers()] == ["awarded", "pending", "awarded"]
    with pytest.raises(TableFormatError):
        world.answerer.prize_told("autumn", generation, 0, world.engine.snapshot)


# ---- what a scan is made of ----


def made_or_refused(make: Callable[..., Scan], *fields: Any) -> Scan | str:
    """Return the scan, or the name of the field that is refused."""
    try:
        return make(*fields)
    except ScanError as error:
        return error.field


ANY_FIELD = st.none() | st.integers() | st.text(st.characters(exclude_categories=()), max_size=70) | st.binary()
SIZED = st.sampled_from(["", "a", "a" * 64, "a" * 65, "码" * 21, "码" * 22, "\ud800", "é" * 32, SubText("bob")])


@given(
    code=ANY_FIELD | st.sampled_from(["x" * 512, "x" * 513, "\ud800"]),
    user=ANY_FIELD | SIZED,
    visit=ANY_FIELD | SIZED,
    role=st.sampled_from([*Role, "consumer", "retailer", "Consumer", "", None, 0, [], {}]),
    region=st.sampled_from([None, 0, 44, "4403", "440300", "4", "44x", True, False, 0.0, "", []]),
)
def test_the_fields_of_a_scan_are_checked_as_in_plain_python(
    code: Any, user: Any, visit: Any, role: Any, region: Any
) -> None:
    made, expected = (made_or_refused(make, code, user, visit, role, region) for make in (Scan.of, scan_of))
    if isinstance(made, Scan) and visit is None:
        assert made.visit
        made = replace(made, visit="")
    assert made == expected


def test_a_visit_without_a_name_gets_one_that_no_other_has() -> None:
    visits = Names(bytes(range(9)))
    assert [visits.next() for _ in range(5_000)] == [f"{bytes(range(9)).hex()}{number:x}" for number in range(5_000)]
    ids = Names(b"\xab", 3)
    assert [ids.next() for _ in range(5_000)] == [f"ab{number:03x}" for number in range(5_000)]
    for prefix, digits in ((bytes(10), 1), (b"", 0), (b"", 17)):
        with pytest.raises(ValueError, match=f"found {len(prefix)}, {digits}"):
            Names(prefix, digits)
    assert Scan.of("c", "u", None).visit != Scan.of("c", "u", None).visit


# ---- keys ----


@given(item=st.integers(0, 2**64 - 1), party=st.sampled_from(Party), text=st.text(st.characters(codec="utf-8")))
def test_claim_ids_and_hashes_are_those_of_plain_python(world: World, item: int, party: Party, text: str) -> None:
    assert world.keyring.claim_id(item, party) == claim_id(item, party)
    assert world.keyring.user_hash(SubText(text)) == hash_of("scan-user", text)
    assert world.keyring.visit_hash(text) == hash_of("scan-visit", text)


def test_keys_of_claims_refuse_what_is_none_and_show_nothing() -> None:
    def prepared(**changes: int) -> Any:
        return blake2b(key=PROGRAM_SECRET, person=b"scan-claim", **{"digest_size": 16} | changes)

    keys = ClaimKeys(prepared(), bytes(16), bytes(16))
    assert repr(keys) == "<ClaimKeys>"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(keys)
    with pytest.raises(ValueError, match="BLAKE2b of 16 bytes, found blake2b of 32"):
        ClaimKeys(prepared(digest_size=32), bytes(16), bytes(16))
    with pytest.raises(ValueError, match="16 bytes, found 15"):
        ClaimKeys(prepared(), bytes(15), bytes(16))
    for wrong in (-1, 2**64):
        with pytest.raises(OverflowError):
            keys.claim_id(wrong, 0)
    with pytest.raises(UnicodeEncodeError):
        keys.user_hash("\ud800")
    with pytest.raises(TypeError):
        keys.visit_hash(b"visit")


def test_a_claim_id_leaves_the_prepared_hash_as_it_was() -> None:
    state = blake2b(digest_size=16, key=PROGRAM_SECRET, person=b"scan-claim")
    before = state.copy().digest()
    ClaimKeys(state, bytes(16), bytes(16)).claim_id(7, 0)
    assert state.digest() == before


# ---- engines ----


def test_an_engine_that_was_replaced_is_let_go_at_once(shop: Shop) -> None:
    """Goal: its tables are mapped files, which must not wait for the garbage collector."""
    engine = shop.engine
    for text in (shop.code(CODES - 1), "https://example.com/s/x"):
        engine.decide(text, NOW_MS)
    known = weakref.ref(engine)
    gc.disable()
    try:
        del engine
        assert known() is None
    finally:
        gc.enable()


def test_a_decider_wants_words_for_its_profiles(shop: Shop) -> None:
    with pytest.raises(TypeError, match="Words expected for each profile, found tuple"):
        Decider(shop.engine._resolver, [()], {}, 1, False, str)
