"""The words of the domain as data: what flows along the line from text to reply.

    text -> Status + item -> Decision (offers) -> ClaimRequest -> Receipt -> Answer; Event beside it

Nothing here decides anything, reads a clock or imports a module of ours. Structures are immutable, so that a snapshot,
a decision or a receipt can be shared between threads. What is made for every scan refers to nothing that could lead
back to it, so the garbage collector need not look for cycles there: ``gc=False``.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag, StrEnum
from typing import Final

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

CODE_SYMBOLS: Final = 20
TEXT_CHARS_MAX: Final = 512
"""The longest text a scanner may hand over."""
USER_BYTES_MAX: Final = 64
VISIT_BYTES_MAX: Final = 64
SERIAL_BITS: Final = 40
SERIALS_PER_SLOT: Final = 1 << SERIAL_BITS
SLOT_COUNT: Final = 32
IMPORTED_SLOT: Final = SLOT_COUNT
"""Stands for a slot where codes are imported: their item numbers follow on those of the last slot."""
TABLE_BITS: Final = 32
"""Offsets of one table of imported codes take as many bits of the item number, the table's number those above."""
TABLE_COUNT: Final = 1 << 22
IMPORTED_START: Final = IMPORTED_SLOT << SERIAL_BITS
"""First item number of imported codes."""
TEXT_BYTES_MAX: Final = 64
"""The longest text that can be imported as a code."""
IMPORTED_CODES_MAX: Final = 20_000_000
"""Codes in one imported batch."""
TEST_SUFFIX: Final = "~test"
"""Ends the campaign id of claims of test codes; the id of a real campaign cannot hold ``~``."""
NO_ITEM: Final = (1 << 64) - 1
"""Stands in the item column for a code that is not in a batch of ours."""
NO_PRIZE: Final = -1
"""Prize number of the outcome ``none``."""
NO_RULE: Final = -1
RULES_MAX: Final = 256
PRIZES_MAX: Final = 256


class Status(IntEnum):
    """What a code is, in the order of the checks. Zero is never an answer."""

    MALFORMED = 1
    MISTYPED = 2
    UNKNOWN_KEY = 3
    FORGED = 4
    UNKNOWN = 5
    WRONG_PRODUCT = 6
    INACTIVE = 7
    FROZEN = 8
    VOID = 9
    RECALLED = 10
    EXPIRED = 11
    VALID = 12
    PRODUCT_ONLY = 13


INVALID: Final = "invalid"
"""What outsiders are told instead of the four statuses that would help a guesser."""
HIDDEN_STATUSES: Final = frozenset({"unknown_key", "forged", "unknown", "wrong_product"})


class SegmentState(IntEnum):
    """State of a segment of codes, set by its owner."""

    ACTIVE = 0
    INACTIVE = 1
    FROZEN = 2
    VOID = 3
    RECALLED = 4


class Scene(IntFlag):
    """What a scan may be used for."""

    AUTHENTICITY = 1
    MARKETING = 2
    ANTI_DIVERSION = 4
    TRACE = 8
    LINK = 16


class Role(IntEnum):
    """Who scans. Every role but the consumer belongs to the sales channel."""

    CONSUMER = 0
    RETAILER = 1
    ASSOCIATE = 2
    DISTRIBUTOR = 3
    INSPECTOR = 4


class Party(IntEnum):
    """One award is possible per item and party."""

    CONSUMER = 0
    CHANNEL = 1

    @classmethod
    def of(cls, role: Role) -> Party:
        """Return the party a role claims for."""
        return cls.CHANNEL if role else cls.CONSUMER


class ClaimStatus(StrEnum):
    """What became of a claim. Only the first two are recorded."""

    AWARDED = "awarded"
    NO_PRIZE = "no_prize"
    TAKEN = "taken"
    LIMITED = "limited"
    CLOSED = "closed"
    INELIGIBLE = "ineligible"
    PENDING = "pending"
    STALE = "stale"
    """Decided on an older generation than the ledger has seen: reload and decide again. Never shown to a user."""


class Product(Struct, frozen=True):
    """One line of ``products.toml``."""

    gtin: str
    title: str
    title_en: str | None = None
    brand: str | None = None
    category: str | None = None


class Offer(Struct, frozen=True, gc=False):
    """What one rule drew for one code.

    Parameters
    ----------
    rule : int
        Number of the rule, 0 to 255.
    drawn : int
        Number of the prize, 0 to 255, or ``NO_PRIZE``.
    """

    rule: int
    drawn: int


