"""Deciding again what a ledger says was decided, from the tables that were kept.

    record or event -> batch, segment and prize table of its generation -> rule, draw, fallbacks -> the same?

An event tells all that the decision depended on. A record alone does not know role and region, so of it only what can
be known is checked. Whatever differs is a line of words: item numbers and names of tables, no code and no user.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scanengine._core import SegmentMap
from scanengine.errors import TableFormatError
from scanengine.keys import Keyring
from scanengine.model import NO_PRIZE, TEST_SUFFIX, Event, Party, Role, Scene, SegmentState
from scanengine.program.answers import Answerer
from scanengine.program.judging import Facts, RuleBook
from scanengine.tables.codes import CodeTable
from scanengine.tables.scenes import Profile, SceneTable
from scanengine.tables.snapshot import load_snapshot
from scanengine.tables.workspace import Workspace

LAGS_MS: Final = (0, 1_000, 10_000, 60_000, 300_000, 600_000)
"""A claim is decided by the clock of a server and recorded at the ledger's, which may be later: by the time spent in
a queue, or by how far a clock was behind. A rule that would have drawn at one of these earlier times is accepted."""
_ROLES: Final = {role.name.lower(): role for role in Role}
_REGION_MAX: Final = 999_999
_TIME_MS_END: Final = 253_370_764_800_000
"""The year 9999 UTC; no claim has a later time."""
_SCENES_BYTES_MAX: Final = 256 << 20
_TABLE_BYTES: Final = 4_096
_PROFILE_BYTES: Final = 512
_SEGMENT_BYTES: Final = 24
"""About what a scene table takes in memory: in any case, for each profile, and for each segment."""
_ROWS_AT_ONCE: Final = 4096
_EVENTS_TOLD: Final = 1024
_PARTY_ROLES: Final = {party: frozenset(int(role) for role in Role if Party.of(role) is party) for party in Party}
_FIELDS: Final = ("item", "party", "at_ms", "money", "campaign", "generation", "rule", "drawn", "prize")


class Replayer:
    """Decides records and events of one program again; a :class:`scanengine.ledger.Replay`.

    Parameters
    ----------
    on_replayed : callable of int
        Told how many decisions were replayed since it was told last.

    Attributes
    ----------
    records, events : int
        Claims that were decided again from their records, and those from their events.
    skipped : Counter of str
        Why some could not be, and how many.
    damaged : dict of str to str
        Batches that were deleted and whose table cannot be read any more, and why.
    """

    def __init__(
        self, workspace: Workspace, keyring: Keyring, answerer: Answerer, on_replayed: Callable[[int], None]
    ) -> None:
        self._workspace = workspace
        self._keyring = keyring
        self._answerer = answerer
        self._on_replayed = on_replayed
        self.records = 0
        self.events = 0
        self.skipped: Counter[str] = Counter()
        self.damaged: dict[str, str] = {}
        self._look()
        self._scenes = SceneTables(_SCENES_BYTES_MAX)
        self._book = cache(self._open_book)
        self._books: dict[Path, RuleBook] = {}

    def _look(self) -> None:
        """See which tables there are, those of deleted batches among them."""
        self._snapshot = load_snapshot(self._workspace)
        self._generations = self._workspace.generations("scenes")
        tables = {batch.label: batch.codes for batch in self._snapshot.batches}
        for label, numbers in self._workspace.generations("codes").items():
            if label not in tables:
                name = self._workspace.table_name("codes", label, numbers[-1])
                try:
                    tables[label] = CodeTable.read(self._workspace.table_path("codes", name))
                except TableFormatError as error:
                    # Nobody else reads it any more; the other batches are looked at all the same.
                    self.damaged[label] = str(error)
        self._batches = sorted(tables.values(), key=lambda table: table.item_start)
        self._starts = [table.item_start for table in self._batches]

    def hashes(self, event: Event) -> tuple[int, int]:
        """Return under which hashes a record knows the event's user and visit."""
        return self._keyring.user_hash(event.user), self._keyring.visit_hash(event.visit)

    def event(self, event: Event) -> Iterator[str]:
        """Yield what is wrong with an event: what it says that does not follow from the rest, or from the tables."""
        codes = self._batch_of(event.item)
        label = codes.label if codes else ""
        if event.type == "scan":
            if event.batch and event.batch != label:
                yield _differs("batch", event.batch, label)
            return
        self.events += 1
        if not self.events % _EVENTS_TOLD:
            self._on_replayed(_EVENTS_TOLD)
        role = _ROLES.get(event.role)
        if role is None:
            yield f"role is {event.role!r}, expected one of {', '.join(_ROLES)}"
            return
        claim_id = self._keyring.claim_id(event.item, Party.of(role))
        for name, found in (("id", event.id), ("claim", event.claim)):
            if found != claim_id:
                yield _differs(name, found, claim_id)
        if event.batch != label:
            yield _differs("batch", event.batch, label)
        if (event.unit > 0) != (event.prize != NO_PRIZE):
            yield f"unit is {event.unit}, and prize {event.prize}"
        facts = Facts(event.item, 0, event.at, frozenset((int(role),)), event.region)
        yield from self._decision(
            codes, facts, event.campaign or "", event.generation, event.rule, event.drawn, event.prize,
            amount=event.amount, product=event.product,
        )  # fmt: skip

    def claims(self, seqs: NDArray[np.int64], claims: NDArray[np.void], campaigns: Mapping[int, str]) -> Iterator[str]:
        """Yield what is wrong with records, as far as can be known without their events."""
        for start in range(0, len(claims), _ROWS_AT_ONCE):
            part = claims[start : start + _ROWS_AT_ONCE]
            columns: list[list[Any]] = [part[name].tolist() for name in _FIELDS]
            for seq, item, party, at_ms, money, number, generation, rule, drawn, prize in zip(
                seqs[start : start + _ROWS_AT_ONCE].tolist(), *columns, strict=True
            ):
                self.records += 1
                if party not in _PARTY_ROLES:
                    yield f"claim {seq}: item {item}: party is {party}, expected 0 or 1"
                    continue
                facts = Facts(item, 0, at_ms, _PARTY_ROLES[party], None)
                for problem in self._decision(
                    self._batch_of(item), facts, campaigns.get(number, ""), generation, rule, drawn, prize, money=money
                ):
                    yield f"claim {seq}: item {item}: {problem}"
            self._on_replayed(len(part))

    def _decision(
        self, codes: CodeTable | None, facts: Facts, campaign: str, generation: int, rule: int, drawn: int, prize: int,
        *, money: int | None = None, amount: int | None = None, product: str | None = None,
    ) -> Iterator[str]:  # fmt: skip
        """Yield in what a decision differs from the one that the tables of its generation make."""
        if codes is None:
            yield "there is no batch with this item"
            return
        if not 0 <= facts.now_ms < _TIME_MS_END or not 0 <= (facts.region or 0) <= _REGION_MAX:
            yield f"at is {facts.now_ms} ms and region {facts.region}, of which one cannot be"
            return
        try:
            profile = self._profile(codes, facts.item, generation)
            expected = f"{profile.campaign or ''}{TEST_SUFFIX if codes.test else ''}"
            if campaign != expected:
                yield _differs("campaign", campaign, expected)
                return
            book = self._book(campaign, generation)
        except TableFormatError as error:
            yield str(error)
            return
        if profile.state is not SegmentState.ACTIVE or not profile.scenes & Scene.MARKETING:
            yield f"its segment is {profile.state.name.lower()} with scenes {int(profile.scenes)}: nothing was offered"
        if product is not None and product != (profile.product or ""):
            yield _differs("product", product, profile.product or "")
        if book is None:
            self.skipped[f"campaign {campaign}: drawn with another draw secret than keys.toml has"] += 1
            return
        yield from _draw_problems(book, profile, facts._replace(gtin=int(profile.product or 0)), rule, drawn, prize)
        prizes = book.table.terms.prizes
        terms = prizes[prize] if 0 <= prize < len(prizes) else None
        if terms is not None:
            worth = (0, 0) if codes.test else (terms.money, terms.amount)
            for name, found, right in (("money", money, worth[0]), ("amount", amount, worth[1])):
                if found is not None and found != right:
                    yield _differs(name, found, right)
        elif prize != NO_PRIZE:
            yield f"prize is {prize}, which generation {generation} of campaign {campaign} does not have"
        elif money or amount:
            yield f"amount is {money or amount}, without a prize"

    def _batch_of(self, item: int) -> CodeTable | None:
        place = bisect_right(self._starts, item) - 1
        if place >= 0 and item - self._starts[place] < self._batches[place].count:
            return self._batches[place]
        return None

    def _profile(self, codes: CodeTable, item: int, generation: int) -> Profile:
        """Return what the segment of an item said at a generation; TableFormatError if the table is gone."""
        if generation > self._snapshot.generation:
            self._look()  # Published since.
        name = self._snapshot.manifest.scenes.get(codes.label)
        numbers = self._generations.get(codes.label, [])
        newest = bisect_right(numbers, generation)
        if not newest:
            raise TableFormatError(
                f"no scenes of batch {codes.label} at generation {generation}: "
                f"restore scenes/{codes.label}@*.scenes from a backup"
            )
        current = int(name.rpartition("@")[2].partition(".")[0]) if name else generation + 1
        # What lies above the current table was left by a publication that a crash cut short.
        number = current if current <= generation <= self._snapshot.generation else numbers[newest - 1]
        path = self._workspace.table_path("scenes", self._workspace.table_name("scenes", codes.label, number))
        return self._scenes.profile(path, item - codes.item_start)

    def _open_book(self, campaign: str, generation: int) -> RuleBook | None:
        """Return the rules of a campaign at a generation; None if they drew with a secret that is gone."""
        table = self._answerer.prize_table(campaign, generation, self._snapshot)
        if table.metadata.draw_key_id != self._keyring.draw_key_id:
            return None
        # Many generations share one table.
        book = self._books.get(table.path)
        return book or self._books.setdefault(table.path, RuleBook(table, self._keyring))


