"""Native leaves and batch loops: codes, tags, look-ups, draws.

What lives here knows bytes and tables. It knows no file, clock, network or policy, and keeps no state between calls.
``_reference`` is the same in plain Python, written to be read; the two agree on every value and every error.
All objects are immutable after construction, so any number of threads may use one at once; the ``_many`` functions
release the GIL.
"""

cimport cython
cimport numpy as cnp
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset

from scanengine._draws cimport key_read
from scanengine._imported cimport (
    TEXT_SIZE_MAX, TextIndex, gtin_is_right, prefetch_text, row_size, scale, text_find, text_hash, text_is_possible,
    text_prefetch, text_view,
)
from scanengine._lanes cimport (
    COLUMNS_MAX, LETTERS_MISTYPED, LETTERS_OTHER, LETTERS_RIGHT, column_set, columns_hash, hash_columns, letters_open,
    letters_prepare,
)
from scanengine._rules cimport (
    RuleSet, array_checked, draw_position, floor_divide, local_ms, region_checked, role_checked, rule_draw,
    rule_find, rule_outcome, rule_record, rule_set_view, scan_facts, second_position, time_checked,
)
from scanengine._segments cimport SegmentMap, segment_view

import numpy as np

# To its users the core is one module.
from scanengine._draws import alias_draw, draw_words, permute, siphash24    # no-cython-lint
from scanengine._imported import FAULTS_SHOWN, TEXT_BYTES_MAX, TEXTS_MAX, fill_slots, read_texts    # no-cython-lint
from scanengine._rules import FIELD_ITEM, FIELD_MINUTE, FIELD_PRODUCT, FIELD_REGION    # no-cython-lint
from scanengine._rules import FIELD_ROLE, FIELD_TIME    # no-cython-lint
from scanengine._rules import PREDICATE_DTYPE, RULE_DTYPE, TRANSITION_DTYPE    # no-cython-lint

# What is cimported is no name of the module by itself.
globals().update(RuleSet=RuleSet, SegmentMap=SegmentMap, TextIndex=TextIndex)
cnp.import_array()

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    const uint8_t *PyUnicode_1BYTE_DATA(object text)

cdef extern from *:
    """
    #define scanengine_prefetch(address) __builtin_prefetch(address)
    #ifdef __OPTIMIZE__
    #define SCANENGINE_OPTIMIZED 1
    #else
    #define SCANENGINE_OPTIMIZED 0
    #endif
    """
    void prefetch "scanengine_prefetch"(const void *address) noexcept nogil
    int SCANENGINE_OPTIMIZED
    int SCANENGINE_DEBUG_BUILD

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"    # Crockford base 32: no I, L, O, U

PROFILE_DTYPE = np.dtype([
    ("active_from_ms", "<i8"), ("active_until_ms", "<i8"), ("gtin", "<u8"), ("rule_set", "<i4"),
    ("state", "u1"), ("scenes", "u1"), ("reserved", "V2"),
])

cdef enum:
    # Rows in flight: the block's results stay in the first-level cache.
    BLOCK_ROWS = COLUMNS_MAX

cdef uint64_t NO_ITEM = <uint64_t>0xffffffffffffffff
cdef uint64_t ITEM_SPACE = <uint64_t>1 << 55
cdef object ZERO = 0    # the one object that nearly every call hands over; comparing numbers would cost more
cdef uint64_t GTIN_END = 100_000_000_000_000
cdef uint64_t SERIAL_END = <uint64_t>1 << SERIAL_BIT_COUNT


def _fill_symbol_tables():
    # Constants of the module, written once at import and only read afterwards.
    cdef bytes letters = ALPHABET.encode()
    cdef int symbol, index
    memset(SYMBOL_OF_BYTE, SYMBOL_BAD, sizeof(SYMBOL_OF_BYTE))
    for symbol in range(32):
        LETTER_OF_SYMBOL[symbol] = letters[symbol]
        SYMBOL_OF_BYTE[letters[symbol]] = symbol
        SYMBOL_OF_BYTE[letters.lower()[symbol]] = symbol
    for letter, symbol in ((b"O", 0), (b"o", 0), (b"I", 1), (b"i", 1), (b"L", 1), (b"l", 1)):
        SYMBOL_OF_BYTE[ord(letter)] = symbol
    for letter in (b"-", b" "):
        SYMBOL_OF_BYTE[ord(letter)] = SYMBOL_IGNORED
    for symbol in range(32):
        CHECK_TERMS[19][symbol] = symbol
        for index in range(18, -1, -1):
            CHECK_TERMS[index][symbol] = field_times_alpha(CHECK_TERMS[index + 1][symbol])
    letters_prepare(SYMBOL_OF_BYTE, &CHECK_TERMS[0][0])