class PrizeTerms(Struct, frozen=True):
    """What the ledger must know of a prize.

    Parameters
    ----------
    number : int
        0 to 255, for the life of the campaign.
    money : int
        What one award takes from the budget, in the currency's minor unit; 0 unless the prize is cash.
    stock, stock_per_day : int or None
        Most awards in all and on one local day; None for no limit.
    fallback : int
        Number of the prize to give when this one cannot be given, or ``NO_PRIZE``.
    points : int
        Amount of a prize that is not money, for the event alone.
    """

    number: int
    money: int = 0
    stock: int | None = None
    stock_per_day: int | None = None
    fallback: int = NO_PRIZE
    points: int = 0

    @property
    def amount(self) -> int:
        """What the event says was given: money in minor units, or points."""
        return self.money or self.points


class CampaignTerms(Struct, frozen=True):
    """What the ledger must know of a campaign; shared by all claims of one generation.

    Parameters
    ----------
    opens_ms, closes_ms : int
        Half-open window ``[opens, closes)``, milliseconds since 1970 UTC.
    per_user, per_user_per_day : int or None
        Most recorded claims of one person, in all and on one local day.
    budget_total, budget_per_day : int or None
        Most money awarded, in the currency's minor unit.
    prizes : tuple of PrizeTerms or None, indexed by prize number
        None at the number of a prize that this generation no longer has.
    """

    id: str
    opens_ms: int
    closes_ms: int
    prizes: tuple[PrizeTerms | None, ...]
    per_user: int | None = None
    per_user_per_day: int | None = None
    budget_total: int | None = None
    budget_per_day: int | None = None


def terms_for_tests(terms: CampaignTerms) -> CampaignTerms:
    """Return the terms for test codes of a campaign: counters of their own, and nothing that is worth anything."""
    prizes = tuple(prize and replace(prize, money=0, points=0) for prize in terms.prizes)
    return replace(terms, id=terms.id + TEST_SUFFIX, prizes=prizes)


class Decision(Struct, frozen=True, gc=False):
    """What the tables say of one scan: a pure function of snapshot, text, time, role and region.

    Parameters
    ----------
    code : str or None
        The code in its bare spelling, 20 symbols, or an imported code as it is; None if the text is malformed or names
        a product only.
    item : int
        Item number, or ``NO_ITEM`` if the code is not in a batch of ours.
    campaign : str or None
        Id of the segment's campaign; of a test code it ends in ``~test``.
    scenes : Scene
        Scenes that are on; empty for a code that is not located.
    refusal : str or None
        Why no claim is possible whatever the ledger holds: ``not_valid``, ``scene_off`` or ``no_rule``.
    terms : CampaignTerms or None
        Terms of the campaign; None with a refusal other than ``no_rule``.
    generation : int
        Generation of the snapshot that decided.
    local_date : int
        Days since 1970-01-01 in the campaign's time zone; 0 without a campaign.
    link : str or None
        Landing link of the code's segment, ``{code}`` to be filled in.
    market : str or None
        Where the goods are to be sold.
    test : bool
        Whether the code is of a test batch: it is decided and claimed like others, and is worth nothing.
    """

    status: Status
    code: str | None
    item: int
    scenes: Scene
    batch: str | None
    product: Product | None
    lot: str | None
    campaign: str | None
    generation: int
    offers: tuple[Offer, ...]
    local_date: int
    refusal: str | None
    terms: CampaignTerms | None
    link: str | None = None
    market: str | None = None
    test: bool = False

    def __repr__(self) -> str:
        """Show the item, never the code, which is a bearer secret."""
        return f"<Decision {self.status.name.lower()} item={self.item} offers={self.offers}>"


class ScanFacts(Struct, frozen=True, gc=False):
    """What the ledger knows of the scans of one item.

    Parameters
    ----------
    count : int
        Visits counted so far, this one included if it counts.
    first_at_ms : int or None
        Time of the first counted visit, milliseconds since 1970 UTC.
    number : int
        Which of them this visit is, from 1; 0 if this call does not count.
    """

    count: int
    first_at_ms: int | None
    number: int


class ClaimRequest(Struct, frozen=True, gc=False):
    """One claim on its way to the ledger.

    Parameters
    ----------
    item : int
        Item number below 2**55.
    user : str
        At most 64 bytes of UTF-8; only the event holds it whole.
    user_hash, visit_hash : int
        64-bit keyed hashes of user and visit; all that records and counters hold.
    claim_id : str
        26 characters; a function of program, item and party.
    now_ms : int
        The caller's clock; the ledger never lets time run backwards.
    counts_scan : bool
        Whether this visit counts as a scan of the item.
    terms, refusal
        As in :class:`Decision`. With ``terms`` None only an earlier claim can be answered.
    """

    item: int
    party: Party
    user: str
    user_hash: int
    visit: str
    visit_hash: int
    claim_id: str
    generation: int
    offers: tuple[Offer, ...]
    terms: CampaignTerms | None
    refusal: str | None
    local_date: int
    now_ms: int
    counts_scan: bool = True
    batch: str = ""
    product: str = ""
    role: Role = Role.CONSUMER
    region: int = 0


