"""Types of the checks' native part; what each does is said in ``_checks.pyx``."""

from collections.abc import Iterable

from scanengine.ledger.records import TIME_MS_MAX as TIME_MS_MAX
from scanengine.model import ClaimRequest

class Checker:
    def check(self, requests: Iterable[ClaimRequest]) -> None: ...