class _Scenes(NamedTuple):
    profiles: list[Profile]
    segment_map: SegmentMap
    nbytes: int


class SceneTables:
    """What scene tables say, in memory; those that were asked for last, whatever the order of the claims.

    A mapped table would hold a file descriptor, of which a process has fewer than a program may have batches.

    Parameters
    ----------
    bytes_max : int
        Memory to take, about; one table is kept however large it is.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._nbytes = 0
        self._kept: OrderedDict[Path, _Scenes] = OrderedDict()
        self._damaged: dict[Path, str] = {}

    def profile(self, path: Path, offset: int) -> Profile:
        """Return what the table at a path says of an offset; TableFormatError if it cannot be read."""
        scenes = self._kept.get(path)
        if scenes is None:
            scenes = self._read(path)
        else:
            self._kept.move_to_end(path)
        return scenes.profiles[scenes.segment_map.profile_at(offset)]

    def _read(self, path: Path) -> _Scenes:
        if path in self._damaged:
            raise TableFormatError(self._damaged[path])
        try:
            table = SceneTable(path)
        except TableFormatError as error:
            self._damaged[path] = str(error)
            raise
        held = table.segments()
        table.close()
        nbytes = _TABLE_BYTES + _PROFILE_BYTES * len(held.profiles) + _SEGMENT_BYTES * len(held.starts)
        scenes = _Scenes(held.profiles, SegmentMap(held.starts, held.indices, held.count, len(held.profiles)), nbytes)
        self._kept[path] = scenes
        self._nbytes += nbytes
        while self._nbytes > self._bytes_max and len(self._kept) > 1:
            self._nbytes -= self._kept.popitem(last=False)[1].nbytes
        return scenes


def _draw_problems(book: RuleBook, profile: Profile, facts: Facts, rule: int, drawn: int, prize: int) -> Iterator[str]:
    chain = book.chain(drawn)
    if prize != NO_PRIZE and prize not in chain:
        yield f"prize is {prize}, expected {' or '.join(map(str, [*chain, NO_PRIZE]))}"
    is_active = profile.active_from_ms <= facts.now_ms < profile.active_until_ms
    if is_active and book.decide(facts) == (rule, drawn):
        return
    earlier = [facts._replace(now_ms=max(facts.now_ms - lag, 0)) for lag in LAGS_MS]
    active = [each for each in earlier if profile.active_from_ms <= each.now_ms < profile.active_until_ms]
    if not active:
        yield f"its segment is not active at {facts.now_ms} ms"
        return
    if not any(rule in book.candidates(each) for each in active):
        possible = " or ".join(map(str, book.candidates(active[0])))
        yield f"rule is {rule}, expected {possible or 'none, as no rule holds'}"
    judged = book.rule(rule)
    if judged is not None and drawn != book.draw(judged, facts.item):
        yield _differs("drawn", drawn, book.draw(judged, facts.item))


def _differs(field: str, found: object, expected: object) -> str:
    return f"{field} is {found!r}, expected {expected!r}"
