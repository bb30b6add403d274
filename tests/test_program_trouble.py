"""A program when the world is in the way: no ledger, a slow one, another owner, a stale snapshot, a wrong field."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest

import scanengine
from helpers import CASH, CODES, DRAW_SECRET, GTIN, NOON, NOW_MS, SPRING, Shop, replaced
from scanengine.errors import (
    KeyringError,
    LedgerBusyError,
    LedgerFormatError,
    LedgerUnavailableError,
    ScanError,
    SettingsError,
    TableFormatError,
    WorkspaceError,
)
from scanengine.keys import load_keyring
from scanengine.ledger import PENDING, MemoryLedger
from scanengine.model import (
    Answer,
    ClaimReply,
    ClaimRequest,
    ObserveRequest,
    Receipt,
    ScanFacts,
    ScanReply,
    SegmentState,
)
from scanengine.program.publishing import SceneChange, publish_campaign
from scanengine.program.scans import Scan
from scanengine.tables.workspace import Workspace


class SilentLedger(MemoryLedger):
    """Records what it is asked, and never answers."""

    def claim_many(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        super().claim_many(requests)
        return [PENDING] * len(requests)

    def observe(self, request: ObserveRequest) -> ScanFacts:
        raise LedgerUnavailableError("no answer in time")


class MeddlingLedger(MemoryLedger):
    """Something is published between the decision and the first claim that reaches it."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        super().__init__()
        self._meddle = meddle
        self.asked: list[list[int]] = []

    def claim_many(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        self.asked.append([request.generation for request in requests])
        if len(self.asked) == 1:
            self._meddle()
        return super().claim_many(requests)


def claim_of(answer: Answer) -> ClaimReply:
    assert answer.claim is not None
    return answer.claim


# ---- unknown outcomes ----


async def test_an_unknown_outcome_is_pending_and_never_no_prize(shop: Shop) -> None:
    (code,) = shop.drawing(CASH)
    ledger = SilentLedger()
    with shop.program(ledger) as program:
        for answer in (
            program.claim(code, user="u1", visit="v1"),
            await program.claim_async(code, user="u1", visit="v1"),
        ):
            assert answer.is_pending
            assert (claim_of(answer).status, claim_of(answer).prize, claim_of(answer).at) == ("pending", None, None)
            assert (answer.status, answer.scan, answer.verdict) == ("valid", None, None)
    # The claim was recorded after all: whoever asks again with the same visit gets it.
    answering = MemoryLedger()
    answering.__dict__.update({**ledger.__dict__, "_is_closed": False})
    with shop.program(answering) as program:
        again = program.claim(code, user="u1", visit="v1")
        assert not again.is_pending
        assert (claim_of(again).status, claim_of(again).replayed) == ("awarded", True)
        assert again.scan is not None
        assert again.scan.count == 1


async def test_a_look_without_an_answer_says_nothing_of_counts(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    code = shop.code(7)
    with shop.program(SilentLedger()) as program:
        for answer in (program.verify(code), await program.verify_async(code)):
            assert (answer.status, answer.scan, answer.verdict) == ("valid", None, None)
    assert f"item {shop.item(7)}: verified without counts" in caplog.text
    assert code not in caplog.text


def test_what_was_published_in_between_is_decided_again(shop: Shop) -> None:
    """Goal: no claim is written on rules that were replaced before it was written."""
    won, other = shop.drawing(CASH, 2)
    certain = replaced(SPRING, "weights = { cash-88 = 1, points-10 = 3, none = 6 }", "weights = { points-10 = 1 }")

    def meddle() -> None:
        ledger.announce(shop.publish(certain).generation)

    ledger = MeddlingLedger(meddle)
    with shop.program(ledger) as program:
        answers = program.claim_many(
            [Scan.of(won, "u1", "v1"), Scan.of("nonsense", "u1", None), Scan.of(other, "u2", None)]
        )
        assert ledger.asked == [[3, 3], [4, 4]]
        prizes = [answer.claim and answer.claim.prize and answer.claim.prize.id for answer in answers]
        assert prizes == ["points-10", None, "points-10"]
        assert [answer.scan and answer.scan.count for answer in answers] == [1, None, 1]
        assert program.snapshot.generation == 4


async def test_a_code_that_was_voided_in_between_is_void(shop: Shop) -> None:
    code = shop.code(0)
    ledger = MeddlingLedger(
        lambda: ledger.announce(shop.assign(0, CODES, SceneChange(state=SegmentState.VOID)).generation)
    )
    with shop.program(ledger) as program:
        answer = await program.claim_async(code, user="u1")
        assert (answer.status, answer.claim, ledger.asked) == ("void", None, [[3], [4]])


def test_a_ledger_ahead_of_the_manifest_leaves_claims_pending(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """A workspace restored from an older backup must not decide for a ledger that has seen newer rules."""
    code = shop.code(7)
    ledger = MeddlingLedger(lambda: ledger.announce(99))
    with shop.program(ledger) as program:
        assert program.claim(code, user="u1").is_pending
        assert ledger.asked == [[3]] * 3
        assert ledger.totals().claims == 0
    assert f"item {shop.item(7)}: the ledger is ahead of the manifest's generation" in caplog.text
    assert code not in caplog.text


def test_a_publication_that_cannot_be_used_leaves_claims_pending(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """What the same call has recorded before is still answered."""

    def meddle() -> None:
        ledger.announce(shop.publish(SPRING).generation)
        shop.workspace.manifest_path.write_bytes(b"damaged")

    won = shop.drawing(CASH)[0]
    other = next(code for code in shop.codes(0, 9) if code != won)
    ledger = MeddlingLedger(lambda: None)
    with shop.program(ledger) as program:
        program.claim(won, user="u1", visit="v1")
        ledger.asked.clear()
        ledger._meddle = meddle
        answers = program.claim_many([Scan.of(won, "u1", "v1"), Scan.of(other, "u2", None)])
        assert [claim_of(answer).status for answer in answers] == ["awarded", "pending"]
        assert program.snapshot.generation == 3
    assert "what was published cannot be used, the current tables stay" in caplog.text


# ---- without a ledger ----


async def test_without_a_ledger_a_program_decides_and_refuses_claims(shop: Shop) -> None:
    code = shop.code(0)
    with scanengine.open(shop.folder, ledger=None) as program:
        assert program.decide(code, now=NOON).offers
        assert program.decide_many([code], now=NOON).status.tolist() == [12]
        assert (await program.verify_async(code)) == program.verify(code)
        assert program.verify(code).scan is None
        with pytest.raises(LedgerUnavailableError, match="open it with ledger='own' to claim and count"):
            program.claim(code, user="u1")
        with pytest.raises(LedgerUnavailableError):
            await program.claim_async(code, user="u1")
        assert program.claim("nonsense", user="u1").status == "malformed"
    assert not shop.workspace.ledger_path.exists()


def test_one_process_owns_the_ledger_and_others_may_look(shop: Shop) -> None:
    code = shop.code(0)
    with scanengine.open(shop.folder, ledger="read") as early:
        assert early.verify(code, now=NOON).scan == ScanReply(0, None)
    with scanengine.open(str(shop.folder)) as owner:
        owner.claim(code, user="u1", now=NOON)
        with pytest.raises(LedgerBusyError, match=str(shop.workspace.ledger_path)):
            scanengine.open(shop.folder)
        with scanengine.open(shop.folder, ledger="read") as beside:
            assert beside.verify(code, now=NOON) == owner.verify(code, now=NOON)
            with pytest.raises(LedgerUnavailableError):
                beside.claim(code, user="u1")
            owner.claim(code, user="u2", now=NOON)
            scan = beside.verify(code, now=NOON).scan
            assert scan is not None
            assert scan.count == 2
    with scanengine.open(shop.folder) as next_owner:
        assert claim_of(next_owner.claim(code, user="u1", now=NOON)).replayed is True


def test_opening_fails_with_the_file_that_is_wrong(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="not a workspace"):
        scanengine.open(tmp_path)
    faults: list[tuple[Path, bytes, type[Exception]]] = [
        (shop.workspace.settings_path, b"[program]\n", SettingsError),
        (shop.workspace.keys_path, b"[draw]\n", KeyringError),
        (shop.workspace.manifest_path, b"{}\n", TableFormatError),
        (shop.workspace.products_path, b"products = 7\n", SettingsError),
        (shop.workspace.ledger_path, b"no database" * 100, LedgerFormatError),
    ]
    for path, content, error in faults:
        kept = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        with pytest.raises(error, match=str(path)):
            scanengine.open(shop.folder)
        path.unlink() if kept is None else path.write_bytes(kept)
        shop.workspace.keys_path.chmod(0o600)
    scanengine.open(shop.folder).close()


def test_a_program_that_cannot_be_opened_lets_go_of_the_ledger(shop: Shop) -> None:
    path = shop.workspace.keys_path
    text = path.read_text()
    path.write_text(replaced(text, DRAW_SECRET.hex(), bytes(32).hex()))
    errors = []
    for _ in range(2):
        with pytest.raises(TableFormatError, match="another draw secret") as caught:
            scanengine.open(shop.folder)
        errors.append(caught)  # With their frames, and all that these hold.
    path.write_text(text)
    scanengine.open(shop.folder).close()


def test_a_lost_draw_secret_is_mended_by_publishing_again(shop: Shop) -> None:
    path = shop.workspace.keys_path
    path.write_text(replaced(path.read_text(), DRAW_SECRET.hex(), bytes(32).hex()))
    publish_campaign(shop.workspace, load_keyring(path), shop.workspace.campaigns_folder / "spring.toml")
    with scanengine.open(shop.folder, ledger=None) as program:
        assert program.decide(shop.code(0), now=NOON).offers


# ---- wrong fields ----

LONG = "码" * 21 + "xx"  # 65 bytes.


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"user": ""}, "user", "expected 1 to 64 bytes of UTF-8, found 0 bytes"),
        ({"user": LONG}, "user", "found 65 bytes"),
        ({"user": "\ud800"}, "user", "found no text"),
        ({"user": None}, "user", "found no text"),
        ({"user": 7}, "user", "found no text"),
        ({"visit": ""}, "visit", "found 0 bytes"),
        ({"visit": LONG}, "visit", "found 65 bytes"),
        ({"visit": 7}, "visit", "found no text"),
        (
            {"role": "king"},
            "role",
            "expected one of consumer, retailer, associate, distributor, inspector, found 'king'",
        ),
        ({"role": "CONSUMER"}, "role", "found 'CONSUMER'"),
        ({"role": None}, "role", "found None"),
        ({"role": ["consumer"]}, "role", "found ['consumer']"),
        ({"region": ""}, "region", "expected an adcode of 2, 4 or 6 digits, found ''"),
        ({"region": "4"}, "region", "found '4'"),
        ({"region": 444}, "region", "found 444"),
        ({"region": 4_400_000}, "region", "found 4400000"),
        ({"region": -44}, "region", "found -44"),
        ({"region": "４４"}, "region", "found '４４'"),
        ({"region": True}, "region", "found True"),
        ({"region": False}, "region", "found False"),
        ({"now": datetime(2026, 5, 1)}, "now", "expected a time with a zone, found 2026-05-01T00:00:00"),  # noqa: DTZ001
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_asked(
    shop: Shop, fields: dict[str, object], field: str, message: str
) -> None:
    ledger = MemoryLedger()
    with shop.program(ledger) as program:
        with pytest.raises(ScanError) as caught:
            program.claim(shop.code(0), **{"user": "u1", **fields})  # type: ignore[arg-type]
        assert isinstance(caught.value, ValueError)
        assert caught.value.field == field
        assert str(caught.value).startswith(f"{field}: ")
        assert message in str(caught.value)
        assert ledger.calls == 0


@pytest.mark.parametrize(("code", "found"), [("x" * 513, "513 characters"), (None, "NoneType"), (b"0" * 20, "bytes")])
def test_a_code_that_is_no_short_text_is_refused_without_showing_it(code: object, found: str) -> None:
    with pytest.raises(ScanError, match=f"code: expected a text of at most 512 characters, found {found}") as caught:
        Scan.of(code, "u1", None)  # type: ignore[arg-type]
    assert caught.value.field == "code"


def test_fields_at_their_limits_are_taken(shop: Shop) -> None:
    with shop.program(MemoryLedger()) as program:
        for number, region in enumerate((None, 0, "11", 1101, "110101")):
            answer = program.claim(shop.code(number), user=LONG[:-1], visit="v" * 64, region=region)
            assert claim_of(answer).status in ("awarded", "no_prize")
        assert program.claim("x" * 512, user="u").status == "malformed"


@pytest.mark.parametrize("now", [-1, NOW_MS * 1000, 2**62, datetime.fromisoformat("1969-12-31T23:59:59+00:00")])
def test_a_time_out_of_range_is_refused(shop: Shop, now: datetime | int) -> None:
    """Microseconds or nanoseconds in the place of milliseconds would be remembered by the ledger for ever."""
    with shop.program(MemoryLedger()) as program:
        for call in (program.decide, program.verify, partial(program.claim, user="u1")):
            with pytest.raises(ScanError, match="now: expected milliseconds since 1970 before the year 9999"):
                call(shop.code(0), now=now)


# ---- what outsiders see ----


def test_outsiders_see_one_word_for_all_that_would_help_a_guesser(shop: Shop) -> None:
    codes = shop.codes(0, 2)
    for status in ("unknown_key", "forged", "unknown", "wrong_product"):
        answer = Answer(status, codes[0], batch="cola", scenes=("marketing",))
        assert answer.public() == Answer("invalid", codes[0])
    for status in ("malformed", "mistyped", "inactive", "frozen", "void", "recalled", "expired", "valid"):
        answer = Answer(status, codes[0], batch="cola")
        assert answer.public() is answer


def test_nothing_logged_holds_a_code_or_a_user(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    codes = shop.codes(0, 5)
    with scanengine.open(shop.folder) as program:
        for code in codes:
            program.claim(code, user="somebody", visit="a-visit", now=NOW_MS)
            program.verify(code, now=NOW_MS)
    assert not any(word in caplog.text for word in (*codes, "somebody", "a-visit"))


def test_a_program_says_which_workspace_it_is_of(shop: Shop) -> None:
    with shop.program() as program:
        assert program.workspace.folder == Workspace(shop.folder).folder
        assert program.snapshot.products[GTIN].title == "可乐"
