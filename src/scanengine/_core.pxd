# The C face of the core: layouts, status codes, and leaves small enough to inline.
# Rule: nothing here touches a Python object, so everything here is `noexcept nogil` and allocates nothing.

cimport cython
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from scanengine._imported cimport text_view
from scanengine._rules cimport rule_record, rule_set_view
from scanengine._segments cimport segment_find, segment_view
from scanengine._siphash cimport siphash_key, siphash_u64

cdef enum ScanStatus:
    # The values of model.Status; a test compares the two. Expected outcomes, in the order of the checks.
    SCAN_MALFORMED = 1
    SCAN_MISTYPED = 2
    SCAN_UNKNOWN_KEY = 3
    SCAN_FORGED = 4
    SCAN_UNKNOWN = 5
    SCAN_WRONG_PRODUCT = 6
    SCAN_INACTIVE = 7
    SCAN_FROZEN = 8
    SCAN_VOID = 9
    SCAN_RECALLED = 10
    SCAN_EXPIRED = 11
    SCAN_VALID = 12
    SCAN_PRODUCT_ONLY = 13


cdef enum SegmentStateCode:
    # The values of model.SegmentState.
    SEGMENT_ACTIVE = 0
    SEGMENT_INACTIVE = 1
    SEGMENT_FROZEN = 2
    SEGMENT_VOID = 3
    SEGMENT_RECALLED = 4


cdef enum:
    CODE_SYMBOL_COUNT = 20
    SERIAL_BIT_COUNT = 40
    TAG_BIT_COUNT = 50
    SCENE_MARKETING = 2
    SYMBOL_IGNORED = 0xfe    # hyphen and space
    SYMBOL_BAD = 0xff


cdef struct slot_keys:
    siphash_key tag
    siphash_key mask
    bint is_known


cdef struct sealed_code:
    # What the symbols of a code say before any key is asked.
    uint64_t slot
    uint64_t masked
    uint64_t tag


cdef struct profile_record:
    # One row of PROFILE_DTYPE, 32 bytes.
    int64_t active_from_ms
    int64_t active_until_ms
    uint64_t gtin
    int32_t rule_set
    uint8_t state
    uint8_t scenes
    uint16_t reserved


cdef inline uint64_t tag_of(uint64_t hash) noexcept nogil:
    return hash >> (64 - TAG_BIT_COUNT)


cdef inline uint64_t code_tag(const slot_keys *keys, uint64_t item) noexcept nogil:
    # Ensures: the top 50 bits of the keyed hash of slot * 2**40 + serial.
    return tag_of(siphash_u64(&keys.tag, item))


cdef inline uint64_t code_mask(const slot_keys *keys, uint64_t tag) noexcept nogil:
    # Ensures: the 40 bits that hide the serial; the tag serves as synthetic IV (Rogaway and Shrimpton 2006).
    return siphash_u64(&keys.mask, tag) >> (64 - SERIAL_BIT_COUNT)


cdef uint8_t CHECK_TERMS[20][32]    # CHECK_TERMS[i][d] = alpha^(19-i) * d in GF(32).
cdef uint8_t SYMBOL_OF_BYTE[256]        # Value of a letter in either case, SYMBOL_IGNORED or SYMBOL_BAD.
cdef uint8_t LETTER_OF_SYMBOL[32]       # The upper-case letter of a value. All three are filled at import.


# Requires: 20 bytes to read and room for 20 symbols.
# Ensures:  True and the values of a bare code in either case, or False if a byte is no letter of the alphabet.
cdef bint letters_read(const uint8_t *letters, uint8_t *symbols) noexcept nogil


# Ensures:  the bare spelling, 20 upper-case symbols: the text itself if it is spelled so, as most are; None if
# malformed.
cdef object bare_text(object text)


# Requires: 16 bytes to read.
# Ensures:  26 symbols of the alphabet, as base32_text.
cdef str digest_text(const uint8_t *data)


cdef inline uint8_t field_times_alpha(uint8_t value) noexcept nogil:
    # Ensures: value * x in GF(32) with x^5 + x^2 + 1.
    return ((value << 1) ^ ((value >> 4) * 0x25)) & 31


