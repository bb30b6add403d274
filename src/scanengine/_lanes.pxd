# Leaves over many rows at once: SipHash with a row in each lane of a register, and the letters of bare codes.

from libc.stdint cimport uint8_t, uint64_t

from scanengine._siphash cimport siphash_key

cdef enum:
    LANES_MAX = 8            # Rows of the widest registers: columns have room for a multiple of it.
    COLUMNS_MAX = 32         # Rows that are hashed together, a multiple of LANES_MAX.
    LETTERS_RIGHT = 0        # 20 letters, and the check symbol is right
    LETTERS_MISTYPED = 1
    LETTERS_OTHER = 2        # not 20 letters of the alphabet


# Requires: columns with room for `count` rows, rounded up to a multiple of LANES_MAX.
# Ensures:  hashes[i] = SipHash-2-4 of the eight bytes of values[i] under the key (k0[i], k1[i]), for i < count; what
#           comes after is filler. The columns may not overlap.
cdef void siphash_rows(
    const uint64_t *k0, const uint64_t *k1, const uint64_t *values, uint64_t *hashes, Py_ssize_t count
) noexcept nogil


# Requires: what a byte stands for (256, above 127 if it is no letter), and the check terms of 20 places (20 x 32).
# Ensures:  letters_open knows them. Called once, at import.
cdef void letters_prepare(const uint8_t *symbol_of_byte, const uint8_t *check_terms) noexcept nogil


# Requires: count rows of 20 bytes.
# Ensures:  for each row its first ten symbols and its last ten as an integer each, most significant first, and one of
#           LETTERS_*. Of other letters than 20 of the alphabet the integers are filler.
cdef void letters_open(
    const uint8_t *letters, uint64_t *fronts, uint64_t *backs, uint8_t *verdicts, Py_ssize_t count
) noexcept nogil


cdef struct hash_columns:
    uint64_t k0[COLUMNS_MAX]
    uint64_t k1[COLUMNS_MAX]
    uint64_t values[COLUMNS_MAX]
    uint64_t hashes[COLUMNS_MAX]


cdef inline void column_set(
    hash_columns *columns, Py_ssize_t index, const siphash_key *key, uint64_t value
) noexcept nogil:
    columns.k0[index] = key.k0
    columns.k1[index] = key.k1
    columns.values[index] = value


cdef inline void columns_hash(hash_columns *columns, Py_ssize_t count) noexcept nogil:
    # Requires: the first `count` columns were set, and all were written once, so that no lane reads what nobody wrote.
    # Ensures:  their hashes.
    siphash_rows(columns.k0, columns.k1, columns.values, columns.hashes, count)
