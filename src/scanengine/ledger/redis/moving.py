"""A ledger in Redis that is made of an export.

While the field ``importing`` of meta is there the functions refuse, so nobody uses what is not whole. An import that
was interrupted can be begun again, and only what such a one has left is ever deleted.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from struct import Struct
from types import TracebackType
from typing import Final

import msgspec

from scanengine.errors import LedgerBusyError, LedgerFormatError
from scanengine.ledger import schema
from scanengine.ledger.lines import Adjusted, Campaign, Claims, Events, Part, Reader, Scans
from scanengine.ledger.protocol import LedgerMarks, LedgerReader
from scanengine.ledger.redis.codec import NUMBER_MAX, StoredClaim
from scanengine.ledger.redis.control import read_hash
from scanengine.ledger.redis.events import encode_event
from scanengine.ledger.redis.keys import BUCKET_ITEMS, BUCKET_MASK, Keys
from scanengine.ledger.redis.reader import FORMAT, RedisReader
from scanengine.ledger.redis.wire import Command, Wire
from scanengine.model import Adjustment

_COMMANDS_AT_ONCE: Final = 512
_KINDS: Final = {schema.COUNT_CLAIMS: "claims", schema.COUNT_AWARDS: "awards", schema.COUNT_MONEY: "money"}
_FIRST: Final = Struct("<I6s")
_VISIT: Final = Struct("<I6sI")
_COUNTED: Final = ("claims", "scans", "events")
_TIME_BYTES: Final = 6

_pack: Final = msgspec.msgpack.Encoder().encode
_encode: Final = msgspec.json.Encoder().encode


class RedisTarget:
    """Keys of a ledger that an import makes; a :class:`scanengine.ledger.moving.Target`.

    Parameters
    ----------
    url : str
        As :class:`scanengine.ledger.redis.RedisLedger` takes it.
    program_id : str
        The program that the ledger belongs to.

    Attributes
    ----------
    epoch : bytes
        Which ledger it is, once there is one: what a client that used another must be told.
    """

    def __init__(self, url: str, program_id: str) -> None:
        self.epoch = b""
        self._url = url
        self._program_id = program_id
        self._keys = Keys(program_id)
        self._wire = Wire(url, self._keys.tag)
        self._token = secrets.token_hex(8).encode()
        self._marks: LedgerMarks | None = None
        self._adjustments = 0
        self._claims_told = 0

    def __enter__(self) -> RedisTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wire.close()

    def begin(self, marks: LedgerMarks) -> None:
        """Take the program's keys for this import, and delete what an unfinished one has left.

        Raises
        ------
        LedgerBusyError
            Somebody else has just begun to use the keys.
        LedgerFormatError
            There is a ledger that was used, or is of another program.
        """
        self._marks = marks
        self._claims_told = marks.trimmed_claims
        meta_key = self._keys.meta
        strays = next((key for keys in self._each_keys() for key in keys), None)
        _, reply = self._wire.ask_many([("WATCH", meta_key), ("HGETALL", meta_key)])
        meta = read_hash(reply)
        if b"importing" not in meta:
            where = f"program {self._keys.tag}"
            found = meta.get(b"program", self._program_id.encode())
            if found != self._program_id.encode():
                raise LedgerFormatError(f"{where}: the ledger of program {found.decode()}, expected {self._program_id}")
            if strays is not None or any(meta.get(name.encode(), b"0") != b"0" for name in _COUNTED):
                raise LedgerFormatError(
                    f"{where}: the ledger at this server was used (there is {(strays or meta_key).decode()}); an "
                    "import makes a new one, and never changes another"
                )
        self.epoch = meta.get(b"epoch", secrets.token_hex(8).encode())
        taken = self._wire.ask_many([("MULTI",), ("HSET", meta_key, "importing", self._token), ("EXEC",)])[-1]
        if taken is None:
            raise LedgerBusyError(f"program {self._keys.tag}: the ledger was used meanwhile; nothing was imported")
        for keys in self._each_keys():
            self._wire.ask("UNLINK", *keys)

    def put(self, part: Part) -> None:
        """Write what a file holds, in its order."""
        match part:
            case Campaign():
                commands = self._campaign(part)
            case Adjusted(adjustment):
                commands = self._adjustment(adjustment)
            case Reader(name, acked):
                commands = [("HSET", self._keys.readers, name, acked)]
            case Claims():
                commands = self._claims(part)
            case Scans():
                commands = self._scans(part)
            case Events(rows):
                outbox = self._keys.outbox
                commands = []
                for claim, event in rows:
                    self._claims_told = claim or self._claims_told
                    commands.append(("XADD", outbox, f"{event.seq}-0", *encode_event(self._claims_told, event)))
        for start in range(0, len(commands), _COMMANDS_AT_ONCE):
            holder, *_ = self._wire.ask_many(
                [("HGET", self._keys.meta, "importing"), *commands[start : start + _COMMANDS_AT_ONCE]]
            )
            self._check(holder)

    def reader(self) -> LedgerReader:
        """Return a reader of what was written, which is everything now."""
        marks = self._marks
        assert marks is not None, "begin comes first"
        self._wire.ask(
            "HSET", self._keys.meta, "program", self._program_id, "format", FORMAT, "epoch", self.epoch,
            "clock", marks.clock_ms, "generation", marks.generation, "claims", marks.claims, "scans", marks.scans,
            "events", marks.events, "trimmed", marks.trimmed, "trimmed_claims", marks.trimmed_claims,
        )  # fmt: skip
        return RedisReader(self._url, self._program_id, self._program_id, is_unfinished=True)

    def commit(self) -> None:
        """Let what was written be the ledger."""
        _, holder = self._wire.ask_many([("WATCH", self._keys.meta), ("HGET", self._keys.meta, "importing")])
        self._check(holder)
        done = self._wire.ask_many([("MULTI",), ("HDEL", self._keys.meta, "importing"), ("EXEC",)])[-1]
        self._check(self._token if done else None)

    def _check(self, holder: bytes | None) -> None:
        if holder != self._token:
            raise LedgerBusyError(f"program {self._keys.tag}: another import has begun; this one is given up")

    def _each_keys(self) -> Iterator[list[bytes]]:
        """Yield the program's keys but meta, some at a time."""
        cursor = b"0"
        while True:
            cursor, keys = self._wire.ask("SCAN", cursor, "MATCH", self._keys.prefix + b"*", "COUNT", 1000)
            others = [key for key in keys if key != self._keys.meta]
            if others:
                yield others
            if cursor == b"0":
                return

    def _campaign(self, campaign: Campaign) -> list[Command]:
        key = self._keys.campaign(campaign.id)
        fields: list[bytes | str | int] = ["n", campaign.number]
        dates = [date for kind, _, date, _ in campaign.counters if kind == schema.COUNT_CLAIMS]
        if dates:
            fields += ("date", max(dates))
        for kind, prize, date, value in campaign.counters:
            if value > NUMBER_MAX:
                raise LedgerFormatError(
                    f"campaign {campaign.id}: a counter holds {value}; in Redis none can hold more than {NUMBER_MAX}"
                )
            name = f"awards:{prize}" if kind == schema.COUNT_AWARDS else _KINDS[kind]
            fields += (f"{name}:{date}" if date else name, value)
        return [("HSET", self._keys.campaigns, campaign.id, campaign.number), ("HSET", key, *fields)]

    def _adjustment(self, adjustment: Adjustment) -> list[Command]:
        key, action = self._keys.campaign(adjustment.campaign), adjustment.action
        self._adjustments += 1
        body = f"{self._adjustments} import ".encode() + _encode(adjustment)
        held: Command = ("HSET", self._keys.adjustments, adjustment.id, body)
        if action in ("stock", "budget"):
            field = f"stock:{adjustment.prize}" if action == "stock" else action
            return [held, ("HINCRBY", key, field, adjustment.amount)]
        if action == "close":
            return [held, ("HSET", key, "closed", 1)]
        return [held, ("HSET", key, "paused", int(action == "pause"))]

    def _claims(self, claims: Claims) -> list[Command]:
        buckets: dict[bytes, list[bytes | str | int]] = {}
        people: dict[bytes, bytes] = {}
        for seq, record in zip(claims.seqs.tolist(), claims.records.tolist(), strict=True):
            (
                item, user_hash, visit_hash, at_ms, money, campaign, generation, date, unit, total, day, rule, drawn,
                prize, party, is_first_scan,
            ) = record  # fmt: skip
            stored = StoredClaim(
                user_hash, visit_hash, at_ms, seq, is_first_scan, campaign, generation, date, unit, rule, drawn, prize,
                money,
            )  # fmt: skip
            field = party * BUCKET_ITEMS + (item & BUCKET_MASK)
            buckets.setdefault(self._keys.bucket_of(item), []).extend((field, stored.pack()))
            # The newest claim of a person says how many there are.
            people[self._keys.person(campaign, user_hash)] = _pack(total) + _pack(date) + _pack(day)
        counts = list(people.items())
        return _hashes(buckets) + [
            ("MSET", *(word for pair in counts[start : start + _COMMANDS_AT_ONCE] for word in pair))
            for start in range(0, len(counts), _COMMANDS_AT_ONCE)
        ]

    def _scans(self, scans: Scans) -> list[Command]:
        buckets: dict[bytes, list[bytes | str | int]] = {}
        visits: dict[bytes, list[bytes | str | int]] = {}
        for seq, (item, visit_hash, at_ms, first_ms, number) in zip(
            scans.seqs.tolist(), scans.records.tolist(), strict=True
        ):
            field = 2 * BUCKET_ITEMS + (item & BUCKET_MASK)
            # A later scan of the item comes later, and says the newer number.
            buckets.setdefault(self._keys.bucket_of(item), []).extend((field, _FIRST.pack(number, _time(first_ms))))
            visits.setdefault(self._keys.scans_of(item), []).extend(
                (visit_hash.to_bytes(8, "little"), _VISIT.pack(number, _time(at_ms), seq))
            )
        return _hashes(buckets) + _hashes(visits)


def _hashes(hashes: dict[bytes, list[bytes | str | int]]) -> list[Command]:
    return [("HSET", key, *fields) for key, fields in hashes.items()]


def _time(at_ms: int) -> bytes:
    return at_ms.to_bytes(_TIME_BYTES, "little")