_fill_symbol_tables()


def build_flags():
    """Say how the module was built: ``{"debug": bool, "optimized": bool}``."""
    return {"debug": bool(SCANENGINE_DEBUG_BUILD), "optimized": bool(SCANENGINE_OPTIMIZED)}


# Codes ---------------------------------------------------------------------------------------------------------------

cdef bint symbols_read(object text, uint8_t *symbols) except -1:
    # Ensures: True and 20 symbols, or False if the text is not 20 symbols in any accepted spelling.
    cdef const uint8_t *data = text_data(text)
    return data != NULL and spelling_read(data, len(text), symbols)


cdef const uint8_t *text_data(object text) except? NULL:
    # Ensures: the bytes of an ASCII text; NULL for any other text, which is no code.
    if not isinstance(text, str):
        raise TypeError(f"a code is a str, found {type(text).__name__}")
    return PyUnicode_1BYTE_DATA(text) if PyUnicode_IS_ASCII(text) else NULL


cdef bint spelling_read(const uint8_t *data, Py_ssize_t size, uint8_t *symbols) noexcept nogil:
    # Ensures: as symbols_read.
    cdef Py_ssize_t index
    cdef int count = 0
    cdef uint8_t symbol
    for index in range(size):
        symbol = SYMBOL_OF_BYTE[data[index]]
        if symbol < 32:
            if count == CODE_SYMBOL_COUNT:
                return False
            symbols[count] = symbol
            count += 1
        elif symbol == SYMBOL_BAD:
            return False
    return count == CODE_SYMBOL_COUNT


cdef str symbols_text(const uint8_t *symbols):
    cdef uint8_t letters[CODE_SYMBOL_COUNT]
    cdef int index
    for index in range(CODE_SYMBOL_COUNT):
        letters[index] = LETTER_OF_SYMBOL[symbols[index]]
    return (<const char *>letters)[:CODE_SYMBOL_COUNT].decode("ascii")


def normalize(text):
    """Return the bare spelling, 20 upper-case symbols, or None if malformed. The check symbol is not checked."""
    return bare_text(text)


cdef object bare_text(object text):
    cdef uint8_t symbols[CODE_SYMBOL_COUNT]
    cdef const uint8_t *data
    cdef bint is_bare
    cdef int index
    if not symbols_read(text, symbols):
        return None
    is_bare = len(text) == CODE_SYMBOL_COUNT and type(text) is str
    if is_bare:
        data = PyUnicode_1BYTE_DATA(text)
        for index in range(CODE_SYMBOL_COUNT):
            is_bare &= data[index] == LETTER_OF_SYMBOL[symbols[index]]
    return text if is_bare else symbols_text(symbols)


def check_symbol(bytes symbols not None):
    """Return the check symbol, 0 to 31, of the 19 symbol values before it.

    Raises
    ------
    ValueError
        If there are not 19 values of 0 to 31.
    """
    cdef const uint8_t *data = symbols
    if len(symbols) != 19 or max(symbols) > 31:
        raise ValueError("19 symbols of 0 to 31 expected")
    return code_check(data, 19)


def base32_text(bytes digest not None):
    """Return 16 bytes as 26 symbols of the alphabet: the big-endian number, with two zero bits in front.

    Raises
    ------
    ValueError
        If there are not 16 bytes.
    """
    if len(digest) != 16:
        raise ValueError(f"16 bytes expected, found {len(digest)}")
    return digest_text(digest)


cdef str digest_text(const uint8_t *data):
    cdef uint8_t letters[26]
    cdef uint32_t bits = 0
    cdef int held = 2
    cdef int count = 0
    cdef int index
    for index in range(16):
        bits = (bits << 8) | data[index]
        held += 8
        while held >= 5:
            held -= 5
            letters[count] = LETTER_OF_SYMBOL[(bits >> held) & 31]
            count += 1
    return (<const char *>letters)[:26].decode("ascii")


