"""Fixtures for pytest: write ``pytest_plugins = ["scanengine.testing.plugin"]`` into your topmost ``conftest.py``.

It is no entry point of the package, since pytest imports those of everything that is installed into every run, also of
people who never asked for scanengine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from scanengine.testing.sample import SampleProgram, sample_program


@pytest.fixture
def make_scanengine_program() -> Iterator[Callable[..., SampleProgram]]:
    """Makes programs with the arguments of :func:`~scanengine.testing.sample_program`, each closed after the test."""
    with ExitStack() as opened:

        def make(**changes: Any) -> SampleProgram:
            program = sample_program(**changes)
            opened.callback(program.close)
            return program

        yield make


@pytest.fixture
def scanengine_program(make_scanengine_program: Callable[..., SampleProgram]) -> SampleProgram:
    """A sample program of its own for each test."""
    return make_scanengine_program()
