# The segments of one batch: sorted starts, a profile each, and an index by the upper bits of the offset.
# Rule: the leaf touches no Python object, so it is `noexcept nogil` and allocates nothing.

from libc.stdint cimport uint32_t, uint64_t

cdef struct segment_view:
    # Borrowed from a SegmentMap, which checked it.
    const uint64_t *starts
    const uint32_t *profiles
    const uint32_t *buckets    # buckets[b] = last segment that starts at or before b << shift
    uint32_t shift


cdef inline uint64_t segment_find(const segment_view *view, uint64_t offset) noexcept nogil:
    # Requires: offset inside the batch.
    # Ensures:  the index of the last segment that starts at or before offset.
    # Cost:     one look in the bucket index, then a binary search inside the bucket, which holds a segment or two
    #           unless segments crowd together.
    cdef uint64_t bucket = offset >> view.shift
    cdef uint64_t low = view.buckets[bucket]
    cdef uint64_t high = view.buckets[bucket + 1]
    cdef uint64_t middle
    while low < high:
        middle = (low + high + 1) >> 1
        if view.starts[middle] <= offset:
            low = middle
        else:
            high = middle - 1
    return low


cdef class SegmentMap:
    cdef segment_view view
    cdef readonly uint64_t count
    cdef readonly uint64_t segment_count
    cdef readonly uint32_t profile_count
    cdef const uint64_t[::1] _starts      # These three hold the buffers that `view` points into.
    cdef const uint32_t[::1] _profiles
    cdef uint32_t[::1] _buckets
