"""Types of single decisions; what each does is said in ``_decider.pyx``."""

from collections.abc import Callable, Iterable
from typing import Self

from scanengine._core import Resolver
from scanengine.model import CampaignTerms, Decision, Product, Scene

class Words:
    def __new__(
        cls,
        scenes: Scene,
        product: Product | None,
        lot: str | None,
        campaign: str | None,
        refusal: str | None,
        terms: CampaignTerms | None,
        link: str | None,
        market: str | None,
        batch: str,
        is_test: bool,
    ) -> Self: ...

class Found: ...

class Decider:
    def __new__(
        cls,
        resolver: Resolver,
        words: Iterable[Words],
        products: dict[int, Product],
        generation: int,
        has_texts: bool,
        read: Callable[[str], tuple[str, int]],
    ) -> Self: ...
    def decide(self, text: str, now_ms: int, role: int, region: int) -> Decision: ...
