"""Types of the rules' part of the core; what each does is said in ``_rules.pyx``."""

from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

RULE_DTYPE: Final[np.dtype[np.void]]
PREDICATE_DTYPE: Final[np.dtype[np.void]]
TRANSITION_DTYPE: Final[np.dtype[np.void]]
FIELD_TIME: Final[int]
FIELD_MINUTE: Final[int]
FIELD_PRODUCT: Final[int]
FIELD_ITEM: Final[int]
FIELD_REGION: Final[int]
FIELD_ROLE: Final[int]

class RuleSet:
    def __new__(
        cls,
        draw_key: bytes,
        rules: NDArray[np.void],
        predicates: NDArray[np.void],
        ranges: NDArray[np.uint64],
        thresholds: NDArray[np.uint64],
        aliases: NDArray[np.uint32],
        outcomes: NDArray[np.int16],
        transitions: NDArray[np.void],
    ) -> Self: ...
    def decide(self, item: int, now_ms: int, role: int, region: int, gtin: int) -> tuple[int, int]: ...
    def local_date(self, now_ms: int) -> int: ...
    def local_minute(self, now_ms: int) -> int: ...
