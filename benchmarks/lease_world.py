"""The world that ``leases.py`` simulates: nodes, network, disks and operators of one program, driven by one seed."""

from __future__ import annotations

import random
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lease_protocol as protocol
from lease_protocol import Account, Answer, Ask, Coordinator, Counter, Grant, Lease, Partition, State, Term

STEPS = 300
ITEMS_AT_ONCE = 40
"""Items that a shard has open: of these one is claimed, again and again until it is answered."""
ROUNDS_MAX = 200
DAYS, DAY_S = 4, 900.0
CUT_S = (60.0, 900.0)
DOWN_S = (1.0, 120.0)
ACTIONS = {
    "claim": 40, "deliver": 40, "tick": 12, "cut": 1, "jump": 1, "raise_limit": 1, "crash": 1, "lose": 0.6, "bury": 1,
}  # fmt: skip


class ViolationError(AssertionError):
    """Something happened that must not."""


class CrashError(Exception):
    """The node died here; what it had written stays."""


class Disk:
    """What survives a crash. A write is whole or not at all; the node may die just before it, or just after."""

    def __init__(self, hazard: Callable[[], None], written: set[Counter]) -> None:
        self.hazard = hazard
        self.written = written
        self.held: State = {}
        self.given: Tally[Counter] = Tally()
        """What the claims on this disk have taken: counted here, so that no account can hide it."""

    def read(self) -> State:
        return dict(self.held)

    def write(self, changes: State) -> None:
        self.hazard()
        for key, value in changes.items():
            if key[0] == "claim" and key not in self.held:
                self.given.update(value)
            if isinstance(value, Account | Lease):
                self.written.add(key if isinstance(value, Account) else key[1])
        self.held.update(changes)
        self.hazard()


@dataclass
class Site:
    """A place where a node runs, while it does."""

    name: str
    disk: Disk
    node: Any = None
    down_until: float = 0.0
    cut_until: float = 0.0
    skew_s: float = 0.0
    is_lost: bool = False
    is_closed: bool = False
    items: list[int] = field(default_factory=list)
    """Items of its shard that wait for an answer."""


@dataclass
class Outcome:
    """What one seed has shown."""

    steps: int = 0
    awards: int = 0
    crashes: int = 0
    lost: int = 0
    asks: int = 0
    stranded_most: float = 0.0
    """Largest part of a limit that lay in leases of partitions that were away or written off, at any time."""
    stranded_of_bound: float = 0.0
    """The same as a part of what may lie there at most."""
    left_of_bound: float = 0.0
    """What could not be given any more when all was dry, as a part of what may be left at most."""


