"""A program for the tests of whoever embeds scanengine: in memory, made in milliseconds, with a clock that you set.

    with sample_program(odds={"cash-88": 1, "none": 9}) as program:
        answer = program.claim(program.code(prize="cash-88"), user="ann")

It decides by real tables and answers by the rules of every ledger; only nothing of it lasts. Its keys are known to
everybody and the same in every run, and so are its codes: never print one. Needs no extra and no test framework;
fixtures for pytest are in :mod:`scanengine.testing.plugin`.
"""

from scanengine.testing.clock import Clock
from scanengine.testing.sample import SampleProgram, sample_program

__all__ = ["Clock", "SampleProgram", "sample_program"]
