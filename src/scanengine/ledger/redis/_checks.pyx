# cython: language_level=3, boundscheck=True, wraparound=False
"""The check of claims before they share a batch: a quick look at each.

What the look does not take for plainly right is left to the check that says what is wrong with it.
"""

from libc.stdint cimport int64_t, uint64_t

from scanengine.ledger.protocol import check_claim
from scanengine.ledger.records import TIME_MS_MAX
from scanengine.ledger.redis.codec import check_terms
from scanengine.model import Party, Role

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    bint PyUnicode_IS_ASCII(object text)

cdef int64_t ITEM_END = <int64_t> 1 << 55
cdef int64_t UINT32_END = <int64_t> 1 << 32
cdef int64_t TIME_MS_END = 253_370_764_800_000
cdef int64_t DATE_END = <int64_t> 1 << 31

cdef enum:
    TERMS_KEPT = 64
    PARTY_COUNT = 2
    ROLE_COUNT = 5

assert len(Party) == PARTY_COUNT and len(Role) == ROLE_COUNT and TIME_MS_END == TIME_MS_MAX + 1


cdef class Checker:
    """Checks the claims of one ledger, and the terms of each campaign once."""

    cdef dict _checked          # Terms by their identity: held, so that it is not given to others.
    cdef object _newest

    def __cinit__(self):
        self._checked = {}

    def check(self, requests):
        """Check that claims fit the records, and that their terms fit the functions.

        Raises
        ------
        ValueError
            A number is outside its range: a prize gives more than 2**53 - 1, a limit is negative, a time is none.
        """
        for request in requests:
            if not _is_plainly_right(request):
                check_claim(request)
            terms = request.terms
            if terms is not None and terms is not self._newest:
                if id(terms) not in self._checked:
                    check_terms(terms)
                    if len(self._checked) >= TERMS_KEPT:
                        self._checked.clear()
                    self._checked[id(terms)] = terms
                self._newest = terms


cdef inline bint _is_below(value, int64_t end) except -1:
    cdef int overflow = 0
    cdef int64_t number
    if type(value) is not int:
        return False
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    return not overflow and 0 <= number < end


cdef inline bint _is_one_of(value, int64_t count) except -1:
    # Parties and roles are integers of a type of their own.
    cdef int overflow = 0
    cdef int64_t number
    if not isinstance(value, int):
        return False
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    return not overflow and 0 <= number < count


cdef inline bint _is_text(text) except -1:
    return type(text) is str and PyUnicode_IS_ASCII(text)


cdef bint _is_plainly_right(request) except -1:
    """Tell whether a claim is one that the full check takes; False says nothing."""
    cdef uint64_t hash_
    try:
        hash_ = request.user_hash
        hash_ = request.visit_hash
    except (OverflowError, TypeError):
        return False
    if not (
        _is_below(request.item, ITEM_END)
        and _is_below(request.now_ms, TIME_MS_END)
        and _is_below(request.generation, UINT32_END)
        and _is_below(request.region, UINT32_END)
        and _is_one_of(request.party, PARTY_COUNT)
        and _is_one_of(request.role, ROLE_COUNT)
        and _is_text(request.user)
        and _is_text(request.visit)
        and _is_text(request.batch)
        and _is_text(request.product)
        and _is_text(request.claim_id)
    ):
        return False
    if request.terms is not None and not (_is_below(request.local_date, DATE_END) and request.local_date > 0):
        return False
    for offer in request.offers:
        if not (_is_below(offer.rule, 256) and (_is_below(offer.drawn, 256) or offer.drawn == -1)):
            return False
    return True
