"""Types of the segments' part of the core; what each does is said in ``_segments.pyx``."""

from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

class SegmentMap:
    count: Final[int]
    segment_count: Final[int]
    profile_count: Final[int]
    def __new__(
        cls, starts: NDArray[np.uint64], profiles: NDArray[np.uint32], count: int, profile_count: int
    ) -> Self: ...
    def find(self, offset: int) -> int: ...
    def profile_at(self, offset: int) -> int: ...
