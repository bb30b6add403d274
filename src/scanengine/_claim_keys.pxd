# The C face of the keys that claims and people are known by, for the loops that make claims.

from libc.stdint cimport uint8_t, uint64_t

from scanengine._siphash cimport siphash_key


cdef class ClaimKeys:
    cdef object _claim_hash
    cdef siphash_key _user
    cdef siphash_key _visit

    # Ensures: the claim id of (item, party), 26 characters.
    cdef str id_of(self, uint64_t item, uint8_t party)

    # Ensures: the keyed hash of a user or a visit. UnicodeEncodeError for half a pair of surrogates.
    cdef uint64_t hash_of_user(self, object user) except? 0
    cdef uint64_t hash_of_visit(self, object visit) except? 0
