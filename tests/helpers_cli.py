"""The command line run inside the test's own process, with what it left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]
"""The fixture ``run``: takes the words of a command."""


def ok(done: Done) -> str:
    """Return what a command printed that had nothing to complain about."""
    assert (done.code, done.err) == (0, "")
    return done.out