cdef class CodeKeys:
    """Prepared sub-keys of up to 32 key slots: makes codes and checks them.

    Parameters
    ----------
    slots : iterable of (int, bytes, bytes)
        Slot number 0 to 31, tag key and mask key of 16 bytes each.

    Raises
    ------
    ValueError
        If a slot is out of range or given twice, or a key has not 16 bytes.
    """

    def __cinit__(self, slots):
        memset(self._slots, 0, sizeof(self._slots))
        for slot, tag_key, mask_key in slots:
            if not 0 <= slot < 32:
                raise ValueError(f"a slot is 0 to 31, found {slot}")
            if self._slots[<int>slot].is_known:
                raise ValueError(f"slot {slot} is given twice")
            key_read(tag_key, &self._slots[<int>slot].tag)
            key_read(mask_key, &self._slots[<int>slot].mask)
            self._slots[<int>slot].is_known = True

    def __repr__(self):
        return f"<CodeKeys of slots {[slot for slot in range(32) if self._slots[slot].is_known]}>"

    def __reduce__(self):
        raise TypeError("CodeKeys holds secrets and cannot be pickled")

    cdef const slot_keys *keys_of(self, object slot) except NULL:
        if not 0 <= slot < 32 or not self._slots[<int>slot].is_known:
            raise ValueError(f"no keys for slot {slot}")
        return &self._slots[<int>slot]

    def encode(self, slot, serial):
        """Return the code of one item, 20 symbols.

        Raises
        ------
        ValueError
            If the slot has no keys, or the serial is not 0 to 2**40 - 1.
        """
        cdef uint8_t symbols[CODE_SYMBOL_COUNT]
        cdef const slot_keys *keys = self.keys_of(slot)
        serial_checked(serial)
        code_write(keys, (<uint64_t>slot << SERIAL_BIT_COUNT) | <uint64_t>serial, symbols)
        return symbols_text(symbols)

    def encode_many(self, slot, serial_start, count):
        """Return the codes of `count` items in a row as letters, uint8 of shape (count, 20).

        Raises
        ------
        ValueError
            As :meth:`encode`, for the first and the last serial; or if the count is negative.

        Notes
        -----
        Releases the GIL; two SipHash a code.
        """
        cdef const slot_keys *keys = self.keys_of(slot)
        if count < 0:
            raise ValueError(f"a count is not negative, found {count}")
        serial_checked(serial_start)
        if count:
            serial_checked(serial_start + count - 1)
        cdef cnp.ndarray letters = np.empty((count, CODE_SYMBOL_COUNT), dtype=np.uint8)
        cdef uint8_t *row = <uint8_t *>cnp.PyArray_DATA(letters)
        cdef uint64_t item = (<uint64_t>slot << SERIAL_BIT_COUNT) | <uint64_t>serial_start
        cdef Py_ssize_t row_count = count
        cdef Py_ssize_t index
        cdef int symbol
        with nogil:
            for index in range(row_count):
                code_write(keys, item + <uint64_t>index, row)
                for symbol in range(CODE_SYMBOL_COUNT):
                    row[symbol] = LETTER_OF_SYMBOL[row[symbol]]
                row += CODE_SYMBOL_COUNT
        return letters

    def decode(self, text):
        """Return (status, item) of a code in any accepted spelling; no item, 2**64 - 1, unless it is ``VALID``."""
        cdef uint8_t symbols[CODE_SYMBOL_COUNT]
        cdef uint64_t item = NO_ITEM
        if not symbols_read(text, symbols):
            return SCAN_MALFORMED, item
        return code_verify(self._slots, symbols, &item), item


cdef int serial_checked(object serial) except -1:
    if not 0 <= serial < SERIAL_END:
        raise ValueError(f"a serial is 0 to {SERIAL_END - 1}, found {serial}")
    return 0


# Resolution ----------------------------------------------------------------------------------------------------------

cdef int64_t gtin_checked(object gtin) except -1:
    if not 0 <= gtin < GTIN_END:
        raise ValueError(f"a GTIN has at most 14 digits, found {gtin}")
    return gtin


