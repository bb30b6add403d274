"""Types of the native core; what each does is said in ``_core.pyx``."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray

from scanengine._imported import FAULTS_SHOWN as FAULTS_SHOWN
from scanengine._imported import TEXT_BYTES_MAX as TEXT_BYTES_MAX
from scanengine._imported import TEXTS_MAX as TEXTS_MAX
from scanengine._imported import TextIndex as TextIndex
from scanengine._imported import fill_slots as fill_slots
from scanengine._imported import read_texts as read_texts
from scanengine._rules import FIELD_ITEM as FIELD_ITEM
from scanengine._rules import FIELD_MINUTE as FIELD_MINUTE
from scanengine._rules import FIELD_PRODUCT as FIELD_PRODUCT
from scanengine._rules import FIELD_REGION as FIELD_REGION
from scanengine._rules import FIELD_ROLE as FIELD_ROLE
from scanengine._rules import FIELD_TIME as FIELD_TIME
from scanengine._rules import PREDICATE_DTYPE as PREDICATE_DTYPE
from scanengine._rules import RULE_DTYPE as RULE_DTYPE
from scanengine._rules import TRANSITION_DTYPE as TRANSITION_DTYPE
from scanengine._rules import RuleSet as RuleSet
from scanengine._segments import SegmentMap as SegmentMap

ALPHABET: Final[str]
PROFILE_DTYPE: Final[np.dtype[np.void]]

def build_flags() -> dict[str, bool]: ...
def siphash24(key: bytes, data: bytes) -> int: ...
def normalize(text: str) -> str | None: ...
def base32_text(digest: bytes) -> str: ...
def check_symbol(symbols: bytes) -> int: ...
def draw_words(key: bytes, item: int, rule: int) -> tuple[int, int]: ...
def alias_draw(thresholds: NDArray[np.uint64], aliases: NDArray[np.uint32], w0: int, w1: int) -> int: ...
def permute(key: bytes, rule: int, n: int, position: int) -> int: ...

class CodeKeys:
    def __new__(cls, slots: Iterable[tuple[int, bytes, bytes]]) -> Self: ...
    def encode(self, slot: int, serial: int) -> str: ...
    def encode_many(self, slot: int, serial_start: int, count: int) -> NDArray[np.uint8]: ...
    def decode(self, text: str) -> tuple[int, int]: ...

@final
class Resolver:
    def __new__(
        cls,
        keys: CodeKeys,
        batches: Sequence[tuple[int, int, SegmentMap, int]],
        profiles: NDArray[np.void],
        rule_sets: Sequence[RuleSet],
        texts: Sequence[tuple[int, TextIndex]] = (),
    ) -> Self: ...
    def is_imported(self, text: str) -> bool: ...
    def resolve(
        self, text: str, now_ms: int, role: int, region: int, gtin: int = 0
    ) -> tuple[int, int, int, int, int, int, int]: ...
    def resolve_many(
        self,
        codes: NDArray[np.uint8],
        now_ms: int,
        role: int | NDArray[Any],
        region: int | NDArray[Any],
        gtin: int | NDArray[Any] = 0,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.int32], NDArray[np.int16], NDArray[np.int16]]: ...
