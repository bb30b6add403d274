"""The records of a ledger in Redis as arrays, many at a time, in the layouts of :mod:`scanengine.ledger.records`.

What one record looks like is drawn in ``scan_v1.lua``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from scanengine.errors import LedgerFormatError
from scanengine.ledger.protocol import PERSON_DTYPE
from scanengine.ledger.records import CLAIM_DTYPE, SCAN_DTYPE
from scanengine.ledger.redis.keys import BUCKET_BITS, BUCKET_ITEMS

_DAY_MS: Final = 86_400_000
_AT: Final = [("at_low", "<u4"), ("at_high", "<u2")]
"""A time of six bytes, which numpy has no number for."""
_HEAD: Final = np.dtype([("user_hash", "<u8"), ("visit_hash", "<u8"), *_AT, ("seq", "<u4")])
_VISIT: Final = np.dtype([("number", "<u4"), *_AT, ("seq", "<u4")])
_FIRST: Final = np.dtype([("count", "<u4"), *_AT])
_NUMBERS: Final = ("is_first_scan", "campaign", "generation", "days", "unit", "rule", "drawn", "prize", "money")
_ARRAY_OF_NINE: Final = b"\x99"

_decode_numbers: Final = msgspec.msgpack.Decoder(list[tuple[int, int, int, int, int, int, int, int, int]]).decode
_decode_counts: Final = msgspec.msgpack.Decoder(list[int]).decode


def claims_of(prefix: bytes, keys: Sequence[bytes], buckets: Sequence[Sequence[bytes]]) -> NDArray[np.void]:
    """Return the claims in some buckets as rows of ``CLAIM_DTYPE`` with their numbers, without persons' counts.

    Parameters
    ----------
    prefix : bytes
        What the keys of buckets begin with.
    buckets : sequence of sequence of bytes
        Field, value, field, value and so on, for each of ``keys``.

    Raises
    ------
    LedgerFormatError
        A record is damaged.
    """
    items: list[int] = []
    parties: list[int] = []
    values: list[bytes] = []
    try:
        for key, held in zip(keys, buckets, strict=True):
            base = int(key[len(prefix) :], 16) << BUCKET_BITS
            for field, value in zip(held[::2], held[1::2], strict=True):
                party, offset = divmod(int(field), BUCKET_ITEMS)
                if party < 2:
                    items.append(base + offset)
                    parties.append(party)
                    values.append(value)
        heads = np.frombuffer(b"".join([value[: _HEAD.itemsize] for value in values]), _HEAD)
        tails = [_ARRAY_OF_NINE + value[_HEAD.itemsize :] for value in values]
        numbers = np.array(_decode_numbers(_array(len(tails), tails)), np.int64).reshape(-1, len(_NUMBERS))
        claims = np.zeros(len(values), NUMBERED_CLAIM)
        claims["item"], claims["party"] = items, parties
        for name in ("user_hash", "visit_hash", "seq"):
            claims[name] = heads[name]
        claims["at_ms"] = at_ms = _time(heads)
        columns = dict(zip(_NUMBERS, numbers.T, strict=True))
        columns["local_date"] = columns.pop("days") + at_ms // _DAY_MS
        for name, column in columns.items():
            claims[name] = column
            if not np.array_equal(claims[name], column):
                raise ValueError(f"{name} is out of its range")
    except (ValueError, OverflowError, msgspec.MsgspecError) as error:
        where = f" of items {min(items)} to {max(items)}" if items else ""
        raise LedgerFormatError(f"among the claims{where} one is damaged: {error}") from error
    return claims


def scans_of(
    prefix: bytes, keys: Sequence[bytes], visits: Sequence[Sequence[bytes]], firsts: Sequence[bytes | None]
) -> NDArray[np.void]:
    """Return the scans of some items as rows of ``SCAN_DTYPE`` with their numbers.

    Parameters
    ----------
    prefix : bytes
        What the keys of scans begin with.
    visits : sequence of sequence of bytes
        Visit, value, visit, value and so on, for each of ``keys``.
    firsts : sequence of bytes or None
        What the bucket says of the scans of each item. Where it says nothing the time of the first is 0.

    Raises
    ------
    LedgerFormatError
        A record is damaged, or the bucket counts other scans than there are.
    """
    try:
        items = [int(key[len(prefix) :], 16) for key in keys]
        lengths = [max(len(held) // 2, 1) for held in visits]  # A key that has just vanished has no visit: an error.
        names = b"".join([name for held in visits for name in held[::2]])
        values = np.frombuffer(b"".join([value for held in visits for value in held[1::2]]), _VISIT)
        known = np.frombuffer(b"".join([first or bytes(_FIRST.itemsize) for first in firsts]), _FIRST)
        scans = np.zeros(len(values), NUMBERED_SCAN)
        scans["item"] = np.repeat(np.array(items, np.uint64), lengths)
        scans["visit_hash"] = np.frombuffer(names, "<u8")
        scans["at_ms"] = _time(values)
        scans["first_at_ms"] = np.repeat(_time(known), lengths)
        scans["number"] = values["number"]
        scans["seq"] = values["seq"]
        starts = np.cumsum([0, *lengths[:-1]])
        newest = np.maximum.reduceat(values["number"], starts) if items else known["count"]
        is_known = np.array([first is not None for first in firsts])
        for i in np.flatnonzero(is_known & (newest != known["count"])):
            raise ValueError(f"item {items[i]} counts {known['count'][i]} scans, its newest is number {newest[i]}")
    except (ValueError, OverflowError) as error:
        raise LedgerFormatError(f"among the scans of some items one is damaged: {error}") from error
    return scans


def people_of(prefix: bytes, keys: Sequence[bytes], values: Sequence[bytes | None], claims: int) -> NDArray[np.void]:
    """Return the counts of some persons as rows of ``PERSON_DTYPE``.

    Parameters
    ----------
    claims : int
        Number of the newest claim that the values can count.

    Raises
    ------
    LedgerFormatError
        A value is damaged.
    """
    try:
        names = [key[len(prefix) :].split(b":") for key in keys]
        counts = _decode_counts(_array(3 * len(values), [value or b"\0\0\0" for value in values]))
        people = np.zeros(len(keys), PERSON_DTYPE)
        people["campaign"] = [int(campaign, 16) for campaign, _ in names]
        people["user_hash"] = np.array([int(user, 16) for _, user in names], np.uint64)
        people["total"], people["date"], people["day"] = np.array(counts, np.int64).reshape(-1, 3).T
        people["claims"] = claims
    except (ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise LedgerFormatError(f"among the counts of persons one is damaged: {error}") from error
    return people


def in_order(parts: Sequence[NDArray[np.void]], newest: int, names: Sequence[str]) -> NDArray[np.void]:
    """Return the rows up to a number in the order of their numbers.

    Parameters
    ----------
    parts : sequence of arrays
        Of ``NUMBERED_CLAIM`` or ``NUMBERED_SCAN``; a row may be there twice, as a server may tell of a key twice.
    names : sequence of str
        What tells rows of the same number apart.
    """
    rows = np.concatenate(parts)
    rows = rows[rows["seq"] <= newest]
    rows = rows[np.argsort(rows["seq"], kind="stable")]
    is_again = np.zeros(len(rows), np.bool_)
    is_again[1:] = rows["seq"][1:] == rows["seq"][:-1]
    for name in names:
        is_again[1:] &= rows[name][1:] == rows[name][:-1]
    return rows[~is_again] if is_again.any() else rows


NUMBERED_CLAIM: Final = np.dtype([*CLAIM_DTYPE.descr, ("seq", "<i8")])
NUMBERED_SCAN: Final = np.dtype([*SCAN_DTYPE.descr, ("seq", "<i8")])


def _time(rows: NDArray[np.void]) -> NDArray[np.int64]:
    low: NDArray[np.int64] = rows["at_low"].astype(np.int64)
    return low | rows["at_high"].astype(np.int64) << 32


def _array(length: int, parts: Iterable[bytes]) -> bytes:
    """Return one MessagePack array of what is packed already."""
    return b"\xdd" + length.to_bytes(4, "big") + b"".join(parts)
