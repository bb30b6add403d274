"""SipHash of many words at once, in the lanes of the widest registers that the processor has. Part of the core.

One build serves all processors: each path is compiled for its own instructions, whatever the flags say, and one is
chosen at import. On other processors than x86-64, and by other compilers than GCC and Clang, only ``scalar`` is built.
``SCANENGINE_LANES=scalar|avx2|avx512`` in the environment chooses another one than the widest.
"""

from libc.stdint cimport uint8_t, uint64_t

from scanengine._draws cimport key_read
from scanengine._siphash cimport siphash_key

import os

import numpy as np

cdef extern from *:
    """
    #include <string.h>

    typedef void (*lanes_function)(
        const uint64_t *k0, const uint64_t *k1, const uint64_t *values, uint64_t *hashes, Py_ssize_t count);

    static void lanes_scalar(
        const uint64_t *k0, const uint64_t *k1, const uint64_t *values, uint64_t *hashes, Py_ssize_t count
    ) {
        for (Py_ssize_t row = 0; row < count; row++) {
            const siphash_key key = {k0[row], k1[row]};
            hashes[row] = siphash_u64(&key, values[row]);
        }
    }

    typedef void (*letters_function)(
        const uint8_t *letters, uint64_t *fronts, uint64_t *backs, uint8_t *verdicts, Py_ssize_t count);

    enum { LETTERS = 20, VERDICT_RIGHT = 0, VERDICT_MISTYPED = 1, VERDICT_OTHER = 2 };

    // Constants of the module, written once at import and only read afterwards.
    static uint8_t letters_symbols[256], letters_terms[LETTERS][32];
    // The check symbol is linear: each of its five bits is the parity of some bits of the code.
    static uint64_t letters_parities[5][2];

    static void letters_prepare_all(const uint8_t *symbol_of_byte, const uint8_t *check_terms) {
        memcpy(letters_symbols, symbol_of_byte, sizeof(letters_symbols));
        memcpy(letters_terms, check_terms, sizeof(letters_terms));
        memset(letters_parities, 0, sizeof(letters_parities));
        for (int place = 0; place < LETTERS; place++)
            for (int bit = 0; bit < 5; bit++)
                for (int check = 0; check < 5; check++)
                    if (letters_terms[place][1 << bit] >> check & 1)
                        letters_parities[check][place / 10] |= 1ULL << (5 * (9 - place % 10) + bit);
    }

    #define LETTERS_STEP(word, place) do { \
        const uint8_t symbol = letters_symbols[row[place]]; \
        seen |= symbol; \
        check ^= letters_terms[place][symbol & 31]; \
        word = word << 5 | (symbol & 31); \
    } while (0)
    #define LETTERS_STEPS(word, place) do { \
        LETTERS_STEP(word, place); LETTERS_STEP(word, place + 1); LETTERS_STEP(word, place + 2); \
        LETTERS_STEP(word, place + 3); LETTERS_STEP(word, place + 4); \
    } while (0)

    static void letters_scalar(
        const uint8_t *letters, uint64_t *fronts, uint64_t *backs, uint8_t *verdicts, Py_ssize_t count
    ) {
        for (Py_ssize_t index = 0; index < count; index++) {
            const uint8_t *row = letters + index * LETTERS;
            uint64_t front = 0, back = 0;
            uint8_t seen = 0, check = 0;
            LETTERS_STEPS(front, 0);
            LETTERS_STEPS(front, 5);
            LETTERS_STEPS(back, 10);
            LETTERS_STEPS(back, 15);
            fronts[index] = front;
            backs[index] = back;
            verdicts[index] = seen > 31 ? VERDICT_OTHER : check ? VERDICT_MISTYPED : VERDICT_RIGHT;
        }
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    #include <immintrin.h>

    // The operators of C work on vectors of this kind lane by lane; which instructions they become is the target's.
    typedef uint64_t lanes_4 __attribute__((vector_size(32)));
    typedef uint64_t lanes_8 __attribute__((vector_size(64)));

    #define LANES_DEFINE(name, isa, vector, rotate_16, rotate_32) \\
        __attribute__((target(isa))) static void name( \\
            const uint64_t *k0, const uint64_t *k1, const uint64_t *values, uint64_t *hashes, Py_ssize_t count \\
        ) { \\
            for (Py_ssize_t row = 0; row < count; row += (Py_ssize_t)(sizeof(vector) / 8)) { \\
                vector key_0, key_1, value, hash; \\
                memcpy(&key_0, k0 + row, sizeof(vector)); \\
                memcpy(&key_1, k1 + row, sizeof(vector)); \\
                memcpy(&value, values + row, sizeof(vector)); \\
                SIPHASH_U64_BY(hash, vector, key_0, key_1, value, rotate_16, rotate_32); \\
                memcpy(hashes + row, &hash, sizeof(vector)); \\
            } \\
        }

    // AVX2 has no rotation, but it can move bytes: one instruction instead of three.
    #define LANES_BYTES_16 _mm256_set_epi8( \\
        13, 12, 11, 10, 9, 8, 15, 14, 5, 4, 3, 2, 1, 0, 7, 6, 13, 12, 11, 10, 9, 8, 15, 14, 5, 4, 3, 2, 1, 0, 7, 6)
    #define LANES_ROTATE_16(words) ((lanes_4)_mm256_shuffle_epi8((__m256i)(words), LANES_BYTES_16))
    #define LANES_ROTATE_32(words) ((lanes_4)_mm256_shuffle_epi32((__m256i)(words), 0xb1))
    LANES_DEFINE(lanes_avx2, "avx2", lanes_4, LANES_ROTATE_16, LANES_ROTATE_32)

    // AVX-512 rotates by itself; compilers find the instruction.
    LANES_DEFINE(lanes_avx512, "avx512f", lanes_8, SIPHASH_ROTATE_16, SIPHASH_ROTATE_32)

    // A row is 16 bytes in the lower half of a register and its last 16 in the upper one. A letter is looked up by its
    // lower four bits, in the table that its upper bits choose; bit 5 is the case.
    __attribute__((target("avx2,popcnt"))) static void letters_avx2(
        const uint8_t *letters, uint64_t *fronts, uint64_t *backs, uint8_t *verdicts, Py_ssize_t count
    ) {
        #define LETTERS_TABLE(first) \
            _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(letters_symbols + first)))
        const __m256i digits = LETTERS_TABLE(0x30), a_to_o = LETTERS_TABLE(0x40), p_to_z = LETTERS_TABLE(0x50);
        const __m256i kind_of_digit = _mm256_set1_epi8((char)0xf0), kind_of_letter = _mm256_set1_epi8((char)0xd0);
        for (Py_ssize_t index = 0; index < count; index++) {
            const uint8_t *row = letters + index * LETTERS;
            const __m256i bytes = _mm256_inserti128_si256(
                _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)row)),
                _mm_loadu_si128((const __m128i *)(row + 4)), 1);
            const __m256i letter = _mm256_and_si256(bytes, kind_of_letter);
            const __m256i is_digit = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, kind_of_digit), _mm256_set1_epi8(0x30));
            const __m256i is_a_to_o = _mm256_cmpeq_epi8(letter, _mm256_set1_epi8(0x40));
            const __m256i is_p_to_z = _mm256_cmpeq_epi8(letter, _mm256_set1_epi8(0x50));
            const __m256i is_known = _mm256_or_si256(is_digit, _mm256_or_si256(is_a_to_o, is_p_to_z));
            const __m256i symbols = _mm256_or_si256(
                _mm256_and_si256(is_digit, _mm256_shuffle_epi8(digits, bytes)),
                _mm256_or_si256(
                    _mm256_and_si256(is_a_to_o, _mm256_shuffle_epi8(a_to_o, bytes)),
                    _mm256_and_si256(is_p_to_z, _mm256_shuffle_epi8(p_to_z, bytes))));
            // Two symbols make 10 bits, four make 20, each group where the first of them was.
            const __m256i groups = _mm256_madd_epi16(
                _mm256_maddubs_epi16(symbols, _mm256_set1_epi16(0x0120)), _mm256_set1_epi32(0x00010400));
            const uint64_t first = (uint64_t)_mm256_extract_epi64(groups, 0);
            const uint64_t middle = (uint64_t)_mm256_extract_epi64(groups, 1);
            const uint64_t last = (uint64_t)_mm256_extract_epi64(groups, 3) >> 32;
            const uint64_t eight = (first & 0xfffff) << 20 | first >> 32;
            const uint64_t eight_more = (middle & 0xfffff) << 20 | middle >> 32;
            const uint64_t front = eight << 10 | eight_more >> 30;
            const uint64_t back = (eight_more & 0x3fffffff) << 20 | last;
            int odd = 0;
            for (int check = 0; check < 5; check++)
                odd |= __builtin_popcountll((front & letters_parities[check][0]) ^ (back & letters_parities[check][1]));
            fronts[index] = front;
            backs[index] = back;
            verdicts[index] = (odd & 1) ? VERDICT_MISTYPED : VERDICT_RIGHT;
            // What is no letter has its highest bit set in the table, or is in no table.
            if (_mm256_movemask_epi8(_mm256_andnot_si256(symbols, is_known)) != -1)
                verdicts[index] = VERDICT_OTHER;
        }
    }

    // Ensures: the function of a path, or NULL if this build or processor has none.
    static lanes_function lanes_find(int path) {
        __builtin_cpu_init();
        const int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
        if (path == 2)
            return has_avx2 && __builtin_cpu_supports("avx512f") ? lanes_avx512 : NULL;
        if (path == 1)
            return has_avx2 ? lanes_avx2 : NULL;
        return lanes_scalar;
    }
    #define LETTERS_OF(path) ((path) ? letters_avx2 : letters_scalar)
    #else
    static lanes_function lanes_find(int path) {
        return path == 0 ? lanes_scalar : NULL;
    }
    #define LETTERS_OF(path) letters_scalar
    #endif
    """
    ctypedef void (*lanes_function)(
        const uint64_t *k0, const uint64_t *k1, const uint64_t *values, uint64_t *hashes, Py_ssize_t count
    ) noexcept nogil
    ctypedef void (*letters_function)(
        const uint8_t *letters, uint64_t *fronts, uint64_t *backs, uint8_t *verdicts, Py_ssize_t count
    ) noexcept nogil
    lanes_function lanes_find(int path) noexcept nogil
    letters_function LETTERS_OF(int path) noexcept nogil
    void letters_prepare_all(const uint8_t *symbol_of_byte, const uint8_t *check_terms) noexcept nogil

