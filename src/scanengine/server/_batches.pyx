"""The loops of batches that touch every entry: how many there are, texts to rows of letters, and rows to the reply.

What a code is has been decided in between. A reply knows neither JSON nor MessagePack: it is put together from pieces
that were encoded once, with the 20 letters of each code between two of them.

    head | before | 20 letters | after | separator | before | … | tail
"""

cimport cython
cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from scanengine._core cimport CODE_SYMBOL_COUNT, LETTER_OF_SYMBOL, SYMBOL_OF_BYTE

import numpy as np

cnp.import_array()

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    const uint8_t *PyUnicode_1BYTE_DATA(object text)


cdef struct piece:
    # Borrowed from the tuple that holds the bytes.
    const char *before
    const char *after
    Py_ssize_t before_bytes
    Py_ssize_t after_bytes


def count_entries(bytes body not None):
    """Return how many entries the lists of an object have in JSON, before anything is made of them.

    Returns
    -------
    int
        Of an object whose only value is a list, their number, an empty list having one. Of anything else nothing worth
        knowing: whether it is JSON is for its reader to say.

    Notes
    -----
    Releases the GIL.
    """
    cdef const char *at = PyBytes_AS_STRING(body)
    cdef const char *end = at + PyBytes_GET_SIZE(body)
    cdef Py_ssize_t depth = 0, count = 1
    cdef bint is_text = False
    with nogil:
        while at < end:
            if is_text:
                if at[0] == b'\\':
                    at += 1  # Whatever it escapes; behind the last byte the loop ends.
                elif at[0] == b'"':
                    is_text = False
            elif at[0] == b'"':
                is_text = True
            elif at[0] == b'[' or at[0] == b'{':
                depth += 1
            elif at[0] == b']' or at[0] == b'}':
                depth -= 1
            elif at[0] == b',' and depth == 2:
                count += 1
            at += 1
    return count


def read_letters(list texts not None):
    """Return the texts that may be bare codes as rows of letters.

    Returns
    -------
    letters : uint8, shape (n, 20)
        Zeros for every other text, and for what is no text.
    is_plain : uint8, shape (n,)
        1 for a text of 20 characters that JSON writes as they are.
    """
    cdef Py_ssize_t count = len(texts)
    cdef uint8_t[:, ::1] letters = np.zeros((count, CODE_SYMBOL_COUNT), np.uint8)
    cdef uint8_t[::1] is_plain = np.zeros(count, np.uint8)
    cdef Py_ssize_t row
    for row in range(count):
        text = texts[row]
        if type(text) is str and len(text) == CODE_SYMBOL_COUNT and PyUnicode_IS_ASCII(text):
            if _is_plain(PyUnicode_1BYTE_DATA(text)):
                memcpy(&letters[row, 0], PyUnicode_1BYTE_DATA(text), CODE_SYMBOL_COUNT)
                is_plain[row] = True
    return np.asarray(letters), np.asarray(is_plain)


cdef bint _is_plain(const uint8_t *data) noexcept nogil:
    # Requires: 20 bytes of ASCII.
    # Ensures:  whether none of them is a control character, a quotation mark or a backslash (RFC 8259, section 7).
    cdef int index
    cdef bint is_special = False
    for index in range(CODE_SYMBOL_COUNT):
        is_special |= data[index] < 0x20 or data[index] == 0x7f or data[index] == 0x22 or data[index] == 0x5c
    return not is_special


