"""SipHash for any bytes, and what is drawn by it: draw words, alias tables, pool permutations. Part of the core."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from scanengine._rules cimport alias_choose
from scanengine._siphash cimport siphash_bytes, siphash_key, siphash_u64, siphash_word

cdef uint64_t ITEM_SPACE = <uint64_t>1 << 55
cdef uint64_t POOL_END = <uint64_t>1 << 40


cdef int key_read(object key, siphash_key *result) except -1:
    cdef const uint8_t *data
    cdef bytes material
    if not isinstance(key, bytes):
        raise TypeError(f"a key is bytes, found {type(key).__name__}")
    material = key
    if len(material) != 16:
        raise ValueError(f"a SipHash key has 16 bytes, found {len(material)}")
    data = material
    result.k0 = siphash_word(data, 8)
    result.k1 = siphash_word(data + 8, 8)
    return 0


def siphash24(key, bytes data not None):
    """Return SipHash-2-4 of `data` under a 16-byte key, an integer below 2**64.

    Raises
    ------
    ValueError
        If the key has not 16 bytes.

    References
    ----------
    Aumasson and Bernstein (2012), SipHash: a fast short-input PRF.
    """
    cdef siphash_key prepared
    key_read(key, &prepared)
    return siphash_bytes(&prepared, data, len(data))


def draw_words(key, item, rule):
    """Return the two 64-bit words that decide a draw of rule `rule` for `item`.

    Raises
    ------
    ValueError
        If the key has not 16 bytes, the item is not below 2**55 or the rule not below 256.
    """
    cdef siphash_key prepared
    cdef uint64_t position
    key_read(key, &prepared)
    if not 0 <= item < ITEM_SPACE:
        raise ValueError(f"an item is below 2**55, found {item}")
    if not 0 <= rule < 256:
        raise ValueError(f"a rule is 0 to 255, found {rule}")
    position = <uint64_t>item + (<uint64_t>rule << 56)
    return siphash_u64(&prepared, position), siphash_u64(&prepared, position + ITEM_SPACE)


def alias_draw(const uint64_t[::1] thresholds not None, const uint32_t[::1] aliases not None, uint64_t w0, uint64_t w1):
    """Return the column that two uniform words choose from an alias table of n >= 1 columns.

    Raises
    ------
    ValueError
        If the table is empty or its two columns differ in length.
    """
    if thresholds.shape[0] == 0 or thresholds.shape[0] != aliases.shape[0]:
        raise ValueError(f"{thresholds.shape[0]} thresholds and {aliases.shape[0]} aliases are no alias table")
    return alias_choose(&thresholds[0], &aliases[0], <uint32_t>thresholds.shape[0], w0, w1)


def permute(key, rule, n, position):
    """Return the image of `position` under the keyed permutation of [0, n): the place of a printed code in its pool.

    Ten Feistel rounds over the smallest even or odd split of the bit length, walking the cycle until inside.

    Raises
    ------
    ValueError
        If the key has not 16 bytes, the rule is not below 256, n is not 1 to 2**40, or the position is not below n.
    """
    cdef siphash_key prepared
    key_read(key, &prepared)
    if not 0 <= rule < 256:
        raise ValueError(f"a rule is 0 to 255, found {rule}")
    if not 1 <= n <= POOL_END:
        raise ValueError(f"a pool has 1 to 2**40 positions, found {n}")
    if not 0 <= position < n:
        raise ValueError(f"a position is below {n}, found {position}")
    cdef int bits = max(2, (n - 1).bit_length())
    cdef uint64_t end = n
    cdef uint64_t image = position
    with nogil:
        while True:
            image = feistel(&prepared, image, bits)
            if image < end:
                break
    return image


cdef uint64_t feistel(const siphash_key *key, uint64_t value, int bits) noexcept nogil:
    # Requires: value < 2**bits, bits >= 2.
    # Ensures:  a bijection of [0, 2**bits).
    # Source:   unbalanced Feistel network, Luby and Rackoff 1988; the rule is already in the key.
    cdef int right_bits = bits - bits // 2
    cdef uint64_t left_mask = (<uint64_t>1 << (bits // 2)) - 1
    cdef uint64_t right_mask = (<uint64_t>1 << right_bits) - 1
    cdef uint64_t left = value >> right_bits
    cdef uint64_t right = value & right_mask
    cdef uint64_t round_number
    for round_number in range(10):
        if round_number & 1:
            right ^= siphash_u64(key, (round_number << 56) + left) & right_mask
        else:
            left ^= siphash_u64(key, (round_number << 56) + right) & left_mask
    return (left << right_bits) | right