PATHS = ("scalar", "avx2", "avx512")    # The numbers that lanes_find knows, narrowest first.

cdef lanes_function HASH = NULL
cdef letters_function OPEN = NULL
cdef str PATH = ""


def paths():
    """Return the paths that this build has for this processor, narrowest first."""
    return tuple([name for index, name in enumerate(PATHS) if lanes_find(index) != NULL])


def path():
    """Return the path in use."""
    return PATH


def choose(name):
    """Use a path from now on, in all threads; every one gives the same answers.

    Raises
    ------
    ValueError
        If there is no such path here.
    """
    global HASH, OPEN, PATH
    if name not in paths():
        raise ValueError(f"no lanes {name!r} here: choose one of {', '.join(paths())}")
    HASH = lanes_find(PATHS.index(name))
    OPEN = LETTERS_OF(PATHS.index(name))
    PATH = name


def _choose_at_import():
    wanted = os.environ.get("SCANENGINE_LANES") or max(paths(), key=PATHS.index)
    if wanted not in paths():
        raise ImportError(
            f"SCANENGINE_LANES is {wanted!r}; this processor has {', '.join(paths())}: take one of them, or unset it")
    choose(wanted)


_choose_at_import()


cdef void siphash_rows(
    const uint64_t *k0, const uint64_t *k1, const uint64_t *values, uint64_t *hashes, Py_ssize_t count
) noexcept nogil:
    HASH(k0, k1, values, hashes, count)


