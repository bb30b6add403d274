"""Requests of the hot path, framed and told apart. It reads bytes and decides nothing.

The framing is stricter than HTTP asks for, so that no other reader of the same bytes can see another message: what is
unusual is not read here at all, but left to aiohttp.

    | HOT      | whole, and one of the few that are answered natively                       |
    | COLD     | where it ends is known for sure, but it is for aiohttp                      |
    | FOREIGN  | where it ends is for aiohttp to say, and so is all that follows it          |
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

SCAN, LOOK, DOOR, COLD, FOREIGN = range(1, 6)

cdef enum:
    KIND_SCAN = 1    # POST /v1/scans
    KIND_LOOK = 2    # GET /v1/codes/{code}
    KIND_DOOR = 3    # GET /s/{code}
    KIND_COLD = 4
    KIND_FOREIGN = 5

    HEAD_MORE = 0
    HEAD_WHOLE = 1
    HEAD_FOREIGN = 2

    HEAD_SIZE_MAX = 8 << 10
    BODY_SIZE_MAX = 64 << 10
    HEADERS_MAX = 64
    LENGTH_DIGITS_MAX = 15
    CODE_SIZE_MAX = 64

    CLASS_TOKEN = 1    # may stand in the name of a header
    CLASS_VALUE = 2    # in its value
    CLASS_TARGET = 4
    CLASS_CODE = 8     # in a code that needs no decoding

    METHOD_OTHER = 0
    METHOD_GET = 1
    METHOD_POST = 2

cdef uint8_t CLASSES[256]    # Filled at import, and only read afterwards.


cdef struct head_view:
    Py_ssize_t size             # with the empty line that ends it
    Py_ssize_t target_at
    Py_ssize_t target_size
    Py_ssize_t token_at         # value of Authorization
    Py_ssize_t token_size       # -1 without one
    int64_t length              # Content-Length, -1 without one
    int method
    bint has_host
    bint is_plain               # nothing in it asks for more than a plain reply
    bint is_passed_on           # a proxy says for whom it asks
    uint64_t names[64]          # hashes of the names so far


def _fill_classes():
    cdef int byte
    for byte in range(256):
        CLASSES[byte] = 0
        if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "!#$%&'*+-.^_`|~"):
            CLASSES[byte] |= CLASS_TOKEN
        if byte == 9 or 32 <= byte != 127:
            CLASSES[byte] |= CLASS_VALUE
        if 33 <= byte < 127:
            CLASSES[byte] |= CLASS_TARGET
        if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) == "-"):
            CLASSES[byte] |= CLASS_CODE


_fill_classes()

cdef const char *METHODS[7]
METHODS[:] = [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH "]
cdef int METHOD_SIZES[7]
METHOD_SIZES[:] = [4, 5, 5, 4, 7, 8, 6]
cdef const char *VERSION = b" HTTP/1.1\r\n"
cdef enum:
    VERSION_SIZE = 11


cdef inline bint is_name(const uint8_t *data, Py_ssize_t size, const char *name, Py_ssize_t name_size) noexcept nogil:
    # Requires: a name in lower case.
    cdef Py_ssize_t index
    if size != name_size:
        return False
    for index in range(size):
        if (data[index] | 32) != <uint8_t>name[index]:
            return False
    return True


cdef int line_read(const uint8_t *data, Py_ssize_t size, head_view *head) noexcept nogil:
    # Ensures: HEAD_WHOLE and what the request line says, with head.size behind it.
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t index, shared
    for index in range(7):
        shared = min(<Py_ssize_t>METHOD_SIZES[index], size)
        if memcmp(data, METHODS[index], shared) == 0:
            if shared < METHOD_SIZES[index]:
                return HEAD_MORE
            at = shared
            head.method = METHOD_GET if index == 0 else METHOD_POST if index == 1 else METHOD_OTHER
            break
    else:
        return HEAD_FOREIGN
    if at == size:
        return HEAD_MORE
    if data[at] != c"/":
        return HEAD_FOREIGN
    head.target_at = at
    while at < size and CLASSES[data[at]] & CLASS_TARGET:
        at += 1
    head.target_size = at - head.target_at
    shared = min(<Py_ssize_t>VERSION_SIZE, size - at)
    if memcmp(data + at, VERSION, shared) != 0:
        return HEAD_FOREIGN
    if shared < VERSION_SIZE:
        return HEAD_MORE
    head.size = at + VERSION_SIZE
    return HEAD_WHOLE


cdef bint is_repeated(const uint8_t *name, Py_ssize_t size, head_view *head, int count) noexcept nogil:
    # Ensures: True if a header of this name came before that may come only once. Most may, as most readers take the
    #          first or the last of several, and not the same ones. Two names with one hash count as one.
    # Source:  FNV-1a, Fowler, Noll and Vo 1991.
    cdef uint64_t hashed = <uint64_t>0xcbf29ce484222325
    cdef Py_ssize_t index
    cdef int earlier
    for index in range(size):
        hashed = (hashed ^ (name[index] | 32)) * <uint64_t>0x100000001b3
    head.names[count] = hashed
    for earlier in range(count):
        if head.names[earlier] == hashed:
            return not (
                is_name(name, size, b"cookie", 6) or is_name(name, size, b"x-forwarded-for", 15)
                or is_name(name, size, b"forwarded", 9) or is_name(name, size, b"via", 3)
                or is_name(name, size, b"accept", 6)
            )
    return False


cdef bint header_read(
    const uint8_t *data, Py_ssize_t name_at, Py_ssize_t name_size, Py_ssize_t at, Py_ssize_t end, head_view *head
) noexcept nogil:
    # Ensures: False if only aiohttp can say what this header means for the end of the message.
    cdef const uint8_t *name = data + name_at
    cdef Py_ssize_t index
    while at < end and (data[at] == c" " or data[at] == c"\t"):
        at += 1
    while end > at and (data[end - 1] == c" " or data[end - 1] == c"\t"):
        end -= 1
    if is_name(name, name_size, b"host", 4):
        head.has_host = True
    elif is_name(name, name_size, b"content-length", 14):
        if not 1 <= end - at <= LENGTH_DIGITS_MAX or (data[at] == c"0" and end - at > 1):
            return False
        head.length = 0
        for index in range(at, end):
            if not c"0" <= data[index] <= c"9":
                return False
            head.length = head.length * 10 + (data[index] - c"0")
    elif is_name(name, name_size, b"connection", 10):
        if is_name(data + at, end - at, b"close", 5):
            head.is_plain = False
        elif not is_name(data + at, end - at, b"keep-alive", 10):
            return False
    elif is_name(name, name_size, b"authorization", 13):
        head.token_at = at
        head.token_size = end - at
    elif (
        is_name(name, name_size, b"x-forwarded-for", 15) or is_name(name, name_size, b"forwarded", 9)
        or is_name(name, name_size, b"x-real-ip", 9) or is_name(name, name_size, b"via", 3)
    ):
        head.is_passed_on = True
    elif is_name(name, name_size, b"content-encoding", 16):
        head.is_plain = False
    elif (
        is_name(name, name_size, b"transfer-encoding", 17) or is_name(name, name_size, b"expect", 6)
        or is_name(name, name_size, b"upgrade", 7) or is_name(name, name_size, b"trailer", 7)
        or is_name(name, name_size, b"te", 2) or is_name(name, name_size, b"proxy-connection", 16)
        or is_name(name, name_size, b"http2-settings", 14) or is_name(name, name_size, b"sec-websocket-key1", 18)
    ):
        return False
    return True


cdef int head_read(const uint8_t *data, Py_ssize_t size, head_view *head) noexcept nogil:
    # Ensures: HEAD_WHOLE and what the head says; HEAD_MORE if it may become one; HEAD_FOREIGN if it is none of ours.
    cdef Py_ssize_t at, name_at, name_size, value_at
    cdef int count = 0
    cdef int result
    head.length = -1
    head.token_size = -1
    head.has_host = False
    head.is_plain = True
    head.is_passed_on = False
    result = line_read(data, size, head)
    if result != HEAD_WHOLE:
        return HEAD_FOREIGN if size > HEAD_SIZE_MAX else result
    at = head.size
    while at < size and at <= HEAD_SIZE_MAX:
        if data[at] == c"\r":
            if at + 1 == size:
                return HEAD_MORE
            if data[at + 1] != c"\n":
                return HEAD_FOREIGN
            head.size = at + 2
            return HEAD_WHOLE if head.has_host else HEAD_FOREIGN
        name_at = at
        while at < size and CLASSES[data[at]] & CLASS_TOKEN:
            at += 1
        if at == size:
            break
        name_size = at - name_at
        if name_size == 0 or data[at] != c":":
            return HEAD_FOREIGN
        at += 1
        value_at = at
        while at < size and CLASSES[data[at]] & CLASS_VALUE:
            at += 1
        if at == size:
            break
        if data[at] != c"\r" or (at + 1 < size and data[at + 1] != c"\n"):
            return HEAD_FOREIGN
        if at + 1 == size:
            break
        if (
            count == HEADERS_MAX or is_repeated(data + name_at, name_size, head, count)
            or not header_read(data, name_at, name_size, value_at, at, head)
        ):
            return HEAD_FOREIGN
        count += 1
        at += 2
    return HEAD_FOREIGN if size > HEAD_SIZE_MAX else HEAD_MORE


cdef inline Py_ssize_t code_after(
    const uint8_t *target, Py_ssize_t size, const char *prefix, Py_ssize_t length
) noexcept nogil:
    # Ensures: where the code begins in a target that is this prefix and a code, 0 if it is not.
    cdef Py_ssize_t index
    if not length < size <= length + CODE_SIZE_MAX or memcmp(target, prefix, length) != 0:
        return 0
    for index in range(length, size):
        if not CLASSES[target[index]] & CLASS_CODE:
            return 0
    return length


cdef int kind_of(const uint8_t *data, const head_view *head, Py_ssize_t *code_at) noexcept nogil:
    # Ensures: what is asked for, and where in the target its code begins.
    cdef const uint8_t *target = data + head.target_at
    cdef Py_ssize_t size = head.target_size
    if not head.is_plain:
        return KIND_COLD
    if head.method == METHOD_POST:
        if size == 9 and memcmp(target, b"/v1/scans", 9) == 0 and 0 < head.length <= BODY_SIZE_MAX:
            return KIND_SCAN
        return KIND_COLD
    if head.method != METHOD_GET or head.length > 0:
        return KIND_COLD
    code_at[0] = code_after(target, size, b"/v1/codes/", 10)
    if code_at[0]:
        return KIND_LOOK
    code_at[0] = code_after(target, size, b"/s/", 3) or code_after(target, size, b"/S/", 3)
    return KIND_DOOR if code_at[0] else KIND_COLD


cdef class Request:
    """One message at the front of a connection.

    Attributes
    ----------
    kind : int
        ``SCAN``, ``LOOK``, ``DOOR``, ``COLD`` or ``FOREIGN``; of the last two nothing else but the size is known.
    size : int
        Bytes of the message, body and all; those of a cold one may not all be here yet. 0 if it is foreign.
    body : bytes or None
        Of a scan; None if it is not here yet.
    code : str
        Of a look or at the door, as it stands in the address.
    token : bytes or None
        Value of the header ``Authorization``.
    is_passed_on : bool
        Whether a proxy says for whom it asks.
    id : str
        For who answers it: by which it is found again.
    reply : bytes or None
        For who answers it: the reply when there is one.
    began_ns : int
        For who answers it: when it was begun.
    connection, scan, source : object
        For who answers it: on which connection it came, what it asks, and of whom.
    """

    cdef readonly int kind
    cdef readonly int64_t size
    cdef readonly bytes body
    cdef readonly str code
    cdef readonly bytes token
    cdef readonly bint is_passed_on
    cdef bytes _data
    cdef Py_ssize_t _at, _end
    cdef public str id
    cdef public object reply
    cdef public int64_t began_ns
    cdef public object connection, scan, source

    def headers(self):
        """Return the headers as they were sent: a list of pairs of name and value."""
        cdef list found = []
        cdef bytes line, name, value
        # Between the request line and the two ends of lines that close the head.
        for line in self._data[self._at:self._end - 4].split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            found.append((name.decode("ascii"), value.strip(b" \t").decode("utf-8", "surrogateescape")))
        return found


cdef class Framer:
    """The bytes of one connection that are not answered yet, from one message boundary on."""

    cdef bytes _data
    cdef Py_ssize_t _at
    cdef Request _front         # as it was read last, until there is more or less to read

    def __cinit__(self):
        self._data = b""

    def __len__(self):
        return len(self._data) - self._at

    def feed(self, bytes data not None):
        """Take bytes that have arrived."""
        self._front = None
        if self._at == len(self._data):
            self._data = data
        else:
            self._data = self._data[self._at:] + data
        self._at = 0

    def take(self, int64_t size):
        """Return up to so many bytes, which are not looked at any more."""
        cdef Py_ssize_t start = self._at
        self.skip(min(size, <int64_t>len(self)))
        return self._data[start:self._at]

    cpdef skip(self, int64_t size):
        """Do not look any more at so many bytes, which are here."""
        if not 0 <= size <= len(self._data) - self._at:
            raise ValueError(f"{size} bytes cannot be skipped")
        self._at += <Py_ssize_t>size
        self._front = None

    def next(self):
        """Return the message at the front, which stays there; None if its head is not here yet.

        Of a scan the body may be missing; who asks decides whether to wait for it.
        """
        if self._front is None:
            self._front = self._read()
        return self._front

    cdef Request _read(self):
        cdef head_view head
        cdef Py_ssize_t at, code_at = 0, size = len(self._data) - self._at
        cdef const uint8_t *data
        cdef Request found
        cdef int result
        if size == 0:
            return None
        data = <const uint8_t *>self._data + self._at
        result = head_read(data, size, &head)
        if result == HEAD_MORE:
            return None
        found = Request.__new__(Request)
        if result == HEAD_FOREIGN:
            found.kind = KIND_FOREIGN
            return found
        found.kind = kind_of(data, &head, &code_at)
        found.size = head.size + max(head.length, <int64_t>0)
        if found.kind == KIND_COLD:
            return found
        if found.kind == KIND_SCAN:
            if found.size <= size:
                found.body = data[head.size:<Py_ssize_t>found.size]
        else:
            at = head.target_at + code_at
            found.code = (<const char *>data)[at:head.target_at + head.target_size].decode("ascii")
        if head.token_size >= 0:
            found.token = data[head.token_at:head.token_at + head.token_size]
        found.is_passed_on = head.is_passed_on
        found._data = self._data
        found._at = self._at
        found._end = self._at + head.size
        return found
