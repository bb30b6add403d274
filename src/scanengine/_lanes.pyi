"""Types of the lanes; what each does is said in ``_lanes.pyx``."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

PATHS: Final[tuple[str, ...]]

def paths() -> tuple[str, ...]: ...
def path() -> str: ...
def choose(name: str) -> None: ...
def siphash_many(keys: Sequence[bytes], values: NDArray[np.uint64]) -> NDArray[np.uint64]: ...