@cython.final
cdef class Resolver:
    """One snapshot of keys and tables, laid out for speed: text in, status, item and offer out.

    Parameters
    ----------
    keys : CodeKeys
    batches : sequence of (int, int, SegmentMap, int)
        First item, count, segments and index of the first profile of each batch, in order of items, not overlapping.
    profiles : ``PROFILE_DTYPE``, shape (p,)
        What segments say, all batches one after the other.
    rule_sets : sequence of RuleSet
        What ``rule_set`` of a profile counts in.
    texts : sequence of (int, TextIndex)
        Batches of imported codes: index of the batch, ascending, and its texts.

    Raises
    ------
    ValueError
        Naming the first batch, profile or index that is wrong.
    """

    def __cinit__(self, CodeKeys keys not None, batches, profiles, rule_sets, texts=()):
        cdef SegmentMap segments
        cdef Py_ssize_t index
        batches, rule_sets, texts = list(batches), list(rule_sets), list(texts)
        profiles = array_checked(profiles, PROFILE_DTYPE, "profiles")
        self._keys = keys
        self._batch_count = len(batches)
        self._owners = (profiles, tuple(batches), tuple(rule_sets), tuple(texts))
        self._profiles = <const profile_record *>cnp.PyArray_DATA(<cnp.ndarray>profiles)
        self._item_starts = <uint64_t *>calloc(len(batches) + 1, sizeof(uint64_t))
        self._batches = <batch_view *>calloc(len(batches) + 1, sizeof(batch_view))
        self._rule_sets = <rule_set_view *>calloc(len(rule_sets) + 1, sizeof(rule_set_view))
        self._texts = <text_view *>calloc(len(texts) + 1, sizeof(text_view))
        self._text_batches = <int32_t *>calloc(len(texts) + 1, sizeof(int32_t))
        if (
            self._item_starts == NULL or self._batches == NULL or self._rule_sets == NULL
            or self._texts == NULL or self._text_batches == NULL
        ):
            raise MemoryError("no memory for the batches of a snapshot")
        end = 0
        for index, (item_start, count, checked, profile_base) in enumerate(batches):
            if not isinstance(checked, SegmentMap):
                raise TypeError(f"batch {index}: a SegmentMap expected, found {type(checked).__name__}")
            segments = checked
            if not 0 <= item_start <= item_start + count <= ITEM_SPACE:
                raise ValueError(f"batch {index}: items {item_start}+{count} are outside the item space")
            if item_start < end:
                raise ValueError(f"batch {index}: items {item_start}+{count} overlap the batch before")
            if segments.count != count:
                raise ValueError(f"batch {index}: a segment map of {segments.count} codes for a batch of {count}")
            if not 0 <= profile_base <= profile_base + segments.profile_count <= len(profiles):
                raise ValueError(f"batch {index}: profiles from {profile_base} are outside the {len(profiles)} given")
            end = item_start + count
            self._item_starts[index] = item_start
            self._batches[index].count = count
            self._batches[index].profile_base = profile_base
            self._batches[index].segments = segments.view
        for index, rule_set in enumerate(rule_sets):
            if not isinstance(rule_set, RuleSet):
                raise TypeError(f"rule set {index}: a RuleSet expected, found {type(rule_set).__name__}")
            self._rule_sets[index] = (<RuleSet>rule_set).view
        end = 0
        for index, (batch, checked_texts) in enumerate(texts):
            if not isinstance(checked_texts, TextIndex):
                raise TypeError(f"texts {index}: a TextIndex expected, found {type(checked_texts).__name__}")
            if not end <= batch < len(batches):
                raise ValueError(f"texts {index}: batch {batch} is not {end} to {len(batches) - 1}")
            if checked_texts.count != batches[batch][1]:
                raise ValueError(f"texts {index}: {checked_texts.count} texts for a batch of {batches[batch][1]}")
            end = batch + 1
            self._texts[index] = (<TextIndex>checked_texts).view
            self._text_batches[index] = batch
            self._text_lengths |= self._texts[index].lengths
        self._text_count = len(texts)
        for index in range(len(profiles)):
            if self._profiles[index].state > SEGMENT_RECALLED:
                raise ValueError(f"profile {index}: state {self._profiles[index].state} is not 0 to 4")
            if self._profiles[index].scenes > 31:
                raise ValueError(f"profile {index}: scenes {self._profiles[index].scenes} is not 0 to 31")
            if not -1 <= self._profiles[index].rule_set < <Py_ssize_t>len(rule_sets):
                raise ValueError(
                    f"profile {index}: rule set {self._profiles[index].rule_set} is not -1 to {len(rule_sets) - 1}")

    def __dealloc__(self):
        free(self._item_starts)
        free(self._batches)
        free(self._rule_sets)
        free(self._texts)
        free(self._text_batches)

    cdef Py_ssize_t find_batch(self, uint64_t item) noexcept nogil:
        # Ensures: the index of the batch that holds the item, or -1.
        cdef Py_ssize_t low = -1
        cdef Py_ssize_t high = self._batch_count - 1
        cdef Py_ssize_t middle
        while low < high:
            middle = (low + high + 1) >> 1
            if self._item_starts[middle] <= item:
                low = middle
            else:
                high = middle - 1
        if low >= 0 and item - self._item_starts[low] < self._batches[low].count:
            return low
        return -1

    cdef const rule_record *find_rule(
        self, resolution *result, int64_t now_ms, uint8_t role, uint32_t region, uint64_t gtin
    ) noexcept nogil:
        # Requires: an item inside result.batch, its profile in result.profile.
        # Ensures:  status and, where marketing is on, the first rule that holds; else NULL. Another product than the
        #           text names (gtin, 0 if none) leaves the item alone.
        cdef const profile_record *profile = &self._profiles[result.profile]
        cdef const rule_record *rule
        cdef scan_facts scan
        if gtin and profile.gtin and profile.gtin != gtin:
            result.status = SCAN_WRONG_PRODUCT
            result.batch = result.profile = -1
            return NULL
        result.status = profile_status(profile, now_ms)
        if result.status != SCAN_VALID or profile.rule_set < 0 or not profile.scenes & SCENE_MARKETING:
            return NULL
        scan.item = result.item
        scan.gtin = profile.gtin
        scan.now_ms = now_ms
        scan.region = region
        scan.role = role
        rule = rule_find(&self._rule_sets[profile.rule_set], &scan)
        if rule != NULL:
            result.rule = rule.number
        return rule

    cdef void decide(
        self, resolution *result, int64_t now_ms, uint8_t role, uint32_t region, uint64_t gtin
    ) noexcept nogil:
        # Requires: an item inside result.batch.
        # Ensures:  as find_rule, with the local date and what the rule draws.
        # Cost:     two SipHash for the draw.
        cdef const rule_record *rule
        cdef const rule_set_view *rule_set
        result.profile = self.profile_of(result)
        rule = self.find_rule(result, now_ms, role, region, gtin)
        if result.status != SCAN_VALID or self._profiles[result.profile].rule_set < 0:
            return
        rule_set = &self._rule_sets[self._profiles[result.profile].rule_set]
        result.local_date = floor_divide(local_ms(rule_set, now_ms), 86_400_000)
        if rule != NULL:
            result.drawn = rule_draw(rule_set, rule, result.item)

    cdef void locate(self, resolution *result) noexcept nogil:
        # Ensures: the batch that holds the item, or SCAN_UNKNOWN and no item.
        result.batch = <int32_t>self.find_batch(result.item)
        if result.batch < 0:
            result.status = SCAN_UNKNOWN
            result.item = NO_ITEM

    cdef void verify(self, const uint8_t *symbols, resolution *result) noexcept nogil:
        # Ensures: status and item of the code and the batch it is in; SCAN_VALID only says "located" here.
        resolution_clear(result)
        result.status = code_verify(self._keys._slots, symbols, &result.item)
        if result.status == SCAN_VALID:
            self.locate(result)

    cdef uint64_t hash_of(self, const uint8_t *data, Py_ssize_t size) noexcept nogil:
        # Ensures: the hash under the first index's key, if a text of this size is possible.
        return text_hash(&self._texts[0].key, data, size) if text_is_possible(self._text_lengths, size) else 0

    cdef void prefetch_row(self, uint64_t hash, Py_ssize_t size, bint is_second) noexcept nogil:
        # Ensures: first the slots, then the texts that find_text will look at are on their way into the cache.
        cdef Py_ssize_t index
        for index in range(self._text_count):
            if text_is_possible(self._texts[index].lengths, size):
                if is_second:
                    text_prefetch(&self._texts[index], hash)
                else:
                    prefetch_text(&self._texts[index].slots[scale(hash, self._texts[index].slot_count)])

    cdef bint find_text(self, const uint8_t *data, Py_ssize_t size, uint64_t hash, resolution *result) noexcept nogil:
        # Requires: hash as of hash_of.
        # Ensures:  True, item and batch if the text is an imported code, exactly as it is spelled.
        # Cost:     one look into each index that has texts of this size; one SipHash, as indexes of one workspace
        #           share their key.
        cdef const text_view *view
        cdef uint64_t own_hash
        cdef int64_t offset
        cdef Py_ssize_t index
        for index in range(self._text_count):
            view = &self._texts[index]
            if text_is_possible(view.lengths, size):
                own_hash = hash
                if index and memcmp(&view.key, &self._texts[0].key, sizeof(view.key)) != 0:
                    own_hash = text_hash(&view.key, data, size)
                offset = text_find(view, data, size, own_hash)
                if offset >= 0:
                    result.batch = self._text_batches[index]
                    result.item = self._item_starts[result.batch] + <uint64_t>offset
                    result.status = SCAN_VALID
                    return True
        return False

    cdef bint read_symbols(
        self, const uint8_t *data, Py_ssize_t size, uint64_t hash, resolution *result, uint8_t *symbols
    ) noexcept nogil:
        # Ensures: True and the symbols of a code of format v1 in any spelling; else what the text is instead: an
        #          imported code, a bare product number, or nothing.
        resolution_clear(result)
        if self._text_count and self.find_text(data, size, hash, result):
            return False
        if spelling_read(data, size, symbols):
            return True
        result.status = SCAN_PRODUCT_ONLY if gtin_is_right(data, size) else SCAN_MALFORMED
        return False

    cdef void read(self, const uint8_t *data, Py_ssize_t size, uint64_t hash, resolution *result) noexcept nogil:
        # Ensures: what the text is: an imported code, a code of format v1 in any spelling, or a bare product number.
        cdef uint8_t symbols[CODE_SYMBOL_COUNT]
        if self.read_symbols(data, size, hash, result, symbols):
            self.verify(symbols, result)

    cdef uint64_t offset_of(self, const resolution *found) noexcept nogil:
        return found.item - self._item_starts[found.batch]

    cdef int32_t profile_of(self, const resolution *found) noexcept nogil:
        # Requires: found.batch holds found.item.
        cdef const batch_view *batch = &self._batches[found.batch]
        cdef uint64_t segment = segment_find(&batch.segments, self.offset_of(found))
        return <int32_t>(batch.profile_base + batch.segments.profiles[segment])

    def is_imported(self, text):
        """Tell whether a text is an imported code, exactly as it is spelled."""
        cdef resolution found
        cdef const uint8_t *data = text_data(text)
        return data != NULL and self.find_text(data, len(text), self.hash_of(data, len(text)), &found)

    cdef int resolve_text(
        self, object text, int64_t now_ms, uint8_t role, uint32_t region, uint64_t gtin, resolution *result
    ) except -1:
        cdef const uint8_t *data = text_data(text)
        resolution_clear(result)
        result.status = SCAN_MALFORMED
        if data != NULL:
            self.read(data, len(text), self.hash_of(data, len(text)), result)
        if result.status == SCAN_VALID:
            self.decide(result, now_ms, role, region, gtin)
        return 0

    def resolve(self, text, now_ms, role, region, gtin=0):
        """Resolve one code: imported, exactly as it is spelled, or of format v1 in any accepted spelling.

        Parameters
        ----------
        text : str
        now_ms : int
            Milliseconds since 1970 UTC.
        role : int
            0 to 4.
        region : int
            Six-digit code, 0 if unknown.
        gtin : int
            Product that the text named beside the code, 0 if none.

        Returns
        -------
        status, item, batch_index, profile_index, rule, drawn, local_date : int
            -1 where it does not apply (2**64 - 1 for the item, 0 for the date). A drawn -1 beside a rule is ``none``.
            Of a wrong product there is the item, and nothing else.
        """
        cdef resolution found
        self.resolve_text(
            text, time_checked(now_ms), role_checked(role), region_checked(region),
            0 if gtin is ZERO else gtin_checked(gtin), &found)
        return found.status, found.item, found.batch, found.profile, found.rule, found.drawn, found.local_date

    def resolve_many(self, codes, now_ms, role, region, gtin=0):
        """Resolve many codes without the GIL.

        Parameters
        ----------
        codes : uint8, shape (n, w)
            Texts of up to w bytes, as for :meth:`resolve`, filled up with zeros; w is 1 to 64. 20 is quickest.
        now_ms : int
        role, region, gtin : int, or array of shape (n,)

        Returns
        -------
        status : uint8, item : uint64, profile : int32, rule : int16, drawn : int16
            All of shape (n,), as in :meth:`resolve`.

        Raises
        ------
        ValueError
            If a shape or a value does not fit.
        """
        cdef int64_t now = time_checked(now_ms)
        if (
            not isinstance(codes, np.ndarray) or codes.dtype != np.uint8 or codes.ndim != 2
            or not 1 <= codes.shape[1] <= TEXT_SIZE_MAX
        ):
            raise ValueError("codes must be uint8 of shape (n, 20), or of another width from 1 to 64")
        codes = np.ascontiguousarray(codes)
        cdef Py_ssize_t count = len(codes)
        cdef Py_ssize_t width = codes.shape[1]
        cdef const uint8_t *letters = <const uint8_t *>cnp.PyArray_DATA(<cnp.ndarray>codes)
        cdef const uint8_t[:] roles = _column(role, count, "role", np.uint8, 4, role_checked)
        cdef const uint32_t[:] regions = _column(region, count, "region", np.uint32, 999_999, region_checked)
        cdef const uint64_t[:] gtins = _column(gtin, count, "gtin", np.uint64, GTIN_END - 1, gtin_checked)
        cdef uint8_t[::1] status = np.empty(count, dtype=np.uint8)
        cdef uint64_t[::1] item = np.empty(count, dtype=np.uint64)
        cdef int32_t[::1] profile = np.empty(count, dtype=np.int32)
        cdef int16_t[::1] rule = np.empty(count, dtype=np.int16)
        cdef int16_t[::1] drawn = np.empty(count, dtype=np.int16)
        if count:
            with nogil:
                self.resolve_rows(
                    letters, width, count, now, roles, regions, gtins, status, item, profile, rule, drawn)
        return (np.asarray(status), np.asarray(item), np.asarray(profile), np.asarray(rule), np.asarray(drawn))

    @cython.boundscheck(False)      # Safe: resolve_many made or checked every array with `count` rows.
    cdef void resolve_rows(
        self, const uint8_t *letters, Py_ssize_t width, Py_ssize_t count, int64_t now_ms, const uint8_t[:] roles,
        const uint32_t[:] regions, const uint64_t[:] gtins, uint8_t[::1] status, uint64_t[::1] item,
        int32_t[::1] profile, int16_t[::1] rule_numbers, int16_t[::1] drawn,
    ) noexcept nogil:
        # Passes over a block at a time, each asking for the memory that the next one reads: codes come in random
        # order, and a look-up in a large batch is three cache misses that would otherwise be waited for one by one.
        # Between the passes the rows that need a hash are hashed side by side.
        cdef resolution block[BLOCK_ROWS]
        cdef uint64_t text_hashes[BLOCK_ROWS]
        cdef Py_ssize_t sizes[BLOCK_ROWS]
        cdef uint64_t fronts[BLOCK_ROWS]
        cdef uint64_t backs[BLOCK_ROWS]
        cdef uint8_t verdicts[BLOCK_ROWS]
        cdef sealed_code codes[BLOCK_ROWS]
        cdef const rule_record *rules[BLOCK_ROWS]
        cdef const rule_set_view *rule_sets[BLOCK_ROWS]
        cdef uint64_t words[BLOCK_ROWS]
        cdef int hashed[BLOCK_ROWS]       # the row of each column of `lanes`
        cdef hash_columns lanes
        # A row of 20 letters is a code of format v1 unless texts of 20 bytes were imported.
        cdef bint is_bare = width == CODE_SYMBOL_COUNT and not text_is_possible(self._text_lengths, width)
        cdef const slot_keys *slots = self._keys._slots
        cdef const uint8_t *data
        cdef uint8_t symbols[CODE_SYMBOL_COUNT]
        cdef const segment_view *segments
        cdef const rule_record *rule
        cdef resolution *found
        cdef Py_ssize_t start, row, rows, column, columns
        cdef uint64_t bucket
        memset(&lanes, 0, sizeof(lanes))
        start = 0
        while start < count:
            rows = min(<Py_ssize_t>BLOCK_ROWS, count - start)
            if self._text_count:
                for row in range(rows):
                    data = letters + (start + row) * width
                    sizes[row] = row_size(data, width)
                    text_hashes[row] = self.hash_of(data, sizes[row])
                    self.prefetch_row(text_hashes[row], sizes[row], False)
                for row in range(rows):
                    self.prefetch_row(text_hashes[row], sizes[row], True)
            if is_bare:
                letters_open(letters + start * width, fronts, backs, verdicts, rows)
            columns = 0
            for row in range(rows):
                found = &block[row]
                data = letters + (start + row) * width
                if is_bare and verdicts[row] != LETTERS_OTHER:
                    resolution_clear(found)
                else:
                    if not self._text_count:
                        sizes[row], text_hashes[row] = row_size(data, width), 0
                    if not self.read_symbols(data, sizes[row], text_hashes[row], found, symbols):
                        continue
                    fronts[row], backs[row] = code_bits(symbols, 0, 10), code_bits(symbols, 10, 20)
                    verdicts[row] = LETTERS_MISTYPED if code_check(symbols, CODE_SYMBOL_COUNT) else LETTERS_RIGHT
                found.status = SCAN_MISTYPED
                if verdicts[row] == LETTERS_RIGHT:
                    found.status = code_open(slots, fronts[row], backs[row], &codes[columns])
                if found.status == SCAN_VALID:
                    hashed[columns] = <int>row
                    column_set(&lanes, columns, &slots[codes[columns].slot].mask, codes[columns].tag)
                    columns += 1
            columns_hash(&lanes, columns)
            for column in range(columns):
                column_set(
                    &lanes, column, &slots[codes[column].slot].tag, code_item(&codes[column], lanes.hashes[column]))
            columns_hash(&lanes, columns)
            for column in range(columns):
                found = &block[hashed[column]]
                if tag_of(lanes.hashes[column]) ^ codes[column].tag:
                    found.status = SCAN_FORGED
                else:
                    found.item = lanes.values[column]
                    self.locate(found)
            for row in range(rows):
                found = &block[row]
                if found.status == SCAN_VALID:
                    segments = &self._batches[found.batch].segments
                    prefetch(&segments.buckets[self.offset_of(found) >> segments.shift])
            for row in range(rows):
                found = &block[row]
                if found.status == SCAN_VALID:
                    segments = &self._batches[found.batch].segments
                    bucket = segments.buckets[self.offset_of(found) >> segments.shift]
                    prefetch(&segments.starts[bucket])
                    prefetch(&segments.profiles[bucket])
            for row in range(rows):
                found = &block[row]
                if found.status == SCAN_VALID:
                    found.profile = self.profile_of(found)
                    prefetch(&self._profiles[found.profile])
            columns = 0
            for row in range(rows):
                found = &block[row]
                if found.status == SCAN_VALID:
                    rule = self.find_rule(found, now_ms, roles[start + row], regions[start + row], gtins[start + row])
                    if rule != NULL:
                        hashed[columns] = <int>row
                        rules[columns] = rule
                        rule_sets[columns] = &self._rule_sets[self._profiles[found.profile].rule_set]
                        column_set(
                            &lanes, columns, &rule_sets[columns].draw_key, draw_position(rule, found.item))
                        columns += 1
            columns_hash(&lanes, columns)
            for column in range(columns):
                words[column] = lanes.hashes[column]
                lanes.values[column] = second_position(lanes.values[column])
            columns_hash(&lanes, columns)
            for column in range(columns):
                block[hashed[column]].drawn = rule_outcome(
                    rule_sets[column], rules[column], words[column], lanes.hashes[column])
            for row in range(rows):
                found = &block[row]
                status[start + row] = found.status
                item[start + row] = found.item
                profile[start + row] = found.profile
                rule_numbers[start + row] = found.rule
                drawn[start + row] = found.drawn
            start += rows