class World:
    """Nodes, network, disks and operators of one program, all driven by one seed.

    Parameters
    ----------
    seed
        Decides everything.
    partition, coordinator
        The classes that run, so that a test can plant a bug.
    settles_the_living
        The operator counts the claims of a partition without stopping it: a planted bug.
    """

    def __init__(
        self,
        seed: int,
        partition: type[Partition] = Partition,
        coordinator: type[Coordinator] = Coordinator,
        *,
        settles_the_living: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.partition_class, self.coordinator_class = partition, coordinator
        self.settles_the_living = settles_the_living
        self.shards = self.random.randint(2, 5)
        budget, stock = self.random.randint(60, 600), self.random.randint(30, 200)
        self.terms = {
            ("budget", False): Term(budget, 5),
            ("budget", True): Term(self.random.randint(budget // 4, budget), 5),
            ("stock", False): Term(stock, 1),
            ("stock", True): Term(self.random.randint(stock // 4, stock), 1),
        }
        self.hurry = self.random.choice((1, 1, 5))  # Shards are not equally busy.
        self.fault = self.random.choice((0.0, 0.005, 0.01, 0.03, 0.05))
        self.loss = self.random.choice((0.0, 0.05, 0.3))
        self.now = 0.0
        self.mail: list[Ask | Grant] = []
        self.outcome = Outcome()
        self.written: set[Counter] = set()
        """Counters of which a disk says something else than when they were last checked."""
        self.home = Site("coordinator", Disk(self.hazard, self.written))
        self.sites: list[Site] = []
        """Every partition there ever was."""
        self.at: list[Site] = []
        """Of each shard the partition that it is at."""
        self.next_item = 0
        self.told: dict[int, Answer] = {}
        for _ in range(self.shards):
            self.at.append(self.open_partition({}))
        self.start(self.home)

    def open_partition(self, claims: State) -> Site:
        site = Site(f"p{len(self.sites)}", Disk(self.hazard, self.written))
        site.disk.held.update(claims)
        self.sites.append(site)
        self.start(site)
        return site

    def start(self, site: Site) -> None:
        if site is self.home:
            site.node = self.coordinator_class(site.name, site.disk, self.send, self.terms, self.shards)
        else:
            site.node = self.partition_class(site.name, site.disk, self.send)

    def hazard(self) -> None:
        if self.fault and self.random.random() < self.fault:
            raise CrashError

    def stop(self, site: Site) -> None:
        site.node = None
        site.down_until = self.now + self.random.uniform(*DOWN_S)
        self.outcome.crashes += 1

    def run(self, site: Site, act: Callable[[Any], Any]) -> Any:
        """Let a node do something, unless it is down; it may die of it."""
        if site.node is None:
            return None
        try:
            return act(site.node)
        except CrashError:
            self.stop(site)
            return None

    def send(self, message: Ask | Grant) -> None:
        self.hazard()
        self.outcome.asks += isinstance(message, Ask)
        if self.random.random() >= self.loss:
            self.mail.append(message)
            if self.random.random() < self.loss:
                self.mail.append(message)
        self.hazard()

    def deliver(self) -> None:
        if self.mail:
            is_late = self.loss and self.random.random() < 0.3
            message = self.mail.pop(self.random.randrange(len(self.mail)) if is_late else 0)
            site = self.site_of(message.partition)
            if self.now < site.cut_until or site.is_lost:
                return
            if isinstance(message, Ask):
                self.run(self.home, lambda node: node.on_ask(message))
            else:
                self.run(site, lambda node: node.on_grant(message))

    def deliver_all(self) -> None:
        while self.mail:
            self.deliver()
        self.check()

    def site_of(self, name: str) -> Site:
        return self.sites[int(name[1:])]

    def claim(self, site: Site | None = None) -> Answer | None:
        shard = 0 if self.hurry > 1 and self.random.random() < 0.6 else self.random.randrange(self.shards)
        if site is None:  # A few come to where the shard was before.
            site = self.at[shard] if self.random.random() < 0.7 else self.random.choice(self.sites)
        while len(site.items) < ITEMS_AT_ONCE:
            site.items.append(self.next_item)
            self.next_item += 1
        item = self.random.choice(site.items)
        day = min(DAYS, max(0, int((self.now + site.skew_s) // DAY_S)))
        prices = {"budget": item % 5 + 1, "stock": 1}
        answer: Answer | None = self.run(site, lambda node: node.claim(item, prices, day))
        if answer in (Answer.AWARDED, Answer.NO_PRIZE):
            if self.told.setdefault(item, answer) is not answer:
                raise ViolationError(f"item {item} was {self.told[item].value}, and now is {answer.value}")
            if self.random.random() < 0.8:  # Else somebody asks once more.
                site.items.remove(item)
        return answer

    def tick(self) -> None:
        self.run(self.random.choice(self.sites), lambda node: node.tick())

    def cut(self) -> None:
        self.random.choice(self.sites).cut_until = self.now + self.random.uniform(*CUT_S)

    def jump(self) -> None:
        self.random.choice(self.sites).skew_s = self.random.uniform(-3600, 3600)

    def crash(self) -> None:
        self.stop(self.random.choice([self.home, *self.at]))

    def raise_limit(self) -> None:
        number = self.random.randrange(3)  # The same three, again and again: each counts once.
        counter = (Counter("budget"), Counter("stock"), Counter("budget", 1))[number]
        self.run(self.home, lambda node: node.add(f"more-{number}", counter, 20))

    def lose(self) -> None:
        """A partition goes away for good; it may be that only the operator thinks so."""
        site = self.random.choice(self.at)
        if not site.is_closed and len(self.sites) < self.shards + 3:
            self.outcome.lost += 1
            is_really = self.random.random() < 0.5
            site.is_lost = is_really
            if is_really:
                site.node = None
            site.cut_until = self.now + self.random.uniform(*CUT_S)
            site.is_closed = True  # To be written off by the operator, as soon as the coordinator answers.

    def bury(self) -> None:
        """Write off what is gone. Where its disk can be read retire it, count its claims and take them elsewhere."""
        for shard, site in enumerate(self.at):
            if site.is_closed and self.run(self.home, lambda node, name=site.name: node.write_off(name) or True):
                if self.random.random() < 0.6:
                    if not self.settles_the_living:
                        site.node = None
                        site.disk.held["retired", ""] = True
                    spent = {key: value.spent for key, value in site.disk.held.items() if isinstance(value, Account)}
                    if self.run(self.home, lambda node, name=site.name, spent=spent: node.settle(name, spent) or True):
                        self.at[shard] = self.open_partition(
                            {k: v for k, v in site.disk.held.items() if k[0] == "claim"}
                        )
                        self.at[shard].items = list(site.items)
                else:
                    site.node, site.is_lost = None, True
                    self.at[shard] = self.open_partition({})

    def step(self) -> None:
        self.now += self.random.uniform(0, 10)
        for site in (self.home, *self.sites):
            if site.node is None and not site.is_lost and self.now >= site.down_until:
                self.start(site)
        action = self.random.choices(tuple(ACTIONS), tuple(ACTIONS.values()))[0]
        if self.fault or action in ("claim", "deliver", "tick"):
            getattr(self, action)()
        self.outcome.steps += 1
        self.check()

    def largest_lease(self, counter: Counter) -> int:
        term = self.limit(counter)
        return max(term.floor, term.limit // (protocol.LEASES * self.shards))

    def limit(self, counter: Counter) -> Term:
        term = self.terms[counter.name, counter.day is not None]
        return term._replace(limit=term.limit + self.home.disk.held.get(("more", counter), 0))

    def counters(self) -> set[Counter]:
        return {key for site in self.sites for key, value in site.disk.held.items() if isinstance(value, Account)}

    def check(self) -> None:
        """Compare what the disks hold; nothing that a node believes is taken for true."""
        leases = self.home.disk.held
        while self.written:
            counter = self.written.pop()
            limit = self.limit(counter).limit
            largest = self.largest_lease(counter)
            given = lent = stranded = 0
            for site in self.sites:
                account: Account = site.disk.held.get(counter, protocol.NO_ACCOUNT)
                lease: Lease = leases.get((site.name, counter), protocol.NO_LEASE)
                spent = site.disk.given[counter]
                given += spent
                lent += lease.granted - lease.returned
                settled = lease.granted - lease.returned - spent
                if spent > account.granted - account.returned:
                    raise ViolationError(f"{site.name} has spent {spent} of {counter}, and was lent {account}")
                if account.granted > lease.granted:
                    raise ViolationError(
                        f"{site.name} has {account.granted} of {counter}, granted were {lease.granted}"
                    )
                if settled < 0:
                    raise ViolationError(f"{site.name} has spent {spent} of {counter}, of which {lease} is lent")
                if settled > largest:
                    raise ViolationError(f"{settled} of {counter} lie at {site.name}, more than {largest}")
                if site.node is None or self.now < site.cut_until:
                    stranded += settled
            if given > limit:
                raise ViolationError(f"{given} of {counter} were given, there were {limit}")
            if lent > limit:
                raise ViolationError(f"{lent} of {counter} are lent, there were {limit}")
            bound = len(self.sites) * largest
            if stranded > bound:
                raise ViolationError(f"{stranded} of {counter} are stranded, more than {bound}")
            self.outcome.stranded_most = max(self.outcome.stranded_most, stranded / limit)
            self.outcome.stranded_of_bound = max(self.outcome.stranded_of_bound, stranded / bound)

    def settle_down(self) -> None:
        """Everybody is heard, several times."""
        for _ in range(2):
            for site in self.sites:
                self.run(site, lambda node: node.tick())
            self.deliver_all()

    def heal(self) -> None:
        """End all faults; who is lost stays lost."""
        self.fault = self.loss = 0.0
        self.now += DAYS * DAY_S
        for site in (self.home, *self.sites):
            site.cut_until = site.skew_s = 0.0
            if site.node is None and not site.is_lost:
                self.start(site)
        while any(site.is_closed for site in self.at):
            self.bury()

    def left(self, counter: Counter) -> int:
        """Return what was neither given nor written off."""
        leases = self.home.disk.held
        gone = [site for site in self.sites if ("closed", site.name) in leases]
        unspent = sum(
            lease.granted - lease.returned - site.disk.given[counter]
            for site in gone
            if (lease := leases.get((site.name, counter))) is not None
        )
        return self.limit(counter).limit - sum(site.disk.given[counter] for site in self.sites) - unspent

    def exhaust(self) -> None:
        """Claim until nothing is given any more; only some shards are busy, the others just hold what they have."""
        busy = self.random.sample(self.at, self.random.randint(1, self.shards))
        in_vain = rounds = 0
        while in_vain < 2:  # The first time may be before the others have given back.
            rounds += 1
            if rounds > ROUNDS_MAX:
                raise ViolationError("there is no end: claims wait for what does not come")
            answers = []
            for _ in range(6):
                answers += [self.claim(site) for site in busy for _ in range(3)]
                self.deliver_all()
            self.settle_down()
            in_vain = 0 if any(answer is not Answer.NO_PRIZE for answer in answers) else in_vain + 1
        dry = [counter for counter in self.counters() if self.home.node.pool(counter) == 0]
        if not dry:
            raise ViolationError("nothing is given any more, and no counter is used up")
        for counter in dry:
            bound = self.shards * self.limit(counter).floor
            if self.left(counter) > bound:
                raise ViolationError(f"{self.left(counter)} of {counter} are left when it is dry, more than {bound}")
            self.outcome.left_of_bound = max(self.outcome.left_of_bound, self.left(counter) / bound)

    def close(self) -> None:
        """Give all back: the books of both sides and the claims agree to the unit."""
        for site in self.sites:
            if site.node is not None:
                site.node.is_closing = True
        self.settle_down()
        for counter in self.counters():
            if self.home.node.pool(counter) != self.left(counter):
                raise ViolationError(
                    f"{self.left(counter)} of {counter} are left, and {self.home.node.pool(counter)} came back"
                )

    def run_to_the_end(self) -> Outcome:
        for _ in range(STEPS):
            self.step()
        self.heal()
        self.settle_down()
        self.exhaust()
        self.close()
        self.outcome.awards = sum(answer is Answer.AWARDED for answer in self.told.values())
        return self.outcome
