"""Types of the replies' native part; what each does is said in ``_replies.pyx``."""

from collections.abc import Mapping, Sequence

from scanengine.ledger.redis.codec import REFUSALS as REFUSALS
from scanengine.model import ClaimRequest, ObserveRequest, Receipt, ScanFacts

def decode_answers(
    reply: bytes, requests: Sequence[ClaimRequest | ObserveRequest], campaigns: Mapping[int, str]
) -> tuple[int, list[Receipt | ScanFacts | None], bool]: ...