cdef bint letters_read(const uint8_t *letters, uint8_t *symbols) noexcept nogil:
    # Ensures: True and 20 symbols, or False if one of the 20 bytes is no symbol. No hyphens here: rows have 20 bytes.
    cdef uint8_t seen = 0
    cdef int index
    for index in range(CODE_SYMBOL_COUNT):
        symbols[index] = SYMBOL_OF_BYTE[letters[index]]
        seen |= symbols[index]
    return seen < 32


cdef void resolution_clear(resolution *result) noexcept nogil:
    result.item = NO_ITEM
    result.local_date = 0
    result.batch = -1
    result.profile = -1
    result.rule = -1
    result.drawn = -1
    result.status = 0


def _column(value, count, what, dtype, limit, check):
    """Return `value` as an array of `count` rows; a single value becomes a view of stride 0."""
    if np.ndim(value) == 0:
        check(value)
        return np.broadcast_to(np.asarray(value, dtype=dtype), (count,))
    column = np.asarray(value)
    if column.shape != (count,) or column.dtype.kind not in "iu":
        raise ValueError(f"{what} must be one value or {count} integers, found {column.dtype} {column.shape}")
    outside = np.flatnonzero((column < 0) | (column > limit))
    if len(outside):
        check(int(column[outside[0]]))
    return column.astype(dtype)
