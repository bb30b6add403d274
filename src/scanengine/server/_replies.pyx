"""Replies of the hot path put together."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef const char *LENGTH_NAME = b"\r\nContent-Length: "
cdef enum:
    LENGTH_NAME_SIZE = 18
    DIGITS_ROOM = 24


def write_reply(bytes head not None, str request_id not None, bytes tail not None, bytes body not None):
    """Return a reply.

    Parameters
    ----------
    head : bytes
        All that comes before the id of the request.
    request_id : str
        In ASCII.
    tail : bytes
        All that comes after the length of the body, with the empty line that ends the head.
    """
    cdef char digits[DIGITS_ROOM]       # filled from the end
    cdef Py_ssize_t rest = PyBytes_GET_SIZE(body)
    cdef int digit_count = 0
    cdef Py_ssize_t id_size
    cdef const char *id_data = PyUnicode_AsUTF8AndSize(request_id, &id_size)
    cdef bytes reply
    cdef char *at
    while rest or not digit_count:
        digit_count += 1
        digits[DIGITS_ROOM - digit_count] = <char>(c"0" + rest % 10)
        rest //= 10
    reply = PyBytes_FromStringAndSize(NULL, (
        PyBytes_GET_SIZE(head) + id_size + LENGTH_NAME_SIZE + digit_count + PyBytes_GET_SIZE(tail)
        + PyBytes_GET_SIZE(body)))
    at = PyBytes_AS_STRING(reply)
    at = put(at, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
    at = put(at, id_data, id_size)
    at = put(at, LENGTH_NAME, LENGTH_NAME_SIZE)
    at = put(at, digits + DIGITS_ROOM - digit_count, digit_count)
    at = put(at, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
    put(at, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    return reply


cdef inline char *put(char *at, const char *data, Py_ssize_t size) noexcept nogil:
    memcpy(at, data, size)
    return at + size
