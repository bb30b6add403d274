"""Leased budgets: how partitions of one program share a limit that none of them may exceed.

A program that outgrows one ledger is split by item: each partition has a ledger of its own, and an item always goes to
the same one. What belongs to an item needs nobody else. What belongs to all of them (a budget, a stock, what may be
given on a day) is held by a *coordinator*, which lends parts of it: a partition spends only what it was granted.

    partition                                          coordinator
    write the ask, and what it gives back              .
    Ask(number, wants, held, returned)  ───────────▶   write number, granted, returned and the reply
    write what was granted              ◀───────────   Grant(number, granted, share, is_dry)

Four rules make it safe whatever is lost, doubled, delayed or dies; none of them reads a clock:

1. Who sends has written before. The coordinator writes a grant before it sends it, so no crash makes it lend that part
   again. A partition writes what it gives back before it sends it, so no crash can make it spend that part.
2. The asks of a partition for a counter are numbered, and there is one at a time, sent again until it is answered. The
   same number is given the same reply, an older one none; a grant is applied if it is of the ask that waits.
3. What a partition spends is written in the step that records the claim.
4. What was lent to a partition that is away stays lent. It is free again when the partition gave it back, or after its
   ledger was retired, so that it never spends again, and its claims were counted.

So what is spent, what lies in leases and what is on its way can never be more than the limit. Dates are part of a
counter's name: a clock that jumps makes a partition use another day's limit, never more than that day has.

The share that a partition may hold is ``pool / (4 x shards)`` of what is left, at least ``floor``. It halves
with the pool, and whoever holds more gives the rest back the next time it is heard, so that in the end nobody who can
be reached holds more than ``floor``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

LEASES = 4
"""One partition may hold this part of what each shard would have if the pool were divided among them: all together hold
at most a quarter of a limit, and the loss of one strands little. More of it means more asks."""

State = dict[Any, Any]
"""What a node knows, by key; each value is immutable, so that a write is the whole of a change."""


class Counter(NamedTuple):
    """What is limited: a name such as ``budget`` or ``stock:3``, in all or on one local day."""

    name: str
    day: int | None = None


class Term(NamedTuple):
    """A limit, and the least that is lent at a time: what one claim may cost at most, or more."""

    limit: int
    floor: int


Terms = Mapping[tuple[str, bool], Term]
"""By the name of the counter, and whether it is that of a day."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A partition's request, known by (partition, counter, number)."""

    partition: str
    counter: Counter
    number: int
    wants: bool
    held: int
    """What it has left; for the size of the grant only, nothing else depends on it."""
    returned: int


@dataclass(frozen=True, slots=True)
class Grant:
    """The coordinator's reply to one ask, and to each repetition of it."""

    partition: str
    counter: Counter
    number: int
    granted: int
    share: int
    is_dry: bool
    """With this grant nothing is left to lend."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a partition knows of its lease of one counter."""

    number: int = 0
    granted: int = 0
    returned: int = 0
    spent: int = 0
    share: int = 0
    is_dry: bool = False
    ask: Ask | None = None

    @property
    def free(self) -> int:
        """What may still be spent."""
        return self.granted - self.returned - self.spent


@dataclass(frozen=True, slots=True)
class Lease:
    """What the coordinator knows of one partition and counter."""

    number: int = 0
    granted: int = 0
    returned: int = 0
    reply: Grant | None = None


NO_ACCOUNT, NO_LEASE = Account(), Lease()
"""Before the first ask."""


class Answer(Enum):
    """What a partition answers to a claim."""

    AWARDED = "awarded"
    NO_PRIZE = "no_prize"
    PENDING = "pending"
    """There may be more, but it is not here: ask again."""


class Node:
    """A process with its disk: what it knows is what it wrote.

    Parameters
    ----------
    name
        Its address.
    disk
        Keeps what is written. ``write(changes)`` is whole or not at all, as one call of a Redis function is.
    send
        Hands a message to the network, which promises nothing.
    """

    def __init__(self, name: str, disk: Any, send: Callable[[Ask | Grant], None]) -> None:
        self.name = name
        self.disk = disk
        self.send = send
        self.state: State = disk.read()

    def write(self, changes: State) -> None:
        """Make a change durable, then know it."""
        self.disk.write(changes)
        self.state.update(changes)