class ObserveRequest(Struct, frozen=True, gc=False):
    """One look at, or one counted visit of, an item without a claim."""

    item: int
    visit_hash: int
    now_ms: int
    counts_scan: bool


class Receipt(Struct, frozen=True, gc=False):
    """The ledger's answer to one claim.

    Parameters
    ----------
    status, reason
        See the table in ``docs/architecture.md``.
    replayed : bool
        Whether this person was given this very claim before.
    at_ms : int
        Time of the recorded claim (of the first one for ``taken``); time of the call otherwise.
    campaign : str or None
        Campaign of the recorded claim; with ``generation`` it names the prize table that ``prize`` refers to.
    drawn, prize : int
        Numbers of the prize drawn and of the prize given, or ``NO_PRIZE``.
    unit : int
        Running number of the prize given, from 1; 0 without a prize.
    scan : ScanFacts or None
        None if the ledger could not say.
    """

    status: ClaimStatus
    reason: str | None = None
    replayed: bool = False
    at_ms: int = 0
    campaign: str | None = None
    generation: int = 0
    rule: int = NO_RULE
    drawn: int = NO_PRIZE
    prize: int = NO_PRIZE
    unit: int = 0
    scan: ScanFacts | None = None


class Adjustment(Struct, frozen=True):
    """A change of what a campaign may give, applied once.

    Parameters
    ----------
    id : str
        Chosen by the caller; a second adjustment of the same id changes nothing.
    action : str
        ``stock`` (with ``prize`` and ``amount`` of units), ``budget`` (with ``amount`` of money), ``pause``,
        ``resume`` or ``close``.
    """

    id: str
    campaign: str
    action: str
    prize: int = NO_PRIZE
    amount: int = 0
    at_ms: int = 0


class Event(Struct, frozen=True, omit_defaults=False):
    """One record of the outbox.

    ``claim`` events: exactly one for each recorded claim, delivered at least once, ``id`` stable.
    ``scan`` events: other visits, best effort, off by default.
    """

    id: str
    seq: int
    type: str
    at: int
    item: int
    batch: str
    product: str
    user: str
    role: str
    region: int
    campaign: str | None
    generation: int
    rule: int
    drawn: int
    prize: int
    amount: int
    unit: int
    claim: str | None
    visit: str


class ScanReply(Struct, frozen=True, gc=False):
    """Counted scans as a caller sees them; ``first_at`` is ISO 8601 in the program's time zone."""

    count: int
    first_at: str | None


class ProductReply(Struct, frozen=True, gc=False):
    """A product as a caller sees it."""

    gtin: str
    title: str


class PrizeReply(Struct, frozen=True, gc=False):
    """A prize as a caller sees it; ``amount`` is in minor units of ``currency`` for cash."""

    id: str
    kind: str
    amount: int | None
    currency: str | None
    title: str


class ClaimReply(Struct, frozen=True, omit_defaults=True, gc=False):
    """A claim as a caller sees it."""

    id: str
    status: str
    replayed: bool | None = None
    at: str | None = None
    reason: str | None = None
    prize: PrizeReply | None = None


class Answer(Struct, frozen=True, gc=False):
    """All that one call says of one code: the reply of the library, the command line and HTTP alike.

    ``test`` is True for a code of a test batch, and not there for any other.
    """

    status: str
    code: str | None
    verdict: str | None = None
    scan: ScanReply | None = None
    product: ProductReply | None = None
    batch: str | None = None
    scenes: tuple[str, ...] = ()
    claim: ClaimReply | None = None
    test: bool | UnsetType = UNSET

    def __repr__(self) -> str:
        """Show everything but the code, which is a bearer secret."""
        return f"<Answer {self.status} batch={self.batch} verdict={self.verdict} claim={self.claim}>"

    @property
    def is_pending(self) -> bool:
        """Whether the outcome of the claim is unknown: ask again with the same visit."""
        return self.claim is not None and self.claim.status == ClaimStatus.PENDING

    def public(self) -> Answer:
        """Return what an outsider may see: four statuses become one ``invalid`` that says nothing more."""
        if self.status in HIDDEN_STATUSES:
            return Answer(INVALID, self.code)
        return self
