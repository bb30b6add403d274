"""``Program``: engine, ledger and workspace of one brand, the one object everybody opens and calls."""

from scanengine.program.opening import open_program
from scanengine.program.program import Program

__all__ = ["Program", "open_program"]
