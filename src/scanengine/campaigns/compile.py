"""A campaign to the arrays and the metadata of its prize table.

Here a campaign meets the world: the numbers that earlier generations gave out, and the batches that exist.
Numbers of prizes and rules belong to their ids for the life of the campaign, because claims and draws refer
to them; so a number is never given to another id, not even after its id was dropped from the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scanengine._core import (
    FIELD_ITEM,
    FIELD_MINUTE,
    FIELD_PRODUCT,
    FIELD_REGION,
    FIELD_ROLE,
    FIELD_TIME,
    PREDICATE_DTYPE,
    RULE_DTYPE,
    TRANSITION_DTYPE,
)
from scanengine.campaigns.fields import hint, milliseconds, shown
from scanengine.campaigns.model import NONE, Budget, Campaign, Conditions, Prize, Rule
from scanengine.campaigns.odds import build_alias
from scanengine.campaigns.zone import offset_transitions
from scanengine.errors import CampaignError
from scanengine.model import NO_PRIZE, PRIZES_MAX
from scanengine.tables import prizes as table
from scanengine.tables.prize_metadata import BudgetEntry, LimitsEntry, PrizeEntry, PrizeTableMetadata, RuleEntry
from scanengine.tables.prizes import PrizeTable

NUMBERS_MAX: Final = PRIZES_MAX
"""Prize and rule numbers are one byte each."""
TIME_END_MS: Final = 1 << 62
"""Every time that the core accepts is below."""
MINUTES_PER_DAY: Final = 24 * 60
REGION_DIGITS: Final = 6

Range = tuple[int, int]


def compile_campaign(
    campaign: Campaign,
    *,
    previous: PrizeTable | None,
    generation: int,
    batch_items: Mapping[str, Range],
    draw_key_id: str,
) -> tuple[PrizeTableMetadata, dict[int, NDArray[Any]]]:
    """Turn a campaign into what :func:`scanengine.tables.prizes.build_prize_table` writes.

    Parameters
    ----------
    previous : PrizeTable or None
        The newest published generation of this campaign; None only if there never was one.
    generation : int
        Of the table to come; above that of `previous`.
    batch_items : mapping of batch label to (item start, count)
        Every batch a rule may name.
    draw_key_id : str
        Id of the draw secret that the campaign's draws use.

    Returns
    -------
    metadata : PrizeTableMetadata
    sections : dict of section id -> array

    Raises
    ------
    CampaignError
        If a number changes or belongs to another id, no number is left, or a batch is unknown; with all such
        faults.
    ValueError
        If `previous` is of another campaign or not older.
    """
    if previous is not None and previous.id != campaign.id:
        raise ValueError(f"the previous table is of campaign {previous.id!r}, expected {campaign.id!r}")
    if previous is not None and previous.generation >= generation:
        raise ValueError(f"generation {generation} does not follow {previous.generation}")
    faults: list[str] = []
    past_prizes = previous.metadata.prize_numbers if previous is not None else {}
    past_rules = previous.metadata.rule_numbers if previous is not None else {}
    prize_numbers = assign_numbers("prizes", campaign.prizes, past_prizes, faults)
    rule_numbers = assign_numbers("rules", campaign.rules, past_rules, faults)
    predicates = [_predicates(index, rule.when, batch_items, faults) for index, rule in enumerate(campaign.rules)]
    if faults:
        raise CampaignError(campaign.id, faults)
    metadata = _metadata(campaign, generation, prize_numbers, rule_numbers, draw_key_id)
    sections = _rule_sections(campaign.rules, predicates, prize_numbers, rule_numbers)
    transitions = offset_transitions(campaign.timezone, campaign.opens, campaign.closes)
    sections[table.TRANSITIONS] = np.array([(at, offset, 0) for at, offset in transitions], TRANSITION_DTYPE)
    return metadata, sections


def assign_numbers(
    place: str, entries: Sequence[Prize | Rule], history: Mapping[str, int], faults: list[str]
) -> dict[str, int]:
    """Give every id its number for life.

    Parameters
    ----------
    place : str
        ``prizes`` or ``rules``, for messages.
    history : mapping of id to number
        All numbers ever given out.
    faults : list of str
        Appended to.

    Returns
    -------
    dict of id -> number
        The history and the new ids. An id keeps its number; a new one gets the number the file chooses, else
        the lowest that neither the history nor the file uses.
    """
    numbers = dict(history)
    owners = {number: owner for owner, number in history.items()}
    for index, entry in enumerate(entries):
        if entry.number is None:
            continue
        where = f"{place}[{index}].number"
        if entry.id in history and history[entry.id] != entry.number:
            faults.append(
                f"{where}: {entry.id!r} has number {history[entry.id]} for the life of the campaign, "
                f"found {entry.number}"
            )
        elif owners.setdefault(entry.number, entry.id) != entry.id:
            faults.append(f"{where}: {entry.number} belongs to {owners[entry.number]!r} for the life of the campaign")
        else:
            numbers[entry.id] = entry.number
    free = iter(sorted(set(range(NUMBERS_MAX)) - set(owners)))
    for index, entry in enumerate(entries):
        if entry.id not in numbers and entry.number is None:
            number = next(free, None)
            if number is None:
                faults.append(f"{place}[{index}]: all {NUMBERS_MAX} numbers are given out, and none is given twice")
                break
            numbers[entry.id] = number
    return numbers


def _metadata(
    campaign: Campaign,
    generation: int,
    prize_numbers: dict[str, int],
    rule_numbers: dict[str, int],
    draw_key_id: str,
) -> PrizeTableMetadata:
    budget = campaign.budget or Budget(campaign.currency or "")
    prizes = tuple(
        PrizeEntry(
            number=prize_numbers[prize.id],
            id=prize.id,
            kind=prize.kind,
            amount=prize.amount,
            currency=prize.currency,
            title=prize.title,
            stock=prize.stock,
            stock_per_day=prize.stock_per_day,
            fallback=NO_PRIZE if prize.fallback is None else prize_numbers[prize.fallback],
        )
        for prize in campaign.prizes
    )
    rules = tuple(
        RuleEntry(rule_numbers[rule.id], rule.id, rule.mode, tuple(str(weight) for _, weight in rule.weights))
        for rule in campaign.rules
    )
    return PrizeTableMetadata(
        id=campaign.id,
        title=campaign.title,
        generation=generation,
        timezone=campaign.timezone,
        opens_ms=milliseconds(campaign.opens),
        closes_ms=milliseconds(campaign.closes),
        limits=LimitsEntry(campaign.limits.per_user, campaign.limits.per_user_per_day),
        budget=BudgetEntry(budget.total, budget.per_day),
        currency=campaign.currency,
        prizes=prizes,
        rules=rules,
        prize_numbers=prize_numbers,
        rule_numbers=rule_numbers,
        draw_key_id=draw_key_id,
        draw_version=table.DRAW_VERSION,
        source_digest=campaign.source_digest,
        page=campaign.page,
    )


def _rule_sections(
    rules: Sequence[Rule],
    predicates: Sequence[Sequence[tuple[int, list[Range]]]],
    prize_numbers: Mapping[str, int],
    rule_numbers: Mapping[str, int],
) -> dict[int, NDArray[Any]]:
    """Lay all rules out one after the other."""
    rule_rows: list[tuple[object, ...]] = []
    predicate_rows: list[tuple[int, int, int, int]] = []
    range_rows: list[Range] = []
    thresholds: list[int] = []
    aliases: list[int] = []
    outcomes: list[int] = []
    for rule, held in zip(rules, predicates, strict=True):
        rule_rows.append(
            (
                len(predicate_rows),
                len(held),
                len(outcomes),
                len(rule.weights),
                rule_numbers[rule.id],
                table.MODES.index(rule.mode),
                b"",
            )
        )
        for field, ranges in held:
            predicate_rows.append((field, len(range_rows), len(ranges), 0))
            range_rows.extend(ranges)
        rule_thresholds, rule_aliases = build_alias([weight for _, weight in rule.weights])
        thresholds += rule_thresholds
        aliases += rule_aliases
        outcomes += [NO_PRIZE if outcome == NONE else prize_numbers[outcome] for outcome, _ in rule.weights]
    return {
        table.RULES: np.array(rule_rows, RULE_DTYPE),
        table.PREDICATES: np.array(predicate_rows, PREDICATE_DTYPE),
        table.RANGES: np.array(range_rows, "<u8").reshape(-1, 2),
        table.THRESHOLDS: np.array(thresholds, "<u8"),
        table.ALIASES: np.array(aliases, "<u4"),
        table.OUTCOMES: np.array(outcomes, "<i2"),
    }


def _predicates(
    index: int, when: Conditions, batch_items: Mapping[str, Range], faults: list[str]
) -> list[tuple[int, list[Range]]]:
    """Return the (field, ranges) that must all hold, those first that most often do not."""
    items = []
    for place, label in enumerate(when.batches):
        if label in batch_items:
            start, count = batch_items[label]
            items.append((start, start + count))
        else:
            where = f"rules[{index}].when.batches[{place}]"
            faults.append(f"{where}: unknown batch {shown(label)}{hint(label, batch_items)}")
    window = []
    if when.opens is not None or when.closes is not None:
        opens_ms = milliseconds(when.opens) if when.opens else 0
        window.append((opens_ms, milliseconds(when.closes) if when.closes else TIME_END_MS))
    candidates = (
        (FIELD_ROLE, [(int(role), int(role) + 1) for role in when.roles]),
        (FIELD_TIME, window),
        (FIELD_PRODUCT, [(gtin, gtin + 1) for gtin in when.products]),
        (FIELD_ITEM, items),
        (FIELD_REGION, [_region_range(region) for region in when.regions]),
        (FIELD_MINUTE, [part for span in when.hours for part in _minute_ranges(*span)]),
    )
    return [(field, merged(ranges)) for field, ranges in candidates if ranges]


def _region_range(prefix: str) -> Range:
    """Return the codes that begin with a prefix: "44" is every place in Guangdong, 440000 up to 450000."""
    width = 10 ** (REGION_DIGITS - len(prefix))
    return int(prefix) * width, (int(prefix) + 1) * width


def _minute_ranges(start: int, end: int) -> list[Range]:
    """Return a span of the local day, in two parts if it goes over midnight."""
    if start < end:
        return [(start, end)]
    return [(start, MINUTES_PER_DAY), (0, end)] if end else [(start, MINUTES_PER_DAY)]


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return the same set of numbers in the fewest half-open ranges, ascending."""
    result: list[Range] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result
