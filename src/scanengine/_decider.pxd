# The C face of single decisions, for the loops that make claims.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from scanengine._core cimport Resolver, resolution


cdef class Words:
    # What is said of every code of one profile.
    cdef object scenes, product, lot, campaign, refusal, terms, link, market, batch
    cdef object gtin               # "" without a product
    cdef object product_reply      # None without one
    cdef int scene_bits
    cdef bint is_test


cdef class Found:
    # One scan resolved, with the words of its profile: all that a Decision says, before anybody wants one.
    cdef resolution place
    cdef object text               # as the core read it
    cdef object code               # in its bare spelling; None if there is none
    cdef Words words               # None if the code is not in a batch
    cdef tuple offers
    cdef object refusal, terms


cdef class Decider:
    cdef Resolver _resolver
    cdef object _read
    cdef object generation
    cdef tuple _words
    cdef dict _products
    cdef list _offers
    cdef bint _has_texts

    # Requires: values that time_checked, role_checked and region_checked let through.
    # Ensures:  what the tables say of one scan. A bad code is a status; TypeError if the text is none.
    cdef Found find(self, object text, int64_t now_ms, uint8_t role, uint32_t region)

    # Ensures:  the same as a Decision.
    cdef object decision_of(self, Found found)
    cdef bint is_whole(self, object text, const resolution *place)
    cdef tuple offers_of(self, const resolution *place)
