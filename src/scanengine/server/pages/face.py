"""What the page shows of one view: which words, which figures, which state; the template only puts them in place."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from scanengine.model import Answer, ClaimReply, Decision, PrizeReply
from scanengine.server.pages.words import Words
from scanengine.tables.themes import PageTheme

Tone = Literal["good", "attention", "quiet"]
State = Literal["", "ready", "login", "open", "pending", "done"]
"""Of the prize part: absent, a button that claims, a link to the login, advice, an unknown outcome, an outcome."""
_TONES: Final[dict[str, Tone]] = {
    "verdict.first_scan": "good",
    "verdict.repeat": "good",
    "verdict.unknown": "good",
    "verdict.plain": "good",
    "verdict.suspect": "attention",
    "status.recalled": "attention",
    "status.expired": "attention",
}
_STATES: Final[dict[str, State]] = {"claim": "ready", "login": "login", "open": "open"}
_SETTLED: Final = ("awarded", "no_prize")

Fact = tuple[str, str, str | None]
"""Key of the label, value for people, and the value for machines if it is a time."""


class Face(Struct, frozen=True):
    """See the module; `head` and `claim` are keys of words with ``.title`` and ``.text``."""

    head: str
    tone: Tone
    state: State
    title: str | None
    rules: str | None
    notice: str | None
    is_test: bool
    brand: str | None = None
    product: str | None = None
    product_lang: str = ""
    scans: tuple[Fact, ...] = ()
    facts: tuple[Fact, ...] = ()
    claim: str | None = None
    claim_at: str = ""
    claim_id: str | None = None
    is_settled: bool = False
    prize: str | None = None
    figure: str | None = None
    unit: str = ""


def face_of(
    words: Words, decision: Decision | None, answer: Answer | None, action: str, theme: PageTheme, notice: str | None
) -> Face:
    """Return what to show.

    Parameters
    ----------
    answer : Answer or None
        Public: of a code that outsiders are told nothing about, nothing of the decision is shown either. None for a
        page about no code, whose headline is `notice`.
    notice : str or None
        Without its ``notice.`` in front; one that nobody has words for is left out.
    """
    is_english = words.language == "en"
    title, rules = theme.title, theme.rules
    if is_english:
        title, rules = theme.title_en or title, theme.rules_en or rules
    about_page = notice is not None and f"notice.{notice}.title" in words.entries
    if answer is None or about_page:
        head = f"notice.{notice}" if about_page else "notice.failed"
        return Face(head, "quiet", "", title, rules, None, is_test=False)
    claim = answer.claim
    state = _STATES.get(action, "")
    if claim is not None and state not in {"login", "open"}:
        state = "pending" if claim.status == "pending" else "done"
    head = _head(words, answer)
    product, product_lang = _product(answer, decision, is_english)
    shown = claim if state in ("pending", "done") else None
    prize, figure, unit = _prize(words, shown.prize if shown else None)
    return Face(
        head=head,
        tone=_TONES.get(head, "quiet"),
        state=state,
        title=title,
        rules=rules,
        notice=f"notice.{notice}" if f"notice.{notice}" in words.entries else None,
        is_test=answer.test is True,
        brand=decision.product.brand if decision and decision.product and answer.product else None,
        product=product,
        product_lang=product_lang,
        scans=_scans(words, answer),
        facts=_facts(answer, decision),
        claim=_claim_key(words, shown) if shown else None,
        claim_at=words.time(shown.at) if shown and shown.at else "",
        claim_id=shown.id if shown and shown.status == "awarded" else None,
        is_settled=shown is not None and shown.status in _SETTLED,
        prize=prize,
        figure=figure,
        unit=unit,
    )


def _head(words: Words, answer: Answer) -> str:
    if answer.status != "valid":
        return words.first(f"status.{answer.status}", "status.invalid")
    if "authenticity" not in answer.scenes:
        return "verdict.plain"
    return words.first(f"verdict.{answer.verdict}", "verdict.unknown")


def _product(answer: Answer, decision: Decision | None, is_english: bool) -> tuple[str | None, str]:
    """Return the title and its language."""
    if answer.product is None:
        return None, ""
    known = decision.product if decision else None
    if is_english and known is not None and known.title_en:
        return known.title_en, "en"
    return answer.product.title or None, "zh"


def _scans(words: Words, answer: Answer) -> tuple[Fact, ...]:
    if answer.verdict is None or answer.scan is None:
        return ()
    first_at, count = answer.scan.first_at, answer.scan.count
    first = () if first_at is None else (("page.first_at", words.time(first_at), first_at),)
    return (*first, ("page.scans", words("page.scans_count", count=count), None)) if count else first


def _facts(answer: Answer, decision: Decision | None) -> tuple[Fact, ...]:
    if answer.product is None:
        return ()
    lot = (("page.lot", decision.lot, None),) if decision and decision.lot else ()
    return (*lot, ("page.gtin", answer.product.gtin, None))


def _claim_key(words: Words, claim: ClaimReply) -> str:
    again = f"claim.{claim.status}_again" if claim.replayed and claim.at else ""
    return words.first(again, f"claim.{claim.status}_{claim.reason}", f"claim.{claim.status}", "claim.ineligible")


def _prize(words: Words, prize: PrizeReply | None) -> tuple[str | None, str | None, str]:
    """Return title, figure and unit; without a figure the unit says what kind of prize it is."""
    if prize is None:
        return None, None, ""
    if prize.amount is None or prize.kind not in {"cash", "points"}:
        return prize.title, None, words.entries.get(f"prize.{prize.kind}", "")
    figure, unit = f"{prize.amount:,}", words("prize.points")
    if prize.kind == "cash":
        figure, unit = words.money(prize.amount, prize.currency or "")
    # A prize that is called what it is need not be said twice.
    title = "" if prize.title.replace(" ", "") == figure + unit else prize.title
    return title, figure, unit
