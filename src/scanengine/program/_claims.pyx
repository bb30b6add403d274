"""The inner loops of claims: scans decided into requests, receipts put into words.

Nothing here waits, and nothing is looked up for each claim that is the same for all of a call.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from scanengine._claim_keys cimport ClaimKeys
from scanengine._core cimport SCAN_VALID
from scanengine._decider cimport Decider, Found, Words
from scanengine._rules cimport region_checked, role_checked, time_checked

import msgspec

from scanengine import model
from scanengine.errors import TableFormatError
from scanengine.model import Answer, ClaimReply, ClaimRequest, ClaimStatus, Party, ProductReply, ScanReply, Scene
from scanengine.model import Status

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

# Members of enumerations are compared as objects and looked up by number: their operators run Python code, and every
# scan comes this way.
cdef object VALID = Status.VALID
cdef object AWARDED = ClaimStatus.AWARDED
cdef object NO_PRIZE_CLAIM = ClaimStatus.NO_PRIZE
cdef object TAKEN = ClaimStatus.TAKEN
cdef object INELIGIBLE = ClaimStatus.INELIGIBLE
cdef object STALE = ClaimStatus.STALE
cdef object CONSUMER = Party.CONSUMER
cdef object CHANNEL = Party.CHANNEL
cdef int AUTHENTICITY = Scene.AUTHENTICITY
cdef int NO_PRIZE = model.NO_PRIZE
cdef Py_ssize_t CODE_CHARS_MAX = model.TEXT_CHARS_MAX
cdef Py_ssize_t USER_BYTES_MAX = model.USER_BYTES_MAX
cdef Py_ssize_t VISIT_BYTES_MAX = model.VISIT_BYTES_MAX
cdef object UNSET = msgspec.UNSET
cdef const char *HEXADECIMAL = b"0123456789abcdef"
cdef tuple STATUS_NAMES = ("", *(status.name.lower() for status in Status))
cdef tuple SCENE_NAMES = tuple(
    tuple(scene.name.lower() for scene in Scene if scene & bits) for bits in range(2 * max(Scene)))


def scene_names(int scenes):
    """Return the names of the scenes that are on."""
    return SCENE_NAMES[scenes]


# Scans ---------------------------------------------------------------------------------------------------------------

def are_sized(code, user, visit):
    """Tell whether code, user and visit are texts of sizes that a scan may have; a visit may be None."""
    return (
        isinstance(code, str) and len(code) <= CODE_CHARS_MAX
        and is_sized(user, USER_BYTES_MAX)
        and (visit is None or is_sized(visit, VISIT_BYTES_MAX))
    )


cdef class Names:
    """Names that nobody else gives: a prefix of this process, and a running number; all hexadecimal.

    Parameters
    ----------
    prefix : bytes
        At most 9 random bytes.
    digits : int
        The number has at least so many, at most 16.
    """

    cdef uint8_t _letters[34]       # 18 of the prefix, and room for a number of 64 bits
    cdef int _prefix_size
    cdef int _shift                 # of the first digit that is always there
    cdef uint64_t _number

    def __cinit__(self, bytes prefix not None, int digits=1):
        if len(prefix) > 9 or not 1 <= digits <= 16:
            raise ValueError(f"a prefix has at most 9 bytes and a number 1 to 16 digits, found {len(prefix)}, {digits}")
        cdef bytes letters = prefix.hex().encode()
        self._prefix_size = len(letters)
        self._shift = 4 * (digits - 1)
        memcpy(self._letters, <const uint8_t *>letters, self._prefix_size)

    def next(self):
        """Return a new name."""
        cdef uint64_t number = self._number
        cdef int size = self._prefix_size
        cdef int shift = self._shift
        self._number += 1
        while shift < 60 and number >> shift >= 16:
            shift += 4
        while shift >= 0:
            self._letters[size] = HEXADECIMAL[(number >> shift) & 15]
            size += 1
            shift -= 4
        return (<const char *>self._letters)[:size].decode("ascii")


cdef bint is_sized(object text, Py_ssize_t size_max):
    cdef Py_ssize_t size
    if not isinstance(text, str):
        return False
    try:
        PyUnicode_AsUTF8AndSize(text, &size)
    except UnicodeEncodeError:
        return False
    return 1 <= size <= size_max


# Requests ------------------------------------------------------------------------------------------------------------

def request_of(ClaimKeys keys not None, scan, decision, now_ms):
    """Return what to ask the ledger for a scan that was decided."""
    product = decision.product
    return request_made(
        keys, scan, scan.role, scan.region, now_ms, decision.item, decision.status is VALID, decision.batch or "",
        "" if product is None else product.gtin, decision.generation, decision.offers, decision.terms,
        decision.refusal, decision.local_date)


cdef object request_made(
    ClaimKeys keys, object scan, object role, object region, object now_ms, uint64_t item, bint is_valid, object batch,
    object gtin, object generation, tuple offers, object terms, object refusal, int64_t local_date,
):
    user = scan.user
    visit = scan.visit
    # Every role but the consumer, who is 0, belongs to the sales channel.
    cdef bint is_channel = bool(role)
    return ClaimRequest(
        item, CHANNEL if is_channel else CONSUMER, user, keys.hash_of_user(user), visit, keys.hash_of_visit(visit),
        keys.id_of(item, is_channel), generation, offers, terms, refusal, local_date, now_ms, is_valid, batch, gtin,
        role, region)


def ask(Decider decider not None, ClaimKeys keys not None, scans, list places not None, now_ms):
    """Decide the scans at some places, and say what to ask the ledger for them.

    Returns
    -------
    asked : Asked
        The scans in a batch of ours, to be handed back with the receipts, and what to ask for each of them.
    others : list of (int, Decision)
        Place and decision of the scans that the ledger need not be asked about.
    """
    cdef int64_t checked_ms = time_checked(now_ms)
    cdef Asked asked = Asked.__new__(Asked)
    cdef Found found
    cdef Words words
    cdef list others = []
    asked.decider = decider
    asked.places, asked.found, asked.requests = [], [], []
    for place in places:
        scan = scans[place]
        role = scan.role
        region = scan.region
        found = decider.find(scan.code, checked_ms, role_checked(role), region_checked(region))
        words = found.words
        if words is None:
            others.append((place, decider.decision_of(found)))
            continue
        asked.places.append(place)
        asked.found.append(found)
        asked.requests.append(request_made(
            keys, scan, role, region, now_ms, found.place.item, found.place.status == SCAN_VALID, words.batch,
            words.gtin, decider.generation, found.offers, found.terms, found.refusal, found.place.local_date))
    return asked, others


cdef class Asked:
    """What the ledger is asked, and for which scans."""

    cdef Decider decider
    cdef list places
    cdef list found
    cdef readonly list requests


# Answers -------------------------------------------------------------------------------------------------------------

cdef class Wording:
    """Puts decisions and receipts into words; what old prizes were called, the subclass knows.

    Parameters
    ----------
    time_text : callable
        Takes milliseconds since 1970 UTC and returns the time as text.
    suspect_after : int
        Most counted scans that are no reason for doubt.
    """

    cdef readonly object time_text
    cdef int64_t _suspect_after
    cdef tuple _last_time           # The last time told and its text: a ledger commits many claims in one millisecond.
    cdef tuple _prizes              # A snapshot, and what was told of prizes under it.

    def __init__(self, time_text, suspect_after):
        self.time_text = time_text
        self._suspect_after = suspect_after
        self._last_time = (-1, "")
        self._prizes = (None, {})

    def prize_told(self, campaign, generation, number, snapshot):
        """Return the PrizeReply for a prize of a campaign that was current at a generation."""
        raise NotImplementedError

    def verified(self, decision, facts):
        """Return the answer to a look without a claim; `facts` None if counts are unavailable."""
        return self.answer_of_decision(decision, facts, None)

    def claimed(self, decision, claim_id, receipt, snapshot):
        """Return the answer to a claim.

        Raises
        ------
        TableFormatError
            If the table of the prize is gone or damaged.
        """
        if receipt.status is INELIGIBLE and decision.status is not VALID:
            return self.answer_of_decision(decision, None, None)
        return self.answer_of_decision(decision, receipt.scan, self.claim_of(claim_id, receipt, snapshot))

    cdef object told(self, Found found, object claim_id, object receipt, object snapshot):
        # Ensures: as `claimed` of the decision on what was found.
        cdef Words words = found.words
        facts = claim = None
        if receipt.status is not INELIGIBLE or found.place.status == SCAN_VALID:
            facts = receipt.scan
            claim = self.claim_of(claim_id, receipt, snapshot)
        return self.answer_of(
            found.place.status, found.code, words.product_reply, words.batch, words.scene_bits, words.is_test, facts,
            claim)

    cdef object answer_of_decision(self, object decision, object facts, object claim):
        product = decision.product
        return self.answer_of(
            decision.status, decision.code, None if product is None else ProductReply(product.gtin, product.title),
            decision.batch, decision.scenes, decision.test, facts, claim)

    cdef object answer_of(
        self, int status, object code, object product, object batch, int scenes, bint is_test, object facts,
        object claim,
    ):
        cdef int64_t count
        verdict = scan = None
        if facts is not None:
            count = facts.count
            first_at_ms = facts.first_at_ms
            scan = ScanReply(facts.count, None if first_at_ms is None else self.time_of(first_at_ms))
            if status == SCAN_VALID and scenes & AUTHENTICITY:
                if count == 0 or facts.number == 1:
                    verdict = "first_scan"
                else:
                    verdict = "suspect" if count > self._suspect_after else "repeat"
        return Answer(
            STATUS_NAMES[status], code, verdict, scan, product, batch, SCENE_NAMES[scenes], claim,
            True if is_test else UNSET)

    cdef object claim_of(self, object claim_id, object receipt, object snapshot):
        status = receipt.status
        if status is AWARDED or status is NO_PRIZE_CLAIM:
            return ClaimReply(
                claim_id, "awarded" if status is AWARDED else "no_prize", receipt.replayed,
                self.time_of(receipt.at_ms), None, self.prize_of(receipt, snapshot))
        at = self.time_of(receipt.at_ms) if status is TAKEN else None
        return ClaimReply(claim_id, status._value_, None, at, receipt.reason)

    cdef object prize_of(self, object receipt, object snapshot):
        # What a prize of a campaign was called at a generation never changes; a new snapshot starts afresh all the
        # same, so that no more is kept than one of them needs. Both are swapped at once, as other threads read them.
        cdef int number = receipt.prize
        cdef dict told
        campaign = receipt.campaign
        if number == NO_PRIZE or campaign is None:
            return None
        known, told = self._prizes
        if known is not snapshot:
            told = {}
            self._prizes = (snapshot, told)
        generation = receipt.generation
        key = (campaign, generation, number)
        reply = told.get(key)
        if reply is None:
            reply = told[key] = self.prize_told(campaign, generation, number, snapshot)
        return reply

    cdef object time_of(self, object time_ms):
        known, text = self._last_time
        if known != time_ms:
            text = self.time_text(time_ms)
            self._last_time = (time_ms, text)
        return text


def tell(Wording wording not None, Asked asked not None, receipts, snapshot, list answers not None):
    """Put the answers to what was asked at their places.

    Returns
    -------
    list of (int, Decision, str, TableFormatError or None)
        Place, decision and claim id of what cannot be told: stale, or with the error of a table that is gone.
    """
    cdef Py_ssize_t index
    cdef Found found
    cdef list untold = []
    if len(receipts) != len(asked.requests):
        raise ValueError(f"{len(receipts)} receipts for {len(asked.requests)} requests")
    for index in range(len(asked.requests)):
        place = asked.places[index]
        found = <Found>asked.found[index]
        receipt = receipts[index]
        claim_id = asked.requests[index].claim_id
        if receipt.status is STALE:
            untold.append((place, asked.decider.decision_of(found), claim_id, None))
            continue
        try:
            answers[place] = wording.told(found, claim_id, receipt, snapshot)
        except TableFormatError as error:
            untold.append((place, asked.decider.decision_of(found), claim_id, error))
    return untold
