"""What schemathesis has to know of formats that JSON Schema has no words for: it counts characters, we count bytes."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

from scanengine.model import USER_BYTES_MAX, VISIT_BYTES_MAX


def _texts(bytes_max: int) -> st.SearchStrategy[str]:
    characters = st.characters(exclude_categories=["Cs"])
    return st.text(characters, min_size=1, max_size=bytes_max).filter(lambda text: len(text.encode()) <= bytes_max)


for size in {USER_BYTES_MAX, VISIT_BYTES_MAX}:
    schemathesis.openapi.format(f"utf-8-{size}-bytes", _texts(size))
