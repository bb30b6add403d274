"""Imported codes in the core: lines of a file to rows, rows to an index, a text to its offset. Part of the core."""

cimport numpy as cnp
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from scanengine._draws cimport key_read

import numpy as np

cnp.import_array()

cdef enum:
    # Texts in flight while an index is filled or a column is looked up.
    BLOCK_TEXTS = 32

TEXT_BYTES_MAX = TEXT_SIZE_MAX
TEXTS_MAX = (1 << TEXT_OFFSET_BITS) - 2
FAULTS_SHOWN = 10


cdef object rows_checked(object texts, str what):
    # Ensures: a contiguous array of rows of at most 64 bytes; a copy only if the caller's was not contiguous.
    if (
        not isinstance(texts, np.ndarray) or texts.dtype != np.uint8 or texts.ndim != 2
        or not 1 <= texts.shape[1] <= TEXT_SIZE_MAX
    ):
        raise ValueError(f"{what} must be uint8 of shape (n, 1) to (n, 64)")
    return np.ascontiguousarray(texts)


cdef object slots_checked(object slots, object texts):
    if not isinstance(slots, np.ndarray) or slots.dtype != np.uint32 or slots.ndim != 1:
        raise ValueError("slots must be uint32 of shape (m,)")
    if not 1 <= len(texts) <= TEXTS_MAX:
        raise ValueError(f"an index has 1 to {TEXTS_MAX} texts, found {len(texts)}")
    if not len(texts) < len(slots) < 1 << 32:
        raise ValueError(f"{len(slots)} slots for {len(texts)} texts, expected more slots than texts")
    return np.ascontiguousarray(slots)


cdef class TextIndex:
    """The texts of one batch of imported codes, with the index that finds one.

    Parameters
    ----------
    texts : uint8, shape (n, w)
        Texts of 1 to w bytes in the order of their offsets, filled up with zeros; n below 2**25, w at most 64.
    slots : uint32, shape (m,)
        As :func:`fill_slots` leaves them, m more than n.
    key : bytes
        16 bytes.
    lengths : int
        Bit i tells that there are texts of i + 1 bytes.

    Raises
    ------
    ValueError
        Naming the first slot that is wrong, or the number that does not fit. After that nothing is checked again.

    Notes
    -----
    Reads all slots once, no texts: :meth:`check` reads those. Arrays that can be written to are copied, read-only ones
    are borrowed.
    """

    def __cinit__(self, texts, slots, key, lengths):
        cdef uint64_t used = 0
        cdef uint64_t count, slot, slot_count
        cdef const uint32_t *entries
        key_read(key, &self.view.key)
        texts = rows_checked(texts, "texts")
        slots = slots_checked(slots, texts)
        if not 0 < lengths < 1 << texts.shape[1]:
            raise ValueError(f"lengths {lengths:#x} are not those of texts of 1 to {texts.shape[1]} bytes")
        # What its owner can still write to would not stay as it is checked here.
        texts, slots = (array.copy() if array.flags.writeable else array for array in (texts, slots))
        self._arrays = (texts, slots)
        self.count = count = len(texts)
        self.view.width = texts.shape[1]
        self.view.lengths = lengths
        self.view.slot_count = slot_count = len(slots)
        self.view.texts = <const uint8_t *>cnp.PyArray_DATA(<cnp.ndarray>texts)
        self.view.slots = entries = <const uint32_t *>cnp.PyArray_DATA(<cnp.ndarray>slots)
        for slot in range(slot_count):
            if entries[slot]:
                used += 1
                # 0 less 1 is far above every count, so a tag without an offset is found too.
                if <uint64_t>(entries[slot] & TEXT_OFFSET_MASK) - 1 >= count:
                    raise ValueError(f"slot {slot} names text {int(entries[slot] & TEXT_OFFSET_MASK) - 1} of {count}")
        if used != count:
            raise ValueError(f"{used} slots are used, expected one for each of {count} texts")

    def find(self, text):
        """Return the offset of a text, exactly as it is spelled, or -1."""
        cdef bytes data
        if not isinstance(text, str):
            raise TypeError(f"a code is a str, found {type(text).__name__}")
        if not text.isascii() or not text_is_possible(self.view.lengths, len(text)):
            return -1
        data = text.encode()
        return text_find(&self.view, data, len(data), text_hash(&self.view.key, data, len(data)))

    def find_many(self, texts):
        """Return the offset of each row of texts, filled up with zeros: int64 of shape (k,), -1 where there is none.

        Raises
        ------
        ValueError
            If the rows are not uint8 of shape (k, 1) to (k, 64).

        Notes
        -----
        Releases the GIL; about 0.1 microseconds a text.
        """
        texts = rows_checked(texts, "texts")
        cdef const uint8_t *rows = <const uint8_t *>cnp.PyArray_DATA(<cnp.ndarray>texts)
        cdef Py_ssize_t count = len(texts)
        cdef Py_ssize_t width = texts.shape[1]
        cdef cnp.ndarray offsets = np.full(count, -1, dtype=np.int64)
        cdef int64_t *found = <int64_t *>cnp.PyArray_DATA(offsets)
        cdef uint64_t hashes[BLOCK_TEXTS]
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t row, size, rows_now
        cdef const uint8_t *data
        with nogil:
            while start < count:
                rows_now = min(<Py_ssize_t>BLOCK_TEXTS, count - start)
                for row in range(rows_now):
                    data = rows + (start + row) * width
                    hashes[row] = text_hash(&self.view.key, data, row_size(data, width))
                    prefetch_text(&self.view.slots[scale(hashes[row], self.view.slot_count)])
                for row in range(rows_now):
                    text_prefetch(&self.view, hashes[row])
                for row in range(rows_now):
                    data = rows + (start + row) * width
                    size = row_size(data, width)
                    if text_is_possible(self.view.lengths, size):
                        found[start + row] = text_find(&self.view, data, size, hashes[row])
                start += rows_now
        return offsets

    def check(self):
        """Look every text up; ValueError naming the first offset that is not found at its own place."""
        texts = self._arrays[0]
        cdef Py_ssize_t start
        for start in range(0, len(texts), 1 << 16):
            found = self.find_many(texts[start : start + (1 << 16)])
            wrong = np.flatnonzero(found != np.arange(start, start + len(found)))
            if len(wrong):
                raise ValueError(f"text {start + int(wrong[0])} is not found at its place")


