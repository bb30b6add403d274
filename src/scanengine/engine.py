"""Decisions: snapshot and scan in, decision out. Pure: no clock, no file, no socket, no ledger.

The same engine and the same scan give the same decision, so each can be replayed from the tables that were kept.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from scanengine._core import PROFILE_DTYPE, Resolver, normalize
from scanengine._decider import Decider, Words
from scanengine.codes import exact_spellings, parse
from scanengine.errors import TableFormatError
from scanengine.keys import Keyring
from scanengine.model import (
    CODE_SYMBOLS,
    NO_RULE,
    TEST_SUFFIX,
    TEXT_BYTES_MAX,
    CampaignTerms,
    Decision,
    Product,
    Role,
    Scene,
    Status,
    terms_for_tests,
)
from scanengine.tables.scenes import Profile, link_fault
from scanengine.tables.snapshot import Snapshot

NO_CAMPAIGN = 0xFFFF
"""Stands in the campaign column for a code without a published campaign."""

_MALFORMED = int(Status.MALFORMED)


class Engine:
    """Decides scans by one snapshot and one key ring; safe for any number of threads, the same answer every time.

    Raises
    ------
    TableFormatError
        If the tables do not fit together.
    """

    def __init__(self, keyring: Keyring, snapshot: Snapshot) -> None:
        self.keyring = keyring
        self.snapshot = snapshot
        for campaign, table in snapshot.prizes.items():
            if table.metadata.draw_key_id != keyring.draw_key_id:
                raise TableFormatError(
                    f"{table.path}: campaign {campaign!r} was published for another draw secret than keys.toml has: "
                    "restore that one, or publish the campaign again"
                )
        terms = [table.terms for table in snapshot.prizes.values()]
        rule_sets = [table.rule_set(keyring.draw_key(campaign)) for campaign, table in snapshot.prizes.items()]
        if any(batch.codes.test for batch in snapshot.batches):
            # Test codes draw by the same rules, under terms of their own.
            terms, rule_sets = [*terms, *map(terms_for_tests, terms)], [*rule_sets, *rule_sets]
        self.campaigns = tuple(each.id for each in terms)
        self._terms: tuple[CampaignTerms, ...] = tuple(terms)
        rule_set_of = {campaign: index for index, campaign in enumerate(self.campaigns)}
        profiles: list[Profile] = []
        batches, texts, labels = [], [], []
        for index, batch in enumerate(snapshot.batches):
            codes, scenes = batch.codes, batch.scenes
            batches.append((codes.item_start, codes.count, scenes.segment_map, len(profiles)))
            profiles.extend(_tested(profile) if codes.test else profile for profile in scenes.profiles)
            labels.extend([(batch.label, codes.test)] * len(scenes.profiles))
            if codes.texts is not None:
                texts.append((index, codes.texts.index))
        records = np.zeros(len(profiles), PROFILE_DTYPE)
        for record, profile in zip(records, profiles, strict=True):
            record["active_from_ms"], record["active_until_ms"] = profile.active_from_ms, profile.active_until_ms
            record["gtin"] = int(profile.product or 0)
            record["rule_set"] = rule_set_of.get(profile.campaign or "", -1)
            record["state"], record["scenes"] = profile.state, profile.scenes
        try:
            self._resolver = Resolver(keyring.code_keys, batches, records, rule_sets, texts)
        except ValueError as error:
            raise TableFormatError(f"the tables do not fit together: {error}") from error
        self._records = records
        self._read = partial(_read_imported, self._resolver) if texts else parse
        self.decider = Decider(
            self._resolver,
            # What a decision says in words, looked up by index instead of being made for every scan.
            map(self._words_of, profiles, records["rule_set"].tolist(), labels),
            {int(gtin): product for gtin, product in snapshot.products.items()},
            snapshot.generation,
            bool(texts),
            self._read,
        )

    def _words_of(self, profile: Profile, rule_set: int, label: tuple[str, bool]) -> Words:
        product = self.snapshot.products.get(profile.product) if profile.product else None
        if profile.product and product is None:
            product = Product(profile.product, "")  # Its line was removed by hand; the GTIN is still known.
        refusal = None
        if not profile.scenes & Scene.MARKETING:
            refusal = "scene_off"
        elif rule_set < 0:
            refusal = "no_rule"
        terms = self._terms[rule_set] if refusal is None else None
        # Tables that are older than the rule may hold others: nobody is sent there.
        link = profile.link if profile.link and not link_fault(profile.link) else None
        return Words(
            profile.scenes, product, profile.lot, profile.campaign, refusal, terms, link, profile.market, *label
        )

    def decide(self, text: str, now_ms: int, role: Role = Role.CONSUMER, region: int = 0) -> Decision:
        """Decide one scan.

        Parameters
        ----------
        text : str
            What the scanner handed over: a code in any spelling, or a URL around it.
            See :func:`scanengine.codes.parse`.
        now_ms : int
            Milliseconds since 1970 UTC.
        region : int
            Six-digit adcode, 0 if unknown.

        Raises
        ------
        ValueError
            If time, role or region are out of range. A bad code is a status, never an exception.

        Notes
        -----
        About a microsecond; holds the GIL.
        """
        return self.decider.decide(text, now_ms, role, region)

    def read(self, text: str) -> tuple[str, int]:
        """Return the code in a scanned text, and the product that it names beside it, 0 for none.

        An imported code is taken as it stands, so of a Digital Link that was imported whole no part is read.
        """
        return self._read(text)

    def decide_many(
        self,
        codes: list[str] | NDArray[Any],
        now_ms: int,
        role: int | NDArray[Any] = Role.CONSUMER,
        region: int | NDArray[Any] = 0,
    ) -> Decisions:
        """Decide many scans without the GIL.

        Parameters
        ----------
        codes : list of str, or array of ``S20`` (n,) or uint8 (n, 20)
            Strings as for :meth:`decide`. Arrays hold codes without any URL around them, of up to 64 bytes filled up
            with zeros, so other widths from 1 to 64 do as well; 20 is quickest.
        role, region : int or array of shape (n,)

        Raises
        ------
        ValueError
            If a shape or a value does not fit.
        """
        if isinstance(codes, list):
            columns = self._resolve_texts(codes, now_ms, role, region)
        else:
            columns = self._resolver.resolve_many(_letters_of(codes), now_ms, role, region)
        return Decisions(self.snapshot, self.campaigns, self._records, columns)

    def _resolve_texts(
        self, texts: list[str], now_ms: int, role: int | NDArray[Any], region: int | NDArray[Any]
    ) -> tuple[NDArray[Any], ...]:
        """Resolve texts as :meth:`decide` reads them: as they are first, and what is left over by its inside."""
        bare = [text if len(text) == CODE_SYMBOLS and text.isascii() else "" for text in texts]
        letters = _letters_of(np.array(bare, dtype=f"S{CODE_SYMBOLS}"))
        columns: tuple[NDArray[Any], ...] = self._resolver.resolve_many(letters, now_ms, role, region)
        # The zeros that end a text are its own here, and no filling.
        others = np.flatnonzero((columns[0] == _MALFORMED) | (letters[:, -1] == 0))
        if len(others):
            read = [self.read(texts[row]) for row in others.tolist()]
            rows = np.array([_as_row(text) for text, _ in read], dtype=np.bytes_)
            gtins = np.array([gtin for _, gtin in read], np.uint64)
            roles, regions = (each if np.ndim(each) == 0 else np.asarray(each)[others] for each in (role, region))
            found = self._resolver.resolve_many(_letters_of(rows), now_ms, roles, regions, gtins)
            for column, part in zip(columns, found, strict=True):
                column[others] = part
        return columns


def _read_imported(resolver: Resolver, text: str) -> tuple[str, int]:
    """Return what a text holds where codes were imported: it may be one of them as it stands."""
    for spelling in exact_spellings(text):
        if resolver.is_imported(spelling):
            return spelling, 0
    return parse(text)


def _letters_of(codes: NDArray[Any]) -> NDArray[Any]:
    """Return texts as rows of bytes; what is none is left for the resolver to refuse."""
    if codes.dtype.kind == "S" and codes.ndim == 1:
        return np.ascontiguousarray(codes).view("u1").reshape(-1, codes.dtype.itemsize)
    return codes


def _as_row(text: str) -> str:
    """Return a text of at most 64 bytes that means the same; what is no code becomes the empty text, which is none."""
    if len(text) > TEXT_BYTES_MAX:
        # Too long to be imported; a code of ours may still have any number of hyphens.
        return normalize(text) or ""
    return text if text.isascii() and "\0" not in text else ""


def _tested(profile: Profile) -> Profile:
    """Return what a segment of test codes says: their claims are counted under a campaign of their own."""
    return replace(profile, campaign=profile.campaign + TEST_SUFFIX) if profile.campaign else profile


class Decisions:
    """Decisions of many scans as columns.

    Attributes
    ----------
    status : uint8, shape (n,)
        Values of :class:`~scanengine.model.Status`.
    item : uint64, shape (n,)
        Item number, 2**64 - 1 if the code is not in a batch of ours.
    scenes : uint8, shape (n,)
        Bits of :class:`~scanengine.model.Scene`; 0 if not located.
    campaign : uint16, shape (n,)
        Index into `campaigns`; 65535 without one.
    place : int32, shape (n,)
        Equal for two scans if all that the tables say of their segments is equal; -1 if not located. Means nothing to
        another engine.
    offer_start : int64, shape (n + 1,)
        The offers of scan i are rows [offer_start[i], offer_start[i + 1]) of `rule`, `prize` and `amount`.
    rule : uint8; prize : int16; amount : uint64, shape (offers,)
        Rule number, prize number drawn (-1 for none), and the amount of that prize (0 if it has none).
    campaigns : tuple of str
        Ids; where there are test codes, once more for them, ending in ``~test``, with amounts of 0.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        campaigns: tuple[str, ...],
        profiles: NDArray[np.void],
        columns: tuple[NDArray[Any], ...],
    ) -> None:
        self._snapshot = snapshot
        self._profiles = profiles
        self.status, self.item, self.place, self._rule, self._drawn = columns
        self.campaigns = campaigns

    def __len__(self) -> int:
        return len(self.status)

    def _from_profiles(self, field: str, nothing: int, dtype: type) -> NDArray[Any]:
        # One more row for "no profile", which index -1 finds.
        values: NDArray[Any] = np.append(self._profiles[field], nothing).astype(dtype)
        column: NDArray[Any] = values[self.place]
        return column

    @cached_property
    def scenes(self) -> NDArray[np.uint8]:
        """Scene bits of each scan."""
        return self._from_profiles("scenes", 0, np.uint8)

    @cached_property
    def campaign(self) -> NDArray[np.uint16]:
        """Index of each scan's campaign."""
        return self._from_profiles("rule_set", NO_CAMPAIGN, np.uint16)

    @cached_property
    def _has_offer(self) -> NDArray[np.bool_]:
        has_offer: NDArray[np.bool_] = self._rule != NO_RULE
        return has_offer

    @cached_property
    def offer_start(self) -> NDArray[np.int64]:
        """Where the offers of each scan start."""
        starts = np.zeros(len(self) + 1, np.int64)
        np.cumsum(self._has_offer, out=starts[1:])
        return starts

    @cached_property
    def rule(self) -> NDArray[np.uint8]:
        """Rule number of each offer."""
        return self._rule[self._has_offer].astype(np.uint8)

    @cached_property
    def prize(self) -> NDArray[np.int16]:
        """Prize number drawn by each offer, -1 for none."""
        return self._drawn[self._has_offer]

    @cached_property
    def amount(self) -> NDArray[np.uint64]:
        """Amount of the prize drawn by each offer, 0 without one."""
        amounts = np.zeros((max(len(self.campaigns), 1), 257), np.uint64)
        for index, table in enumerate(self._snapshot.prizes.values()):
            for entry in table.metadata.prizes:
                amounts[index, entry.number] = entry.amount or 0
        return amounts[self.campaign[self._has_offer], self.prize]
