"""Reading one ``[[rules]]`` entry: what it draws, and what must hold for it to draw."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, cast

from scanengine.campaigns.fields import Fields, hint, shown
from scanengine.campaigns.model import MODES, NONE, Conditions, Mode, Rule
from scanengine.codes import gtin_fault
from scanengine.model import RULES_MAX, Role

RULE_KEYS: Final = ("id", "draw", "when", "number")
DRAW_KEYS: Final = ("mode", "weights", "prize")
WHEN_KEYS: Final = ("roles", "regions", "products", "batches", "hours", "opens", "closes")
WEIGHT_BITS_MAX: Final = 4096
"""Far beyond any odds, and far below the 4,300 decimal digits at which Python refuses to print an integer."""

_REGION: Final = re.compile(r"[1-9][0-9](?:[0-9]{2}){0,2}")
_HOURS: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")
_ROLES: Final = {role.name.lower(): role for role in Role}


def read_rule(fields: Fields, prize_ids: Sequence[str]) -> Rule:
    """Read a rule; what is wrong is noted in `fields`, and the rule is then of no use.

    Parameters
    ----------
    fields : Fields
        The entry, opened with ``RULE_KEYS``.
    prize_ids : sequence of str
        Every id that a rule may draw, besides ``none``.
    """
    draw = fields.table("draw", DRAW_KEYS, required=True)
    mode = draw.choice("mode", MODES) if draw is not None else None
    weights: tuple[tuple[str, int], ...] = ()
    if draw is not None and mode is not None:
        wanted, unwanted = ("weights", "prize") if mode == "weighted" else ("prize", "weights")
        if draw.has(unwanted):
            draw.fault(unwanted, f"a {mode} draw has {wanted}, not {unwanted}")
        weights = _read_weights(draw, prize_ids) if mode == "weighted" else _read_certain(draw, prize_ids)
    return Rule(
        id=str(fields.values.get("id", "")),
        mode=cast(Mode, mode),
        weights=weights,
        when=_read_conditions(fields),
        number=fields.integer("number", 0, RULES_MAX - 1),
    )


def _read_certain(draw: Fields, prize_ids: Sequence[str]) -> tuple[tuple[str, int], ...]:
    outcome = draw.text("prize", required=True)
    if outcome is None:
        return ()
    _check_outcome(draw, "prize", outcome, prize_ids)
    return ((outcome, 1),)


def _check_outcome(draw: Fields, key: str, outcome: str, prize_ids: Sequence[str]) -> None:
    if outcome != NONE and outcome not in prize_ids:
        draw.fault(key, f"unknown prize {shown(outcome)}{hint(outcome, [*prize_ids, NONE])}")


def _read_weights(draw: Fields, prize_ids: Sequence[str]) -> tuple[tuple[str, int], ...]:
    table = draw.values.get("weights")
    if not isinstance(table, dict):
        found = "missing" if table is None else f"found {shown(table)}"
        draw.fault("weights", f"expected a table of prize id = weight, {found}")
        return ()
    weights: list[tuple[str, int]] = []
    for outcome, weight in table.items():
        place = f"weights.{outcome}"
        if isinstance(weight, dict):
            draw.fault(place, "expected an integer, found a table: write an id that holds a dot in quotes")
            continue
        _check_outcome(draw, "weights", outcome, prize_ids)
        if isinstance(weight, bool) or not isinstance(weight, int):
            draw.fault(place, f"expected an integer, found {shown(weight)}: use integers, as in 7 and 993 for 0.7 %")
        elif weight < 0:
            draw.fault(place, f"a weight is not negative, found {shown(weight)}")
        elif weight.bit_length() > WEIGHT_BITS_MAX:
            draw.fault(place, f"a weight has at most {WEIGHT_BITS_MAX} bits, found {shown(weight)}")
        else:
            weights.append((outcome, weight))
    if len(weights) == len(table) and not any(weight for _, weight in weights):
        draw.fault("weights", "at least one weight must be positive")
    return tuple(weights)


def _read_conditions(fields: Fields) -> Conditions:
    when = fields.table("when", WHEN_KEYS)
    if when is None:
        return Conditions()
    role_names = _checked_texts(when, "roles", _ROLES, f"expected one of {', '.join(_ROLES)}")
    regions = when.texts("regions") or ()
    for index, region in enumerate(regions):
        if not _REGION.fullmatch(region):
            when.fault(
                f"regions[{index}]",
                f'expected 2, 4 or 6 digits of a division code such as "4403", found {shown(region)}',
            )
    opens, closes = when.moment("opens"), when.moment("closes")
    if opens and closes and closes <= opens:
        when.fault("closes", f"must be after opens ({opens.isoformat()}), found {closes.isoformat()}")
    return Conditions(
        roles=tuple(_ROLES[name] for name in role_names) or (Role.CONSUMER,),
        regions=regions,
        products=_read_products(when),
        batches=when.texts("batches") or (),
        hours=_read_hours(when),
        opens=opens,
        closes=closes,
    )


def _checked_texts(fields: Fields, key: str, known: Iterable[str], expected: str) -> tuple[str, ...]:
    """Return those strings of a list that are known, and note the others."""
    found = fields.texts(key) or ()
    for index, name in enumerate(found):
        if name not in known:
            fields.fault(f"{key}[{index}]", f"{expected}, found {shown(name)}{hint(name, known)}")
    return tuple(name for name in found if name in known)


def _read_products(when: Fields) -> tuple[int, ...]:
    gtins: list[int] = []
    for index, gtin in enumerate(when.texts("products") or ()):
        if fault := gtin_fault(gtin):
            when.fault(f"products[{index}]", fault)
        else:
            gtins.append(int(gtin))
    return tuple(gtins)


def _read_hours(when: Fields) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    for index, text in enumerate(when.texts("hours") or ()):
        match = _HOURS.fullmatch(text)
        if match is None:
            when.fault(f"hours[{index}]", f'expected a span such as "18:00-23:00", found {shown(text)}')
            continue
        start = int(match[1]) * 60 + int(match[2])
        end = int(match[3]) * 60 + int(match[4]) if match[3] else 24 * 60
        if start == end:
            when.fault(f"hours[{index}]", f"{text} is an empty span: write 00:00-24:00 for the whole day")
        spans.append((start, end))
    return tuple(spans)
