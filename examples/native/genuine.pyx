# cython: language_level=3, boundscheck=False, wraparound=False
"""Counts genuine codes in a buffer of lines, without the interpreter: what a camera's firmware or a sorter would do.

Line i is the 20 bytes from ``i * stride`` on. The keys come from an open program, and stay its own.
"""

from libc.stdint cimport uint8_t, uint64_t

from scanengine._core cimport CODE_SYMBOL_COUNT, SCAN_VALID, CodeKeys, keys_verify, letters_read


def count_genuine(CodeKeys keys not None, const uint8_t[::1] lines not None, Py_ssize_t stride):
    """Return how many lines are genuine codes, and the item number of the last one (None without any)."""
    cdef uint8_t symbols[20]
    cdef uint64_t item = 0
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t genuine = 0
    if stride < CODE_SYMBOL_COUNT:
        raise ValueError(f"a line has {CODE_SYMBOL_COUNT} bytes or more, found a stride of {stride}")
    with nogil:
        while start + CODE_SYMBOL_COUNT <= lines.shape[0]:
            if letters_read(&lines[start], symbols) and keys_verify(keys, symbols, &item) == SCAN_VALID:
                genuine += 1
            start += stride
    return genuine, item if genuine else None
