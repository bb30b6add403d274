"""The function library of the Redis ledger: its text, and how it comes onto a server."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

LIBRARY: Final = "scan_v1"
"""Library and prefix of its functions. A version is never replaced in place; versions live side by side."""


@cache
def load_source() -> str:
    """Return the text of the library."""
    return resources.files(__package__).joinpath(f"{LIBRARY}.lua").read_text("utf-8")
