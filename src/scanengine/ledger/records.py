"""Fixed-size records of the append-only tables, little-endian.

A claim is 72 bytes and never changes:

    | item 8 | user hash 8 | visit hash 8 | at, ms 8 | money 8 | campaign 4 | generation 4 | local date 4 | unit 4 |
    | person total 4 | person day 4 | rule 2 | drawn 2 | prize 2 | party 1 | is first scan 1 |

A scan is 40 bytes:

    | item 8 | visit hash 8 | at, ms 8 | first at, ms 8 | number 8 |

``person_total`` and ``person_day`` are the running numbers of the person's claims in the campaign, in all and on that
local date: a limit per person needs no table of persons, and the newest record of a person is their count.
``is_first_scan`` tells that this claim's visit was the first counted one of its item; every other counted visit is a
row of its own in the table of scans.

Each record exists as a named tuple for one and as a numpy dtype for many.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from scanengine.errors import LedgerFormatError
from scanengine.model import ClaimStatus, Receipt, ScanFacts

TIME_MS_MAX: Final = 253_370_764_799_999
"""The end of the year 9998 UTC: what is recorded must be a time that can be told in any zone."""


class ClaimRecord(NamedTuple):
    """One recorded claim; the campaign is its number in the table of campaigns."""

    item: int
    user_hash: int
    visit_hash: int
    at_ms: int
    money: int
    campaign: int
    generation: int
    local_date: int
    unit: int
    person_total: int
    person_day: int
    rule: int
    drawn: int
    prize: int
    party: int
    is_first_scan: int

    def receipt(self, campaign: str, scan: ScanFacts) -> Receipt:
        """Return the receipt that this claim's owner is given again, with the values recorded."""
        status = ClaimStatus.AWARDED if self.prize >= 0 else ClaimStatus.NO_PRIZE
        return Receipt(
            status, None, True, self.at_ms, campaign, self.generation, self.rule, self.drawn, self.prize, self.unit,
            scan,
        )  # fmt: skip


class ScanRecord(NamedTuple):
    """One counted visit that is not the first of its item by a claim."""

    item: int
    visit_hash: int
    at_ms: int
    first_at_ms: int
    number: int


CLAIM_STRUCT: Final = Struct("<QQQqqIIiIIIhhhBB")
SCAN_STRUCT: Final = Struct("<QQqqQ")
CLAIM_BYTES: Final = CLAIM_STRUCT.size

CLAIM_DTYPE: Final = np.dtype(
    [
        ("item", "<u8"),
        ("user_hash", "<u8"),
        ("visit_hash", "<u8"),
        ("at_ms", "<i8"),
        ("money", "<i8"),
        ("campaign", "<u4"),
        ("generation", "<u4"),
        ("local_date", "<i4"),
        ("unit", "<u4"),
        ("person_total", "<u4"),
        ("person_day", "<u4"),
        ("rule", "<i2"),
        ("drawn", "<i2"),
        ("prize", "<i2"),
        ("party", "u1"),
        ("is_first_scan", "u1"),
    ]
)
SCAN_DTYPE: Final = np.dtype(
    [("item", "<u8"), ("visit_hash", "<u8"), ("at_ms", "<i8"), ("first_at_ms", "<i8"), ("number", "<u8")]
)


def unpack_claim(packed: bytes) -> ClaimRecord:
    """Return the claim of 72 bytes.

    Raises
    ------
    LedgerFormatError
        Its time cannot be.
    struct.error
        The length is another.
    """
    claim = ClaimRecord._make(CLAIM_STRUCT.unpack(packed))
    _check_times(claim.item, claim.at_ms)
    return claim


def unpack_claims(packed: bytes) -> list[ClaimRecord]:
    """Return the claims that lie one after the other in ``packed``.

    Raises
    ------
    LedgerFormatError
        A time cannot be.
    struct.error
        The length is not a multiple of a record.
    """
    claims = [ClaimRecord._make(fields) for fields in CLAIM_STRUCT.iter_unpack(packed)]
    for claim in claims:
        _check_times(claim.item, claim.at_ms)
    return claims


def unpack_scans(packed: bytes) -> list[ScanRecord]:
    """Return the scans that lie one after the other in ``packed``.

    Raises
    ------
    LedgerFormatError
        A time cannot be.
    struct.error
        The length is not a multiple of a record.
    """
    scans = [ScanRecord._make(fields) for fields in SCAN_STRUCT.iter_unpack(packed)]
    for scan in scans:
        _check_times(scan.item, scan.at_ms, scan.first_at_ms)
    return scans


def _check_times(item: int, *times_ms: int) -> None:
    for time_ms in times_ms:
        if not 0 <= time_ms <= TIME_MS_MAX:
            raise LedgerFormatError(
                f"a record of item {item} is damaged: it was at {time_ms} ms since 1970, expected a time before the "
                "year 9999"
            )
