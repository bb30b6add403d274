"""Claim through a network that loses, delays and tears, and check the whole history against a plain model.

    python tests/faults.py --claims 100000 --unknown 0.05

Many persons claim through several ledgers, each with a connection of its own to one Redis: items that several want,
limits for persons, stock and budgets in all and on a day, fallbacks, top-ups, pauses, new generations, scans without a
claim, both parties. The proxy between does its faults so often that at least the share asked for of all claims is
answered ``pending``; these are asked again with the same visit, some at once and the rest at the end. What everybody
was told, when, and what the ledger then holds must be one history that the rules allow. Exit code 1 on a violation.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from fault_proxy import FaultProxy
from helpers_ledger import DATE, DAY_MS, OPENS_MS, a_campaign, a_claim, a_look
from histories import READER, SETTLED, Call, Checker, Held, History
from redis_servers import RedisServer, server_binaries
from scanengine.errors import LedgerFormatError, LedgerUnavailableError, OverloadedError
from scanengine.ledger import Ledger, audit
from scanengine.ledger.redis import RedisLedger, RedisReader
from scanengine.model import (
    NO_PRIZE,
    Adjustment,
    CampaignTerms,
    ClaimRequest,
    ClaimStatus,
    ObserveRequest,
    Party,
    PrizeTerms,
    Receipt,
    Role,
    ScanFacts,
)

DAYS = 4
CLIENTS = 6
PERSONS_AT_ONCE = 10
"""Tasks of one client."""
TIMEOUT_S = 0.15
PATIENCE_S = 60.0
"""Deadline of the ledger that asks in the end, on a network without faults."""
DELAY_S = (0.0, 2 * TIMEOUT_S)
OPEN_MAX = 20
"""Claims that one task leaves unanswered before it does nothing but ask for them again."""
ROUNDS_MAX = 5
"""How often what is still unknown is asked for in the end."""
STEPS = 48
"""Adjustments during a load."""
MIX = {
    "cut_request": 2, "cut_reply": 3, "reset_request": 2, "reset_reply": 3, "delay_request": 3, "delay_reply": 3,
    "slice": 6,
}  # fmt: skip
"""How the faults of requests are to each other; how many there are is turned up and down."""
REFUSED = 0.3
"""Share of connections that are refused."""
DRAWN = (0, 0, 1, 1, 1, 2, 3, NO_PRIZE)


def campaigns_for(claims: int) -> tuple[CampaignTerms, CampaignTerms]:
    """Return two campaigns of which so many claims will reach every limit."""
    some = max(claims // 100, 4)
    spring = a_campaign(
        (
            PrizeTerms(0, money=8_800, stock=some, fallback=1),
            PrizeTerms(1, money=100, stock_per_day=some // 2, fallback=2),
            PrizeTerms(2, stock=2 * some, points=10),
            PrizeTerms(3, points=5),
        ),
        per_user=6 + claims // 500, per_user_per_day=2 + claims // 1_500, budget_total=some * 6_000,
        budget_per_day=some * 2_500,
    )  # fmt: skip
    autumn = a_campaign(
        (
            PrizeTerms(0, money=500, stock=0, fallback=1),
            PrizeTerms(1, money=200, stock=3 * some, fallback=3),
            PrizeTerms(2, stock_per_day=some // 4, fallback=3),
            PrizeTerms(3, stock=8 * some),
        ),
        id="autumn", closes_ms=OPENS_MS + DAYS * DAY_MS - DAY_MS // 2, budget_per_day=some * 150,
    )  # fmt: skip
    return spring, autumn


@dataclass
class Report:
    """What happened, and what must not have."""

    seed: int
    asked: int = 0
    unknown: int = 0
    replies: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    recorded: int = 0
    looks: int = 0
    adjustments: int = 0
    found_again: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def unknown_share(self) -> float:
        """Share of the claims during the load that were answered ``pending``."""
        return self.unknown / max(self.asked, 1)

    def __str__(self) -> str:
        replies = ", ".join(f"{name} {count:,}" for name, count in sorted(self.replies.items()))
        faults = ", ".join(f"{name} {count:,}" for name, count in sorted(self.faults.items()))
        lines = [
            f"claims             {self.asked:,} in {self.seconds:.0f} s: {replies}",
            f"unknown            {self.unknown:,}, {self.unknown_share:.1%}; {self.found_again:,} had been recorded",
            f"faults             {sum(self.faults.values()):,} of {self.requests:,} requests: {faults}",
            f"besides            {self.looks:,} scans without a claim, {self.adjustments:,} adjustments",
            f"ledger             {self.recorded:,} claims",
            f"violations         {len(self.violations)}",
            *self.violations[:20],
        ]
        return "\n".join(lines)


class Load:
    """Persons who claim, until so many claims were asked for; and all that they were told.

    The reader :data:`READER` is registered before the first of them.

    Parameters
    ----------
    open_ledger : callable
        Opens one more ledger of the same program.
    """

    def __init__(
        self, open_ledger: Callable[[], Ledger], claims: int, seed: int, persons: int = PERSONS_AT_ONCE
    ) -> None:
        self.history = History()
        self.campaigns = campaigns_for(claims)
        self.claims = claims
        self.seed = seed
        self.asked = 0
        self.unknown = 0
        self.open: list[ClaimRequest | ObserveRequest] = []
        self._open_ledger = open_ledger
        self._persons = persons
        self._clock = itertools.count()
        self._visits = itertools.count()
        self._errors: list[BaseException] = []

    def run(self, clients: int = CLIENTS, watch: Callable[[], None] = lambda: None) -> None:
        """Run all clients to their end, and call ``watch`` now and then meanwhile."""
        ledgers = [self._open_ledger() for _ in range(clients)]
        threads = [
            threading.Thread(target=self._run_client, args=(ledger, number)) for number, ledger in enumerate(ledgers)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            watch()
            threads[0].join(0.05)
        for ledger in ledgers:
            ledger.close()
        if self._errors:
            raise self._errors[0]

    def finish(self, ledger: Ledger) -> None:
        """Ask again for everything without an answer, then for everything that was ever answered."""
        waiting = self.open
        for _ in range(ROUNDS_MAX):
            looks = [asked for asked in waiting if isinstance(asked, ObserveRequest)]
            claims = [asked for asked in waiting if isinstance(asked, ClaimRequest)]
            waiting = [asked for asked in looks if self._look(ledger, asked) is None]
            waiting += self._claim_all(ledger, claims)
        again = {
            (call.asked.item, call.asked.party, call.asked.user): replace(call.asked, counts_scan=False)
            for call in self.history.claims
            if call.told is not None and call.told.status in SETTLED
        }
        waiting += self._claim_all(ledger, list(again.values()))
        assert not waiting, f"{len(waiting)} calls have no answer on a network without faults: {ledger.trouble}"

    @property
    def items(self) -> set[int]:
        """Return all items that were ever scanned."""
        return {call.asked.item for call in (*self.history.claims, *self.history.looks)}

    # Clients --------------------------------------------------------------------------------------------------------

    def _run_client(self, ledger: Ledger, number: int) -> None:
        try:
            asyncio.run(self._client(ledger, number))
        except BaseException as error:  # noqa: BLE001 - raised again where the test can see it
            self._errors.append(error)
            self.asked = self.claims

    async def _client(self, ledger: Ledger, number: int) -> None:
        persons = [self._person(ledger, random.Random(f"{self.seed} {number} {i}")) for i in range(self._persons)]
        if number == 0:
            persons.append(self._owner(ledger, random.Random(self.seed)))
        await asyncio.gather(*persons)

    async def _person(self, ledger: Ledger, chance: random.Random) -> None:
        mine: list[ClaimRequest] = []
        unanswered: list[ClaimRequest | ObserveRequest] = []
        while self.asked < self.claims:
            kind = chance.random()
            if unanswered and (kind < 0.3 or len(unanswered) > OPEN_MAX):
                asked = self._later(unanswered.pop(chance.randrange(len(unanswered))))
                requests = [asked] if isinstance(asked, ClaimRequest) else []
                if isinstance(asked, ObserveRequest) and await asyncio.to_thread(self._look, ledger, asked) is None:
                    unanswered.append(asked)
            elif kind < 0.4:
                look = a_look(self._item(chance), self._visit(), counts_scan=kind < 0.38, now_ms=self._now_ms(chance))
                if await asyncio.to_thread(self._look, ledger, look) is None and look.counts_scan:
                    unanswered.append(look)
                requests = []
            else:
                requests = [self._next(chance, mine) for _ in range(1 if kind < 0.8 else chance.randint(2, 6))]
            unanswered += await self._claim(ledger, requests, is_blocking=kind > 0.95)
            mine = (mine + requests)[-30:]
        self.open += unanswered

    async def _owner(self, ledger: Ledger, chance: random.Random) -> None:
        """Add stock and money, pause and resume, tell of new generations; each of it until it is known to be done."""
        done: list[Adjustment] = []
        for step in range(STEPS):
            while self.asked < self.claims * step // STEPS:
                await asyncio.sleep(0.002)
            if step % 12 in (5, 6):
                adjustment = Adjustment(f"switch-{step}", "autumn", "pause" if step % 12 == 5 else "resume")
            elif step % 6 == 3:
                adjustment = chance.choice(done)
            else:
                campaign = chance.choice(self.campaigns)
                action = chance.choice(("stock", "stock", "budget"))
                prize = chance.randrange(2) if action == "stock" else NO_PRIZE
                adjustment = Adjustment(
                    f"more-{step}", campaign.id, action, prize, chance.randint(1, 2_000 if prize < 0 else 5)
                )
            done.append(adjustment)
            while not await asyncio.to_thread(self._adjust, ledger, adjustment):
                pass
            if step % 10 == 0:
                await asyncio.to_thread(self._announce, ledger)

    # Requests -------------------------------------------------------------------------------------------------------

    @property
    def _progress(self) -> float:
        return min(self.asked / self.claims, 1.0)

    @property
    def _generation(self) -> int:
        return 1 + int(3 * self._progress)

    def _now_ms(self, chance: random.Random) -> int:
        """Return a caller's clock, which may be some minutes behind that of another."""
        return OPENS_MS + 3_600_000 + int(self._progress * DAYS * DAY_MS) - chance.randrange(600_000)

    def _item(self, chance: random.Random) -> int:
        return int(0.6 * self._progress * self.claims) + chance.randrange(40)

    def _visit(self) -> str:
        return f"v{next(self._visits):x}"

    def _next(self, chance: random.Random, mine: list[ClaimRequest]) -> ClaimRequest:
        """Return mostly a claim of an item that others want too, else one of one's own again, or a retry."""
        kind = chance.random()
        if mine and kind < 0.1:
            return self._later(chance.choice(mine))
        if mine and kind < 0.2:
            again = chance.choice(mine)
            return self._request(chance, again.item, again.party, again.user)
        party = Party.CHANNEL if kind > 0.8 else Party.CONSUMER
        return self._request(chance, self._item(chance), party, f"user{int(3_000 * chance.random() ** 3):04}")

    def _request(self, chance: random.Random, item: int, party: Party, user: str) -> ClaimRequest:
        now_ms = self._now_ms(chance)
        return a_claim(
            item, user, drawn=DRAWN[item * 7 // 3 % len(DRAWN)], visit=self._visit(), party=party,
            role=Role.RETAILER if party else Role.CONSUMER, terms=self.campaigns[item % 3 == 0], now_ms=now_ms,
            local_date=DATE + (now_ms - OPENS_MS) // DAY_MS,
            generation=max(self._generation - (chance.random() < 0.02), 1),
        )  # fmt: skip

    def _later(self, asked: Any) -> Any:
        """Return the same visit again, on a later generation."""
        return replace(asked, generation=self._generation) if isinstance(asked, ClaimRequest) else asked

    # Calls ----------------------------------------------------------------------------------------------------------

    async def _claim(self, ledger: Ledger, requests: list[ClaimRequest], *, is_blocking: bool) -> list[ClaimRequest]:
        """Claim; return what has no answer yet."""
        unanswered: list[ClaimRequest] = []
        while requests:
            begun = next(self._clock)
            try:
                if is_blocking:
                    receipts = await asyncio.to_thread(ledger.claim_many, requests)
                elif len(requests) == 1:
                    receipts = [await ledger.claim_async(requests[0])]
                else:
                    receipts = await ledger.claim_many_async(requests)
            except OverloadedError:  # Surely not done, so that it is no part of the history.
                return unanswered + requests
            stale = self._note(begun, requests, receipts, unanswered)
            self.asked += len(requests)
            self.unknown += sum(receipt.status == ClaimStatus.PENDING for receipt in receipts)
            requests = [self._later(request) for request in stale]
        return unanswered

    def _claim_all(self, ledger: Ledger, requests: list[ClaimRequest]) -> list[ClaimRequest]:
        unanswered: list[ClaimRequest] = []
        for start in range(0, len(requests), 500):
            part = [replace(request, generation=self._generation) for request in requests[start : start + 500]]
            begun = next(self._clock)
            assert self._note(begun, part, ledger.claim_many(part), unanswered) == []
        return unanswered

    def _note(
        self,
        begun: int,
        requests: list[ClaimRequest],
        receipts: list[Receipt],
        unanswered: list[ClaimRequest],
    ) -> list[ClaimRequest]:
        """Put down what was told; return the requests that were decided on an older generation."""
        ended = next(self._clock)
        stale = []
        for request, receipt in zip(requests, receipts, strict=True):
            is_unknown = receipt.status == ClaimStatus.PENDING
            self.history.claims.append(Call(begun, ended, request, None if is_unknown else receipt))
            if is_unknown:
                unanswered.append(request)
            elif receipt.status == ClaimStatus.STALE:
                stale.append(request)
        return stale

    def _look(self, ledger: Ledger, asked: ObserveRequest) -> ScanFacts | None:
        begun = next(self._clock)
        told = None
        with suppress(LedgerUnavailableError):
            told = ledger.observe(asked)
        self.history.looks.append(Call(begun, next(self._clock), asked, told))
        return told

    def _adjust(self, ledger: Ledger, adjustment: Adjustment) -> bool:
        begun = next(self._clock)
        told = None
        with suppress(LedgerUnavailableError):
            told = ledger.adjust(adjustment)
        self.history.adjustments.append(Call(begun, next(self._clock), adjustment, told))
        return told is not None

    def _announce(self, ledger: Ledger) -> None:
        with suppress(LedgerUnavailableError):  # The next claim brings the generation along.
            ledger.announce(self._generation)


class Pressure:
    """Turns the proxy's faults up and down so that a share of the claims stays unknown."""

    def __init__(self, load: Load, proxy: FaultProxy, share: float) -> None:
        self._load = load
        self._proxy = proxy
        self._share = share
        self._scale = 0.2

    def __call__(self) -> None:
        """Look at the share there is, and turn."""
        is_too_good = self._load.unknown < self._share * self._load.asked
        self._scale = min(max(self._scale * (1.1 if is_too_good else 0.9), 0.01), 0.9)
        whole = sum(MIX.values())
        self._proxy.set_rates({"refuse": REFUSED, **{name: self._scale * part / whole for name, part in MIX.items()}})


def run(server: RedisServer, claims: int, unknown: float, seed: int) -> Report:
    """Claim so often in a new program, with such a share unknown, and return what happened."""
    began_s = time.monotonic()
    program_id = f"faults-{random.SystemRandom().randrange(1 << 48):x}"

    def open_ledger(url: str, timeout_s: float) -> RedisLedger:
        return RedisLedger(url, program_id, timeout_s=timeout_s, durability="volatile", outbox="keep")

    with (
        closing(open_ledger(server.url(), PATIENCE_S)) as ledger,
        FaultProxy(server.port, seed=seed, delay_s=DELAY_S) as proxy,
    ):
        ledger.register_reader(READER)
        load = Load(lambda: open_ledger(proxy.url(), TIMEOUT_S), claims, seed)
        # A little more than is asked for: the share must be reached when the last claim has been asked for.
        load.run(watch=Pressure(load, proxy, 1.2 * unknown))
        load.finish(ledger)
        held = Held.of(ledger, load.items)
    try:
        with RedisReader(server.url(), program_id) as reader:
            held.problems += audit(reader, {terms.id: terms for terms in load.campaigns}).problems
    except LedgerFormatError as error:
        held.problems.append(f"the ledger cannot be read: {error}")
    return report_of(load, held, proxy, time.monotonic() - began_s)


def report_of(load: Load, held: Held, proxy: FaultProxy, seconds: float) -> Report:
    """Check the history and sum it up."""
    told = [call.told for call in load.history.claims if call.told is not None]
    replies = Counter(f"{receipt.status}{' again' * receipt.replayed}" for receipt in told)
    waited = {(call.asked.item, call.asked.visit) for call in load.history.claims if call.told is None}
    return Report(
        seed=load.seed,
        asked=load.asked,
        unknown=load.unknown,
        replies=replies,
        faults=proxy.counts,
        requests=proxy.requests,
        recorded=len(held.events),
        looks=len(load.history.looks),
        adjustments=len(load.history.adjustments),
        found_again=sum((event.item, event.visit) in waited for event in held.events),
        seconds=seconds,
        violations=Checker(load.history, held, load.campaigns).check(),
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--claims", type=int, default=100_000)
    parser.add_argument("--unknown", type=float, default=0.05, help="least share of claims answered pending")
    parser.add_argument("--server", choices=sorted(server_binaries()), default=sorted(server_binaries())[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    arguments = parser.parse_args()
    print(f"seed               {arguments.seed}", flush=True)
    binary = server_binaries()[arguments.server]
    with tempfile.TemporaryDirectory() as folder, RedisServer(binary, Path(folder)) as server:
        report = run(server, arguments.claims, arguments.unknown, arguments.seed)
    print(report)
    sys.exit(bool(report.violations) or report.unknown_share < arguments.unknown)


if __name__ == "__main__":
    main()
