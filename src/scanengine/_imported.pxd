# Codes of other makers: texts that are ours because a list says so, found by an exact look-up.
# Rule: the leaves touch no Python object, so they are `noexcept nogil` and allocate nothing.
#
#   texts   rows of `width` bytes in the order of offsets, each filled up with zeros; no text holds a zero
#   slots   open addressing with linear probing; 0 is empty, else  | 7 bits of the hash | offset + 1, 25 bits |
#
# The hash is keyed, and its key is random for each workspace: nobody who makes codes can make them collide.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from scanengine._siphash cimport siphash_bytes, siphash_key

cdef extern from *:
    """
    static inline uint64_t scanengine_scale(uint64_t hash, uint64_t count) {
        return (uint64_t)(((unsigned __int128)hash * count) >> 64);
    }
    #define scanengine_prefetch_text(address) __builtin_prefetch(address)
    """
    uint64_t scale "scanengine_scale"(uint64_t hash, uint64_t count) noexcept nogil
    void prefetch_text "scanengine_prefetch_text"(const void *address) noexcept nogil


cdef enum:
    TEXT_SIZE_MAX = 64
    TEXT_OFFSET_BITS = 25
    TEXT_OFFSET_MASK = (1 << 25) - 1
    TEXT_TAG_MASK = 127


cdef struct text_view:
    # Borrowed from a TextIndex, which checked it.
    siphash_key key
    const uint8_t *texts
    const uint32_t *slots
    uint64_t slot_count
    uint64_t lengths           # bit i: there are texts of i + 1 bytes
    uint32_t width


cdef inline uint64_t text_hash(const siphash_key *key, const uint8_t *data, size_t size) noexcept nogil:
    return siphash_bytes(key, data, size)


cdef inline bint text_is_possible(uint64_t lengths, Py_ssize_t size) noexcept nogil:
    # Ensures: whether any text has this size; most scans end here.
    return 1 <= size <= TEXT_SIZE_MAX and (lengths >> (size - 1)) & 1


cdef inline bint text_equals(const text_view *view, uint64_t offset, const uint8_t *data, size_t size) noexcept nogil:
    # Requires: offset of a row, 1 <= size <= width.
    # Ensures:  whether the row is this text: the same bytes, none of them a zero, and zeros after them.
    cdef const uint8_t *row = view.texts + offset * view.width
    return memcmp(row, data, size) == 0 and row[size - 1] != 0 and (size == view.width or row[size] == 0)


cdef inline int64_t text_find(
    const text_view *view, const uint8_t *data, size_t size, uint64_t hash
) noexcept nogil:
    # Requires: text_is_possible; hash under the key of the view.
    # Ensures:  the offset of the text, or -1.
    # Cost:     a text that is there: two slots looked at on average, at a load of 2/3, and one text compared.
    cdef uint64_t slot = scale(hash, view.slot_count)
    cdef uint32_t tag = <uint32_t>(hash & TEXT_TAG_MASK)
    cdef uint32_t entry
    cdef uint64_t _probe
    for _probe in range(view.slot_count):
        entry = view.slots[slot]
        if entry == 0:
            return -1
        if entry >> TEXT_OFFSET_BITS == tag and text_equals(view, (entry & TEXT_OFFSET_MASK) - 1, data, size):
            return (entry & TEXT_OFFSET_MASK) - 1
        slot += 1
        if slot == view.slot_count:
            slot = 0
    return -1


cdef inline void text_prefetch(const text_view *view, uint64_t hash) noexcept nogil:
    # Ensures: the text that will be compared first is on its way into the cache, if it is named soon; the slots
    #          themselves were asked for before.
    cdef uint64_t slot = scale(hash, view.slot_count)
    cdef uint64_t end = min(slot + 8, view.slot_count)
    cdef uint32_t entry
    cdef const uint8_t *row
    while slot < end:
        entry = view.slots[slot]
        if entry == 0:
            return
        if entry >> TEXT_OFFSET_BITS == <uint32_t>(hash & TEXT_TAG_MASK):
            row = view.texts + ((entry & TEXT_OFFSET_MASK) - 1) * <uint64_t>view.width
            prefetch_text(row)
            prefetch_text(row + view.width - 1)
            return
        slot += 1


cdef inline Py_ssize_t row_size(const uint8_t *row, Py_ssize_t width) noexcept nogil:
    # Ensures: the bytes of a row without the zeros that fill it up.
    while width and row[width - 1] == 0:
        width -= 1
    return width


cdef inline bint gtin_is_right(const uint8_t *data, Py_ssize_t size) noexcept nogil:
    # Ensures: whether the text is a GTIN of 8, 12, 13 or 14 digits, not all zero, with the right check digit.
    # Source:  GS1 General Specifications, section 7.9: weights 3 and 1 in turn, from the right.
    cdef uint32_t total = 0
    cdef uint8_t seen = 0
    cdef Py_ssize_t index
    if size not in (8, 12, 13, 14):
        return False
    for index in range(size):
        if not 48 <= data[index] <= 57:
            return False
        seen |= data[index] - 48
        total += (data[index] - 48) * (1 if (size - 1 - index) % 2 == 0 else 3)
    return seen != 0 and total % 10 == 0


cdef class TextIndex:
    cdef text_view view
    cdef readonly uint64_t count
    cdef tuple _arrays                    # Holds the buffers that `view` points into.
