"""What a valid campaign file may still get wrong, what it may cost, and whom it will make win.

Limits that bind nobody, rules nobody reaches, prizes nobody gets: all is computed from the file alone,
exactly, and said in plain words. Nothing here refuses a campaign.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from fractions import Fraction
from typing import Final
from zoneinfo import ZoneInfo

from scanengine.campaigns.model import NONE, Campaign, Prize, Rule
from scanengine.model import Role

PER_SCANS: Final = 1_000
"""Odds are told as winners per thousand scans."""
NEVER_SCANS: Final = 10**15
"""More scans than any campaign will see."""


def check_campaign(campaign: Campaign, expected_scans: int | None = None) -> list[str]:
    """Say what is odd about a campaign, what it may cost, and whom it will make win.

    Parameters
    ----------
    expected_scans : int or None
        How many codes will be scanned for the first time; None to tell the odds per 1,000 scans instead.

    Returns
    -------
    list of str
        Oddities first, each with its place in the file; then the worst-case spend; then the expected winners
        of each rule against stock, as if all scans drew from that rule. A prize that no limit leaves room for
        is in neither: its fallback is.

    Raises
    ------
    ValueError
        If `expected_scans` is negative.
    """
    if expected_scans is not None and expected_scans < 0:
        raise ValueError(f"expected scans are not negative, found {expected_scans}")
    rules = reached_rules(campaign)
    wanted = wanted_prizes(campaign, rules)
    return [
        *_limit_notes(campaign),
        *_budget_notes(campaign, wanted),
        *_rule_notes(campaign),
        *_prize_notes(campaign, wanted),
        *_spend_notes(campaign, wanted),
        *(note for rule in rules for note in _winner_notes(campaign, rule, expected_scans)),
    ]


def reached_rules(campaign: Campaign) -> list[Rule]:
    """Return the rules that some scan can reach, in order."""
    unreached = {index for index, _ in _unreached(campaign)}
    return [rule for index, rule in enumerate(campaign.rules) if index not in unreached]


def wanted_prizes(campaign: Campaign, rules: Sequence[Rule]) -> set[str]:
    """Return the ids of the prizes that these rules draw, and of those that stand in for them."""
    wanted = {outcome for rule in rules for outcome, weight in rule.weights if weight and outcome != NONE}
    waiting = list(wanted)
    while waiting:
        prize = campaign.prize(waiting.pop())
        if prize.fallback is not None and prize.fallback not in wanted and _can_run_out(campaign, prize):
            wanted.add(prize.fallback)
            waiting.append(prize.fallback)
    return wanted


def _can_run_out(campaign: Campaign, prize: Prize) -> bool:
    takes_budget = prize.kind == "cash" and bool(_budget_limits(campaign))
    return takes_budget or prize.stock is not None or prize.stock_per_day is not None


def _can_be_given(campaign: Campaign, prize: Prize) -> bool:
    """Tell whether stock and budget leave room for a single award."""
    if 0 in (prize.stock, prize.stock_per_day):
        return False
    return prize.kind != "cash" or all((prize.amount or 0) <= most for most in _budget_limits(campaign).values())


def _first_given(campaign: Campaign, prize_id: str | None) -> Prize | None:
    """Return this prize, or else the first down its fallbacks that can be given; None if there is none."""
    while prize_id is not None:
        prize = campaign.prize(prize_id)
        if _can_be_given(campaign, prize):
            return prize
        prize_id = prize.fallback
    return None


def _budget_limits(campaign: Campaign) -> dict[str, int]:
    """Return the limits that the budget sets, by their keys."""
    budget = campaign.budget
    found = {} if budget is None else {"total": budget.total, "per_day": budget.per_day}
    return {key: most for key, most in found.items() if most is not None}


def _unreached(campaign: Campaign) -> Iterator[tuple[int, str]]:
    """Yield (index, reason) for each rule that no scan can reach."""
    deciders: dict[Role, str] = {}
    for index, rule in enumerate(campaign.rules):
        when = rule.when
        if (when.opens and when.opens >= campaign.closes) or (when.closes and when.closes <= campaign.opens):
            yield index, "its window lies outside the campaign's"
        elif all(role in deciders for role in when.roles):
            names = ", ".join(sorted({repr(deciders[role]) for role in when.roles}))
            roles = ", ".join(role.name.lower() for role in when.roles)
            yield index, f"{names} before it already decides for every {roles}"
        elif when.is_by_role_only:
            for role in when.roles:
                deciders.setdefault(role, rule.id)


def _limit_notes(campaign: Campaign) -> Iterator[str]:
    limits, days = campaign.limits, _local_days(campaign)
    yield from _pair_notes("limits", ("per_user", limits.per_user), ("per_user_per_day", limits.per_user_per_day), days)


def _budget_notes(campaign: Campaign, wanted: set[str]) -> Iterator[str]:
    if campaign.budget is None:
        return
    days, limits = _local_days(campaign), _budget_limits(campaign)
    total, per_day = limits.get("total"), limits.get("per_day")
    yield from _pair_notes("budget", ("total", total), ("per_day", per_day), days)
    cash = [prize for prize in campaign.prizes if prize.kind == "cash"]
    if not cash:
        yield "budget: no prize is cash, so it is never spent"
    for key, most, other, span in (("total", total, per_day, days), ("per_day", per_day, total, 1)):
        # What the other limit alone refuses does not count; what this one refuses is worth more than it, so that
        # it binds.
        left = [prize for prize in cash if prize.id in wanted and (other is None or (prize.amount or 0) <= other)]
        worth = _worth(left, span) if left else None
        if most is not None and worth is not None and most > worth:
            scope = "all cash" if key == "total" else "the cash of one day"
            yield f"budget.{key}: {most:,} is above the worth of {scope} ({worth:,}): never binds"


def _pair_notes(
    place: str, whole_limit: tuple[str, int | None], daily_limit: tuple[str, int | None], days: int
) -> Iterator[str]:
    """Hold a limit of the whole campaign and one of each local day, (key, value), against one another."""
    (whole_key, whole), (daily_key, daily) = whole_limit, daily_limit
    if whole is None or daily is None:
        return
    if daily > whole:
        yield f"{place}.{daily_key}: {daily:,} is above {whole_key} ({whole:,}): never binds"
    elif whole > daily * days:
        most = f"{daily * days:,} in {days:,} {'day' if days == 1 else 'days'}"
        yield f"{place}.{whole_key}: {whole:,} never binds: {daily_key} allows at most {most}"


def _rule_notes(campaign: Campaign) -> Iterator[str]:
    for index, reason in _unreached(campaign):
        yield f"rules[{index}]: {campaign.rules[index].id!r} is never reached: {reason}"


def _prize_notes(campaign: Campaign, wanted: set[str]) -> Iterator[str]:
    days = _local_days(campaign)
    for index, prize in enumerate(campaign.prizes):
        place = f"prizes[{index}]"
        if prize.id not in wanted:
            yield (
                f"{place}: {prize.id!r} is never given: no rule that is reached draws it, "
                "and no prize that can run out falls back on it"
            )
        stocks = ("stock", prize.stock), ("stock_per_day", prize.stock_per_day)
        yield from _pair_notes(place, *stocks, days)
        for key, units in stocks:
            if units == 0:
                yield f"{place}.{key}: {prize.id!r} has none, so it is never given"
        if prize.fallback is not None and not _can_run_out(campaign, prize):
            yield f"{place}.fallback: {prize.fallback!r} is never used: {prize.id!r} has no limit to run into"
        for key, most in _budget_limits(campaign).items():
            if prize.kind == "cash" and (prize.amount or 0) > most:
                yield f"{place}.amount: {prize.amount:,} is above budget.{key} ({most:,}): never given"


def _spend_notes(campaign: Campaign, wanted: set[str]) -> Iterator[str]:
    """Say the most that can be spent: what stock allows or what the budget allows, whichever is less."""
    given = [prize for prize in campaign.prizes if prize.id in wanted and _can_be_given(campaign, prize)]
    cash = [prize for prize in given if prize.kind == "cash"]
    if not cash:
        yield "spend: none, as no cash is given"
        return
    days = _local_days(campaign)
    limits = _budget_limits(campaign)
    total, per_day = limits.get("total"), limits.get("per_day")
    in_all = _least(total, None if per_day is None else per_day * days, _worth(cash, days))
    one_day = _least(total, per_day, _worth(cash, 1))
    unit = f"minor units of {campaign.currency}"
    if in_all is None:
        free = ", ".join(repr(prize.id) for prize in cash if prize.stock is None and prize.stock_per_day is None)
        yield f"spend: unbounded, as there is no budget and no stock for {free}"
    else:
        yield f"spend: at most {in_all:,} {unit} in all"
    if one_day is None:
        yield "spend: unbounded on the worst day"
    else:
        yield f"spend: at most {one_day:,} {unit} on the worst day"


def _worth(cash: Sequence[Prize], days: int) -> int | None:
    """Return what the stock of some days is worth; None if one prize has no limit."""
    worth = 0
    for prize in cash:
        units = _units(prize, days)
        if units is None:
            return None
        worth += units * (prize.amount or 0)
    return worth


def _units(prize: Prize, days: int) -> int | None:
    """Return the most awards of a prize in some days; None for no limit."""
    return _least(prize.stock, None if prize.stock_per_day is None else prize.stock_per_day * days)


def _local_days(campaign: Campaign) -> int:
    """Return how many local dates the campaign touches."""
    zone = ZoneInfo(campaign.timezone)
    last = (campaign.closes - timedelta(microseconds=1)).astimezone(zone).date()
    return (last - campaign.opens.astimezone(zone).date()).days + 1


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _winner_notes(campaign: Campaign, rule: Rule, expected_scans: int | None) -> Iterator[str]:
    drawn = {
        outcome: Fraction(weight, rule.weight_total) for outcome, weight in rule.weights if weight and outcome != NONE
    }
    given: dict[str, Fraction] = {}
    for prize_id, chance in drawn.items():
        prize = _first_given(campaign, prize_id)
        if prize is not None:
            given[prize.id] = given.get(prize.id, Fraction(0)) + chance
        if prize is None or prize.id != prize_id:
            count = _share(chance, expected_scans)
            yield f"rule {rule.id!r}: {count} draw {prize_id!r}, which is never given: they get {_named(prize)}"
    if not given:
        yield f"rule {rule.id!r}: nobody wins"
    elif expected_scans is None:
        yield from _odds_notes(campaign, rule, drawn, given)
    else:
        yield from _stock_notes(campaign, rule, given, expected_scans)


def _share(chance: Fraction, scans: int | None) -> str:
    return f"{_about(chance * PER_SCANS)} of {PER_SCANS:,} scans" if scans is None else _of_scans(chance * scans, scans)


def _of_scans(count: Fraction, scans: int) -> str:
    return f"of {scans:,} scans {_about(count)}"


def _named(prize: Prize | None) -> str:
    return "nothing" if prize is None else repr(prize.id)


def _odds_notes(
    campaign: Campaign, rule: Rule, drawn: Mapping[str, Fraction], given: Mapping[str, Fraction]
) -> Iterator[str]:
    days = _local_days(campaign)
    for prize_id, chance in given.items():
        prize = campaign.prize(prize_id)
        # Whoever drew what is never given comes on top of those who drew this prize.
        verb = "draw" if drawn.get(prize_id) == chance else "are to get"
        note = f"rule {rule.id!r}: {_share(chance, None)} {verb} {prize_id!r}"
        # A stock that its days cannot use up does not end.
        if prize.stock is not None and prize.stock == _units(prize, days):
            scans = -(-prize.stock // chance)
            end = f"after {scans:,} scans" if scans < NEVER_SCANS else "in no number of scans that will happen"
            note += f"; its stock of {prize.stock:,} is expected to end {end}"
        yield note


def _stock_notes(campaign: Campaign, rule: Rule, given: Mapping[str, Fraction], scans: int) -> Iterator[str]:
    days = _local_days(campaign)
    wanted = {prize_id: chance * scans for prize_id, chance in given.items()}
    for prize in _before_fallbacks(campaign):
        count = wanted.get(prize.id)
        if count is None:
            continue
        note = f"rule {rule.id!r}: {_of_scans(count, scans)} are to get {prize.id!r}"
        units = _units(prize, days)
        if units is None:
            yield f"{note}, which has no stock limit"
            continue
        stock = f"its stock of {units:,}" if units == prize.stock else f"its stock of {units:,} in {days:,} days"
        if count <= units:
            yield f"{note}; {stock} is enough"
        else:
            short = count - units
            instead = _first_given(campaign, prize.fallback)
            yield f"{note}; {stock} is short by {_about(short)}, who get {_named(instead)}"
            if instead is not None:
                wanted[instead.id] = wanted.get(instead.id, Fraction(0)) + short


def _before_fallbacks(campaign: Campaign) -> list[Prize]:
    """Return all prizes, each before the one it falls back on, so that shortages add up in one pass."""
    order: list[Prize] = []
    for start in campaign.prizes:
        chain: list[Prize] = []
        prize: Prize | None = start
        while prize is not None and prize not in order:
            chain.append(prize)
            prize = campaign.prize(prize.fallback) if prize.fallback is not None else None
        # What is in order already never falls back on this chain, or the chain would be in order too.
        order = chain + order
    return order


def _about(number: Fraction) -> str:
    """Write an expected count as a reader would: whole if it is large, with three decimals if it is small."""
    if number == int(number):
        return f"{int(number):,}"
    if number < Fraction(1, 1000):
        return "less than 0.001"
    return "about " + (f"{float(number):.3f}".rstrip("0").rstrip(".") if number < 100 else f"{round(number):,}")
