"""A short form of ``tests/faults.py``; that its network does what it says, and its check finds what it looks for."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fault_proxy import FAULTS, FaultProxy
from faults import Load, run
from histories import READER, RECORDED, Call, Checker, Held, History
from redis_servers import RedisServer, newest_binary, server_binaries, wait_until
from scanengine.ledger import PENDING, Ledger, SqliteLedger
from scanengine.model import CampaignTerms, ClaimRequest, ClaimStatus, Receipt

CLAIMS = 12_000
UNKNOWN = 0.05


@pytest.mark.parametrize("name", sorted(server_binaries()))
def test_a_bad_network_spoils_no_history(name: str, tmp_path: Path) -> None:
    with RedisServer(server_binaries()[name], tmp_path) as server:
        report = run(server, CLAIMS, UNKNOWN, seed=20_260_501)
    assert report.violations == []
    assert report.asked >= CLAIMS
    # The load was what it should be: outcomes were unknown, some of them recorded, and every kind of answer came.
    assert report.unknown_share >= UNKNOWN
    assert report.found_again > 0
    assert report.faults.keys() == set(FAULTS)
    assert {"awarded", "awarded again", "no_prize", "taken", "limited", "closed", "stale"} <= report.replies.keys()


# The network --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(newest_binary(), tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultProxy]:
    server.flush()
    with FaultProxy(server.port, delay_s=(0.0, 0.01)) as proxy:
        yield proxy


def ask(proxy: FaultProxy, command: bytes = b"INCR n\r\n", reply: bytes = b":1\r\n") -> bytes:
    """Send one command and return what comes, until all of it has come or the connection has ended."""
    found = b""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as connection:
        connection.sendall(command)
        while len(found) < len(reply) and (part := connection.recv(65_536)):
            found += part
    return found


def count_of(server: RedisServer) -> int:
    return int(server.client().get("n") or 0)


def test_without_faults_everything_passes(proxy: FaultProxy) -> None:
    value = random.Random(1).randbytes(1_000_000)
    set_it = b"*3\r\n$3\r\nSET\r\n$1\r\nv\r\n$1000000\r\n" + value + b"\r\n"
    assert ask(proxy, set_it, b"+OK\r\n") == b"+OK\r\n"
    whole = b"$1000000\r\n" + value + b"\r\n"
    assert ask(proxy, b"GET v\r\n", whole) == whole
    assert (proxy.requests, proxy.connections, proxy.counts) == (2, 2, {})


def test_slices_put_together_are_the_whole(proxy: FaultProxy) -> None:
    proxy.set_rates({"slice": 1})
    for number in range(1, 6):
        assert ask(proxy, b"SET v%d %s\r\n" % (number, b"x" * 1_000 * number), b"+OK\r\n") == b"+OK\r\n"
        whole = b"$%d\r\n%s\r\n" % (1_000 * number, b"x" * 1_000 * number)
        assert ask(proxy, b"GET v%d\r\n" % number, whole) == whole
    assert proxy.counts["slice"] == 10


def test_a_request_that_is_cut_is_not_carried_out(proxy: FaultProxy, server: RedisServer) -> None:
    proxy.set_rates({"cut_request": 1})
    assert [ask(proxy) for _ in range(5)] == [b""] * 5
    assert (count_of(server), proxy.counts) == (0, {"cut_request": 5})


def test_a_request_whose_reply_is_cut_is_carried_out(proxy: FaultProxy, server: RedisServer) -> None:
    proxy.set_rates({"cut_reply": 1})
    replies = [ask(proxy) for _ in range(5)]
    assert all(len(reply) < len(b":1\r\n") for reply in replies)
    assert (count_of(server), proxy.counts) == (5, {"cut_reply": 5})


@pytest.mark.parametrize(("fault", "done"), [("refuse", 0), ("reset_request", 0), ("reset_reply", 1)])
def test_a_reset_is_an_error_and_no_end(fault: str, done: int, proxy: FaultProxy, server: RedisServer) -> None:
    proxy.set_rates({fault: 1})
    with pytest.raises(ConnectionResetError):
        ask(proxy)
    assert (count_of(server), proxy.counts) == (done, {fault: 1})


def test_a_late_request_arrives_though_its_sender_is_gone(proxy: FaultProxy, server: RedisServer) -> None:
    proxy.set_rates({"delay_request": 1})
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        connection.sendall(b"INCR n\r\n")
    wait_until(lambda: count_of(server) == 1, "the late request")


def test_a_late_reply_comes(proxy: FaultProxy) -> None:
    proxy.set_rates({"delay_reply": 1})
    assert ask(proxy) == b":1\r\n"
    assert proxy.counts == {"delay_reply": 1}


def test_the_seed_says_which_requests_are_spoilt(server: RedisServer) -> None:
    def faults(seed: int) -> list[bytes]:
        with FaultProxy(server.port, seed=seed, rates={"cut_request": 0.5}) as proxy:
            return [ask(proxy, b"PING\r\n", b"+PONG\r\n") for _ in range(20)]

    assert faults(1) == faults(1) != faults(2)
    assert set(faults(1)) == {b"", b"+PONG\r\n"}


# The check ----------------------------------------------------------------------------------------------------------


class Forgetful:
    """A ledger of which one answer in ten does not reach the caller: half of these claims are recorded."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._chance = random.Random(5)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def close(self) -> None:
        """Stay open: several share it."""

    def claim_many(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        kind = self._chance.random()
        if kind < 0.05:
            return [PENDING] * len(requests)
        receipts = self._ledger.claim_many(requests)
        return [PENDING] * len(requests) if kind < 0.1 else receipts

    async def claim_async(self, request: ClaimRequest) -> Receipt:
        return (await self.claim_many_async([request]))[0]

    async def claim_many_async(self, requests: Sequence[ClaimRequest], *, is_let_in: bool = False) -> list[Receipt]:
        kind = self._chance.random()
        if kind < 0.05:
            return [PENDING] * len(requests)
        receipts = await self._ledger.claim_many_async(requests)
        return [PENDING] * len(requests) if kind < 0.1 else receipts


Found = tuple[History, Held, tuple[CampaignTerms, ...]]


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A history in which everything is as it should be."""
    ledger = SqliteLedger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite", "program-1")
    ledger.register_reader(READER)
    load = Load(lambda: Forgetful(ledger), claims=4_000, seed=3, persons=12)
    load.run()
    load.finish(ledger)
    held = Held.of(ledger, load.items)
    ledger.close()
    return load.history, held, load.campaigns


@pytest.fixture
def found(right: Found) -> Found:
    """The same, to be changed."""
    history, held, campaigns = right
    mine = History(list(history.claims), list(history.looks), list(history.adjustments))
    return mine, Held(list(held.events), held.totals, dict(held.scans)), campaigns


def test_the_check_finds_nothing_where_nothing_is(found: Found) -> None:
    history, held, campaigns = found
    assert Checker(history, held, campaigns).check() == []
    told = [call.told for call in history.claims]
    assert sum(receipt is None for receipt in told) > 100
    assert {receipt.status for receipt in told if receipt} == set(ClaimStatus) - {
        ClaimStatus.PENDING, ClaimStatus.INELIGIBLE,
    }  # fmt: skip


def a_call(history: History, is_it: Callable[[Call], bool]) -> int:
    """Return the place of the last call that is one."""
    return max(place for place, call in enumerate(history.claims) if call.told is not None and is_it(call))


def tell(history: History, is_it: Callable[[Call], bool], **changes: Any) -> None:
    """Change what was told in the last call that is one."""
    place = a_call(history, is_it)
    call = history.claims[place]
    history.claims[place] = call._replace(told=replace(call.told, **changes))


def is_recorded(call: Call) -> bool:
    return call.told.status in RECORDED


def is_replayed(call: Call) -> bool:
    return call.told.replayed


def is_taken(call: Call) -> bool:
    return call.told.status == ClaimStatus.TAKEN


def lose_a_claim(history: History, held: Held) -> None:
    del held.events[-1]


def record_a_claim_twice(history: History, held: Held) -> None:
    last = held.events[-1]
    held.events.append(replace(last, id="ANOTHER", seq=last.seq + 1, unit=last.unit + 1))


def record_a_claim_of_nobody(history: History, held: Held) -> None:
    last = held.events[-1]
    history.claims[:] = [call for call in history.claims if call.asked.item != last.item]


def draw_again(history: History, held: Held) -> None:
    tell(history, lambda call: is_replayed(call) and call.told.unit > 0, unit=999)


def tell_another_time(history: History, held: Held) -> None:
    tell(history, is_replayed, at_ms=1)


def tell_twice_as_new(history: History, held: Held) -> None:
    place = a_call(history, lambda call: is_recorded(call) and not is_replayed(call))
    history.claims.append(history.claims[place])


def award_to_another(history: History, held: Held) -> None:
    place = a_call(history, is_recorded)
    call = history.claims[place]
    history.claims[place] = call._replace(asked=replace(call.asked, user="thief"))


def tell_the_owner_that_it_is_taken(history: History, held: Held) -> None:
    tell(history, is_replayed, status=ClaimStatus.TAKEN)


def tell_taken_where_it_is_free(history: History, held: Held) -> None:
    place = a_call(history, lambda call: call.told.status == ClaimStatus.CLOSED)
    call = history.claims[place]
    key = (call.asked.item, call.asked.party)
    history.claims[:] = [call for call in history.claims if (call.asked.item, call.asked.party) != key]
    history.claims.append(call._replace(told=replace(call.told, status=ClaimStatus.TAKEN)))


def refuse_what_is_recorded(history: History, held: Held) -> None:
    tell(history, is_taken, status=ClaimStatus.CLOSED, reason="ended", at_ms=1 << 50)


def refuse_without_a_limit(history: History, held: Held) -> None:
    tell(history, lambda call: call.told.reason == "ended", status=ClaimStatus.LIMITED, reason="per_user")


def refuse_before_the_end(history: History, held: Held) -> None:
    tell(history, lambda call: call.told.reason == "ended", at_ms=1)


def refuse_without_a_pause(history: History, held: Held) -> None:
    history.adjustments[:] = [call for call in history.adjustments if call.asked.action != "pause"]


def award_while_paused(history: History, held: Held) -> None:
    history.adjustments[:] = [call for call in history.adjustments if call.asked.action != "resume"]


def give_without_the_top_up(history: History, held: Held) -> None:
    history.adjustments[:] = [call for call in history.adjustments if call.asked.action != "stock"]


def apply_an_adjustment_twice(history: History, held: Held) -> None:
    history.adjustments += [call for call in history.adjustments if call.told][:1]


def count_wrongly(history: History, held: Held) -> None:
    first, *others = held.totals.campaigns
    held.totals = replace(held.totals, campaigns=(replace(first, money=first.money + 1), *others))


def count_a_scan_twice(history: History, held: Held) -> None:
    item, facts = next(iter(held.scans.items()))
    held.scans[item] = replace(facts, count=facts.count + 1)


def lose_a_scan(history: History, held: Held) -> None:
    item = history.claims[a_call(history, is_recorded)].asked.item
    held.scans[item] = replace(held.scans[item], count=held.scans[item].count - 1)


def number_a_scan_anew(history: History, held: Held) -> None:
    place = a_call(history, lambda call: call.asked.counts_scan and call.told.scan and call.told.scan.number > 1)
    call = history.claims[place]
    scan = replace(call.told.scan, number=call.told.scan.number - 1)
    history.claims.append(call._replace(told=replace(call.told, replayed=True, scan=scan)))


def number_two_scans_alike(history: History, held: Held) -> None:
    number_a_scan_anew(history, held)
    item, visit = history.claims[-1].asked.item, history.claims[-1].asked.visit
    history.claims[:-1] = [call for call in history.claims[:-1] if (call.asked.item, call.asked.visit) != (item, visit)]


def write_an_event_twice(history: History, held: Held) -> None:
    held.events.append(held.events[-1])


def write_another_event(history: History, held: Held) -> None:
    held.events[-1] = replace(held.events[-1], batch="fanta")


def write_another_amount(history: History, held: Held) -> None:
    held.events[-1] = replace(held.events[-1], amount=77)


def turn_time_back(history: History, held: Held) -> None:
    held.events[-1] = replace(held.events[-1], at=1)


PLANTED = [
    (lose_a_claim, "acknowledged is lost"),
    (record_a_claim_twice, "two claims are recorded"),
    (record_a_claim_of_nobody, "nobody made this claim"),
    (draw_again, "was told"),
    (tell_another_time, "was told"),
    (tell_twice_as_new, "as if it were the first time"),
    (award_to_another, "awarded to thief"),
    (tell_the_owner_that_it_is_taken, "its owner was told"),
    (tell_taken_where_it_is_free, "taken, but nobody has it"),
    (refuse_what_is_recorded, "after its claim had been told"),
    (refuse_without_a_limit, "limited per_user: has"),
    (refuse_before_the_end, "closed ended: it had not"),
    (refuse_without_a_pause, "closed paused: it was not"),
    (award_while_paused, "recorded while paused"),
    (give_without_the_top_up, "is over a limit"),
    (apply_an_adjustment_twice, "was applied 2 times"),
    (count_wrongly, "the counters say"),
    (count_a_scan_twice, "visits"),
    (lose_a_scan, "visits"),
    (number_a_scan_anew, "one visit is number"),
    (number_two_scans_alike, "scans are numbered"),
    (write_an_event_twice, "two events have one id"),
    (write_another_event, "its content is of no request"),
    (write_another_amount, "): not "),
    (turn_time_back, "time ran backwards"),
]


@pytest.mark.parametrize(("change", "finds"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_the_check_finds(change: Callable[[History, Held], None], finds: str, found: Found) -> None:
    history, held, campaigns = found
    change(history, held)
    problems = Checker(history, held, campaigns).check()
    assert any(finds in problem for problem in problems), problems[:5]


@pytest.mark.parametrize(
    ("changes", "finds"),
    [
        ({"per_user": 3}, "is over per_user"),
        ({"per_user_per_day": 2}, "is over per_user_per_day"),
        ({"budget_total": 9_000}, "is over a limit"),
        ({"budget_per_day": 9_000}, "is over a limit"),
        ({"budget_total": 1 << 40, "budget_per_day": 1 << 40}, "was left"),
    ],
)
def test_the_check_finds_a_limit_that_was_not_kept(changes: dict[str, int], finds: str, found: Found) -> None:
    history, held, (spring, autumn) = found
    problems = Checker(history, held, (replace(spring, **changes), autumn)).check()
    assert any(finds in problem for problem in problems), problems[:5]