cdef inline uint8_t code_check(const uint8_t *symbols, int count) noexcept nogil:
    # Requires: symbols below 32.
    # Ensures:  sum of alpha^(19-i) * d_i over the first `count` symbols: the check symbol of 19, 0 for a right code.
    # Cost:     independent loads; Horner's rule is one chain of 20 steps and took five times as long.
    cdef uint8_t total = 0
    cdef int index
    for index in range(count):
        total ^= CHECK_TERMS[index][symbols[index]]
    return total


cdef inline uint64_t code_bits(const uint8_t *symbols, int first, int last) noexcept nogil:
    # Ensures: symbols [first, last) as one integer, most significant first, five bits each.
    cdef uint64_t bits = 0
    cdef int index
    for index in range(first, last):
        bits = (bits << 5) | symbols[index]
    return bits


cdef inline uint8_t code_open(const slot_keys *slots, uint64_t front, uint64_t back, sealed_code *code) noexcept nogil:
    # Requires: ten symbols each, most significant first, with the right check symbol; slots has 32 entries.
    # Ensures:  what they say, and SCAN_VALID or SCAN_UNKNOWN_KEY; the tag is not checked yet.
    code.slot = front >> 45
    code.masked = (front >> 5) & ((<uint64_t>1 << SERIAL_BIT_COUNT) - 1)
    code.tag = ((front & 31) << 45) | (back >> 5)
    return SCAN_VALID if slots[code.slot].is_known else SCAN_UNKNOWN_KEY


cdef inline uint64_t code_item(const sealed_code *code, uint64_t mask_hash) noexcept nogil:
    # Ensures: the item number under the mask; of a forged code any number of its slot.
    return (code.slot << SERIAL_BIT_COUNT) | (code.masked ^ (mask_hash >> (64 - SERIAL_BIT_COUNT)))


cdef inline uint8_t code_verify(const slot_keys *slots, const uint8_t *symbols, uint64_t *item) noexcept nogil:
    # Requires: 20 symbols below 32; slots has 32 entries.
    # Ensures:  SCAN_VALID and the item number, or the first check that failed and no item.
    # Cost:     two SipHash. The tags compare as one XOR: no loop that could leave early.
    cdef sealed_code code
    cdef uint64_t found
    cdef uint8_t status
    if code_check(symbols, CODE_SYMBOL_COUNT) != 0:
        return SCAN_MISTYPED
    status = code_open(slots, code_bits(symbols, 0, 10), code_bits(symbols, 10, 20), &code)
    if status != SCAN_VALID:
        return status
    found = code_item(&code, siphash_u64(&slots[code.slot].mask, code.tag))
    if code_tag(&slots[code.slot], found) ^ code.tag:
        return SCAN_FORGED
    item[0] = found
    return SCAN_VALID


cdef inline void code_write(const slot_keys *keys, uint64_t item, uint8_t *symbols) noexcept nogil:
    # Requires: room for 20 symbols; keys are those of the item's slot.
    # Ensures:  the values (not letters) of the code of this item.
    cdef uint64_t tag = code_tag(keys, item)
    cdef uint64_t masked = (item ^ code_mask(keys, tag)) & ((<uint64_t>1 << SERIAL_BIT_COUNT) - 1)
    cdef int index
    symbols[0] = <uint8_t>(item >> SERIAL_BIT_COUNT)
    for index in range(8):
        symbols[1 + index] = <uint8_t>((masked >> (35 - 5 * index)) & 31)
    for index in range(10):
        symbols[9 + index] = <uint8_t>((tag >> (45 - 5 * index)) & 31)
    symbols[19] = code_check(symbols, 19)


cdef inline uint8_t profile_status(const profile_record *profile, int64_t now_ms) noexcept nogil:
    # Ensures: the status a code takes from its segment. A state that somebody set wins over the window.
    if profile.state == SEGMENT_INACTIVE:
        return SCAN_INACTIVE
    if profile.state == SEGMENT_FROZEN:
        return SCAN_FROZEN
    if profile.state == SEGMENT_VOID:
        return SCAN_VOID
    if profile.state == SEGMENT_RECALLED:
        return SCAN_RECALLED
    if now_ms < profile.active_from_ms:
        return SCAN_INACTIVE
    if now_ms >= profile.active_until_ms:
        return SCAN_EXPIRED
    return SCAN_VALID


