"""Types of the calls' native part; what each does is said in ``_codec.pyx``."""

from collections.abc import Iterable, Mapping

from scanengine.ledger.redis.keys import Keys
from scanengine.model import ClaimRequest, ObserveRequest

class Buffer: ...
class Batch: ...

class Encoder:
    def __init__(self, keys: Keys, *, outbox: str, scan_events: bool) -> None: ...
    def call(
        self, epoch: bytes, requests: Iterable[ClaimRequest | ObserveRequest], numbers: Mapping[str, int]
    ) -> bytes: ...
