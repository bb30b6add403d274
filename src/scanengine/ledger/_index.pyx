# cython: language_level=3, boundscheck=True, wraparound=False
"""The in-memory index of the ledger: a hash map from 64 bits to 64 bits.

The ledger's tables are append-only, so that a commit writes a few pages at the end of a file however many claims there
are. What would be an index in the database, and a random write for each claim, is here instead, rebuilt at open.

A map is 64 shards, each an open-addressing table of its own with linear probing:

    key -> mix -> | shard: top 6 bits | ... | slot: low bits |
    shard: | key 8 | value 8 | key 8 | value 8 | ...        capacity is a power of two; value 0 means the cell is empty

One growth step moves one shard, a 64th of the map, so that no single claim waits for a rehash of everything. A value
of 0 stands for "absent" everywhere; in exchange every key is allowed. Nothing is ever removed.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

import numpy as np

cdef enum:
    SHARD_COUNT = 64
    SHARD_SHIFT = 58        # 64 - log2(SHARD_COUNT)
    CAPACITY_MIN = 8

cdef struct Cell:
    uint64_t key
    uint64_t value

cdef struct Shard:
    Cell *cells
    uint64_t capacity       # 0 or a power of two
    uint64_t used


cdef inline uint64_t word_mix(uint64_t x) noexcept nogil:
    # Requires: nothing.
    # Ensures:  a bijection of 64 bits in which every input bit moves about half of the output bits.
    # Cost:     two multiplies.
    # Source:   the finalizer of SplitMix64, Steele, Lea and Flood 2014.
    x += <uint64_t>0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline uint64_t pair_mix(uint64_t first, uint64_t second) noexcept nogil:
    # Requires: nothing.
    # Ensures:  two pairs that differ in one half only never meet; others do with the chance of 64 random bits.
    # Cost:     four multiplies.
    # Source:   composition of word_mix.
    return word_mix(word_mix(first) ^ second)


cdef inline Cell *cell_find(const Shard *shard, uint64_t hashed, uint64_t key) noexcept nogil:
    # Requires: shard.capacity > shard.used, so that there is an empty cell to stop at.
    # Ensures:  the cell of the key, or the empty cell where it belongs.
    # Cost:     about two cells looked at on average at a load of 0.7.
    # Source:   linear probing, Knuth, The Art of Computer Programming 3, 6.4.
    cdef uint64_t slot = hashed & (shard.capacity - 1)
    while shard.cells[slot].value != 0 and shard.cells[slot].key != key:
        slot = (slot + 1) & (shard.capacity - 1)
    return &shard.cells[slot]


cdef bint shard_grow(Shard *shard) noexcept nogil:
    # Requires: nothing.
    # Ensures:  twice the capacity and the same entries, or False and the shard untouched.
    # Cost:     one allocation; every entry of the shard is placed again.
    # Source:   none.
    cdef Shard bigger
    cdef uint64_t slot
    cdef Cell *cell
    bigger.capacity = shard.capacity * 2 if shard.capacity else CAPACITY_MIN
    bigger.used = shard.used
    bigger.cells = <Cell *> calloc(bigger.capacity, sizeof(Cell))
    if bigger.cells == NULL:
        return False
    for slot in range(shard.capacity):
        if shard.cells[slot].value != 0:
            cell = cell_find(&bigger, word_mix(shard.cells[slot].key), shard.cells[slot].key)
            cell[0] = shard.cells[slot]
    free(shard.cells)
    shard[0] = bigger
    return True


cdef Cell *cell_claim(Shard *shards, uint64_t key) noexcept nogil:
    # Requires: shards points at SHARD_COUNT shards; the caller stores a value other than 0 in the cell at once.
    # Ensures:  the cell of the key, made if it is new; NULL if there is no memory, and the map untouched.
    # Cost:     as cell_find, and now and then the growth of one shard.
    # Source:   none.
    cdef uint64_t hashed = word_mix(key)
    cdef Shard *shard = &shards[hashed >> SHARD_SHIFT]
    cdef Cell *cell
    if shard.used * 10 >= shard.capacity * 7 and not shard_grow(shard):
        return NULL
    cell = cell_find(shard, hashed, key)
    if cell.value == 0:
        cell.key = key
        shard.used += 1
    return cell


def mix(uint64_t first, uint64_t second):
    """Return one 64-bit key for a pair of them.

    Parameters
    ----------
    first, second : int
        Unsigned, 64 bits.

    Returns
    -------
    int
        Unsigned, 64 bits.
    """
    return pair_mix(first, second)


def mix_many(const uint64_t[::1] first, const uint64_t[::1] second):
    """Return :func:`mix` of two arrays, element by element.

    Parameters
    ----------
    first, second : ndarray of uint64, shape (n,)

    Returns
    -------
    ndarray of uint64, shape (n,)

    Raises
    ------
    ValueError
        The arrays differ in length.
    """
    cdef Py_ssize_t n = first.shape[0], i
    if second.shape[0] != n:
        raise ValueError(f"{n} and {second.shape[0]} words do not pair")
    mixed = np.empty(n, dtype=np.uint64)
    cdef uint64_t[::1] view = mixed
    with nogil:
        for i in range(n):
            view[i] = pair_mix(first[i], second[i])
    return mixed


cdef class IntMap:
    """Hash map from unsigned 64-bit keys to unsigned 64-bit values other than 0.

    Notes
    -----
    About 23 to 46 bytes an entry. Not thread-safe: one thread owns a map, also while ``put_many`` and ``add_many`` run
    without the GIL. Nothing is removed.
    """

    cdef Shard shards[SHARD_COUNT]

    def __dealloc__(self):
        cdef int i
        for i in range(SHARD_COUNT):
            free(self.shards[i].cells)

    def __len__(self):
        cdef uint64_t total = 0
        cdef int i
        for i in range(SHARD_COUNT):
            total += self.shards[i].used
        return total

    @property
    def nbytes(self):
        """Bytes allocated for cells."""
        cdef uint64_t total = 0
        cdef int i
        for i in range(SHARD_COUNT):
            total += self.shards[i].capacity * sizeof(Cell)
        return total

    def get(self, uint64_t key, uint64_t default=0):
        """Return the value of ``key``, or ``default``.

        Raises
        ------
        OverflowError
            The key is negative or above 64 bits.
        """
        cdef uint64_t hashed = word_mix(key)
        cdef Shard *shard = &self.shards[hashed >> SHARD_SHIFT]
        cdef uint64_t value
        if shard.capacity == 0:
            return default
        value = cell_find(shard, hashed, key).value
        return value if value != 0 else default

    def put(self, uint64_t key, uint64_t value):
        """Set the value of ``key``.

        Raises
        ------
        ValueError
            The value is 0, which stands for an absent key.
        OverflowError
            A number is negative or above 64 bits.
        MemoryError
            No memory for the next growth; the map is as before.
        """
        if value == 0:
            raise ValueError("a value of 0 stands for an absent key")
        cdef Cell *cell = cell_claim(self.shards, key)
        if cell == NULL:
            raise MemoryError("no memory for the index of the ledger")
        cell.value = value

    def add(self, uint64_t key, uint64_t delta=1):
        """Add to the value of ``key``, 0 if it is absent, and return the sum.

        Raises
        ------
        ValueError
            ``delta`` is 0, or the sum needs more than 64 bits.
        OverflowError
            A number is negative or above 64 bits.
        MemoryError
            No memory for the next growth; the map is as before.
        """
        cdef uint64_t value = self.get(key)
        if delta == 0:
            raise ValueError("adding 0 would make an entry of value 0, which stands for an absent key")
        if value + delta < value:
            raise ValueError(f"{value} + {delta} needs more than 64 bits")
        self.put(key, value + delta)
        return value + delta

    def put_many(self, const uint64_t[::1] keys, const uint64_t[::1] values):
        """Set the values of many keys in order; of equal keys the last one stays.

        Parameters
        ----------
        keys, values : ndarray of uint64, shape (n,)

        Raises
        ------
        ValueError
            The arrays differ in length, or a value is 0; the pairs before it are set.
        MemoryError
            No memory for a growth; the pairs before it are set.

        Notes
        -----
        Releases the GIL.
        """
        cdef Py_ssize_t i = 0, n = keys.shape[0]
        cdef Cell *cell
        cdef bint has_memory = True
        if values.shape[0] != n:
            raise ValueError(f"{n} keys and {values.shape[0]} values do not pair")
        with nogil:
            while i < n and values[i] != 0:
                cell = cell_claim(self.shards, keys[i])
                if cell == NULL:
                    has_memory = False
                    break
                cell.value = values[i]
                i += 1
        if not has_memory:
            raise MemoryError("no memory for the index of the ledger")
        if i < n:
            raise ValueError(f"value {i} is 0, which stands for an absent key")

    def add_many(self, const uint64_t[::1] keys, uint64_t delta=1):
        """Add ``delta`` to the value of each key, once for each time that it occurs.

        Parameters
        ----------
        keys : ndarray of uint64, shape (n,)

        Raises
        ------
        ValueError
            ``delta`` is 0, or a sum needs more than 64 bits; the keys before it are counted.
        MemoryError
            No memory for a growth; the keys before it are counted.

        Notes
        -----
        Releases the GIL.
        """
        cdef Py_ssize_t i = 0, n = keys.shape[0]
        cdef Cell *cell
        cdef bint has_memory = True
        if delta == 0:
            raise ValueError("adding 0 would make an entry of value 0, which stands for an absent key")
        with nogil:
            while i < n:
                cell = cell_claim(self.shards, keys[i])
                if cell == NULL:
                    has_memory = False
                    break
                if cell.value + delta < delta:
                    break
                cell.value += delta
                i += 1
        if not has_memory:
            raise MemoryError("no memory for the index of the ledger")
        if i < n:
            raise ValueError(f"a sum of key {i} needs more than 64 bits")

    def items(self):
        """Return all pairs, in no order.

        Returns
        -------
        ndarray of uint64, shape (n, 2)
        """
        pairs = np.empty((len(self), 2), dtype=np.uint64)
        cdef uint64_t[:, ::1] view = pairs
        cdef Py_ssize_t at = 0
        cdef uint64_t slot
        cdef int i
        for i in range(SHARD_COUNT):
            for slot in range(self.shards[i].capacity):
                if self.shards[i].cells[slot].value != 0:
                    view[at, 0] = self.shards[i].cells[slot].key
                    view[at, 1] = self.shards[i].cells[slot].value
                    at += 1
        return pairs