cdef class CodeKeys:
    cdef slot_keys _slots[32]
    cdef const slot_keys *keys_of(self, object slot) except NULL


# The next two, code_check, letters_read, the symbol tables and ScanStatus are what Cython code of others may lean on
# (docs/library.md); the rest of this file follows the core.

cdef inline uint8_t keys_verify(CodeKeys keys, const uint8_t *symbols, uint64_t *item) noexcept nogil:
    # Requires: 20 symbols below 32.
    # Ensures:  SCAN_VALID and the item number, or the first check that failed and no item.
    return code_verify(keys._slots, symbols, item)


cdef inline bint keys_write(CodeKeys keys, uint64_t item, uint8_t *symbols) noexcept nogil:
    # Requires: room for 20 symbols.
    # Ensures:  True and the values of the code of this item, or False if the ring has no keys for its slot.
    cdef uint64_t slot = item >> SERIAL_BIT_COUNT
    if slot >= 32 or not keys._slots[slot].is_known:
        return False
    code_write(&keys._slots[slot], item, symbols)
    return True


cdef struct batch_view:
    uint64_t count
    uint64_t profile_base
    segment_view segments


cdef struct resolution:
    uint64_t item
    int64_t local_date
    int32_t batch
    int32_t profile
    int16_t rule
    int16_t drawn
    uint8_t status


@cython.final
cdef class Resolver:
    cdef CodeKeys _keys
    cdef Py_ssize_t _batch_count
    cdef uint64_t *_item_starts
    cdef batch_view *_batches
    cdef rule_set_view *_rule_sets
    cdef text_view *_texts                # of imported batches, in their order
    cdef int32_t *_text_batches
    cdef Py_ssize_t _text_count
    cdef uint64_t _text_lengths           # of all of them together
    cdef const profile_record *_profiles
    cdef tuple _owners                    # Holds all that the pointers above borrow from.
    cdef Py_ssize_t find_batch(self, uint64_t item) noexcept nogil
    cdef void locate(self, resolution *result) noexcept nogil
    cdef void verify(self, const uint8_t *symbols, resolution *result) noexcept nogil
    cdef bint find_text(self, const uint8_t *data, Py_ssize_t size, uint64_t hash, resolution *result) noexcept nogil
    cdef bint read_symbols(
        self, const uint8_t *data, Py_ssize_t size, uint64_t hash, resolution *result, uint8_t *symbols
    ) noexcept nogil
    cdef void read(self, const uint8_t *data, Py_ssize_t size, uint64_t hash, resolution *result) noexcept nogil
    cdef uint64_t hash_of(self, const uint8_t *data, Py_ssize_t size) noexcept nogil
    cdef void prefetch_row(self, uint64_t hash, Py_ssize_t size, bint is_second) noexcept nogil
    cdef uint64_t offset_of(self, const resolution *found) noexcept nogil
    cdef int32_t profile_of(self, const resolution *found) noexcept nogil
    cdef const rule_record *find_rule(
        self, resolution *result, int64_t now_ms, uint8_t role, uint32_t region, uint64_t gtin
    ) noexcept nogil
    cdef void decide(
        self, resolution *result, int64_t now_ms, uint8_t role, uint32_t region, uint64_t gtin
    ) noexcept nogil
    # Requires: values that time_checked, role_checked and region_checked let through.
    # Ensures:  what `resolve` says; TypeError if the text is none.
    cdef int resolve_text(
        self, object text, int64_t now_ms, uint8_t role, uint32_t region, uint64_t gtin, resolution *result
    ) except -1
    cdef void resolve_rows(
        self, const uint8_t *letters, Py_ssize_t width, Py_ssize_t count, int64_t now_ms, const uint8_t[:] roles,
        const uint32_t[:] regions, const uint64_t[:] gtins, uint8_t[::1] status, uint64_t[::1] item,
        int32_t[::1] profile, int16_t[::1] rule, int16_t[::1] drawn,
    ) noexcept nogil