cdef void letters_prepare(const uint8_t *symbol_of_byte, const uint8_t *check_terms) noexcept nogil:
    letters_prepare_all(symbol_of_byte, check_terms)


cdef void letters_open(
    const uint8_t *letters, uint64_t *fronts, uint64_t *backs, uint8_t *verdicts, Py_ssize_t count
) noexcept nogil:
    OPEN(letters, fronts, backs, verdicts, count)


def siphash_many(keys, const uint64_t[::1] values not None):
    """Return SipHash-2-4 of the eight bytes, little-endian, of each value under its own key.

    Parameters
    ----------
    keys : sequence of bytes, length n
        16 bytes each.
    values : uint64, shape (n,)

    Returns
    -------
    uint64, shape (n,)

    Raises
    ------
    ValueError
        If a key has not 16 bytes, or there is not one for each value.
    """
    cdef Py_ssize_t count = values.shape[0]
    if len(keys) != count:
        raise ValueError(f"{len(keys)} keys for {count} values")
    columns = np.zeros((4, (count // LANES_MAX + 1) * LANES_MAX), np.uint64)
    cdef uint64_t[:, ::1] view = columns
    cdef siphash_key key
    cdef Py_ssize_t row
    for row in range(count):
        key_read(keys[row], &key)
        view[0, row] = key.k0
        view[1, row] = key.k1
        view[2, row] = values[row]
    siphash_rows(&view[0, 0], &view[1, 0], &view[2, 0], &view[3, 0], count)
    return columns[3, :count].copy()
