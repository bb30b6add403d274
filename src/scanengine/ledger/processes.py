"""Which process this is, told after every fork instead of asked of the system with every call.

A system call costs up to 25 microseconds in a sandboxed container, as much as a batch's share of a claim.
"""

from __future__ import annotations

import os

_number = os.getpid()


def process_number() -> int:
    """Return the number of this process."""
    return _number


def _learn() -> None:
    global _number  # noqa: PLW0603 - set once a process
    _number = os.getpid()


os.register_at_fork(after_in_child=_learn)
