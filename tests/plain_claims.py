"""The way of a claim in plain Python, written to be read: scan to decision to request, receipt to answer.

What the native loops must equal, value for value. Only what has a twin of its own is taken from the package: texts are
resolved by the core, and read by ``codes``.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from helpers import PROGRAM_SECRET, Shop
from scanengine import _reference
from scanengine.codes import exact_spellings, parse
from scanengine.engine import Engine
from scanengine.errors import ScanError
from scanengine.model import (
    IMPORTED_START,
    NO_ITEM,
    NO_PRIZE,
    NO_RULE,
    Answer,
    ClaimReply,
    ClaimRequest,
    ClaimStatus,
    Decision,
    Offer,
    Party,
    PrizeReply,
    Product,
    ProductReply,
    Receipt,
    ScanFacts,
    ScanReply,
    Scene,
    Status,
    terms_for_tests,
)
from scanengine.program.scans import Scan, check_code, region_code, role_of
from scanengine.program.settings import load_settings


class PlainClaims:
    """Decides, asks and answers for one shop as its engine and its program should."""

    def __init__(self, shop: Shop, engine: Engine) -> None:
        self.snapshot = engine.snapshot
        self.resolver = engine._resolver
        self.settings = load_settings(shop.workspace.settings_path)
        self.profiles = [(batch, profile) for batch in self.snapshot.batches for profile in batch.scenes.profiles]

    def read(self, text: str) -> tuple[str, int]:
        if any(batch.codes.texts is not None for batch in self.snapshot.batches):
            for spelling in exact_spellings(text):
                if self.resolver.is_imported(spelling):
                    return spelling, 0
        return parse(text)

    def decide(self, text: str, now_ms: int, role: int, region: int) -> Decision:
        resolved = self.resolver.resolve(text, now_ms, role, region)
        if len(text) != 20 or resolved[0] == Status.MALFORMED:
            text, gtin = self.read(text)
            resolved = self.resolver.resolve(text, now_ms, role, region, gtin)
        number, item, _, place, rule, drawn, date = resolved
        status = Status(number)
        code = text if IMPORTED_START <= item < NO_ITEM else _reference.normalize(text)
        generation = self.snapshot.generation
        if place < 0:
            products = {int(gtin): product for gtin, product in self.snapshot.products.items()}
            product = products.get(int(text)) if status == Status.PRODUCT_ONLY else None
            return Decision(
                status, code, item, Scene(0), None, product, None, None, generation, (), 0, "not_valid", None
            )
        batch, profile = self.profiles[place]
        product = self.snapshot.products.get(profile.product or "")
        if profile.product and product is None:
            product = Product(profile.product, "")
        table = self.snapshot.prizes.get(profile.campaign or "")
        refusal, terms = None, table and table.terms
        if not profile.scenes & Scene.MARKETING:
            refusal, terms = "scene_off", None
        elif table is None:
            refusal = "no_rule"
        campaign = profile.campaign or None
        if batch.codes.test:
            campaign, terms = campaign and f"{campaign}~test", terms and terms_for_tests(terms)
        offers = () if rule == NO_RULE else (Offer(rule, drawn),)
        if status != Status.VALID:
            refusal, terms = "not_valid", None
        elif refusal is None and not offers:
            refusal = "no_rule"
        return Decision(
            status, code, item, profile.scenes, batch.label, product, profile.lot, campaign, generation, offers, date,
            refusal, terms, profile.link, profile.market, batch.codes.test,
        )  # fmt: skip

    def request(self, scan: Scan, decision: Decision, now_ms: int) -> ClaimRequest:
        party = Party.of(scan.role)
        return ClaimRequest(
            item=decision.item,
            party=party,
            user=scan.user,
            user_hash=hash_of("scan-user", scan.user),
            visit=scan.visit,
            visit_hash=hash_of("scan-visit", scan.visit),
            claim_id=claim_id(decision.item, party),
            generation=decision.generation,
            offers=decision.offers,
            terms=decision.terms,
            refusal=decision.refusal,
            local_date=decision.local_date,
            now_ms=now_ms,
            counts_scan=decision.status == Status.VALID,
            batch=decision.batch or "",
            product=decision.product.gtin if decision.product else "",
            role=scan.role,
            region=scan.region,
        )

    def claimed(self, decision: Decision, claim_id: str, receipt: Receipt) -> Answer:
        if receipt.status == ClaimStatus.INELIGIBLE and decision.status != Status.VALID:
            return self.verified(decision, None)
        at = None
        if receipt.status in (ClaimStatus.AWARDED, ClaimStatus.NO_PRIZE, ClaimStatus.TAKEN):
            at = self.time(receipt.at_ms)
        claim = ClaimReply(claim_id, receipt.status.value, None, at, receipt.reason)
        if receipt.status in (ClaimStatus.AWARDED, ClaimStatus.NO_PRIZE):
            claim = replace(claim, replayed=receipt.replayed, reason=None, prize=self.prize(receipt))
        return replace(self.verified(decision, receipt.scan), claim=claim)

    def verified(self, decision: Decision, facts: ScanFacts | None) -> Answer:
        scan, verdict, product = None, None, decision.product
        if facts is not None:
            scan = ScanReply(facts.count, None if facts.first_at_ms is None else self.time(facts.first_at_ms))
            if decision.status == Status.VALID and decision.scenes & Scene.AUTHENTICITY:
                verdict = "suspect" if facts.count > self.settings.authenticity.suspect_after else "repeat"
                if facts.number == 1 or facts.count == 0:
                    verdict = "first_scan"
        return Answer(
            status=decision.status.name.lower(),
            code=decision.code,
            verdict=verdict,
            scan=scan,
            product=ProductReply(product.gtin, product.title) if product else None,
            batch=decision.batch,
            scenes=tuple(scene.name.lower() for scene in Scene if scene & decision.scenes),
            test=decision.test or UNSET,
        )

    def prize(self, receipt: Receipt) -> PrizeReply | None:
        if receipt.prize == NO_PRIZE or receipt.campaign is None:
            return None
        info = self.snapshot.prizes[receipt.campaign.removesuffix("~test")].prize(receipt.prize)
        assert info is not None
        amount = 0 if info.amount and receipt.campaign.endswith("~test") else info.amount
        return PrizeReply(info.id, info.kind, amount, info.currency, info.title)

    def time(self, time_ms: int) -> str:
        return datetime.fromtimestamp(time_ms / 1000, self.settings.zone).isoformat(timespec="milliseconds")


def scan_of(code: Any, user: Any, visit: Any, role: Any, region: Any) -> Scan:
    """Check the fields of a scan one by one; without a visit, its name is empty here."""
    check_code(code)
    for field, text in (("user", user), ("visit", visit)):
        if field == "visit" and text is None:
            continue
        try:
            size = len(text.encode())
        except (AttributeError, UnicodeEncodeError):
            size = 0
        if not 1 <= size <= 64:
            raise ScanError(field, "")
    return Scan(code, user, visit or "", role_of(role), region_code(region))


def hash_of(person: str, text: str) -> int:
    key = blake2b(digest_size=16, key=PROGRAM_SECRET, person=person.encode()).digest()
    return _reference.siphash24(key, text.encode())


def claim_id(item: int, party: Party) -> str:
    data = item.to_bytes(8, "little") + bytes([party])
    digest = blake2b(data, digest_size=16, key=PROGRAM_SECRET, person=b"scan-claim").digest()
    return _reference.base32_text(digest)
