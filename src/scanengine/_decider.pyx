"""One scan decided, in words: what the core resolves, as a ``Decision``. Part of the engine.

The words of a profile are put together once for a snapshot, so a decision is a look-up, a draw and one structure. What
a URL or a Digital Link has around a code is not read here: the engine is asked.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from scanengine._core cimport CODE_SYMBOL_COUNT, SCAN_MALFORMED, SCAN_PRODUCT_ONLY, SCAN_VALID
from scanengine._core cimport Resolver, bare_text, resolution
from scanengine._rules cimport region_checked, role_checked, time_checked

from scanengine import model
from scanengine.model import Decision, Offer, ProductReply, Scene, Status

cdef tuple STATUSES = (None, *Status)    # by number
cdef object NO_SCENES = Scene(0)
cdef uint64_t IMPORTED_START = model.IMPORTED_START
cdef uint64_t NO_ITEM = model.NO_ITEM
cdef Py_ssize_t TEXT_CHARS_MAX = model.TEXT_CHARS_MAX


cdef class Words:
    """What a decision says of every code of one profile; `refusal` is why nothing can be claimed, None if it can."""

    def __cinit__(self, scenes, product, lot, campaign, refusal, terms, link, market, batch, is_test):
        self.scenes, self.product, self.lot, self.campaign = scenes, product, lot, campaign
        self.refusal, self.terms, self.link, self.market = refusal, terms, link, market
        self.batch, self.is_test = batch, is_test
        self.scene_bits = scenes
        self.gtin = product.gtin if product else ""
        self.product_reply = ProductReply(product.gtin, product.title) if product else None


# Safe without the garbage collector: nothing that it refers to leads back to it.
@cython.no_gc
@cython.freelist(128)
cdef class Found:
    pass


cdef class Decider:
    """Decides single scans by one snapshot.

    Parameters
    ----------
    resolver : Resolver
    words : iterable of Words
        Of each profile of the resolver.
    products : dict of int to Product
    generation : int
    has_texts : bool
        Whether there are imported codes.
    read : callable
        Takes a text and returns the code in it, and the number of the product that it names, 0 for none.
    """

    def __cinit__(self, Resolver resolver not None, words, dict products not None, generation, has_texts, read):
        self._resolver = resolver
        self._words = tuple(words)
        for each in self._words:
            if not isinstance(each, Words):
                raise TypeError(f"Words expected for each profile, found {type(each).__name__}")
        self._products = products
        self.generation = generation
        self._has_texts = has_texts
        self._read = read
        self._offers = [None] * 256

    def decide(self, text, now_ms, role, region):
        """Decide one scan; see :meth:`scanengine.engine.Engine.decide`."""
        return self.decision_of(
            self.find(text, time_checked(now_ms), role_checked(role), region_checked(region)))

    cdef Found find(self, object text, int64_t now_ms, uint8_t role, uint32_t region):
        cdef Found found = Found.__new__(Found)
        cdef resolution *place = &found.place
        self._resolver.resolve_text(text, now_ms, role, region, 0, place)
        if not self.is_whole(text, place):
            text, gtin = self._read(text)
            self._resolver.resolve_text(text, now_ms, role, region, gtin, place)
        found.text = text
        # Imported codes are spelled in one way only.
        found.code = text if IMPORTED_START <= place.item < NO_ITEM else bare_text(text)
        found.offers = self.offers_of(place)
        found.refusal = "not_valid"
        if place.profile >= 0:
            found.words = <Words>self._words[place.profile]
            if place.status == SCAN_VALID:
                found.refusal = found.words.refusal
                found.terms = found.words.terms
                if found.refusal is None and place.rule < 0:
                    found.refusal = "no_rule"
        return found

    cdef object decision_of(self, Found found):
        cdef Words words = found.words
        cdef resolution *place = &found.place
        status = STATUSES[place.status]
        if words is None:
            product = self._products.get(int(found.text)) if place.status == SCAN_PRODUCT_ONLY else None
            return Decision(
                status, found.code, place.item, NO_SCENES, None, product, None, None, self.generation, (), 0,
                found.refusal, None)
        return Decision(
            status, found.code, place.item, words.scenes, words.batch, words.product, words.lot, words.campaign,
            self.generation, found.offers, place.local_date, found.refusal, found.terms, words.link, words.market,
            words.is_test)

    cdef bint is_whole(self, object text, const resolution *place):
        # Ensures: True if reading the text would find nothing but the text; if not, it may be either.
        cdef Py_ssize_t size = len(text)
        if place.status == SCAN_MALFORMED or size > TEXT_CHARS_MAX:
            return False
        if not self._has_texts or size == CODE_SYMBOL_COUNT:
            return True
        # An imported code is taken as it stands; none has space around it that reading would take off.
        return IMPORTED_START <= place.item < NO_ITEM

    cdef tuple offers_of(self, const resolution *place):
        # Ensures: no offer or one. All that were ever drawn are kept: at most 257 outcomes for each of 256 rules.
        cdef list drawn
        if place.rule < 0:
            return ()
        drawn = self._offers[place.rule]
        if drawn is None:
            drawn = self._offers[place.rule] = [None] * 257
        offers = drawn[place.drawn + 1]
        if offers is None:
            offers = drawn[place.drawn + 1] = (Offer(place.rule, place.drawn),)
        return offers
