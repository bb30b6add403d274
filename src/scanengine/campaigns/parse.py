"""Campaign file to :class:`Campaign`, or all the faults it has.

Each ``_read`` function reads one kind of table and goes on after a fault with what is left; only at the very
end is the file refused. So somebody who writes a campaign sees every mistake in one run.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
import zoneinfo
from collections.abc import Sequence
from typing import Final, cast

import xxhash

from scanengine.campaigns.fields import INT64_MAX, Fields, hint, shown
from scanengine.campaigns.model import KINDS, NONE, Budget, Campaign, Kind, Limits, Prize, Rule
from scanengine.campaigns.page import read_page
from scanengine.campaigns.rules import RULE_KEYS, read_rule
from scanengine.errors import CampaignError
from scanengine.model import PRIZES_MAX, RULES_MAX

CAMPAIGN_KEYS: Final = ("id", "title", "opens", "closes", "timezone", "limits", "budget", "page", "prizes", "rules")
LIMITS_KEYS: Final = ("per_user", "per_user_per_day")
BUDGET_KEYS: Final = ("currency", "total", "per_day")
PRIZE_KEYS: Final = (
    "id",
    "kind",
    "title",
    "amount",
    "currency",
    "stock",
    "stock_per_day",
    "fallback",
    "number",
)

CAMPAIGN_ID_BYTES_MAX: Final = 64
TITLE_CHARS_MAX: Final = 200
CASH_AMOUNT_MAX: Final = 10**12
"""Most minor units of one cash award, ten thousand million yuan: nine million such awards still fit 64-bit sums."""

_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")


def parse_campaign(text: str, source: str) -> Campaign:
    """Read and validate a campaign file.

    Parameters
    ----------
    text : str
        The file's text, TOML.
    source : str
        Where it comes from, for the message.

    Returns
    -------
    Campaign
        Without faults in itself.

    Raises
    ------
    CampaignError
        With every fault found, each as ``place: what is wrong``.

    Notes
    -----
    Reads the time-zone database, to check the name of the zone; no clock and no other file.
    """
    try:
        digest = xxhash.xxh3_128_hexdigest(text.encode())
        document = tomllib.loads(text)
    except RecursionError:
        raise CampaignError(source, ["not valid TOML: nested too deeply"]) from None
    except ValueError as error:  # Bad TOML (with line and column), numbers of thousands of digits, half characters.
        raise CampaignError(source, [f"not valid TOML: {error}"]) from error
    faults: list[str] = []
    campaign = _read_campaign(Fields(document, "", faults, CAMPAIGN_KEYS), digest)
    if campaign is None or faults:
        raise CampaignError(source, faults)
    return campaign


def check_campaign_id(text: str) -> str | None:
    """Say what is wrong with the id of a campaign; no campaign with such an id can be published.

    Parameters
    ----------
    text : str
        Any text, also one that is no valid Unicode.

    Returns
    -------
    str or None
        The fault, without a place; None if the id can be used.
    """
    # A command line may hand over half characters; they are counted here and refused below as no letters.
    size = len(text.encode(errors="surrogatepass"))
    if not 1 <= size <= CAMPAIGN_ID_BYTES_MAX:
        return f"expected 1 to {CAMPAIGN_ID_BYTES_MAX} bytes of UTF-8, found {size}"
    # The id names files and is hashed into every draw, so it must be one path component and look like what it is.
    if text.startswith(".") or not all(char.isalnum() or char in "._-" for char in text):
        return f"expected letters, digits, '.', '_' and '-', not starting with '.', found {shown(text)}"
    if unicodedata.normalize("NFC", text) != text:
        return "expected Unicode normal form C: the same letters in another form would be another campaign"
    return None


def _read_campaign(fields: Fields, digest: str) -> Campaign | None:
    campaign_id = _read_campaign_id(fields)
    title = _read_title(fields)
    opens, closes = fields.moment("opens", required=True), fields.moment("closes", required=True)
    if opens and closes and closes <= opens:
        fields.fault("closes", f"must be after opens ({opens.isoformat()}), found {closes.isoformat()}")
    timezone = _read_timezone(fields)
    limits = _read_limits(fields)
    budget = _read_budget(fields)
    page = read_page(fields, TITLE_CHARS_MAX)
    prize_tables = fields.tables("prizes", PRIZE_KEYS, PRIZES_MAX)
    # Ids first: an entry with a fault elsewhere is still one that others may name.
    prize_ids = _read_ids(prize_tables)
    prizes = [_read_prize(table, prize_ids, budget) for table in prize_tables]
    _check_money(prizes, fields)
    _check_numbers(prize_tables, prizes)
    _check_fallbacks(prize_tables, prizes)
    rule_tables = fields.tables("rules", RULE_KEYS, RULES_MAX)
    _read_ids(rule_tables)
    rules = [read_rule(table, prize_ids) for table in rule_tables]
    _check_numbers(rule_tables, rules)
    if opens is None or closes is None:
        return None
    return Campaign(
        campaign_id, title, opens, closes, timezone, tuple(prizes), tuple(rules), digest, limits, budget, page
    )


def _read_campaign_id(fields: Fields) -> str:
    found = fields.text("id", required=True)
    if found is None:
        return ""
    if fault := check_campaign_id(found):
        fields.fault("id", fault)
    return found


def _read_title(fields: Fields) -> str:
    return fields.line("title", TITLE_CHARS_MAX, required=True) or ""


def _read_timezone(fields: Fields) -> str:
    found = fields.text("timezone", required=True)
    if found is None:
        return ""
    try:
        zoneinfo.ZoneInfo(found)
    except (LookupError, ValueError, OSError):
        fields.fault("timezone", f"unknown time zone {shown(found)}{hint(found, zoneinfo.available_timezones())}")
    return found


def _read_limits(fields: Fields) -> Limits:
    table = fields.table("limits", LIMITS_KEYS)
    if table is None:
        return Limits()
    return Limits(table.integer("per_user", 1), table.integer("per_user_per_day", 1))


def _read_budget(fields: Fields) -> Budget | None:
    table = fields.table("budget", BUDGET_KEYS)
    if table is None:
        return None
    currency = _read_currency(table, required=True)
    return Budget(currency or "", table.integer("total", 0), table.integer("per_day", 0))


def _read_currency(fields: Fields, *, required: bool) -> str | None:
    found = fields.text("currency", required=required)
    if found is not None and not _CURRENCY.fullmatch(found):
        fields.fault("currency", f"expected three capital letters such as CNY, found {shown(found)}")
        return None
    return found


def _read_ids(tables: Sequence[Fields]) -> list[str]:
    """Return the ids of a list of tables, "" where there is none, and note bad and repeated ones."""
    ids: list[str | None] = []
    for table in tables:
        found = table.text("id", required=True)
        if found == NONE:
            table.fault("id", f"{NONE!r} is the outcome without a prize: choose another id")
        elif found is not None and not _ID.fullmatch(found):
            wanted = "1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit"
            table.fault("id", f"expected {wanted}, found {shown(found)}")
        elif found is not None and found in ids:
            table.fault("id", f"{found!r} is already the id of {tables[ids.index(found)].place}")
        ids.append(found)
    return [found or "" for found in ids]


def _read_prize(fields: Fields, prize_ids: Sequence[str], budget: Budget | None) -> Prize:
    kind = fields.choice("kind", KINDS)
    amount = fields.integer("amount", 1)
    if kind in ("cash", "points") and not fields.has("amount"):
        unit = "the currency's minor unit" if kind == "cash" else "points"
        fields.fault("amount", f"missing: a prize of kind {kind} needs an amount, in {unit}")
    if kind == "cash" and amount is not None and amount > CASH_AMOUNT_MAX:
        fields.fault("amount", f"expected at most {CASH_AMOUNT_MAX:,} minor units of money, found {shown(amount)}")
    currency = _read_currency(fields, required=False)
    if kind == "cash" and not fields.has("currency"):
        currency = budget.currency if budget is not None else None
        if currency is None:
            fields.fault("currency", "cash needs a currency: write it here, or in [budget] for all cash")
    elif kind is not None and kind != "cash" and fields.has("currency"):
        fields.fault("currency", f"only cash has a currency, and this prize is {kind}")
    fallback = fields.text("fallback")
    if fallback == NONE:
        fields.fault("fallback", "leave the key out to give nothing instead")
    elif fallback is not None and fallback not in prize_ids:
        fields.fault("fallback", f"unknown prize {shown(fallback)}{hint(fallback, prize_ids)}")
    return Prize(
        id=str(fields.values.get("id", "")),
        kind=cast(Kind, kind),
        title=_read_title(fields),
        amount=amount,
        currency=currency,
        stock=fields.integer("stock", 0),
        stock_per_day=fields.integer("stock_per_day", 0),
        fallback=fallback,
        number=fields.integer("number", 0, PRIZES_MAX - 1),
    )


def _check_money(prizes: Sequence[Prize], fields: Fields) -> None:
    """One budget is one sum of money: all cash in one currency, and no sum that overflows."""
    cash = [(index, prize) for index, prize in enumerate(prizes) if prize.kind == "cash" and prize.currency]
    budget = fields.values.get("budget")
    declared = budget.get("currency") if isinstance(budget, dict) else None
    for index, prize in cash:
        if isinstance(declared, str) and prize.currency != declared:
            fields.fault(f"prizes[{index}].currency", f"{prize.currency!r} is not the budget's currency {declared!r}")
        elif declared is None and prize.currency != cash[0][1].currency:
            first = f"{cash[0][1].currency!r} of prizes[{cash[0][0]}]"
            fields.fault(
                f"prizes[{index}].currency",
                f"{prize.currency!r} is not the {first}: all cash is in one currency",
            )
    worth = sum((prize.amount or 0) * (prize.stock or 0) for _, prize in cash)
    if worth > INT64_MAX:
        fields.fault(
            "prizes",
            f"all stock of cash is worth {shown(worth)}, the most is 2**63 - 1: leave stock out for no limit",
        )


def _check_numbers(tables: Sequence[Fields], entries: Sequence[Prize | Rule]) -> None:
    owners: dict[int, str] = {}
    for table, entry in zip(tables, entries, strict=True):
        if entry.number is not None and owners.setdefault(entry.number, table.place) != table.place:
            table.fault("number", f"{entry.number} is already the number of {owners[entry.number]}")


def _check_fallbacks(tables: Sequence[Fields], prizes: Sequence[Prize]) -> None:
    """Refuse prizes that fall back on one another in a circle: the ledger would never come to an end."""
    fallback_of = {prize.id: prize.fallback for prize in prizes}
    place_of = {prize.id: table for table, prize in zip(tables, prizes, strict=True)}
    done: set[str] = set()
    for prize in prizes:
        chain: list[str] = []
        current: str | None = prize.id
        while current in fallback_of and current not in done:
            done.add(current)
            chain.append(current)
            current = fallback_of[current]
        if current in chain:
            cycle = [*chain[chain.index(current) :], current]
            place_of[current].fault("fallback", f"these prizes fall back on one another: {' -> '.join(cycle)}")
