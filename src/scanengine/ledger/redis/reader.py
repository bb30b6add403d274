"""Reading a ledger in Redis beside those who claim: for commands that show or carry it, and for the audit.

Every claim, scan and event carries its running number and never changes. So a moment is the numbers that the ledger had
come to, and whatever is found later with a higher number is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from redis.exceptions import NoPermissionError

from scanengine.errors import LedgerFormatError, LedgerUnavailableError
from scanengine.ledger import schema
from scanengine.ledger.counting import count_up, group
from scanengine.ledger.protocol import LedgerMarks, LedgerTotals
from scanengine.ledger.records import CLAIM_DTYPE, SCAN_DTYPE, ClaimRecord
from scanengine.ledger.redis.codec import StoredClaim
from scanengine.ledger.redis.control import ENTRIES_AT_ONCE, read_adjustment, read_campaigns, read_hash, read_totals
from scanengine.ledger.redis.events import read_entries
from scanengine.ledger.redis.health import CONFIG_NAMES, Health, parse_info
from scanengine.ledger.redis.keys import BUCKET_ITEMS, BUCKET_MASK, Keys
from scanengine.ledger.redis.records import claims_of, in_order, people_of, scans_of
from scanengine.ledger.redis.wire import TIMEOUT_S, Command, Wire
from scanengine.model import Adjustment, Event, Party, ScanFacts

FORMAT: Final = b"1"
"""Format of the keys and records, as the field ``format`` of meta says it."""

_SCAN_KEYS: Final = 4096
_KEYS_AT_ONCE: Final = 256
"""Keys read by one exchange: some hundred microseconds of the server, for which all its other clients wait."""
_ROWS_AT_ONCE: Final = 1 << 16
_KINDS: Final = {b"claims": schema.COUNT_CLAIMS, b"awards": schema.COUNT_AWARDS, b"money": schema.COUNT_MONEY}


class _Moment(NamedTuple):
    """What was read at once: the small keys, field, value and so on each, and the newest event that was there."""

    newest_entry: int
    names: list[str]
    found: list[list[bytes]]
    """Of meta, readers, campaigns, then each campaign of ``names``."""
    adjustments: list[bytes]

    @property
    def meta(self) -> dict[bytes, bytes]:
        return read_hash(self.found[0])

    def number(self, name: bytes) -> int:
        with _explained():
            return int(self.meta.get(name, 0))


class RedisReader:
    """Read-only view of a ledger in Redis or Valkey; a :class:`scanengine.ledger.LedgerReader`.

    Parameters
    ----------
    url : str
        As :class:`scanengine.ledger.redis.RedisLedger` takes it.
    program_id : str
        Program whose keys are read; only the part before ``/`` counts.
    identity : str or None
        The program, with the id of its key, that the ledger must belong to; None for any.
    is_unfinished : bool
        Whether to read what an import has brought so far, instead of a ledger.
    timeout_s : float
        How long to wait for one reply, seconds.

    Raises
    ------
    LedgerFormatError
        There is no ledger, or it is of another program or format.
    LedgerUnavailableError
        The server does not answer, or refuses.
    SettingsError
        The URL cannot be read, or the program's id cannot be a hash tag.

    Notes
    -----
    For one thread. Writes nothing. All claims are read to be put in order: about 200 bytes of memory each.
    """

    def __init__(
        self, url: str, program_id: str, identity: str | None = None, *, is_unfinished: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> None:  # fmt: skip
        self._keys = Keys(program_id)
        self._wire = Wire(url, self._keys.tag, timeout_s)
        self._identity = identity
        self._is_unfinished = is_unfinished
        self._moment: _Moment | None = None
        try:
            self._look()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, url: str, program_id: str, identity: str | None) -> RedisReader:
        """Open the ledger of a program at a server."""
        return cls(url, program_id, identity)

    def __enter__(self) -> RedisReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def snapshot(self) -> Iterator[RedisReader]:
        """Read everything inside the block as of one moment, however much is claimed meanwhile."""
        self._moment = self._look()
        try:
            yield self
        finally:
            self._moment = None
        # Keys that another primary had taken over by now were missed: asked again, it says so.
        self._look()

    def scan_facts(self, item: int) -> ScanFacts:
        """Return the counted scans of an item; ``number`` is 0, as looking does not count."""
        offset = item & BUCKET_MASK
        *records, first = self._wire.ask(
            "HMGET", self._keys.bucket_of(item), offset, BUCKET_ITEMS + offset, 2 * BUCKET_ITEMS + offset
        )
        if first is not None:
            return ScanFacts(int.from_bytes(first[:4], "little"), int.from_bytes(first[4:], "little"), 0)
        for record in records:
            if record is not None:
                claim = StoredClaim.unpack(record)
                if claim.is_first_scan:
                    return ScanFacts(1, claim.at_ms, 0)
        return ScanFacts(0, None, 0)

    def claim_of(self, item: int, party: Party) -> ClaimRecord | None:
        """Return the recorded claim of an item and party, or None; without the running numbers of the person."""
        field = party * BUCKET_ITEMS + (item & BUCKET_MASK)
        packed = self._wire.ask("HGET", self._keys.bucket_of(item), field)
        if packed is None:
            return None
        found = StoredClaim.unpack(packed)
        return ClaimRecord(
            item, found.user_hash, found.visit_hash, found.at_ms, found.money, found.campaign, found.generation,
            found.local_date, found.unit, 0, 0, found.rule, found.drawn, found.prize, party, found.is_first_scan,
        )  # fmt: skip

    def person(self, campaign: str, user_hash: int) -> tuple[int, int, int]:
        """Return a person's recorded claims in a campaign: in all, newest local date, on that date."""
        numbers = {name: number for number, name in self.campaigns().items()}
        if campaign not in numbers:
            return 0, 0, 0
        key = self._keys.person(numbers[campaign], user_hash)
        ((_, total, date, day, _),) = people_of(self._keys.people, [key], [self._wire.ask("GET", key)], 0)[
            ["campaign", "total", "date", "day", "claims"]
        ].tolist()
        return total, date, day

    def claims(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.void]]]:
        """Yield the claims in order, some ten thousand at a time: row numbers (n,), records (n,) of ``CLAIM_DTYPE``."""
        newest = self._now().number(b"claims")
        prefix = self._keys.buckets
        parts = [
            claims_of(prefix, keys, self._wire.ask_many([("HGETALL", key) for key in keys]))
            for keys in self._each_key(prefix)
        ]
        if not parts:
            return
        claims = in_order(parts, newest, ("item", "party"))
        parts.clear()
        # Records do not hold these; they follow from the order.
        for field, names in (
            ("person_total", ("campaign", "user_hash")),
            ("person_day", ("campaign", "user_hash", "local_date")),
        ):
            order, is_first = group([claims[name] for name in names])
            claims[field][order] = count_up(is_first)
        yield from _pieces(claims, CLAIM_DTYPE)

    def scans(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.void]]]:
        """Yield the scans that are rows of their own: row numbers (n,), records (n,) of ``SCAN_DTYPE``."""
        newest = self._now().number(b"scans")
        prefix = self._keys.scans
        parts = []
        for keys in self._each_key(prefix):
            commands: list[Command] = []
            for key in keys:
                with _explained():
                    item = int(key[len(prefix) :], 16)
                field = 2 * BUCKET_ITEMS + (item & BUCKET_MASK)
                commands += (("HGETALL", key), ("HGET", self._keys.bucket_of(item), field))
            found = self._wire.ask_at_once(commands)
            parts.append(scans_of(prefix, keys, found[::2], found[1::2]))
        if parts:
            yield from _pieces(in_order(parts, newest, ("item", "visit_hash")), SCAN_DTYPE)

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """Yield the events not yet trimmed, in order: row number of the claim (0 for a scan), event."""
        moment = self._now()
        # An entry that was there before the moment and has a higher number is one that the ledger never wrote.
        newest = max(moment.number(b"events"), moment.newest_entry)
        trimmed = int(self._wire.ask("HGET", self._keys.meta, "trimmed") or 0)
        after = max(after, trimmed)
        yield from read_entries(self._entries(f"{after + 1}", newest), after)

    def counters(self) -> dict[tuple[int, int, int, int], int]:
        """Return every counter by campaign number, kind (``schema.COUNT_...``), prize number and local date."""
        moment = self._now()
        counters = {}
        with _explained():
            numbers = {name: number for number, name in read_campaigns(moment.found[2]).items()}
            for name, held in zip(moment.names, moment.found[3:], strict=True):
                for field, value in read_hash(held).items():
                    kind, *rest = field.split(b":")
                    if kind in _KINDS:
                        # Of awards there is one for each prize: awards:PRIZE and awards:PRIZE:DATE.
                        prize = int(rest.pop(0)) if kind == b"awards" else 0
                        date = int(rest.pop(0)) if rest else 0
                        counters[numbers[name], _KINDS[kind], prize, date] = int(value)
        return counters

    def adjustments(self) -> list[Adjustment]:
        """Return the adjustments in the order in which they were applied."""
        with _explained():
            held = sorted(self._now().adjustments[1::2], key=lambda value: int(value.partition(b" ")[0]))
            return [read_adjustment(value) for value in held]

    def campaigns(self) -> dict[int, str]:
        """Return the ids of campaigns by their numbers in the records."""
        with _explained():
            return dict(sorted(read_campaigns(self._now().found[2]).items()))

    def people(self) -> Iterator[NDArray[np.void]]:
        """Yield the counts of persons, many at a time: (n,) of ``PERSON_DTYPE``, a person perhaps more than once."""
        prefix = self._keys.people
        for keys in self._each_key(prefix):
            claims, values = self._wire.ask_at_once([("HGET", self._keys.meta, "claims"), ("MGET", *keys)])
            yield people_of(prefix, keys, values, int(claims or 0))

    def marks(self) -> LedgerMarks:
        """Return how far the ledger has come."""
        moment = self._now()
        with _explained():
            return LedgerMarks(
                program=moment.meta.get(b"program", b"").decode(),
                clock_ms=moment.number(b"clock"),
                generation=moment.number(b"generation"),
                claims=moment.number(b"claims"),
                scans=moment.number(b"scans"),
                events=moment.number(b"events"),
                trimmed=moment.number(b"trimmed"),
                trimmed_claims=moment.number(b"trimmed_claims"),
            )

    def trimmed_claims(self) -> int:
        """Return how many events of claims have been trimmed by now, also in a snapshot, which does not hold them."""
        return int(self._wire.ask("HGET", self._keys.meta, "trimmed_claims") or 0)

    def totals(self) -> LedgerTotals:
        """Return what the ledger holds."""
        moment = self._now()
        with _explained():
            return read_totals(moment.names, moment.found)

    def health(self, required: str) -> Health:
        """Return how durable the server is, and what an operator should look after."""
        health = Health(required)
        info = parse_info(self._wire.ask("INFO"))
        try:
            words = [word.decode("utf-8", "replace") for word in self._wire.ask("CONFIG", "GET", *CONFIG_NAMES)]
            health.learn(dict(zip(words[::2], words[1::2], strict=True)), info)
        except LedgerUnavailableError as error:
            if not isinstance(error.__cause__, NoPermissionError):
                raise
            health.learn(None, info)
        health.tell(None)
        return health

    def close(self) -> None:
        """Let go of the connection; again is no change."""
        self._wire.close()

    def _entries(self, start: str, newest: int) -> Iterator[Any]:
        """Yield the entries of the outbox, with id and fields."""
        while entries := self._wire.ask("XRANGE", self._keys.outbox, start, newest, "COUNT", ENTRIES_AT_ONCE):
            yield from entries
            start = "(" + entries[-1][0].decode()

    def _now(self) -> _Moment:
        return self._moment or self._look()

    def _look(self) -> _Moment:
        """Read the small keys at once, and check whose ledger it is."""
        keys = self._keys
        entries = self._wire.ask("XREVRANGE", keys.outbox, "+", "-", "COUNT", 1)
        newest_entry = int(entries[0][0].partition(b"-")[0]) if entries else 0
        with _explained():
            names = sorted(read_campaigns(self._wire.ask("HGETALL", keys.campaigns)).values())
            while True:
                hashes = [keys.meta, keys.readers, keys.campaigns, *map(keys.campaign, names), keys.adjustments]
                # A slot of a Cluster that is being moved cannot be listed; it refuses a key that is not there.
                hashes.append(keys.prefix + b"nothing")
                *found, adjustments, _ = self._wire.ask_at_once([("HGETALL", key) for key in hashes])
                newest_names = sorted(read_campaigns(found[2]).values())
                if newest_names == names:
                    break
                names = newest_names
        self._check(read_hash(found[0]))
        return _Moment(newest_entry, names, found, adjustments)

    def _check(self, meta: dict[bytes, bytes]) -> None:
        where = f"program {self._keys.tag}"
        if b"importing" in meta and not self._is_unfinished:
            raise LedgerFormatError(f"{where}: an import into this ledger is not finished; begin it again")
        if b"program" not in meta:
            raise LedgerFormatError(f"{where}: there is no ledger at this server; it is made when it is first opened")
        if meta.get(b"format") != FORMAT:
            raise LedgerFormatError(
                f"{where}: a ledger of format {meta.get(b'format', b'').decode()}, expected {FORMAT.decode()}"
            )
        found = meta[b"program"].decode("utf-8", "replace")
        if self._identity is not None and found != self._identity:
            raise LedgerFormatError(
                f"{where}: the ledger of program {found}, expected {self._identity}: the program's id or secret is "
                "another"
            )

    def _each_key(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Yield all keys with a prefix, some hundred at a time; one may come twice."""
        cursor: bytes = b"0"
        waiting: list[bytes] = []
        while True:
            cursor, keys = self._wire.ask("SCAN", cursor, "MATCH", prefix + b"*", "COUNT", _SCAN_KEYS)
            waiting += keys
            is_last = cursor == b"0"
            while len(waiting) >= _KEYS_AT_ONCE or (waiting and is_last):
                yield waiting[:_KEYS_AT_ONCE]
                del waiting[:_KEYS_AT_ONCE]
            if is_last:
                return


def _pieces(rows: NDArray[np.void], dtype: np.dtype[np.void]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.void]]]:
    names = list(dtype.names or ())
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        piece = rows[start : start + _ROWS_AT_ONCE]
        yield piece["seq"].copy(), piece[names].astype(dtype)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, IndexError, msgspec.MsgspecError) as error:
        raise LedgerFormatError(f"the ledger is damaged: {error!r}") from error
