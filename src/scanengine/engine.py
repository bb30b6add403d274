"""Decisions: snapshot and scan in, decision out. Pure: no clock, no file, no socket, no ledger.

The same engine and the same scan give the same decision, so each can be replayed from the tables that were kept.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanengine._core import PROFILE_DTYPE, Resolver, normalize
from scanengine.codes import unwrap
from scanengine.errors import TableFormatError
from scanengine.keys import Keyring
from scanengine.model import (
    CODE_SYMBOLS,
    NO_RULE,
    CampaignTerms,
    Decision,
    Offer,
    Product,
    Role,
    Scene,
    Status,
)
from scanengine.tables.scenes import Profile
from scanengine.tables.snapshot import Snapshot

NO_CAMPAIGN = 0xFFFF
"""Stands in the campaign column for a code without a published campaign."""

_STATUS_OF = {int(status): status for status in Status}
# A plain integer: an enumeration's operators cost more than a whole look-up.
_VALID = int(Status.VALID)
_NO_SCENES = Scene(0)

_Words = tuple[Scene, Product | None, str | None, str | None, str | None, CampaignTerms | None]
"""Of a profile: scenes, product, lot, campaign, why nothing can be claimed, terms of the campaign."""


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
        self.campaigns = tuple(snapshot.prizes)
        for campaign, table in snapshot.prizes.items():
            if table.metadata.draw_key_id != keyring.draw_key_id:
                raise TableFormatError(
                    f"{table.path}: campaign {campaign!r} was published for another draw secret than keys.toml has: "
                    "restore that one, or publish the campaign again"
                )
        rule_set_of = {campaign: index for index, campaign in enumerate(self.campaigns)}
        self._terms: tuple[CampaignTerms, ...] = tuple(table.terms for table in snapshot.prizes.values())
        profiles: list[Profile] = []
        batches = []
        for batch in snapshot.batches:
            codes, scenes = batch.codes, batch.scenes
            batches.append((codes.item_start, codes.count, scenes.segment_map, len(profiles)))
            profiles.extend(scenes.profiles)
        records = np.zeros(len(profiles), PROFILE_DTYPE)
        for record, profile in zip(records, profiles, strict=True):
            record["active_from_ms"], record["active_until_ms"] = profile.active_from_ms, profile.active_until_ms
            record["gtin"] = int(profile.product or 0)
            record["rule_set"] = rule_set_of.get(profile.campaign or "", -1)
            record["state"], record["scenes"] = profile.state, profile.scenes
        rule_sets = [table.rule_set(keyring.draw_key(campaign)) for campaign, table in snapshot.prizes.items()]
        try:
            self._resolver = Resolver(keyring.code_keys, batches, records, rule_sets)
        except ValueError as error:
            raise TableFormatError(f"the tables do not fit together: {error}") from error
        # What a decision says in words, looked up by index instead of being made for every scan.
        self._records = records
        self._labels = tuple(batch.label for batch in snapshot.batches)
        self._words = tuple(
            self._words_of(profile, rule_set)
            for profile, rule_set in zip(profiles, records["rule_set"].tolist(), strict=True)
        )
        self._offers: dict[tuple[int, int], tuple[Offer, ...]] = {(NO_RULE, -1): ()}

    def _words_of(self, profile: Profile, rule_set: int) -> _Words:
        product = self.snapshot.products.get(profile.product) if profile.product else None
        if profile.product and product is None:
            product = Product(profile.product, "")  # Its line was removed by hand; the GTIN is still known.
        refusal = None
        if not profile.scenes & Scene.MARKETING:
            refusal = "scene_off"
        elif rule_set < 0:
            refusal = "no_rule"
        terms = self._terms[rule_set] if refusal is None else None
        return profile.scenes, product, profile.lot, profile.campaign, refusal, terms

    def decide(self, text: str, now_ms: int, role: Role = Role.CONSUMER, region: int = 0) -> Decision:
        """Decide one scan.

        Parameters
        ----------
        text : str
            What the scanner handed over: a code in any spelling, or a URL around it.
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
        if len(text) != CODE_SYMBOLS:
            text = unwrap(text)
        status, item, batch, place, rule, drawn, date = self._resolver.resolve(text, now_ms, role, region)
        code = normalize(text)
        generation = self.snapshot.generation
        if place < 0:
            return Decision(
                _STATUS_OF[status], code, item, _NO_SCENES, None, None, None, None, generation, (), 0, "not_valid", None
            )
        scenes, product, lot, campaign, refusal, terms = self._words[place]
        offers = self._offers.get((rule, drawn))
        if offers is None:
            offers = self._offers[rule, drawn] = (Offer(rule, drawn),)
        if status != _VALID:
            refusal, terms = "not_valid", None
        elif refusal is None and not offers:
            refusal = "no_rule"
        return Decision(
            _STATUS_OF[status], code, item, scenes, self._labels[batch], product, lot, campaign, generation, offers,
            date, refusal, terms,
        )  # fmt: skip

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
            Strings as for :meth:`decide`; arrays hold bare codes, in either case.
        role, region : int or array of shape (n,)

        Raises
        ------
        ValueError
            If a shape or a value does not fit.
        """
        letters = _letters_of(codes)
        columns = self._resolver.resolve_many(letters, now_ms, role, region)
        return Decisions(self.snapshot, self._records, columns)


def _letters_of(codes: list[str] | NDArray[Any]) -> NDArray[np.uint8]:
    if isinstance(codes, list):
        # Bare codes pass as they are; other spellings are normalised; what is malformed becomes zero bytes, which are.
        bare = [
            text if len(text) == CODE_SYMBOLS and text.isascii() else normalize(unwrap(text)) or "" for text in codes
        ]
        codes = np.array(bare, dtype=f"S{CODE_SYMBOLS}")
    if codes.dtype == np.dtype(f"S{CODE_SYMBOLS}") and codes.ndim == 1:
        codes = np.ascontiguousarray(codes).view(np.uint8).reshape(-1, CODE_SYMBOLS)
    return codes


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
    offer_start : int64, shape (n + 1,)
        The offers of scan i are rows [offer_start[i], offer_start[i + 1]) of `rule`, `prize` and `amount`.
    rule : uint8; prize : int16; amount : uint64, shape (offers,)
        Rule number, prize number drawn (-1 for none), and the amount of that prize (0 if it has none).
    campaigns : tuple of str
    """

    def __init__(self, snapshot: Snapshot, profiles: NDArray[np.void], columns: tuple[NDArray[Any], ...]) -> None:
        self._snapshot = snapshot
        self._profiles = profiles
        self.status, self.item, self._place, self._rule, self._drawn = columns
        self.campaigns = tuple(snapshot.prizes)

    def __len__(self) -> int:
        return len(self.status)

    def _from_profiles(self, field: str, nothing: int, dtype: type) -> NDArray[Any]:
        # One more row for "no profile", which index -1 finds.
        values: NDArray[Any] = np.append(self._profiles[field], nothing).astype(dtype)
        column: NDArray[Any] = values[self._place]
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
