# Numbers as bytes: little-endian as the functions read them, MessagePack, and the text of RESP.
# Nothing here touches a Python object. Who calls has made the room.

from libc.stdint cimport uint8_t, uint64_t


cdef inline char *put_little(char *at, uint64_t value, int size) noexcept nogil:
    # Requires: room for size bytes at at.
    # Ensures:  the low bytes of value, least significant first; returns where the next goes.
    # Cost:     a store for each byte.
    # Source:   none.
    cdef int i
    for i in range(size):
        at[i] = <char> (value >> (8 * i) & 0xFF)
    return at + size


cdef inline uint64_t get_little(const uint8_t *at, int size) noexcept nogil:
    # Requires: size bytes at at, at most 8.
    # Ensures:  the number that put_little wrote.
    # Cost:     a load for each byte.
    # Source:   none.
    cdef uint64_t value = 0
    cdef int i
    for i in range(size):
        value |= <uint64_t> at[i] << (8 * i)
    return value


cdef inline char *put_big(char *at, uint64_t value, int size) noexcept nogil:
    # Requires: room for size bytes at at.
    # Ensures:  the low bytes of value, most significant first; returns where the next goes.
    # Cost:     a store for each byte.
    # Source:   none.
    cdef int i
    for i in range(size):
        at[i] = <char> (value >> (8 * (size - 1 - i)) & 0xFF)
    return at + size


cdef inline char *put_uint(char *at, uint64_t value) noexcept nogil:
    # Requires: room for NUMBER_ROOM bytes at at.
    # Ensures:  the number in the shortest spelling that MessagePack has; returns where the next goes.
    # Cost:     at most nine stores.
    # Source:   the specification of MessagePack.
    cdef int size = 1 if value < 1 << 8 else 2 if value < 1 << 16 else 4 if value < <uint64_t> 1 << 32 else 8
    if value < 0x80:
        return put_big(at, value, 1)
    at[0] = <char> (0xCC if size == 1 else 0xCD if size == 2 else 0xCE if size == 4 else 0xCF)
    return put_big(at + 1, value, size)


cdef inline char *put_decimal(char *at, uint64_t value) noexcept nogil:
    # Requires: room for 20 bytes at at.
    # Ensures:  value in decimal; returns where the next goes.
    # Cost:     a division for each digit.
    # Source:   none.
    cdef uint64_t rest = value
    cdef int i, digits = 1
    while rest >= 10:
        rest //= 10
        digits += 1
    for i in range(digits):
        at[digits - 1 - i] = <char> (48 + value % 10)
        value //= 10
    return at + digits


cdef inline int hex_digits(uint64_t value) noexcept nogil:
    # Requires: nothing.
    # Ensures:  how many hex digits the value has, at least one.
    # Cost:     a shift for each.
    # Source:   none.
    cdef int digits = 1
    while digits < 16 and value >> (4 * digits):
        digits += 1
    return digits


cdef inline char *put_hex(char *at, uint64_t value, int digits) noexcept nogil:
    # Requires: room for that many bytes at at; at most 16.
    # Ensures:  the low digits of value in lower-case hex; returns where the next goes.
    # Cost:     a store for each digit.
    # Source:   none.
    cdef int i, digit
    for i in range(digits):
        digit = value & 15
        at[digits - 1 - i] = <char> (digit + 48 if digit < 10 else digit + 87)
        value >>= 4
    return at + digits


cdef inline char *put_end(char *at) noexcept nogil:
    # Requires: room for two bytes at at.
    # Ensures:  the end of a line of RESP; returns where the next goes.
    # Cost:     two stores.
    # Source:   none.
    at[0] = b"\r"
    at[1] = b"\n"
    return at + 2
