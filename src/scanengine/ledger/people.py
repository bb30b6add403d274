"""Checks what a ledger holds of persons beside the records of their claims."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scanengine.ledger.protocol import PERSON_DTYPE


def check_people(
    seqs: NDArray[np.int64], claims: NDArray[np.void], people: NDArray[np.void], claims_before: int
) -> list[tuple[int, str]]:
    """Return what does not agree: number of the campaign, and what is wrong, without a name of the person.

    Parameters
    ----------
    seqs, claims : (n,) int64, (n,) of ``CLAIM_DTYPE``
        Numbers and records of all claims, in order.
    people : (m,) of ``PERSON_DTYPE``
        Read before the claims; a person may be there more than once.
    claims_before : int
        Number of the newest claim before the persons were read. Whoever had one by then must be among them.
    """
    recorded = np.zeros(len(claims), PERSON_DTYPE)
    recorded["claims"] = seqs
    for name, field in (
        ("campaign", "campaign"), ("user_hash", "user_hash"), ("total", "person_total"), ("date", "local_date"),
        ("day", "person_day"),
    ):  # fmt: skip
        recorded[name] = claims[field]
    rows = np.concatenate([recorded, people])
    order = np.lexsort((np.arange(len(rows)), rows["claims"], rows["user_hash"], rows["campaign"]))
    rows, is_held = rows[order], order >= len(claims)
    is_first = np.ones(len(rows), np.bool_)
    is_first[1:] = (rows["campaign"][1:] != rows["campaign"][:-1]) | (rows["user_hash"][1:] != rows["user_hash"][:-1])
    places = np.arange(len(rows))
    begins = np.maximum.accumulate(np.where(is_first, places, 0)) if len(rows) else places
    # What is held must be what the newest claim before it says, if there is one of the same person and campaign.
    newest = np.maximum.accumulate(np.where(is_held, -1, places)) if len(rows) else places
    expected = rows[newest]
    for field in ("total", "date", "day"):
        expected[field][newest < begins] = 0
    problems = []
    is_wrong = np.any([rows[field] != expected[field] for field in ("total", "date", "day")], axis=0) & is_held
    for i in np.flatnonzero(is_wrong):
        held, said = (f"{row['total']} in all and {row['day']} on date {row['date']}" for row in (rows[i], expected[i]))
        problems.append((int(rows["campaign"][i]), f"claims of a person are held as {held}, the records say {said}"))
    groups = np.cumsum(is_first) - 1
    has_held = np.bincount(groups[is_held], minlength=int(is_first.sum())) > 0
    firsts = rows[is_first]
    for row in firsts[~has_held & (firsts["claims"] <= claims_before)]:
        problems.append((int(row["campaign"]), "claims of a person are recorded, but none are held"))
    return sorted(problems)
