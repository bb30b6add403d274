# cython: language_level=3, boundscheck=True, wraparound=False
"""A batch on its way to the functions of the library: checked requests to one packed call.

The call is written as the bytes that go through the socket, so that no request becomes a list of arguments first:

    | *n | FCALL | scan_v1_claim | number of keys | keys | epoch | outbox | events of scans | terms | requests | said |

with the keys, the requests and what is said of them as ``scan_v1.lua`` draws them. All are as long as they turn out, so
each is gathered in a buffer of its own, and the call is made of them at the end.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from scanengine.ledger.redis._bytes cimport hex_digits, put_big, put_decimal, put_end, put_hex, put_little, put_uint

from scanengine.ledger.redis.codec import PreparedTerms, UnknownCampaignError
from scanengine.ledger.redis.keys import BUCKET_BITS as _BUCKET_BITS
from scanengine.model import ObserveRequest, Role

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    KIND_LOOK = 0
    KIND_CLAIM = 1
    SAID_PARTS = 0x9B       # MessagePack: an array of the ten things that a client says and of their check value.
    UINT32 = 0xCE           # MessagePack: four bytes follow.
    REQUEST_SIZE = 48
    KEY_ROOM = 64           # More than a bulk's head, the hex digits of a key and its end.
    NUMBER_ROOM = 9         # The longest number in MessagePack.
    ROLE_COUNT = 5
    DRAWN_MAX = 255
    DRAWN_BYTES = 32        # A bit for each prize that may be drawn.
    TERMS_KEPT = 64
    BUCKET_BITS = 7

assert BUCKET_BITS == _BUCKET_BITS and len(Role) == ROLE_COUNT

cdef tuple ROLE_NAMES = tuple([role.name.lower() for role in sorted(Role)])

# MessagePack: nothing; and what a look says after its item: texts that are empty, no region, campaign or generation.
cdef bytes NONE = b"\xc0"
cdef bytes LOOK_SAYS = b"\xa0\xa0\xa0\xa0\x00\xc0\x00\xa0"

cdef uint32_t CRC_TABLE[4][256]


cdef void crc_fill() noexcept nogil:
    # Requires: nothing.
    # Ensures:  CRC_TABLE[k][b] is what byte b adds to a CRC-32 with k more bytes behind it.
    # Cost:     once, when the module is loaded.
    # Source:   CRC-32 as in zlib; four tables, "slicing by 4", Kounavis and Berry 2005.
    cdef uint32_t crc
    cdef int n, k, _bit
    for n in range(256):
        crc = n
        for _bit in range(8):
            crc = (crc >> 1) ^ (<uint32_t> 0xEDB88320 if crc & 1 else 0)
        CRC_TABLE[0][n] = crc
    for n in range(256):
        for k in range(1, 4):
            CRC_TABLE[k][n] = (CRC_TABLE[k - 1][n] >> 8) ^ CRC_TABLE[0][CRC_TABLE[k - 1][n] & 0xFF]


crc_fill()


cdef uint32_t crc_of(const uint8_t *data, Py_ssize_t size) noexcept nogil:
    # Requires: size bytes at data; crc_fill was called.
    # Ensures:  their CRC-32, the same as zlib.crc32.
    # Cost:     four look-ups for four bytes.
    # Source:   as crc_fill.
    cdef uint32_t crc = 0xFFFFFFFF
    while size >= 4:
        crc ^= <uint32_t> data[0] | <uint32_t> data[1] << 8 | <uint32_t> data[2] << 16 | <uint32_t> data[3] << 24
        crc = (
            CRC_TABLE[3][crc & 0xFF] ^ CRC_TABLE[2][crc >> 8 & 0xFF] ^ CRC_TABLE[1][crc >> 16 & 0xFF]
            ^ CRC_TABLE[0][crc >> 24]
        )
        data += 4
        size -= 4
    while size:
        crc = (crc >> 8) ^ CRC_TABLE[0][(crc ^ data[0]) & 0xFF]
        data += 1
        size -= 1
    return crc ^ <uint32_t> 0xFFFFFFFF


cdef class Buffer:
    """Bytes that are gathered; owns its memory."""

    cdef char *data
    cdef Py_ssize_t size, capacity

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef char *room(self, Py_ssize_t more) except NULL:
        """Return where the next bytes go, with room for that many; they count when ``size`` does."""
        cdef Py_ssize_t capacity
        cdef char *data
        if self.size + more > self.capacity:
            capacity = max(2 * self.capacity, self.size + more, 1024)
            data = <char *> PyMem_Realloc(self.data, capacity)
            if data == NULL:
                raise MemoryError("no memory for a call of the ledger")
            self.data = data
            self.capacity = capacity
        return self.data + self.size

    cdef int put(self, bytes data) except -1:
        memcpy(self.room(PyBytes_GET_SIZE(data)), PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        self.size += PyBytes_GET_SIZE(data)
        return 0

    cdef int put_all(self, Buffer other) except -1:
        cdef char *at = self.room(other.size)
        if other.size:
            memcpy(at, other.data, other.size)
        self.size += other.size
        return 0

    cdef int put_number(self, uint64_t value) except -1:
        self.size = put_uint(self.room(NUMBER_ROOM), value) - self.data
        return 0

    cdef int put_text(self, object text) except -1:
        """Put a text as MessagePack has it."""
        cdef Py_ssize_t size
        cdef const char *data = PyUnicode_AsUTF8AndSize(text, &size)
        cdef char *at = self.room(size + 5)
        if size < 32:
            at = put_big(at, 0xA0 | size, 1)
        elif size < 1 << 8:
            at = put_big(at, 0xD900 | size, 2)
        elif size < 1 << 16:
            at = put_big(at, 0xDA0000 | size, 3)
        else:
            at = put_big(at, 0xDB00000000 | size, 5)
        memcpy(at, data, size)
        self.size = at + size - self.data
        return 0

    cdef int put_key(self, bytes prefix, uint64_t first, uint64_t second, bint is_pair) except -1:
        """Put a key: a prefix and a number in hex, or two with a colon between them."""
        cdef Py_ssize_t length = PyBytes_GET_SIZE(prefix)
        cdef Py_ssize_t size = length + hex_digits(first) + (17 if is_pair else 0)
        cdef char *at = self.room(length + KEY_ROOM)
        at[0] = b"$"
        at = put_end(put_decimal(at + 1, size))
        memcpy(at, PyBytes_AS_STRING(prefix), length)
        at = put_hex(at + length, first, hex_digits(first))
        if is_pair:
            at[0] = b":"
            at = put_hex(at + 1, second, 16)
        self.size = put_end(at) - self.data
        return 0

    cdef bytes bytes(self):
        return PyBytes_FromStringAndSize(self.data, self.size)


cdef bytes bulk(data):
    return b"$%d\r\n%b\r\n" % (len(data), data)


cdef class Batch:
    """What is gathered of one call."""

    cdef Buffer keys                # Of the items.
    cdef Buffer people              # Their keys.
    cdef Buffer drawn               # A set of the prizes drawn for each of the terms.
    cdef Buffer requests
    cdef Buffer said                # What events say of the requests.
    cdef list terms                 # In the order of their indices, which count from 1.
    cdef dict terms_at
    cdef dict people_at             # By the campaign's number, then by the person.
    cdef object newest_terms
    cdef Py_ssize_t newest_index
    cdef dict newest_people
    cdef uint64_t newest_number
    cdef Py_ssize_t people_count, request_count

    def __cinit__(self):
        self.keys = Buffer()
        self.people = Buffer()
        self.drawn = Buffer()
        self.requests = Buffer()
        self.said = Buffer()
        self.terms = []
        self.terms_at = {}
        self.people_at = {}


cdef class Encoder:
    """Makes calls of ``scan_v1_claim`` for one program.

    Parameters
    ----------
    keys : Keys
    outbox : str
        ``keep`` or ``drop``.
    scan_events : bool
        Whether visits without a recorded claim make an event.
    """

    cdef object _keys
    cdef bytes _fixed_keys, _options, _buckets, _scans, _people
    cdef dict _terms

    def __init__(self, keys, *, str outbox, bint scan_events):
        self._keys = keys
        self._fixed_keys = bulk(keys.meta) + bulk(keys.readers) + bulk(keys.outbox)
        self._options = bulk(outbox.encode()) + bulk(b"1" if scan_events else b"0")
        self._buckets = keys.buckets
        self._scans = keys.scans
        self._people = keys.people
        self._terms = {}

    def call(self, bytes epoch, requests, numbers):
        """Return the packed command for a batch of requests that were checked.

        Parameters
        ----------
        epoch : bytes
        requests : sequence of ClaimRequest or ObserveRequest
        numbers : mapping of str to int
            Campaigns and their numbers in this ledger.

        Raises
        ------
        UnknownCampaignError
            A campaign is not among ``numbers``.
        """
        cdef Batch batch = Batch()
        for request in requests:
            if isinstance(request, ObserveRequest):
                self._add_look(batch, request)
            else:
                self._add_claim(batch, request, numbers)
            batch.request_count += 1
        return self._assembled(batch, epoch)

    cdef int _add_keys(self, Batch batch, uint64_t item) except -1:
        batch.keys.put_key(self._buckets, item >> BUCKET_BITS, 0, False)
        batch.keys.put_key(self._scans, item, 0, False)
        return 0

    cdef int _add_look(self, Batch batch, request) except -1:
        cdef uint64_t item = request.item
        cdef Py_ssize_t start = _begin_request(
            batch, KIND_LOOK, item, 0, request.counts_scan, 0, 0, 0, 0, request.now_ms, -1, -1, 0,
            request.visit_hash,
        )
        self._add_keys(batch, item)
        batch.said.put_text("")
        batch.said.put_number(item)
        batch.said.put(LOOK_SAYS)
        _end_request(batch, start)
        return 0

    cdef int _add_claim(self, Batch batch, request, numbers) except -1:
        cdef uint64_t item = request.item
        cdef uint32_t generation = request.generation
        cdef Py_ssize_t role = request.role
        cdef Py_ssize_t index = 0, person = 0, start
        cdef int64_t date = 0
        cdef int rule = -1, drawn = -1
        cdef uint64_t user_hash = request.user_hash
        cdef Buffer said = batch.said
        user = request.user_hash
        offers = request.offers
        if offers:
            offer = offers[0]
            rule = offer.rule
            drawn = offer.drawn
        if not (0 <= role < ROLE_COUNT and -1 <= drawn <= DRAWN_MAX):
            raise ValueError(f"a claim has role {role} and drew {drawn}, expected what was checked before")
        terms = request.terms
        if terms is not None:
            if terms is not batch.newest_terms:
                self._use_terms(batch, terms, numbers)
            index = batch.newest_index
            if drawn >= 0:
                batch.drawn.data[(index - 1) * DRAWN_BYTES + (drawn >> 3)] |= <char> (1 << (drawn & 7))
            known = batch.newest_people.get(user)
            if known is None:
                batch.people_count += 1
                known = batch.newest_people[user] = batch.people_count
                batch.people.put_key(self._people, batch.newest_number, user_hash, True)
            person = known
            date = request.local_date
        self._add_keys(batch, item)
        start = _begin_request(
            batch, KIND_CLAIM, item, request.party, request.counts_scan, index, person, generation, date,
            request.now_ms, rule, drawn, user_hash, request.visit_hash,
        )
        said.put_text(request.claim_id)
        said.put_number(item)
        said.put_text(request.batch)
        said.put_text(request.product)
        said.put_text(request.user)
        said.put_text(ROLE_NAMES[role])
        said.put_number(request.region)
        if terms is None:
            said.put(NONE)
        else:
            said.put_text(terms.id)
        said.put_number(generation)
        said.put_text(request.visit)
        _end_request(batch, start)
        return 0

    cdef int _use_terms(self, Batch batch, terms, numbers) except -1:
        """Make terms the newest of a batch, and learn them if they are new to it."""
        number = numbers.get(terms.id)
        if number is None:
            raise UnknownCampaignError(terms.id)
        index = batch.terms_at.get(id(terms))
        if index is None:
            known = self._terms.get(id(terms))
            if known is None:
                if len(self._terms) >= TERMS_KEPT:
                    self._terms.clear()
                known = self._terms[id(terms)] = PreparedTerms(terms, self._keys.campaign(terms.id))
            batch.terms.append((number, known))
            memset(batch.drawn.room(DRAWN_BYTES), 0, DRAWN_BYTES)
            batch.drawn.size += DRAWN_BYTES
            index = batch.terms_at[id(terms)] = len(batch.terms)
        batch.newest_terms = terms
        batch.newest_index = index
        batch.newest_number = number
        batch.newest_people = batch.people_at.setdefault(number, {})
        return 0

    cdef bytes _assembled(self, Batch batch, bytes epoch):
        """Return the call that a batch makes."""
        cdef Py_ssize_t i, key_count = 3 + len(batch.terms) + batch.people_count + 2 * batch.request_count
        cdef Buffer counts = Buffer(), call = Buffer()
        keys = []
        packed = [_array_head(len(batch.terms))]
        for i in range(len(batch.terms)):
            number, terms = batch.terms[i]
            drawn = PyBytes_FromStringAndSize(batch.drawn.data + i * DRAWN_BYTES, DRAWN_BYTES)
            keys.append(bulk(terms.key))
            packed.append(terms.encoded(number, drawn))
        counts.put_number(batch.people_count)
        counts.put_number(batch.request_count)
        packed.append(counts.bytes())
        call.put(b"*%d\r\n$5\r\nFCALL\r\n$13\r\nscan_v1_claim\r\n" % (key_count + 9))
        call.put(bulk(b"%d" % key_count) + self._fixed_keys + b"".join(keys))
        call.put_all(batch.people)
        call.put_all(batch.keys)
        call.put(bulk(epoch) + self._options + bulk(b"".join(packed)))
        for part in (batch.requests, batch.said):
            call.put(b"$%d\r\n" % (<Buffer> part).size)
            call.put_all(part)
            call.put(b"\r\n")
        return call.bytes()


cdef bytes _array_head(Py_ssize_t count):
    """Return how an array of that many things begins in MessagePack."""
    return bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")


cdef Py_ssize_t _begin_request(
    Batch batch, int kind, uint64_t item, int party, bint counts, Py_ssize_t terms, Py_ssize_t person,
    uint32_t generation, int64_t date, uint64_t now_ms, int rule, int drawn, uint64_t user, uint64_t visit,
) except -1:
    """Put a request; return where what is said of it begins."""
    cdef char *at = batch.requests.room(REQUEST_SIZE)
    at = put_little(at, kind | (item & ((1 << BUCKET_BITS) - 1)) << 8 | party << 16 | (<int> counts) << 24, 4)
    at = put_little(at, terms | person << 16, 4)
    at = put_little(at, generation, 4)
    at = put_little(at, date, 4)
    at = put_little(at, now_ms, 8)
    at = put_little(at, rule, 2)
    at = put_little(at, drawn, 2)
    at = put_little(at, user, 8)
    put_little(at, visit, 8)
    batch.requests.size += REQUEST_SIZE  # Its end, the size of what is said of it, is not known yet.
    batch.said.room(1)[0] = <char> SAID_PARTS
    batch.said.size += 1
    return batch.said.size - 1


cdef int _end_request(Batch batch, Py_ssize_t start) except -1:
    """Put the check value of what is said, and its size where the request has it."""
    cdef Buffer said = batch.said
    cdef uint32_t crc = crc_of(<const uint8_t *> said.data + start + 1, said.size - start - 1)
    cdef char *at = said.room(5)
    at[0] = <char> UINT32
    put_big(at + 1, crc, 4)
    said.size += 5
    put_little(batch.requests.data + batch.requests.size - 4, said.size - start, 4)
    return 0
