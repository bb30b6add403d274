"""Known defects of other engines, planted into a copy of the ledger: the check of a whole history finds each of them.

Method: one piece of the function library, or of the client, is exchanged; a load on a bad network then goes as in
``tests/faults.py``. Without a bug it finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from faults import run
from helpers import replaced
from redis_servers import RedisServer, newest_binary
from scanengine.ledger.redis import library, session
from scanengine.ledger.redis.asking import Asker
from scanengine.ledger.redis.link import LinkError
from scanengine.model import NO_PRIZE, ClaimRequest, ClaimStatus, ObserveRequest, Receipt, ScanFacts

CLAIMS = 2_500
UNKNOWN = 0.05


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that nobody else uses: what is planted here stays here."""
    with RedisServer(newest_binary(), tmp_path_factory.mktemp("planted")) as server:
        yield server


@pytest.fixture
def server(own_server: RedisServer) -> RedisServer:
    own_server.flush(functions=True)
    return own_server


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Exchanges a piece of the library's text, which must be there."""

    def exchange(old: str, new: str) -> None:
        source = replaced(library.load_source(), old, new)
        monkeypatch.setattr(session, "load_source", lambda: source)

    return exchange


def violations(server: RedisServer) -> list[str]:
    return run(server, CLAIMS, UNKNOWN, seed=11).violations


def test_without_a_bug_nothing_is_found(server: RedisServer) -> None:
    assert violations(server) == []


@pytest.mark.parametrize(
    ("old", "new", "finds"),
    [
        ("told = item[party]", "told = nil", "two claims are recorded"),
        ("if told then", "if told and sub(told, 1, 8) ~= sub(mark, 1, 8) then", "two claims are recorded"),
        ("== sub(mark, 1, 8) and", "~= sub(mark, 1, 8) and", "its owner was told that it is taken"),
        ("if told then", "if told and counts == 0 then told, status = nil, PER_USER elseif told then", "had been told"),
    ],
    ids=["the_earlier_claim_is_not_looked_up", "it_is_decided_again", "persons_are_exchanged", "the_winner_is_refused"],
)
def test_a_retry_that_draws_again_is_found(
    old: str, new: str, finds: str, server: RedisServer, plant: Callable[[str, str], None]
) -> None:
    plant(old, new)
    found = violations(server)
    assert any(finds in problem for problem in found), found[:5]


@pytest.mark.parametrize(
    ("old", "new", "finds"),
    [
        ("AWARDS[number]) >= most", "AWARDS[number]) > most", "is over a limit"),
        ("AWARDS[number]) >= most", "AWARDS[number]) + 1 >= most", "was left"),
        ("awards_of(day, number)) >= per_day", "awards_of(day, number)) > per_day", "is over a limit"),
        ("count_of(campaign, 'money') + money > most", "count_of(campaign, 'money') > most", "is over a limit"),
        ("day.money) + money > budget_per_day", "day.money) > budget_per_day", "is over a limit"),
        ("person.total >= terms[4]", "person.total > terms[4]", "is over per_user"),
        ("person.day or 0) >= terms[5]", "person.day or 0) > terms[5]", "is over per_user_per_day"),
    ],
    ids=["stock", "counted_before_the_check", "stock_per_day", "budget", "budget_per_day", "person", "person_per_day"],
)
def test_a_limit_that_is_checked_wrongly_is_found(
    old: str, new: str, finds: str, server: RedisServer, plant: Callable[[str, str], None]
) -> None:
    plant(old, new)
    found = violations(server)
    assert any(finds in problem for problem in found), found[:5]


def test_a_stock_of_0_that_counts_as_success_is_found(server: RedisServer, plant: Callable[[str, str], None]) -> None:
    plant("if stock >= 0 then", "if stock > 0 then")
    found = violations(server)
    assert any("(autumn): prize 0 is over a limit" in problem for problem in found), found[:5]


@pytest.mark.parametrize("status", [ClaimStatus.AWARDED, ClaimStatus.NO_PRIZE])
def test_a_reply_before_the_commit_is_found(
    status: ClaimStatus, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a lost connection the client answers what it believes will be recorded, or that there is no prize."""
    send = Asker._send

    async def guess(self: Asker, requests: list[Any]) -> Sequence[Any]:
        try:
            return await send(self, requests)
        except LinkError:
            return [guessed(request, status) for request in requests]

    monkeypatch.setattr(Asker, "_send", guess)
    found = violations(server)
    assert any("was told" in problem for problem in found), found[:5]


def guessed(request: ClaimRequest | ObserveRequest, status: ClaimStatus) -> Receipt | ScanFacts:
    scan = ScanFacts(1, request.now_ms, 1)
    if isinstance(request, ObserveRequest):
        return scan
    assert request.terms is not None
    rule, drawn = request.offers[0].rule, request.offers[0].drawn
    prize = drawn if status is ClaimStatus.AWARDED else NO_PRIZE
    return Receipt(
        status, None, False, request.now_ms, request.terms.id, request.generation, rule, drawn, prize, 1, scan
    )


@pytest.mark.parametrize(
    ("old", "new", "finds"),
    [
        ("if number > 0 or not counts then", "if not counts then", "scans"),
        ("string.match(held, '^%d+ (%S+) ') == nonce and 1 or 0", "1", "was applied"),
        ("'XADD', key, digits(batch.meta.events) .. '-0', heads, said", "'XLEN', key", "acknowledged is lost"),
        ("meta.events = meta.events + 1", "meta.events = meta.events + 2", "the events have gaps"),
        ("add_to(campaign, 'claims', 1)", "", "the counters say"),
    ],
    ids=["a_visit_counted_again", "an_adjustment_told_twice", "no_event", "gaps", "no_counter"],
)
def test_what_is_counted_or_written_wrongly_is_found(
    old: str, new: str, finds: str, server: RedisServer, plant: Callable[[str, str], None]
) -> None:
    plant(old, new)
    found = violations(server)
    assert any(finds in problem for problem in found), found[:5]
