"""Types of the imported codes' part of the core; what each does is said in ``_imported.pyx``."""

from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

TEXT_BYTES_MAX: Final[int]
TEXTS_MAX: Final[int]
FAULTS_SHOWN: Final[int]

def fill_slots(
    texts: NDArray[np.uint8], slots: NDArray[np.uint32], key: bytes, start: int, end: int
) -> tuple[int, int, list[tuple[int, int]]]: ...
def read_texts(
    data: bytes, line: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], int, int, list[tuple[int, str]]]: ...

class TextIndex:
    count: Final[int]
    def __new__(cls, texts: NDArray[np.uint8], slots: NDArray[np.uint32], key: bytes, lengths: int) -> Self: ...
    def find(self, text: str) -> int: ...
    def find_many(self, texts: NDArray[np.uint8]) -> NDArray[np.int64]: ...
    def check(self) -> None: ...
