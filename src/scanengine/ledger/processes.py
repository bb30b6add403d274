"""Which process this is, told after every fork instead of asked of the system with every call.

In a sandboxed container a system call can cost more than the rest of what a call needs here.
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
