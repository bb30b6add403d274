"""What every test starts from: steady examples, and a shop whose clock stands at noon on 1 May 2026."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from helpers import Shop, a_copy, a_shop, an_empty_shop
from helpers_ledger import Opener
from scanengine.ledger import SqliteLedger

# The same examples in every run, so that a failure is one of the change at hand.
# SCANENGINE_TEST_EXPLORE=1 seeks others.
settings.register_profile("steady", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("explore" if os.environ.get("SCANENGINE_TEST_EXPLORE") == "1" else "steady")


@pytest.fixture
def empty_shop(tmp_path: Path) -> Shop:
    """A workspace with known keys and nothing published."""
    return an_empty_shop(tmp_path / "shop")


@pytest.fixture(scope="session")
def shop_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every ``shop`` is a copy of: publishing syncs, copying need not."""
    return a_shop(tmp_path_factory.mktemp("template") / "shop").folder


@pytest.fixture
def shop(tmp_path: Path, shop_template: Path) -> Shop:
    """A workspace with 1,000 active codes of the batch ``cola``, in the campaign ``spring``."""
    return a_copy(shop_template, tmp_path / "shop")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The ledger file of a test."""
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def open_ledger(path: Path) -> Iterator[Opener]:
    """Opens ledgers, each closed when the test ends."""
    opened: list[SqliteLedger] = []

    def opener(where: Path = path, **changes: Any) -> SqliteLedger:
        opened.append(SqliteLedger(where, "program-1", **changes))
        return opened[-1]

    yield opener
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Opener) -> SqliteLedger:
    """An open ledger."""
    return open_ledger()