@cython.boundscheck(False)  # Safe: the shape test ties all lengths to the first, and no number in `which` is too large.
def write_rows(
    bytes head not None,
    bytes separator not None,
    bytes tail not None,
    tuple pieces not None,
    Py_ssize_t with_code,
    const int32_t[::1] which,
    const uint8_t[:, ::1] letters,
    const uint8_t[::1] folds,
):
    """Return all rows as one text.

    Parameters
    ----------
    pieces : tuple of (bytes, bytes)
        What stands before and after a code.
    with_code : int
        The first so many pieces have a code between their halves, the others have none.
    which : int32, shape (n,)
        Index of each row's pieces.
    letters : uint8, shape (n, 20)
        Letters of each row's code.
    folds : uint8, shape (n,)
        Whether they are symbols, to be written in their bare spelling; otherwise they are written as they are.

    Raises
    ------
    ValueError
        If shapes do not agree, or a row has no pieces.
    TypeError
        If a piece is not two bytes.

    Notes
    -----
    One allocation of the size of the result; releases the GIL while it is filled.
    """
    cdef Py_ssize_t count = which.shape[0]
    cdef Py_ssize_t piece_count = len(pieces)
    cdef Py_ssize_t row, size
    cdef int32_t number
    cdef piece *parts
    cdef char *at
    cdef bytes before, after, made
    if letters.shape[0] != count or letters.shape[1] != CODE_SYMBOL_COUNT or folds.shape[0] != count:
        raise ValueError(f"expected {count} rows of {CODE_SYMBOL_COUNT} letters, found {letters.shape[0]}")
    for row in range(count):
        if which[row] < 0 or which[row] >= piece_count:
            raise ValueError(f"row {row} has pieces {which[row]} of {piece_count}")
    parts = <piece *>malloc((piece_count + 1) * sizeof(piece))
    if parts == NULL:
        raise MemoryError()
    try:
        for row in range(piece_count):
            before, after = pieces[row]
            if before is None or after is None:
                raise TypeError(f"expected two bytes in piece {row}, found None")
            parts[row].before, parts[row].before_bytes = PyBytes_AS_STRING(before), PyBytes_GET_SIZE(before)
            parts[row].after, parts[row].after_bytes = PyBytes_AS_STRING(after), PyBytes_GET_SIZE(after)
        size = len(head) + len(tail) + len(separator) * max(count - 1, 0)
        for row in range(count):
            number = which[row]
            size += parts[number].before_bytes + parts[number].after_bytes
            size += CODE_SYMBOL_COUNT if number < with_code else 0
        made = PyBytes_FromStringAndSize(NULL, size)
        at = put(PyBytes_AS_STRING(made), PyBytes_AS_STRING(head), len(head))
        fill(at, separator, parts, with_code, which, letters, folds)
        put(PyBytes_AS_STRING(made) + size - len(tail), PyBytes_AS_STRING(tail), len(tail))
    finally:
        free(parts)
    return made


cdef inline char *put(char *at, const char *data, Py_ssize_t size) noexcept nogil:
    memcpy(at, data, size)
    return at + size


@cython.boundscheck(False)  # Safe: write_rows has checked everything.
cdef void fill(
    char *at, bytes separator, const piece *parts, Py_ssize_t with_code, const int32_t[::1] which,
    const uint8_t[:, ::1] letters, const uint8_t[::1] folds,
) noexcept:
    # Requires: room for what write_rows has added up.
    cdef const char *between = PyBytes_AS_STRING(separator)
    cdef Py_ssize_t between_bytes = PyBytes_GET_SIZE(separator)
    cdef Py_ssize_t row
    cdef int index
    cdef const piece *part
    with nogil:
        for row in range(which.shape[0]):
            if row:
                at = put(at, between, between_bytes)
            part = &parts[which[row]]
            at = put(at, part.before, part.before_bytes)
            if which[row] < with_code:
                if folds[row]:
                    for index in range(CODE_SYMBOL_COUNT):
                        # A symbol that is none is masked: a wrong letter is better than a wild read.
                        at[index] = LETTER_OF_SYMBOL[SYMBOL_OF_BYTE[letters[row, index]] & 31]
                else:
                    memcpy(at, &letters[row, 0], CODE_SYMBOL_COUNT)
                at += CODE_SYMBOL_COUNT
            at = put(at, part.after, part.after_bytes)
