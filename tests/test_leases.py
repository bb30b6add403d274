"""Leased budgets: the simulation holds for every seed, and finds each mistake that such a protocol can have."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from lease_protocol import (
    LEASES,
    Account,
    Answer,
    Ask,
    Coordinator,
    Counter,
    Grant,
    Lease,
    Partition,
    State,
    Term,
)
from lease_world import Disk
from leases import run_seed

SEEDS = 250
SEEDS_TO_FIND = 600
"""A planted bug must be found in so many; most are within the first ten."""
TERMS = {("budget", False): Term(1000, 5), ("budget", True): Term(1000, 5)}
BUDGET = Counter("budget")


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_nothing_is_overspent_whatever_goes_wrong(first: int) -> None:
    found = [run_seed(seed) for seed in range(first, first + 50)]
    assert [outcome for outcome in found if isinstance(outcome, str)] == []
    # The worlds were as bad as they should be.
    outcomes = [outcome for outcome in found if not isinstance(outcome, str)]
    assert sum(outcome.crashes for outcome in outcomes) > 100
    assert sum(outcome.lost for outcome in outcomes) > 10
    assert min(outcome.awards for outcome in outcomes) > 0


def test_a_seed_repeats_itself() -> None:
    assert run_seed(7) == run_seed(7)


# Planted bugs -------------------------------------------------------------------------------------------------------


class SendsBeforeItWrites(Coordinator):
    """A grant that is on its way when the coordinator dies was never made: it is made again for somebody else."""

    def write(self, changes: State) -> None:
        for value in changes.values():
            if isinstance(value, Lease) and value.reply is not None:
                self.send(value.reply)
        super().write(changes)


class AppliesTwice(Partition):
    """A grant that the network doubled is money that nobody lent."""

    def on_grant(self, grant: Grant) -> None:
        account = self.account(grant.counter)
        if grant.number == account.number:
            self.write({grant.counter: replace(account, granted=account.granted + grant.granted, ask=None)})


class ForgetsSpending(Partition):
    """The claim is on the disk, and what it took only in memory."""

    def spend(self, item: int, costs: Mapping[Counter, int]) -> None:
        self.write({("claim", item): dict(costs)})
        for counter, cost in costs.items():
            self.state[counter] = replace(self.account(counter), spent=self.account(counter).spent + cost)


class CountsReturnsTwice(Coordinator):
    """An ask that comes twice is answered once, and what it gives back counts again."""

    def on_ask(self, ask: Ask) -> None:
        lease = self.state.get((ask.partition, ask.counter))
        if lease is not None and ask.number <= lease.number and ask.returned:
            self.write({(ask.partition, ask.counter): replace(lease, returned=lease.returned + ask.returned)})
        super().on_ask(ask)


class SpendsWhatItReturns(Partition):
    """What is given back is sent before it is written: dead in between, the partition has it still."""

    def write(self, changes: State) -> None:
        for value in changes.values():
            if isinstance(value, Account) and value.ask is not None and value.ask.returned:
                self.send(value.ask)
        super().write(changes)


class GrantsEveryAsk(Coordinator):
    """Without numbers a repeated ask is a new one: what is lent for it reaches nobody."""

    def on_ask(self, ask: Ask) -> None:
        lease = self.state.get((ask.partition, ask.counter), Lease())
        if ("closed", ask.partition) not in self.state:
            reply = self.reply_to(ask)
            changed = Lease(ask.number, lease.granted + reply.granted, lease.returned + ask.returned, reply)
            self.write({(ask.partition, ask.counter): changed})
            self.send(reply)


class LendsEverything(Coordinator):
    """Whoever asks first gets all there is."""

    def reply_to(self, ask: Ask) -> Grant:
        pool = self.pool(ask.counter) + ask.returned
        granted = pool if ask.wants else 0
        return Grant(ask.partition, ask.counter, ask.number, granted, pool, is_dry=granted == pool)


class KeepsItsLease(Partition):
    """Who was lent much when there was much keeps it to the end."""

    def tick(self) -> None:
        if self.is_closing:
            super().tick()
        for account in list(self.state.values()):
            if isinstance(account, Account) and account.ask is not None:
                self.send(account.ask)


class NeverAsksAgain(Partition):
    """An ask that was lost is waited for until the end of days."""

    def tick(self) -> None:
        for counter, account in list(self.state.items()):
            if isinstance(account, Account) and account.free:
                self.ask(counter, wants=False)


PLANTED: dict[str, dict[str, Any]] = {
    "sends before it writes": {"coordinator": SendsBeforeItWrites},
    "applies a grant twice": {"partition": AppliesTwice},
    "forgets spending": {"partition": ForgetsSpending},
    "counts returns twice": {"coordinator": CountsReturnsTwice},
    "spends what it returns": {"partition": SpendsWhatItReturns},
    "grants every ask": {"coordinator": GrantsEveryAsk},
    "lends everything": {"coordinator": LendsEverything},
    "keeps its lease": {"partition": KeepsItsLease},
    "never asks again": {"partition": NeverAsksAgain},
    "settles the living": {"settles_the_living": True},
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    found = (run_seed(seed, **PLANTED[bug]) for seed in range(SEEDS_TO_FIND))
    violation = next((outcome for outcome in found if isinstance(outcome, str)), None)
    assert violation is not None
    seed = int(violation.removeprefix("seed ").partition(":")[0])
    assert run_seed(seed, **PLANTED[bug]) == violation
    assert not isinstance(run_seed(seed), str)


# The protocol, step by step ----------------------------------------------------------------------------------------


def a_disk() -> Disk:
    return Disk(lambda: None, set())


class Pair:
    """A coordinator and one partition of four shards, whose messages arrive when the test says so."""

    def __init__(self) -> None:
        self.mail: list[Ask | Grant] = []
        self.coordinator = Coordinator("coordinator", a_disk(), self.mail.append, TERMS, shards=4)
        self.partition = Partition("p0", a_disk(), self.mail.append)
        self.items = 0

    def deliver(self) -> None:
        while self.mail:
            message = self.mail.pop(0)
            if isinstance(message, Ask):
                self.coordinator.on_ask(message)
            else:
                self.partition.on_grant(message)

    def claim(self, cost: int = 5, day: int = 0) -> Answer:
        self.items += 1
        answer = self.partition.claim(self.items, {"budget": cost}, day)
        self.deliver()
        return answer


def test_a_lease_shrinks_with_what_is_left() -> None:
    pair = Pair()
    sizes = []
    while (answer := pair.claim()) is not Answer.NO_PRIZE:
        lease = pair.coordinator.state["p0", BUDGET]
        sizes.append(lease.granted - pair.partition.account(BUDGET).spent)
        assert answer is Answer.AWARDED or pair.items == 1
    assert sizes[0] == TERMS["budget", False].limit // (LEASES * 4)
    assert max(sizes) <= sizes[0]
    assert max(sizes[-10:]) <= 15
    assert pair.partition.account(BUDGET).spent == 1000


def test_a_claim_of_a_code_is_answered_the_same_for_ever() -> None:
    pair = Pair()
    assert pair.claim() is Answer.PENDING
    again = [pair.partition.claim(1, {"budget": 5}, 0) for _ in range(3)]
    assert again == [Answer.AWARDED] * 3
    assert pair.partition.account(BUDGET).spent == 5


def test_a_day_has_a_limit_of_its_own_and_none_comes_back() -> None:
    pair = Pair()
    pair.claim(day=2)
    assert pair.claim(day=1) is Answer.AWARDED
    assert pair.partition.account(Counter("budget", 2)).spent == 5
    assert pair.partition.account(Counter("budget", 1)) == Account()


def test_a_limit_is_raised_once_for_each_adjustment() -> None:
    pair = Pair()
    for _ in range(3):
        pair.coordinator.add("spring-1", BUDGET, 100)
    assert pair.coordinator.pool(BUDGET) == 1100


def test_a_partition_that_is_written_off_is_lent_nothing_and_holds_what_it_had() -> None:
    pair = Pair()
    pair.claim()
    lent = 1000 - pair.coordinator.pool(BUDGET)
    pair.coordinator.write_off("p0")
    while pair.claim() is Answer.AWARDED:
        pair.partition.tick()
    assert 0 < pair.partition.account(BUDGET).spent <= lent
    assert pair.coordinator.pool(BUDGET) == 1000 - lent


def test_what_was_not_spent_comes_back_only_after_the_write_off() -> None:
    pair = Pair()
    pair.claim()
    pair.claim()
    with pytest.raises(ValueError, match="p0 is not written off"):
        pair.coordinator.settle("p0", {BUDGET: 5})
    pair.coordinator.write_off("p0")
    pair.coordinator.settle("p0", {BUDGET: 5})
    assert pair.coordinator.pool(BUDGET) == 995


def test_a_ledger_that_was_put_back_from_an_older_copy_is_lent_nothing() -> None:
    """Its next ask has a number that was answered long ago."""
    pair = Pair()
    while pair.partition.account(BUDGET).number < 3:
        pair.claim()
    older = a_disk()
    pair.partition = Partition("p0", older, pair.mail.append)
    pool = pair.coordinator.pool(BUDGET)
    assert [pair.claim() for _ in range(3)] == [Answer.PENDING] * 3
    assert pair.coordinator.pool(BUDGET) == pool
