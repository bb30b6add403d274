"""What a ledger knows claims and people by: claim ids and keyed hashes. Part of the core."""

from libc.stdint cimport uint8_t, uint64_t

from scanengine._core cimport digest_text
from scanengine._draws cimport key_read
from scanengine._siphash cimport siphash_bytes, siphash_key

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL


cdef class ClaimKeys:
    """Prepared sub-keys of one program's secret.

    Parameters
    ----------
    claim_hash : BLAKE2b object of ``hashlib``
        Keyed and personalised, with 16 bytes of digest, and nothing hashed yet. It is copied for every claim, as
        preparing it anew costs more than all the rest.
    user_key, visit_key : bytes
        16 bytes each.

    Raises
    ------
    ValueError
        If a key has not 16 bytes.
    """

    def __cinit__(self, claim_hash, user_key, visit_key):
        if claim_hash.name != "blake2b" or claim_hash.digest_size != 16:
            raise ValueError(f"claim ids are BLAKE2b of 16 bytes, found {claim_hash.name} of {claim_hash.digest_size}")
        self._claim_hash = claim_hash
        key_read(user_key, &self._user)
        key_read(visit_key, &self._visit)

    def __repr__(self):
        return "<ClaimKeys>"

    def __reduce__(self):
        raise TypeError("ClaimKeys holds secrets and cannot be pickled")

    cdef str id_of(self, uint64_t item, uint8_t party):
        cdef uint8_t material[9]
        cdef int index
        for index in range(8):
            material[index] = <uint8_t>(item >> (8 * index))
        material[8] = party
        state = self._claim_hash.copy()
        state.update((<const char *>material)[:9])
        cdef bytes digest = state.digest()
        return digest_text(digest)

    cdef uint64_t hash_of_user(self, object user) except? 0:
        return text_hash(&self._user, user)

    cdef uint64_t hash_of_visit(self, object visit) except? 0:
        return text_hash(&self._visit, visit)

    def claim_id(self, uint64_t item, uint8_t party):
        """Return the id of the one claim that (item, party) can have."""
        return self.id_of(item, party)

    def user_hash(self, user):
        """Return the 64-bit keyed hash of a user."""
        return text_hash(&self._user, user)

    def visit_hash(self, visit):
        """Return the 64-bit keyed hash of a visit."""
        return text_hash(&self._visit, visit)


cdef uint64_t text_hash(const siphash_key *key, object text) except? 0:
    cdef Py_ssize_t size
    cdef const char *data = PyUnicode_AsUTF8AndSize(text, &size)
    return siphash_bytes(key, <const uint8_t *>data, size)
