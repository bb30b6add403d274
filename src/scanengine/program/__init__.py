"""``Program``: engine, ledger and workspace of one brand, the one object everybody opens and calls."""

from scanengine.program.program import Program, open_program

__all__ = ["Program", "open_program"]
