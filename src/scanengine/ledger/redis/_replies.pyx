# cython: language_level=3, boundscheck=True, wraparound=False
"""The reply to a batch: each answer to a receipt or to the facts of a scan, in one pass over its bytes.

What is not plainly a record is left to the code that says what is wrong with it.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t, uint64_t

from scanengine.ledger.redis._bytes cimport get_little

from scanengine.ledger.records import TIME_MS_MAX as _TIME_MS_MAX
from scanengine.ledger.redis.codec import REFUSALS, StrangeReplyError, read_recorded, strange_reply, take_back
from scanengine.model import ClaimRequest, ClaimStatus, Receipt, ScanFacts

cdef enum:
    ANSWER_SIZE = 26
    RECORD_SIZE = 26
    RECORD_NUMBERS = 9
    STATUS_REPLAYED = 2     # The statuses as scan_v1.lua numbers them.
    STATUS_TAKEN = 3
    STATUS_SEEN = 11

cdef uint64_t TIME_MS_MAX = _TIME_MS_MAX

cdef object AWARDED = ClaimStatus.AWARDED
cdef object NO_PRIZE_GIVEN = ClaimStatus.NO_PRIZE
cdef object TAKEN = ClaimStatus.TAKEN
cdef object INELIGIBLE = ClaimStatus.INELIGIBLE
cdef dict _refusals = REFUSALS


cdef struct Record:
    uint64_t at_ms
    int64_t numbers[RECORD_NUMBERS]


cdef bint record_read(const uint8_t *data, Py_ssize_t size, Record *record) noexcept nogil:
    # Requires: size bytes at data.
    # Ensures:  True and the record, or False if it is not 26 bytes, of a time before the year 9999, and nine whole
    #           numbers that fit 64 signed bits.
    # Cost:     one pass.
    # Source:   the layout in scan_v1.lua; the specification of MessagePack.
    cdef const uint8_t *at = data + RECORD_SIZE
    cdef const uint8_t *end = data + size
    cdef int i, k, width
    cdef uint8_t kind
    cdef uint64_t value
    if size < RECORD_SIZE:
        return False
    record.at_ms = get_little(data + 16, 6)
    if record.at_ms > TIME_MS_MAX:
        return False
    for i in range(RECORD_NUMBERS):
        if at == end:
            return False
        kind = at[0]
        at += 1
        if kind < 0x80:
            record.numbers[i] = kind
        elif kind >= 0xE0:
            record.numbers[i] = <int64_t> kind - 256
        elif 0xCC <= kind <= 0xD3:
            width = 1 << (kind & 3)
            if end - at < width:
                return False
            value = 0
            for k in range(width):
                value = value << 8 | at[k]
            if kind >= 0xD0 and width < 8 and value >> (8 * width - 1):
                value -= <uint64_t> 1 << (8 * width)
            if kind == 0xCF and value >> 63:
                return False
            record.numbers[i] = <int64_t> value
            at += width
        else:
            return False
    return at == end


def decode_answers(reply, requests, campaigns):
    """Return the newest generation, the answers, and whether every campaign in them is known.

    An answer is None for an item whose record is damaged, and for a claim of a campaign that is not in ``campaigns``.

    Parameters
    ----------
    reply : bytes
    requests : sequence of ClaimRequest or ObserveRequest
    campaigns : mapping of int to str
        Numbers of campaigns in this ledger and their ids.

    Raises
    ------
    StrangeReplyError
        The reply is not one to these requests.
    """
    cdef const uint8_t *data
    cdef const uint8_t *answer
    cdef Py_ssize_t size, at = 4, length
    cdef int status
    cdef uint64_t first
    cdef bint is_whole = True
    cdef Record record
    cdef list answers = [], untold = []
    if type(reply) is not bytes or len(reply) < 4:
        raise strange_reply(reply, 0)
    data = <const uint8_t *> PyBytes_AS_STRING(reply)
    size = len(reply)
    for request in requests:
        if size - at < ANSWER_SIZE:
            raise strange_reply(reply, at)
        answer = data + at
        status = answer[0]
        first = get_little(answer + 9, 8)
        length = answer[25]
        scan = ScanFacts(
            get_little(answer + 17, 4), first - 1 if first else None, get_little(answer + 21, 4)
        )
        if first > TIME_MS_MAX + 1:
            untold.append(len(answers))
        at += ANSWER_SIZE
        if status == STATUS_SEEN:
            answers.append(scan)
            continue
        if not length:
            found = _refusals.get(status)
            if found is None:
                raise strange_reply(reply, at, status)
            reason = found[1]
            if found[0] is INELIGIBLE and isinstance(request, ClaimRequest):
                reason = request.refusal if request.terms is None else request.refusal or "no_rule"
            answers.append(Receipt(found[0], reason, False, get_little(answer + 1, 8), scan=scan))
            continue
        if length > size - at or not record_read(answer + ANSWER_SIZE, length, &record):
            found, is_known = read_recorded(request.item, status, reply[at : at + length], scan, campaigns)
            answers.append(found)
            is_whole &= is_known
        elif status == STATUS_TAKEN:
            answers.append(Receipt(TAKEN, None, False, record.at_ms, scan=scan))
        else:
            campaign = campaigns.get(record.numbers[1])
            if campaign is None:
                is_whole = False
                answers.append(None)
            else:
                answers.append(Receipt(
                    AWARDED if record.numbers[7] >= 0 else NO_PRIZE_GIVEN, None, status == STATUS_REPLAYED,
                    record.at_ms, campaign, record.numbers[2], record.numbers[5], record.numbers[6],
                    record.numbers[7], record.numbers[4], scan,
                ))
        at += length
    if at != size:
        raise StrangeReplyError(f"a reply of another function: {size} bytes, expected {at}")
    if untold:
        take_back(requests, answers, untold)
    return get_little(data, 4), answers, is_whole