def fill_slots(texts, slots, key, start, end):
    """Put the texts of offsets [start, end) into slots that hold those before `start`.

    Parameters
    ----------
    texts, key
        As for :class:`TextIndex`.
    slots : uint32, shape (m,)
        Changed in place; all zero at first.

    Returns
    -------
    lengths : int
        Bits of the lengths of these texts, as :class:`TextIndex` takes them.
    doubles : int
        Texts that stood at an earlier offset; they take no slot.
    first_doubles : list of (int, int)
        Offset and earlier offset of at most ``FAULTS_SHOWN`` of them.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """
    cdef text_view view
    key_read(key, &view.key)
    texts = rows_checked(texts, "texts")
    if slots_checked(slots, texts) is not slots or not slots.flags.writeable:
        raise ValueError("slots must be contiguous and writeable")
    if not 0 <= start <= end <= len(texts):
        raise ValueError(f"texts {start} to {end} are outside the {len(texts)} given")
    view.texts = <const uint8_t *>cnp.PyArray_DATA(<cnp.ndarray>texts)
    view.width = texts.shape[1]
    view.slot_count = len(slots)
    view.lengths = 0
    cdef uint32_t *entries = <uint32_t *>cnp.PyArray_DATA(<cnp.ndarray>slots)
    view.slots = entries
    cdef uint64_t first_row = start
    cdef uint64_t last_row = end
    cdef uint64_t row, block, slot, _probe
    cdef uint64_t hashes[BLOCK_TEXTS]
    cdef uint64_t doubles = 0
    cdef int64_t pairs[2 * 10]
    cdef const uint8_t *data
    cdef Py_ssize_t size
    cdef uint32_t entry
    cdef bint is_full = False
    with nogil:
        block = first_row
        while block < last_row and not is_full:
            for row in range(block, min(block + <uint64_t>BLOCK_TEXTS, last_row)):
                data = view.texts + row * view.width
                hashes[row - block] = text_hash(&view.key, data, row_size(data, view.width))
                prefetch_text(&entries[scale(hashes[row - block], view.slot_count)])
            for row in range(block, min(block + <uint64_t>BLOCK_TEXTS, last_row)):
                data = view.texts + row * view.width
                size = row_size(data, view.width)
                slot = scale(hashes[row - block], view.slot_count)
                if size:
                    view.lengths |= <uint64_t>1 << (size - 1)
                is_full = True
                for _probe in range(view.slot_count):
                    entry = entries[slot]
                    if entry == 0:
                        entries[slot] = (
                            <uint32_t>(hashes[row - block] & TEXT_TAG_MASK) << TEXT_OFFSET_BITS) | <uint32_t>(row + 1)
                        is_full = False
                        break
                    entry &= TEXT_OFFSET_MASK
                    # Slots that somebody else filled may name what is not there.
                    if 0 < entry <= row and (
                            memcmp(view.texts + (entry - 1) * <uint64_t>view.width, data, view.width) == 0):
                        if doubles < 10:
                            pairs[2 * doubles] = row
                            pairs[2 * doubles + 1] = entry - 1
                        doubles += 1
                        is_full = False
                        break
                    slot += 1
                    if slot == view.slot_count:
                        slot = 0
                if is_full:
                    break
            block += BLOCK_TEXTS
    if is_full:
        raise ValueError("every slot is taken")
    shown = [(int(pairs[2 * i]), int(pairs[2 * i + 1])) for i in range(min(doubles, 10))]
    return int(view.lengths), int(doubles), shown


