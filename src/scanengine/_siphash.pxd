# SipHash-2-4 (Aumasson and Bernstein 2012): the keyed function behind tags, masks, draws and pools.
# Rule: nothing here touches a Python object, so everything here is `noexcept nogil` and allocates nothing.
#
# The rounds are C, not Cython: four plain variables and a macro keep the state in registers, whatever the compiler
# thinks of inlining; as Cython functions over an array they took three times as long (gcc 12, -O3).

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>

    #define SIPHASH_ROTATE(word, bits) (((word) << (bits)) | ((word) >> (64 - (bits))))
    #define SIPHASH_ROTATE_16(word) SIPHASH_ROTATE(word, 16)
    #define SIPHASH_ROTATE_32(word) SIPHASH_ROTATE(word, 32)

    // Two rotations by whole bytes are left to the caller: some vectors have a better instruction for them.
    #define SIPHASH_ROUND_BY(v0, v1, v2, v3, rotate_16, rotate_32) do { \
        v0 += v1; v1 = SIPHASH_ROTATE(v1, 13); v1 ^= v0; v0 = rotate_32(v0); \
        v2 += v3; v3 = rotate_16(v3); v3 ^= v2; \
        v0 += v3; v3 = SIPHASH_ROTATE(v3, 21); v3 ^= v0; \
        v2 += v1; v1 = SIPHASH_ROTATE(v1, 17); v1 ^= v2; v2 = rotate_32(v2); \
    } while (0)
    #define SIPHASH_ROUND(v0, v1, v2, v3) \
        SIPHASH_ROUND_BY(v0, v1, v2, v3, SIPHASH_ROTATE_16, SIPHASH_ROTATE_32)

    // The hash of eight bytes; where the words are vectors, of eight bytes in each lane.
    #define SIPHASH_U64_BY(hash, word_type, k0, k1, value, rotate_16, rotate_32) do { \
        const uint64_t size = 8ULL << 56; \
        word_type v0 = (k0) ^ 0x736f6d6570736575ULL, v1 = (k1) ^ 0x646f72616e646f6dULL; \
        word_type v2 = (k0) ^ 0x6c7967656e657261ULL, v3 = (k1) ^ 0x7465646279746573ULL ^ (value); \
        SIPHASH_ROUND_BY(v0, v1, v2, v3, rotate_16, rotate_32); \
        SIPHASH_ROUND_BY(v0, v1, v2, v3, rotate_16, rotate_32); \
        v0 ^= (value); \
        v3 ^= size; \
        SIPHASH_ROUND_BY(v0, v1, v2, v3, rotate_16, rotate_32); \
        SIPHASH_ROUND_BY(v0, v1, v2, v3, rotate_16, rotate_32); \
        v0 ^= size; \
        v2 ^= 0xff; \
        SIPHASH_ROUND_BY(v0, v1, v2, v3, rotate_16, rotate_32); \
        SIPHASH_ROUND_BY(v0, v1, v2, v3, rotate_16, rotate_32); \
        SIPHASH_ROUND_BY(v0, v1, v2, v3, rotate_16, rotate_32); \
        SIPHASH_ROUND_BY(v0, v1, v2, v3, rotate_16, rotate_32); \
        hash = v0 ^ v1 ^ v2 ^ v3; \
    } while (0)

    typedef struct { uint64_t k0, k1; } siphash_key;

    static inline uint64_t siphash_word(const uint8_t *data, size_t count) {
        uint64_t word = 0;
        for (size_t index = 0; index < count; index++)
            word |= (uint64_t)data[index] << (8 * index);
        return word;
    }

    static inline uint64_t siphash_bytes(const siphash_key *key, const uint8_t *data, size_t size) {
        uint64_t v0 = key->k0 ^ 0x736f6d6570736575ULL, v1 = key->k1 ^ 0x646f72616e646f6dULL;
        uint64_t v2 = key->k0 ^ 0x6c7967656e657261ULL, v3 = key->k1 ^ 0x7465646279746573ULL;
        for (size_t block = 0; block <= size / 8; block++) {
            uint64_t word = block < size / 8
                ? siphash_word(data + 8 * block, 8)
                : ((uint64_t)size << 56) | siphash_word(data + 8 * block, size % 8);
            v3 ^= word;
            SIPHASH_ROUND(v0, v1, v2, v3);
            SIPHASH_ROUND(v0, v1, v2, v3);
            v0 ^= word;
        }
        v2 ^= 0xff;
        for (int round = 0; round < 4; round++)
            SIPHASH_ROUND(v0, v1, v2, v3);
        return v0 ^ v1 ^ v2 ^ v3;
    }

    static inline uint64_t siphash_u64(const siphash_key *key, uint64_t value) {
        uint64_t hash;
        SIPHASH_U64_BY(hash, uint64_t, key->k0, key->k1, value, SIPHASH_ROTATE_16, SIPHASH_ROTATE_32);
        return hash;
    }
    """
    ctypedef unsigned char uint8_t
    ctypedef struct siphash_key:
        uint64_t k0
        uint64_t k1

    # Ensures: `count` <= 8 bytes as a little-endian integer, on a host of any byte order.
    uint64_t siphash_word(const uint8_t *data, size_t count) noexcept nogil

    # Ensures: SipHash-2-4 of `size` bytes.
    uint64_t siphash_bytes(const siphash_key *key, const uint8_t *data, size_t size) noexcept nogil

    # Ensures: SipHash-2-4 of the eight bytes of value, little-endian.
    # Cost:    eight rounds, some 140 cycles.
    uint64_t siphash_u64(const siphash_key *key, uint64_t value) noexcept nogil