class Coordinator(Node):
    """Lends the limits of one program."""

    def __init__(self, name: str, disk: Any, send: Callable[[Ask | Grant], None], terms: Terms, shards: int) -> None:
        super().__init__(name, disk, send)
        self.terms = terms
        self.shards = shards

    def on_ask(self, ask: Ask) -> None:
        """Take back and lend in one write, then reply; a repetition gets the reply that was written."""
        if ("closed", ask.partition) in self.state:
            return
        key = (ask.partition, ask.counter)
        lease: Lease = self.state.get(key, NO_LEASE)
        if ask.number == lease.number + 1:
            reply = self.reply_to(ask)
            lease = Lease(ask.number, lease.granted + reply.granted, lease.returned + ask.returned, reply)
            self.write({key: lease})
        if ask.number == lease.number and lease.reply is not None:
            self.send(lease.reply)

    def reply_to(self, ask: Ask) -> Grant:
        """Decide how much is lent."""
        pool = self.pool(ask.counter) + ask.returned
        share = max(self.term(ask.counter).floor, pool // (LEASES * self.shards))
        granted = max(0, min(pool, share - ask.held)) if ask.wants else 0
        return Grant(ask.partition, ask.counter, ask.number, granted, share, is_dry=granted == pool)

    def term(self, counter: Counter) -> Term:
        """Return limit and floor, with what was added to the limit."""
        term = self.terms[counter.name, counter.day is not None]
        return term._replace(limit=term.limit + self.state.get(("more", counter), 0))

    def pool(self, counter: Counter) -> int:
        """Return what is not lent."""
        leases = (lease for key, lease in self.state.items() if key[1] == counter and isinstance(lease, Lease))
        return self.term(counter).limit - sum(lease.granted - lease.returned for lease in leases)

    def add(self, adjustment: str, counter: Counter, amount: int) -> None:
        """Raise a limit, once for each id."""
        if ("adjustment", adjustment) not in self.state:
            more = self.state.get(("more", counter), 0) + amount
            self.write({("adjustment", adjustment): amount, ("more", counter): more})

    def write_off(self, partition: str) -> None:
        """Lend no more to a partition that does not come back; what it holds stays lent, as it may still spend it."""
        self.write({("closed", partition): True})

    def settle(self, partition: str, spent: Mapping[Counter, int]) -> None:
        """Take back what a partition has not spent; it was written off, its ledger was retired, and then counted."""
        if ("closed", partition) not in self.state:
            raise ValueError(
                f"partition {partition} is not written off: what it is lent could change while it is settled"
            )
        leases = {key: lease for key, lease in self.state.items() if key[0] == partition and isinstance(lease, Lease)}
        changes = {key: replace(lease, returned=lease.granted - spent.get(key[1], 0)) for key, lease in leases.items()}
        self.write(changes)


class Partition(Node):
    """One shard of the codes with its ledger, which spends what it was lent."""

    is_closing = False
    """The campaign has ended: give everything back."""
    day = 0
    """The newest local date that was seen; it never goes back."""

    def account(self, counter: Counter) -> Account:
        """Return what is known of a lease."""
        found: Account = self.state.get(counter, NO_ACCOUNT)
        return found

    def claim(self, item: int, price: Mapping[str, int], day: int) -> Answer:
        """Give the prize of an item once, if all that it costs is in the leases.

        Claim and spending are one write. Before a lease runs out more is asked for. ``NO_PRIZE``, where a
        fallback would be tried, needs the coordinator's word that there is no more; until then it is ``PENDING``.
        """
        if ("claim", item) in self.state:
            return Answer.AWARDED if self.state["claim", item] else Answer.NO_PRIZE
        if ("retired", "") in self.state or self.is_closing:
            return Answer.PENDING
        self.day = max(self.day, day)
        costs = {Counter(name, date): cost for name, cost in price.items() for date in (None, self.day)}
        short = [counter for counter, cost in costs.items() if self.account(counter).free < cost]
        if not short:
            self.spend(item, costs)
            answer = Answer.AWARDED
        elif any(self.account(counter).is_dry for counter in short):
            self.write({("claim", item): {}})
            answer = Answer.NO_PRIZE
        else:
            answer = Answer.PENDING
        for counter, cost in costs.items():
            account = self.account(counter)
            if account.free < max(cost, account.share // 2):
                self.ask(counter, wants=True)
        return answer

    def spend(self, item: int, costs: Mapping[Counter, int]) -> None:
        """Record a claim with what it takes, in one write."""
        accounts = {counter: self.account(counter) for counter in costs}
        spent = {
            counter: replace(accounts[counter], spent=accounts[counter].spent + costs[counter]) for counter in costs
        }
        self.write({("claim", item): dict(costs)} | spent)

    def ask(self, counter: Counter, *, wants: bool) -> None:
        """Ask for more, or say that nothing is wanted and give back what is above the share."""
        account = self.account(counter)
        if account.ask is not None:
            return
        is_over = self.is_closing or (counter.day is not None and counter.day < self.day)
        returned = 0 if wants else max(0, account.free - (0 if is_over else account.share))
        ask = Ask(self.name, counter, account.number + 1, wants, account.free - returned, returned)
        self.write({counter: replace(account, number=ask.number, returned=account.returned + returned, ask=ask)})
        self.send(ask)

    def on_grant(self, grant: Grant) -> None:
        """Apply the reply to the ask that waits; any other is a repetition."""
        account = self.account(grant.counter)
        if account.ask is not None and grant.number == account.ask.number:
            granted = account.granted + grant.granted
            share, is_dry = grant.share, grant.is_dry
            self.write({grant.counter: replace(account, granted=granted, share=share, is_dry=is_dry, ask=None)})

    def tick(self) -> None:
        """Send again what was not answered, and be heard where something is held; called every few seconds."""
        for counter, account in [pair for pair in self.state.items() if isinstance(pair[1], Account)]:
            if account.ask is not None:
                self.send(account.ask)
            elif account.free:
                self.ask(counter, wants=False)
