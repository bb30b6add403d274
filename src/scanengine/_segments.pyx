"""The segments of one batch, with an index that finds one in constant time. Part of the core."""

from libc.stdint cimport uint32_t, uint64_t

import numpy as np

cdef uint64_t COUNT_MAX = <uint64_t>1 << 40


cdef class SegmentMap:
    """The segments that tile one batch, with an index that finds one in constant time.

    Parameters
    ----------
    starts : uint64, shape (k,)
        First offset of each segment: 0, then each after the one before. A segment ends where the next starts.
    profiles : uint32, shape (k,)
        Profile of each segment, below `profile_count`.
    count : int
        Codes in the batch, 1 to 2**40.

    Raises
    ------
    ValueError
        Naming the first segment that breaks a rule above.
    """

    def __cinit__(
        self, const uint64_t[::1] starts not None, const uint32_t[::1] profiles not None, count, profile_count
    ):
        cdef uint64_t segment_count = starts.shape[0]
        cdef uint64_t index, bucket_count, bucket, segment
        cdef uint32_t profile_limit = min(max(profile_count, 0), 0xffffffff)
        if not 1 <= count <= COUNT_MAX:
            raise ValueError(f"a batch has 1 to 2**40 codes, found {count}")
        if segment_count == 0:
            raise ValueError("a batch needs at least one segment")
        if <uint64_t>profiles.shape[0] != segment_count:
            raise ValueError(f"{segment_count} starts but {profiles.shape[0]} profiles")
        if starts[0] != 0:
            raise ValueError(f"the first segment must start at 0, found {starts[0]}")
        for index in range(1, segment_count):
            if starts[index] <= starts[index - 1]:
                raise ValueError(f"segment {index} starts at {starts[index]}, not after {starts[index - 1]}")
        if starts[segment_count - 1] >= <uint64_t>count:
            raise ValueError(
                f"segment {segment_count - 1} starts at {starts[segment_count - 1]}, outside the batch of {count}")
        for index in range(segment_count):
            if profiles[index] >= profile_limit:
                raise ValueError(f"segment {index} has profile {profiles[index]}, expected below {profile_count}")
        self.count = count
        self.profile_count = profile_limit
        self.segment_count = segment_count
        self._starts = starts
        self._profiles = profiles
        self.view.starts = &starts[0]
        self.view.profiles = &profiles[0]
        # At most two buckets a segment: a segment or two each when they are spread evenly, 8 bytes a segment.
        while (self.count - 1) >> self.view.shift >= 2 * segment_count:
            self.view.shift += 1
        bucket_count = ((self.count - 1) >> self.view.shift) + 1
        self._buckets = np.empty(bucket_count + 1, dtype=np.uint32)
        self.view.buckets = &self._buckets[0]
        segment = 0
        for bucket in range(bucket_count):
            while segment + 1 < segment_count and starts[segment + 1] <= bucket << self.view.shift:
                segment += 1
            self._buckets[bucket] = segment
        self._buckets[bucket_count] = segment_count - 1

    def find(self, offset):
        """Return the index of the segment that holds `offset`; IndexError outside the batch."""
        if not 0 <= offset < self.count:
            raise IndexError(f"offset {offset} is outside the batch of {self.count}")
        return segment_find(&self.view, offset)

    def profile_at(self, offset):
        """Return the profile of the segment that holds `offset`; IndexError outside the batch."""
        return self._profiles[self.find(offset)]
