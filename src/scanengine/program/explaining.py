"""Why a scan is answered as it is: every step from the text to the draw, as data that can be put into any language.

    text -> code -> item -> batch -> segment -> campaign -> rules -> draw

The steps are taken one by one, each by itself, so that they can be told; a test compares them with the engine, which
takes them all at once. What the ledger adds is in :mod:`scanengine.program.foreseeing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from scanengine._core import (
    ALPHABET,
    FIELD_ITEM,
    FIELD_MINUTE,
    FIELD_PRODUCT,
    FIELD_REGION,
    FIELD_ROLE,
    FIELD_TIME,
    check_symbol,
    normalize,
)
from scanengine.codes import parse
from scanengine.engine import Engine
from scanengine.model import (
    CODE_SYMBOLS,
    IMPORTED_START,
    NO_ITEM,
    NO_PRIZE,
    NO_RULE,
    Decision,
    Role,
    Scene,
    SegmentState,
    Status,
)
from scanengine.program.answers import scene_names
from scanengine.program.judging import Facts, JudgedRule, Predicate, RuleBook
from scanengine.tables.scenes import ALWAYS_MS, Profile
from scanengine.tables.snapshot import Batch

Outcome = Literal["yes", "no", "info"]
FIELD_NAMES = {
    FIELD_TIME: "time", FIELD_MINUTE: "hours", FIELD_PRODUCT: "product", FIELD_ITEM: "item", FIELD_REGION: "region",
    FIELD_ROLE: "role",
}  # fmt: skip
_STATE_STATUSES = {
    SegmentState.INACTIVE: Status.INACTIVE,
    SegmentState.FROZEN: Status.FROZEN,
    SegmentState.VOID: Status.VOID,
    SegmentState.RECALLED: Status.RECALLED,
}
_CHECKING_STATES = ("verify", "active")


class Step(Struct, frozen=True):
    """One step of an explanation.

    Parameters
    ----------
    key : str
        What was found; the words for it are in a table of the command line.
    outcome : {"yes", "no", "info"}
        Whether the scan passes.
    values : dict
        What the words speak of. No code is among them.
    """

    key: str
    outcome: Outcome
    values: dict[str, Any]


class Explained(Struct, frozen=True):
    """What the tables say, step by step.

    Parameters
    ----------
    decision : Decision
        What the engine says.
    status : Status
    rule, drawn : int
        As the steps found them; ``NO_RULE`` and ``NO_PRIZE`` where nothing draws.
    book : RuleBook or None
        Rules of the campaign, where there is one.
    """

    decision: Decision
    steps: list[Step]
    status: Status
    rule: int = NO_RULE
    drawn: int = NO_PRIZE
    book: RuleBook | None = None


def explain(
    engine: Engine, text: str, now_ms: int, role: Role, region: int, time_text: Callable[[int], str]
) -> Explained:
    """Return why a scan is decided as it is.

    Parameters
    ----------
    text : str
        What the scanner handed over.
    now_ms : int
        Milliseconds since 1970 UTC.
    region : int
        Six-digit adcode, 0 if unknown.
    time_text : callable of int
        Puts a time into words.
    """
    return _Explaining(engine, now_ms, role, region, time_text).of(text)


class _Explaining:
    def __init__(self, engine: Engine, now_ms: int, role: Role, region: int, time_text: Callable[[int], str]) -> None:
        self._engine = engine
        self._now_ms = now_ms
        self._role = role
        self._region = region
        self._time = time_text
        self._steps: list[Step] = []

    def _say(self, key: str, outcome: Outcome, **values: Any) -> None:
        self._steps.append(Step(key, outcome, values))

    def of(self, text: str) -> Explained:
        decision = self._engine.decide(text, self._now_ms, self._role, self._region)
        self._say("handed_over", "info", chars=len(text), now=self._time(self._now_ms))
        status, item = self._find(text, decision)
        if status is not Status.VALID:
            return Explained(decision, self._steps, status)
        batch = next(
            (each for each in self._engine.snapshot.batches if 0 <= item - each.codes.item_start < each.codes.count),
            None,
        )
        if batch is None:
            self._say("batch_none", "no", item=item)
            return Explained(decision, self._steps, Status.UNKNOWN)
        offset = item - batch.codes.item_start
        self._say("batch", "yes", item=item, batch=batch.label, offset=offset, count=batch.codes.count)
        if batch.codes.test:
            self._say("batch_test", "info", batch=batch.label)
        profile = self._segment(batch, offset)
        status = self._state(self._engine.read(text)[1], profile, decision)
        if status is not Status.VALID:
            return Explained(decision, self._steps, status)
        return self._campaign(decision, item, profile)

    def _find(self, text: str, decision: Decision) -> tuple[Status, int]:
        """Return whether a text is a code that proves itself, and its item."""
        if IMPORTED_START <= decision.item < NO_ITEM:
            self._say("imported", "yes", item=decision.item)
            return Status.VALID, decision.item
        scanned = parse(text)
        if not scanned.text:
            self._say("wrapped_nothing", "no")
            return Status.MALFORMED, NO_ITEM
        self._say("bare" if scanned.text == text.strip() else "wrapped", "yes", chars=len(scanned.text))
        if decision.status is Status.PRODUCT_ONLY:
            self._say("product_only", "no", gtin=scanned.text)
            return Status.PRODUCT_ONLY, NO_ITEM
        code = normalize(scanned.text)
        if code is None:
            symbols = scanned.text.replace("-", "").replace(" ", "").upper()
            strange = sum(symbol not in ALPHABET + "OIL" for symbol in symbols)
            self._say("spelled_wrong", "no", symbols=len(symbols), strange=strange, expected=CODE_SYMBOLS)
            return Status.MALFORMED, NO_ITEM
        self._say("spelled", "yes", expected=CODE_SYMBOLS)
        numbers = bytes(ALPHABET.index(symbol) for symbol in code)
        if check_symbol(numbers[:-1]) != numbers[-1]:
            self._say("check_wrong", "no")
            return Status.MISTYPED, NO_ITEM
        self._say("check", "yes")
        keyring, slot = self._engine.keyring, numbers[0]
        state = keyring.slot_states.get(slot)
        if state not in _CHECKING_STATES:
            self._say("slot_revoked" if state else "slot_unknown", "no", slot=slot)
            return Status.UNKNOWN_KEY, NO_ITEM
        self._say("slot", "yes", slot=slot, slot_state=state)
        number, item = keyring.code_keys.decode(code)
        if number != Status.VALID:
            self._say("tag_wrong", "no")
            return Status.FORGED, NO_ITEM
        self._say("tag", "yes", item=item)
        return Status.VALID, item

    def _segment(self, batch: Batch, offset: int) -> Profile:
        table = batch.scenes
        segments = table.segments()
        index = table.segment_map.find(offset)
        end = int(segments.starts[index + 1]) if index + 1 < len(segments.starts) else segments.count
        profile = table.profiles[int(segments.indices[index])]
        self._say(
            "segment", "info", start=int(segments.starts[index]), end=end, generation=table.generation,
            state=profile.state.name.lower(), scenes=list(scene_names(profile.scenes)), product=profile.product,
            lot=profile.lot, market=profile.market, link=profile.link,
        )  # fmt: skip
        return profile

    def _state(self, gtin: int, profile: Profile, decision: Decision) -> Status:
        if gtin:
            if decision.status is Status.WRONG_PRODUCT:
                self._say("product_wrong", "no", gtin=gtin, product=profile.product)
                return Status.WRONG_PRODUCT
            self._say("product_right", "yes", gtin=gtin)
        if profile.state is not SegmentState.ACTIVE:
            self._say("state_wrong", "no", state=profile.state.name.lower())
            return _STATE_STATUSES[profile.state]
        opens_ms, closes_ms = profile.active_from_ms, profile.active_until_ms
        if self._now_ms < opens_ms:
            self._say("active_later", "no", time=self._time(opens_ms))
            return Status.INACTIVE
        if self._now_ms >= closes_ms:
            self._say("active_no_more", "no", time=self._time(closes_ms))
            return Status.EXPIRED
        if (opens_ms, closes_ms) == ALWAYS_MS:
            self._say("active", "yes")
        else:
            first = None if opens_ms == ALWAYS_MS[0] else self._time(opens_ms)
            last = None if closes_ms == ALWAYS_MS[1] else self._time(closes_ms)
            self._say("active_window", "yes", opens=first, closes=last)
        return Status.VALID

    def _campaign(self, decision: Decision, item: int, profile: Profile) -> Explained:
        if not profile.scenes & Scene.MARKETING:
            self._say("marketing_off", "no")
            return Explained(decision, self._steps, Status.VALID)
        if profile.campaign is None:
            self._say("campaign_none", "no")
            return Explained(decision, self._steps, Status.VALID)
        table = self._engine.snapshot.prizes.get(profile.campaign)
        if table is None:
            self._say("campaign_unpublished", "no", campaign=profile.campaign)
            return Explained(decision, self._steps, Status.VALID)
        metadata = table.metadata
        self._say(
            "campaign", "yes", campaign=table.id, title=table.title, generation=table.generation,
            opens=self._time(metadata.opens_ms), closes=self._time(metadata.closes_ms), timezone=metadata.timezone,
        )  # fmt: skip
        book = RuleBook(table, self._engine.keyring)
        facts = Facts(item, int(profile.product or 0), self._now_ms, frozenset((int(self._role),)), self._region)
        drawing = None
        for rule in book.rules:
            if drawing is not None:
                self._say("rule_later", "info", rule=rule.entry.id, drawing=drawing.entry.id)
            elif self._holds(book, rule, facts):
                drawing = rule
        if drawing is None:
            self._say("rule_none", "no")
            return Explained(decision, self._steps, Status.VALID, book=book)
        drawn = self._draw(book, drawing, item)
        return Explained(decision, self._steps, Status.VALID, drawing.entry.number, drawn, book)

    def _holds(self, book: RuleBook, rule: JudgedRule, facts: Facts) -> bool:
        for predicate in rule.predicates:
            (value,) = book.values(predicate, facts)
            if not predicate.holds(value):
                found, expected = self._in_words(predicate, value)
                self._say(
                    "rule_fails", "no", rule=rule.entry.id, field=FIELD_NAMES[predicate.field], found=found,
                    expected=expected,
                )  # fmt: skip
                return False
        fields = [FIELD_NAMES[predicate.field] for predicate in rule.predicates]
        self._say("rule_holds", "yes", rule=rule.entry.id, fields=fields)
        return True

    def _in_words(self, predicate: Predicate, value: int) -> tuple[str, str]:
        """Return a value and the ranges of a predicate as a person writes them."""
        if predicate.field == FIELD_ROLE:
            roles = [role.name.lower() for role in Role if predicate.holds(role)]
            return Role(value).name.lower(), ", ".join(roles)
        if predicate.field == FIELD_REGION:
            return str(value or "-"), ", ".join(_prefix(low, high) for low, high in predicate.ranges)
        if predicate.field == FIELD_PRODUCT:
            return str(value or "-"), ", ".join(_numbers(low, high) for low, high in predicate.ranges)
        if predicate.field == FIELD_ITEM:
            return str(value), ", ".join(_numbers(low, high) for low, high in predicate.ranges)
        if predicate.field == FIELD_MINUTE:
            return _clock(value), ", ".join(f"{_clock(low)}-{_clock(high)}" for low, high in predicate.ranges)
        spans = [
            f"{self._time(low) if low else ''}..{self._time(high) if high < ALWAYS_MS[1] else ''}"
            for low, high in predicate.ranges
        ]
        return self._time(value), ", ".join(spans)

    def _draw(self, book: RuleBook, rule: JudgedRule, item: int) -> int:
        drawn = book.draw(rule, item)
        weights = [int(weight) for weight in rule.entry.weights]
        weight = sum(each for each, outcome in zip(weights, rule.outcomes, strict=True) if outcome == drawn)
        values = {"rule": rule.entry.id, "mode": rule.entry.mode, "weight": weight, "total": sum(weights)}
        prize = book.table.prize(drawn)
        if prize is None:
            self._say("drawn_none", "no", **values)
        else:
            self._say("drawn", "yes", prize=prize.id, title=prize.title, **values)
        return drawn


def _prefix(low: int, high: int) -> str:
    """Return a range of adcodes as the prefix that it is: 440000 up to 450000 is 44."""
    text = f"{low:06}"
    for width in (2, 4, 6):
        if high - low == 10 ** (6 - width):
            return text[:width]
    return _numbers(low, high)


def _numbers(low: int, high: int) -> str:
    return str(low) if high == low + 1 else f"{low}:{high}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
