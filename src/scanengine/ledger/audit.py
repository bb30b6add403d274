"""Counts a ledger again from its records and says what does not agree.

The records of claims are the truth; events, counters, running numbers and limits must follow from them. Everything is
read as of one moment, so a ledger can be audited while it is in use. Problems name items and rows, no codes or users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from scanengine.ledger import schema
from scanengine.ledger.counting import count_up, group, limited
from scanengine.ledger.outbox import Replay, check_events, read_events
from scanengine.ledger.people import check_people
from scanengine.ledger.protocol import PERSON_DTYPE, CampaignTotals, LedgerReader
from scanengine.ledger.records import CLAIM_DTYPE, SCAN_DTYPE
from scanengine.model import Adjustment, CampaignTerms, PrizeTerms

_Records = NDArray[np.void]
_Numbers = NDArray[np.int64]


class AuditReport(Struct, frozen=True):
    """What an audit looked at and found.

    Parameters
    ----------
    claims, scans, events, counters : int
        Rows checked. Events that were trimmed are not there to be checked.
    problems : list of str
        One line each, empty if everything agrees; at most 20 of a kind, and a line with the number of the others.
    """

    claims: int
    scans: int
    events: int
    counters: int
    problems: list[str]


def audit(reader: LedgerReader, terms: Mapping[str, CampaignTerms], replay: Replay | None = None) -> AuditReport:
    """Check that a ledger agrees with itself and has kept its limits.

    Parameters
    ----------
    reader : LedgerReader
    terms : mapping of campaign id to CampaignTerms
        Limits to check; a campaign that is not in it is checked for everything else.
    replay : Replay, optional
        Decides again what was decided.

    Raises
    ------
    LedgerFormatError
        The file is damaged so that it cannot be read.

    Notes
    -----
    About 500 bytes of memory and 10 microseconds a claim, most of it to read the events.
    """
    # Persons first: what is counted of one is counted of claims that are all there when the records are read.
    claims_before = reader.marks().claims
    people = _read_people(reader)
    with reader.snapshot():
        marks = reader.marks()
        seqs, claims = _gather(reader.claims(), CLAIM_DTYPE)
        scan_seqs, scans = _gather(reader.scans(), SCAN_DTYPE)
        campaigns = reader.campaigns()
        totals = {held.id: held for held in reader.totals().campaigns}
        held = reader.counters()
        adjustments = reader.adjustments()
        trimmed_before = reader.trimmed_claims()
        events = read_events(reader, campaigns, replay)
        trimmed = reader.trimmed_claims()
    problems: list[str] = []
    problems += _check_rows("claim", seqs, marks.claims)
    problems += _check_rows("scan", scan_seqs, marks.scans)
    problems += _check_unique(seqs, claims)
    problems += _check_order(seqs, claims, campaigns)
    problems += _check_running_numbers(seqs, claims, campaigns)
    problems += _check_scans(claims, scans)
    if people is not None:
        found = check_people(seqs, claims, people, claims_before)
        problems += limited(f"campaign {_name(number, campaigns)}: {problem}" for number, problem in found)
    problems += events.problems
    problems += check_events(seqs, claims, events.claims, trimmed_before, trimmed, is_replayed=replay is not None)
    if replay is not None:
        problems += limited(replay.claims(seqs, claims, campaigns))
    counted = _count_again(claims)
    problems += _check_counters(counted, held, campaigns)
    problems += _check_adjustments(adjustments, totals)
    for number, campaign in campaigns.items():
        if campaign in terms and campaign in totals:
            mine = claims[claims["campaign"] == number]
            problems += limited(_check_limits(mine, counted, number, totals[campaign], terms[campaign]))
    return AuditReport(len(claims), len(scans), events.count, len(held), problems)


def _gather(chunks: Iterable[tuple[_Numbers, _Records]], dtype: np.dtype[np.void]) -> tuple[_Numbers, _Records]:
    pairs = list(chunks)
    if not pairs:
        return np.empty(0, np.int64), np.empty(0, dtype)
    return np.concatenate([seqs for seqs, _ in pairs]), np.concatenate([records for _, records in pairs])


def _read_people(reader: LedgerReader) -> _Records | None:
    chunks = reader.people()
    return None if chunks is None else np.concatenate([np.empty(0, PERSON_DTYPE), *chunks])


def _check_rows(name: str, seqs: _Numbers, newest: int) -> list[str]:
    """Check that the records have the numbers from 1 to the newest, each once."""
    bounds = np.concatenate([[0], seqs, [max(newest, int(seqs[-1]) if len(seqs) else 0) + 1]])
    steps = np.diff(bounds)
    gaps = [(int(bounds[i]) + 1, int(bounds[i + 1]) - 1) for i in np.flatnonzero(steps > 1)]
    problems = limited(
        f"{name} {first}: the record is missing" if first == last else f"{name} {first} to {last}: records are missing"
        for first, last in gaps
    )
    return problems + limited(f"{name} {bounds[i]}: two records have this number" for i in np.flatnonzero(steps == 0))


def _check_unique(seqs: _Numbers, claims: _Records) -> list[str]:
    order, is_first = group([claims["item"], claims["party"]])
    doubles = np.sort(order[~is_first])
    return limited(
        f"claim {seqs[i]}: item {claims['item'][i]} party {claims['party'][i]} has an earlier claim" for i in doubles
    )


def _check_order(seqs: _Numbers, claims: _Records, campaigns: Mapping[int, str]) -> list[str]:
    back = np.flatnonzero(np.diff(claims["at_ms"]) < 0) + 1
    problems = limited(
        f"claim {seqs[i]}: item {claims['item'][i]} was recorded at an earlier time than the claim before it"
        for i in back
    )
    for number in np.unique(claims["campaign"]).tolist():
        if number not in campaigns:
            problems.append(f"campaign {number}: has claims, but is not in the table of campaigns")
        rows = np.flatnonzero(claims["campaign"] == number)
        stepped = rows[1:][np.diff(claims["local_date"][rows]) < 0]
        problems += limited(
            f"claim {seqs[i]}: item {claims['item'][i]} has an earlier local date than the claim before it"
            for i in stepped
        )
    return problems


def _check_running_numbers(seqs: _Numbers, claims: _Records, campaigns: Mapping[int, str]) -> list[str]:
    """Check the numbers that count up inside a group: units of a prize, claims of a person."""
    problems: list[str] = []
    given = np.flatnonzero(claims["prize"] >= 0)
    everyone = np.arange(len(claims))
    kinds = (
        ("unit", "unit", given, ["campaign", "prize"]),
        ("number of the person's claims", "person_total", everyone, ["campaign", "user_hash"]),
        ("number of the person's claims of the day", "person_day", everyone, ["campaign", "user_hash", "local_date"]),
    )
    for what, field, rows, names in kinds:
        chosen = claims[rows]
        order, is_first = group([chosen[name] for name in names])
        expected = count_up(is_first)
        wrong = np.flatnonzero(chosen[field][order] != expected)
        found = sorted((int(rows[order[i]]), int(expected[i])) for i in wrong)
        problems += limited(
            f"claim {seqs[i]}: item {claims['item'][i]} campaign {_name(claims['campaign'][i], campaigns)} "
            f"prize {claims['prize'][i]}: {what} is {claims[field][i]}, expected {number}"
            for i, number in found
        )
    without = np.flatnonzero((claims["prize"] < 0) & ((claims["unit"] != 0) | (claims["money"] != 0)))
    return problems + limited(
        f"claim {seqs[i]}: item {claims['item'][i]} has no prize, but a unit or money" for i in without
    )


def _check_scans(claims: _Records, scans: _Records) -> list[str]:
    """Check that the visits of each item count 1, 2, 3 and none twice, and agree on the time of the first."""
    firsts = claims[claims["is_first_scan"] == 1]
    items = np.concatenate([firsts["item"], scans["item"]])
    numbers = np.concatenate([np.ones(len(firsts), np.uint64), scans["number"]])
    visits = np.concatenate([firsts["visit_hash"], scans["visit_hash"]])
    at_ms = np.concatenate([firsts["at_ms"], scans["at_ms"]])
    first_at_ms = np.concatenate([firsts["at_ms"], scans["first_at_ms"]])
    order = np.lexsort((numbers, items))
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = items[order][1:] != items[order][:-1]
    running = count_up(is_first)
    wrong = np.unique(items[order][numbers[order] != running])
    problems = limited(f"item {item}: its scans are not numbered 1, 2, 3 and so on" for item in wrong)
    begins = np.arange(len(order)) - running + 1
    wrong = np.unique(items[order][first_at_ms[order] != at_ms[order][begins]])
    problems += limited(f"item {item}: its scans say another time of the first than the first itself" for item in wrong)
    order, is_first = group([items, visits])
    twice = np.unique(items[order[~is_first]])
    return problems + limited(f"item {item}: one visit is counted twice" for item in twice)


_Counts = dict[tuple[int, int, int, int], int]


def _count_again(claims: _Records) -> _Counts:
    """Return all counters, keyed as in the table of counters."""
    counts: _Counts = {}
    given = claims[claims["prize"] >= 0]
    kinds = (
        (schema.COUNT_CLAIMS, claims, np.zeros(len(claims), np.int64), np.ones(len(claims), np.int64)),
        (schema.COUNT_AWARDS, given, given["prize"].astype(np.int64), np.ones(len(given), np.int64)),
        (schema.COUNT_MONEY, given, np.zeros(len(given), np.int64), given["money"]),
    )
    for kind, rows, numbers, amounts in kinds:
        for dates in (np.zeros(len(rows), np.int64), rows["local_date"].astype(np.int64)):
            order, is_first = group([rows["campaign"], numbers, dates])
            if not len(order):
                continue
            starts = np.flatnonzero(is_first)
            sums = np.add.reduceat(amounts[order], starts)
            for i, value in zip(order[starts], sums, strict=True):
                if value:
                    counts[int(rows["campaign"][i]), kind, int(numbers[i]), int(dates[i])] = int(value)
    return counts


def _check_adjustments(adjustments: list[Adjustment], totals: Mapping[str, CampaignTotals]) -> list[str]:
    """Check that what is in force of each campaign is the sum of its adjustments."""
    wrong: list[str] = []
    for name, held in totals.items():
        mine = [adjustment for adjustment in adjustments if adjustment.campaign == name]
        stock: dict[int, int] = {}
        for adjustment in mine:
            if adjustment.action == "stock":
                stock[adjustment.prize] = stock.get(adjustment.prize, 0) + adjustment.amount
        switches = [adjustment.action for adjustment in mine if adjustment.action in ("pause", "resume")]
        for what, found, expected in (
            ("added stock", held.extra_stock, stock),
            ("added budget", held.extra_budget, sum(each.amount for each in mine if each.action == "budget")),
            ("paused", held.is_paused, switches[-1:] == ["pause"]),
            ("closed", held.is_closed, any(each.action == "close" for each in mine)),
        ):
            if found != expected:
                wrong.append(f"campaign {name}: {what} is held as {found}, the adjustments say {expected}")
    return limited(iter(wrong))


def _check_counters(counted: _Counts, held: _Counts, campaigns: Mapping[int, str]) -> list[str]:
    return limited(
        f"campaign {_name(key[0], campaigns)}: counter of {_describe(key)} holds {held.get(key, 0)}, "
        f"the records say {counted.get(key, 0)}"
        for key in sorted(held.keys() | counted.keys())
        if held.get(key, 0) != counted.get(key, 0)
    )


def _check_limits(
    claims: _Records, counted: _Counts, number: int, held: CampaignTotals, terms: CampaignTerms
) -> Iterator[str]:
    """Yield the limits that were exceeded, adjustments taken into account."""
    prizes: dict[int, PrizeTerms] = {prize.number: prize for prize in terms.prizes if prize is not None}
    for (campaign, kind, prize, date), value in sorted(counted.items()):
        limit: int | None = None
        if campaign != number or kind == schema.COUNT_CLAIMS:
            continue
        if kind == schema.COUNT_MONEY:
            limit = terms.budget_per_day if date else _plus(terms.budget_total, held.extra_budget)
        elif prize in prizes:
            stock = prizes[prize]
            limit = stock.stock_per_day if date else _plus(stock.stock, held.extra_stock.get(prize, 0))
        if limit is not None and value > limit:
            what = _describe((campaign, kind, prize, date))
            yield f"campaign {held.id}: {what} is {value}, over the limit of {limit}"
    for field, what, most in (
        ("person_total", "in all", terms.per_user),
        ("person_day", "on one day", terms.per_user_per_day),
    ):
        if most is not None:
            for i in np.flatnonzero(claims[field] > most):
                yield (
                    f"campaign {held.id}: item {claims['item'][i]} is claim {claims[field][i]} of one person {what}, "
                    f"over the limit of {most}"
                )


def _plus(limit: int | None, extra: int) -> int | None:
    return None if limit is None else limit + extra


def _describe(key: tuple[int, int, int, int]) -> str:
    _, kind, number, date = key
    when = f" on date {date}" if date else " in all"
    if kind == schema.COUNT_AWARDS:
        return f"awards of prize {number}{when}"
    return ("claims" if kind == schema.COUNT_CLAIMS else "money") + when


def _name(number: int, campaigns: Mapping[int, str]) -> str:
    return campaigns.get(number, f"number {number}")
