"""Types of the native core; what each does is said in ``_core.pyx``."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ALPHABET: Final[str]
RULE_DTYPE: Final[np.dtype[np.void]]
PREDICATE_DTYPE: Final[np.dtype[np.void]]
TRANSITION_DTYPE: Final[np.dtype[np.void]]
PROFILE_DTYPE: Final[np.dtype[np.void]]
FIELD_TIME: Final[int]
FIELD_MINUTE: Final[int]
FIELD_PRODUCT: Final[int]
FIELD_ITEM: Final[int]
FIELD_REGION: Final[int]
FIELD_ROLE: Final[int]

def build_flags() -> dict[str, bool]: ...
def siphash24(key: bytes, data: bytes) -> int: ...
def normalize(text: str) -> str | None: ...
def base32_text(digest: bytes) -> str: ...
def check_symbol(symbols: bytes) -> int: ...
def draw_words(key: bytes, item: int, rule: int) -> tuple[int, int]: ...
def alias_draw(thresholds: NDArray[np.uint64], aliases: NDArray[np.uint32], w0: int, w1: int) -> int: ...
def permute(key: bytes, rule: int, n: int, position: int) -> int: ...

class CodeKeys:
    def __init__(self, slots: Iterable[tuple[int, bytes, bytes]]) -> None: ...
    def encode(self, slot: int, serial: int) -> str: ...
    def encode_many(self, slot: int, serial_start: int, count: int) -> NDArray[np.uint8]: ...
    def decode(self, text: str) -> tuple[int, int]: ...

class SegmentMap:
    count: Final[int]
    segment_count: Final[int]
    profile_count: Final[int]
    def __init__(
        self, starts: NDArray[np.uint64], profiles: NDArray[np.uint32], count: int, profile_count: int
    ) -> None: ...
    def find(self, offset: int) -> int: ...
    def profile_at(self, offset: int) -> int: ...

class RuleSet:
    def __init__(
        self,
        draw_key: bytes,
        rules: NDArray[np.void],
        predicates: NDArray[np.void],
        ranges: NDArray[np.uint64],
        thresholds: NDArray[np.uint64],
        aliases: NDArray[np.uint32],
        outcomes: NDArray[np.int16],
        transitions: NDArray[np.void],
    ) -> None: ...
    def decide(self, item: int, now_ms: int, role: int, region: int, gtin: int) -> tuple[int, int]: ...
    def local_date(self, now_ms: int) -> int: ...
    def local_minute(self, now_ms: int) -> int: ...

class Resolver:
    def __init__(
        self,
        keys: CodeKeys,
        batches: Sequence[tuple[int, int, SegmentMap, int]],
        profiles: NDArray[np.void],
        rule_sets: Sequence[RuleSet],
    ) -> None: ...
    def resolve(self, text: str, now_ms: int, role: int, region: int) -> tuple[int, int, int, int, int, int, int]: ...
    def resolve_many(
        self,
        codes: NDArray[np.uint8],
        now_ms: int,
        role: int | NDArray[Any],
        region: int | NDArray[Any],
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.int32], NDArray[np.int16], NDArray[np.int16]]: ...
