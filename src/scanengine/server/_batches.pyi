"""Types of the batches' native loops; what each does is said in ``_batches.pyx``."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

def count_entries(body: bytes) -> int: ...
def read_letters(texts: list[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]: ...
def write_rows(
    head: bytes,
    separator: bytes,
    tail: bytes,
    pieces: tuple[tuple[bytes, bytes], ...],
    with_code: int,
    which: NDArray[np.int32],
    letters: NDArray[np.uint8],
    folds: NDArray[np.uint8],
) -> bytes: ...
