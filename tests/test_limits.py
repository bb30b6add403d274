"""The failure budget: what bad codes cost, whom, and for how long; good codes cost nothing."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from helpers import TOKEN
from redis_servers import RedisServer
from scanengine.model import Status
from scanengine.server.limits import BAD_STATUSES, EPOCH_S, WINDOW_S, FailureBudget, open_memory
from serving import WAIT_S, Client, Market, Reply, Served, a_copy, a_market, in_threads, serving, use_redis

SOURCE, OTHER = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"
BUDGET = 10
_numbers = itertools.count(1)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now_s: float = 1_000 * EPOCH_S + 100.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spend_all(budget: FailureBudget, source: bytes = SOURCE) -> int:
    """Show bad codes until no more is allowed; return how many were."""
    count = 0
    while budget.spend(source) == 0:
        count += 1
    return count


# The budget alone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_minute", [1, 2, 7, 60, 10_000])
def test_a_source_may_show_so_many_bad_codes_at_once_and_then_has_to_wait(clock: Clock, per_minute: int) -> None:
    budget = FailureBudget(per_minute, now_s=clock)
    assert (budget.wait_s(SOURCE), budget.left(SOURCE)) == (0, per_minute)
    budget.spend(SOURCE)
    assert budget.left(SOURCE) == per_minute - 1
    assert 1 + spend_all(budget) == per_minute
    assert budget.left(SOURCE) == 0
    assert budget.wait_s(SOURCE) == budget.spend(SOURCE) == max(1, round(WINDOW_S / per_minute))
    assert budget.wait_s(OTHER) == 0


def test_who_waits_as_long_as_told_is_answered_again(clock: Clock) -> None:
    budget = FailureBudget(BUDGET, now_s=clock)
    spend_all(budget)
    for _ in range(100):
        clock.now_s += budget.wait_s(SOURCE)
        assert spend_all(budget) == 1


def test_refused_codes_cost_nothing_more(clock: Clock) -> None:
    budget = FailureBudget(BUDGET, now_s=clock)
    spend_all(budget)
    for _ in range(1000):
        budget.spend(SOURCE)
    clock.now_s += WINDOW_S
    assert spend_all(budget) == BUDGET


@pytest.mark.parametrize("pause_s", [0.0, 0.1, 1.0, 7.3, 59.0, 61.0])
def test_no_year_of_guessing_beats_the_budget(clock: Clock, pause_s: float) -> None:
    """Goal: in any time t a source gets no more than budget · (1 + t / minute) answers, whatever key is in use."""
    budget = FailureBudget(BUDGET, now_s=clock)
    began_s, answered = clock.now_s, 0
    for _ in range(2000):
        answered += budget.spend(SOURCE) == 0
        clock.now_s += pause_s
        assert answered <= BUDGET * (1 + (clock.now_s - began_s) / WINDOW_S) + 1e-6


def test_a_new_key_gives_nobody_a_new_budget(clock: Clock) -> None:
    budget = FailureBudget(BUDGET, now_s=clock)
    clock.now_s = 1_001 * EPOCH_S - 0.5
    assert spend_all(budget) == BUDGET
    clock.now_s += 1.0
    assert budget.wait_s(SOURCE) > 0
    clock.now_s += WINDOW_S / BUDGET
    assert spend_all(budget) == 1


def test_a_minute_after_its_last_bad_code_nothing_tells_a_source_from_a_stranger(clock: Clock) -> None:
    """Goal: addresses are not stored for long. Method: what is left in memory is times that have passed."""
    budget = FailureBudget(BUDGET, now_s=clock)
    spend_all(budget)
    clock.now_s += WINDOW_S + 0.1
    assert max(budget._cells.tolist()) <= clock.now_s
    assert SOURCE not in bytes(budget._cells)


def test_a_flood_of_sources_takes_no_memory_frees_no_guesser_and_punishes_hardly_anybody(clock: Clock) -> None:
    """Goal: who has a whole IPv6 network can neither fill the memory nor have a spent budget forgotten.

    Method: 20,000 sources spend all they have. With 65,536 places in a row, one of them is taken with a chance of
    1 - exp(-20000 / 65536) = 0.263, all four of a bystander with 0.0048: of 2,000 bystanders 9.6 are expected to be
    refused. 40 or more would be ten standard deviations off.
    """
    budget = FailureBudget(2, now_s=clock)
    spend_all(budget)
    size = budget._cells.nbytes
    for number in range(20_000):
        for _ in range(2):
            budget.spend(number.to_bytes(8, "big"))
    assert budget.wait_s(SOURCE) > 0
    assert budget._cells.nbytes == size < 5 << 20
    bystanders = [number.to_bytes(4, "big") for number in range(1, 2_001)]
    assert sum(budget.wait_s(source) > 0 for source in bystanders) < 40


def test_the_places_of_a_source_cannot_be_guessed(clock: Clock) -> None:
    one, other = FailureBudget(BUDGET, now_s=clock), FailureBudget(BUDGET, now_s=clock)
    assert one._places(SOURCE, 7) != other._places(SOURCE, 7)
    assert one._places(SOURCE, 7) != one._places(SOURCE, 9)


def test_processes_that_share_the_memory_share_the_budget(clock: Clock) -> None:
    memory = open_memory()
    one, other = (FailureBudget(BUDGET, memory=memory, now_s=clock) for _ in range(2))
    assert spend_all(one) == BUDGET
    assert other.wait_s(SOURCE) > 0
    script = (
        "from scanengine.server.limits import FailureBudget\n"
        f"budget = FailureBudget({BUDGET}, memory={memory}, now_s=lambda: {clock.now_s})\n"
        f"print(budget.wait_s({SOURCE!r}) > 0, budget.wait_s({OTHER!r}) > 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], pass_fds=[memory], capture_output=True, text=True, check=True, timeout=WAIT_S
    )
    os.close(memory)
    assert done.stdout.split() == ["True", "False"]


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FailureBudget(0)


def test_every_status_that_a_guess_can_have_is_a_bad_one() -> None:
    assert set(Status) - BAD_STATUSES == {
        Status.INACTIVE, Status.FROZEN, Status.VOID, Status.RECALLED, Status.EXPIRED, Status.VALID, Status.PRODUCT_ONLY
    }  # fmt: skip


# A server ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("limits") / "shop", tokens=True)


@pytest.fixture(scope="module")
def shop(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Market:
    """A market whose settings allow a few bad codes a minute, behind a proxy on this machine."""
    return limited(a_copy(market, tmp_path_factory.mktemp("limited") / "shop"), 'trusted_proxies = ["127.0.0.1"]')


@pytest.fixture
def source() -> str:
    """An address that no other test comes from."""
    return f"192.0.2.{next(_numbers)}"


def limited(market: Market, *lines: str, per_minute: int = 5) -> Market:
    """Set the budget of a market."""
    path = market.shop.workspace.settings_path
    more = "\n".join(("[server]", f"bad_codes_per_minute = {per_minute}", *lines))
    path.write_text(path.read_text().replace("[server]", more, 1))
    return market


@pytest.fixture(scope="module")
def server(shop: Market) -> Iterator[Served]:
    with serving(shop.folder) as served:
        yield served


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with server.client() as client:
        yield client


def look(client: Client, code: str, source: str, **headers: str) -> Reply:
    return client.ask("GET", f"/s/{code}", **{"Accept": "application/json", "X-Forwarded-For": source, **headers})


def spend(client: Client, source: str, text: str = "nothing-of-ours", count: int = 5) -> None:
    for _ in range(count):
        assert look(client, text, source).status == 200


def test_after_too_many_bad_codes_good_and_bad_ones_get_one_and_the_same_reply(
    shop: Market, client: Client, source: str
) -> None:
    """Goal: nobody learns from the refusal. Method: a good code, forged ones and rubbish, by everything but the id."""
    good = shop.take("cash")
    assert look(client, good, source).json["status"] == "valid"
    spend(client, source)
    shown = set()
    for code in (
        good,
        shop.forged(good),
        shop.unknown(),
        shop.unknown_key(),
        shop.mistyped(good),
        "rubbish",
        "x" * 600,
    ):
        reply = look(client, code, source)
        problem = reply.json
        assert reply.status == 429
        assert reply.headers["content-type"] == "application/problem+json"
        assert problem["type"] == "urn:scanengine:problem:too-many-bad-codes"
        assert problem["instance"] == f"urn:scanengine:request:{reply.headers['x-request-id']}"
        assert 1 <= int(reply.headers["retry-after"]) <= 12
        text = re.sub(r"urn:scanengine:request:\w+|wait \d+ s", "", reply.body.decode())
        shown.add((text, *sorted(reply.headers.keys() - {"date"})))
    assert len(shown) == 1


@pytest.mark.parametrize("kind", ["forged", "unknown", "unknown_key", "mistyped", "malformed"])
def test_every_kind_of_bad_code_is_a_guess(shop: Market, client: Client, kind: str, source: str) -> None:
    good = shop.take("cash")
    texts: dict[str, Callable[[], str]] = {
        "forged": lambda: shop.forged(good),
        "unknown": shop.unknown,
        "unknown_key": shop.unknown_key,
        "mistyped": lambda: shop.mistyped(good),
        "malformed": lambda: "hello",
    }
    spend(client, source, text=texts[kind]())
    assert look(client, good, source).status == 429


@pytest.mark.parametrize("kind", ["cash", "inactive", "frozen", "void", "recalled", "expired"])
def test_codes_of_ours_cost_nothing(shop: Market, client: Client, kind: str, source: str) -> None:
    spend(client, source, text=shop.take(kind), count=12)


def test_one_source_says_nothing_of_another(client: Client, source: str) -> None:
    spend(client, source)
    assert look(client, "x", source).status == 429
    spend(client, "198.51.100.2")
    spend(client, "2001:db8:0:1::1", count=3)
    spend(client, "2001:db8:0:1:ffff::2", count=2)
    assert look(client, "x", "2001:db8:0:1:a:b:c:d").status == 429
    spend(client, "2001:db8:0:2::1")


def test_guesses_that_arrive_together_are_not_answered_beyond_the_budget(
    shop: Market, server: Served, source: str
) -> None:
    good = shop.take("cash")

    def guess(number: int) -> list[int]:
        with server.client() as client:
            return [look(client, good if number == 0 and turn == 9 else "guess", source).status for turn in range(10)]

    began_s = monotonic()
    replies = [status for statuses in in_threads(8, guess) for status in statuses]
    assert 5 <= replies.count(200) <= 5 * (1 + (monotonic() - began_s) / 60) + 1
    assert replies.count(200) + replies.count(429) == 80


def test_all_ways_to_show_a_code_share_one_budget(shop: Market, client: Client, source: str) -> None:
    """GET and HEAD, both spellings of the path, Digital Links, pages, and the claims of the page."""
    good, bad = shop.take("cash"), shop.forged(shop.take("cash"))
    paths = [f"/s/{bad}", f"/S/{bad}", f"/01/06901234567892/21/{bad}"]
    headers = {"X-Forwarded-For": source}
    for path in paths:
        assert client.ask("GET", path, **headers).status == 200
    assert client.ask("GET", paths[0], Accept="text/html", **headers).status == 200
    assert client.ask("HEAD", paths[0], **headers).status == 200
    for path in (*paths, f"/s/{good}"):
        for method in ("GET", "HEAD", "POST"):
            assert client.ask(method, path, **headers).status == 429


def test_a_browser_is_told_in_words(client: Client, source: str) -> None:
    spend(client, source)
    for language, word in (("zh-CN", "请"), ("en", "wait")):
        reply = look(client, "x", source, Accept="text/html", **{"Accept-Language": language})
        assert reply.status == 429
        assert reply.headers["content-type"].startswith("text/html")
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.headers["x-request-id"]
        assert word in reply.body.decode()


def test_back_ends_and_everything_else_go_on(shop: Market, server: Served, client: Client, source: str) -> None:
    """Goal: a back end asks for many people, and is trusted with its token; operations see their server."""
    spend(client, source)
    assert look(client, "x", source).status == 429
    with server.client(TOKEN) as back_end:
        for _ in range(12):
            assert back_end.post("/v1/verify", {"code": "x"}).status == 200
        assert back_end.get(f"/v1/codes/{shop.take('cash')}").json["status"] == "valid"
        assert back_end.claim(shop.take("cash"), "ann")["claim"]["status"] == "awarded"
    assert client.ask("GET", "/healthz", **{"X-Forwarded-For": source}).status == 200


def test_bad_codes_and_refusals_cost_no_call_of_the_ledger(shop: Market, client: Client, source: str) -> None:
    before = client.calls()
    spend(client, source)
    assert look(client, shop.take("cash"), source).status == 429
    assert client.calls() == before


def test_without_a_limit_nothing_is_refused(market: Market, tmp_path: Path, source: str) -> None:
    shop = limited(a_copy(market, tmp_path / "shop"), per_minute=0)
    with serving(shop.folder) as served, served.client() as client:
        spend(client, source, count=200)


def test_workers_share_the_budget(market: Market, redis_server: RedisServer, tmp_path: Path, source: str) -> None:
    """Goal: more workers are not more guesses. Method: new connections until both workers have answered."""
    shop = limited(a_copy(market, tmp_path / "shop"), 'trusted_proxies = ["127.0.0.1"]', per_minute=40)
    use_redis(shop, redis_server.url())
    statuses = []
    began_s = monotonic()
    with serving(shop.folder, "--workers", 2) as served:
        for _ in range(60):
            with served.client() as client:
                statuses.append(look(client, "guess", source).status)
        with served.client(TOKEN) as client:
            found = client.metrics()
    answered = [value for key, value in found.items() if key[0] == "scanengine_worker_requests_total"]
    assert len(answered) == 2
    assert min(answered) > 1
    assert 40 <= statuses.count(200) <= 40 * (1 + (monotonic() - began_s) / 60)
    assert statuses.count(200) + statuses.count(429) == 60