def read_texts(const uint8_t[::1] data not None, line):
    """Read lines of a file of codes, one text a line, LF or CR LF at its end; empty lines are passed over.

    Parameters
    ----------
    data : bytes
        Whole lines; the last one may lack its end.
    line : int
        Number of the first line, for the faults.

    Returns
    -------
    texts : uint8, shape (k, w)
        The good texts, filled up with zeros to the longest.
    lines : int64, shape (k,)
        Line of each.
    line_end : int
        Number of the line after the last.
    fault_count : int
        Lines that are no text of 1 to 64 printable ASCII characters without spaces.
    faults : list of (int, str)
        Line and fault of at most ``FAULTS_SHOWN`` of them. No text is shown.
    """
    cdef Py_ssize_t size = data.shape[0]
    cdef const uint8_t *begin = &data[0] if size else NULL
    cdef const uint8_t *here = begin
    cdef const uint8_t *end = begin + size
    cdef const uint8_t *stop
    cdef const uint8_t *next_line
    cdef int64_t number = line
    cdef int64_t fault_count = 0
    cdef Py_ssize_t width = 1
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t length, bad
    faults = []
    while here < end:
        count += 1
        stop = <const uint8_t *>memchr(here, 10, end - here)
        if stop == NULL:
            break
        here = stop + 1
    cdef cnp.ndarray starts = np.empty(count, dtype=np.int64)
    cdef cnp.ndarray lines = np.empty(count, dtype=np.int64)
    cdef cnp.ndarray sizes = np.empty(count, dtype=np.uint8)
    cdef int64_t *start_of = <int64_t *>cnp.PyArray_DATA(starts)
    cdef int64_t *line_of = <int64_t *>cnp.PyArray_DATA(lines)
    cdef uint8_t *size_of = <uint8_t *>cnp.PyArray_DATA(sizes)
    count = 0
    here = begin
    while here < end:
        stop = <const uint8_t *>memchr(here, 10, end - here)
        next_line = end if stop == NULL else stop + 1
        if stop == NULL:
            stop = end
        if stop > here and (stop - 1)[0] == 13:
            stop -= 1
        length = stop - here
        bad = -1 if length > TEXT_SIZE_MAX else text_fault(here, length)
        if length > TEXT_SIZE_MAX or bad < length:
            if fault_count < FAULTS_SHOWN:
                faults.append((
                    int(number), "more than 64 characters" if bad < 0
                    else f"byte {here[bad]:#04x} at place {bad + 1}, expected printable ASCII without spaces"))
            fault_count += 1
        elif length:
            start_of[count] = here - begin
            line_of[count] = number
            size_of[count] = <uint8_t>length
            width = max(width, length)
            count += 1
        number += 1
        here = next_line
    cdef cnp.ndarray texts = np.zeros((count, width), dtype=np.uint8)
    cdef uint8_t *row = <uint8_t *>cnp.PyArray_DATA(texts)
    cdef Py_ssize_t index
    for index in range(count):
        memcpy(row, begin + start_of[index], size_of[index])
        row += width
    return texts, lines[:count].copy(), int(number), int(fault_count), faults


cdef Py_ssize_t text_fault(const uint8_t *text, Py_ssize_t size) noexcept nogil:
    # Ensures: the place of the first byte that is not 0x21 to 0x7e, or size.
    cdef Py_ssize_t place
    for place in range(size):
        if not 0x21 <= text[place] <= 0x7e:
            return place
    return size
