"""A short form of ``tests/swaps.py``, and that its check does find what it looks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from redis_servers import RedisServer, server_binaries
from swaps import STATES, Report, Swapping, run

SWAPS = 20


def check_load(report: Report, swaps: int) -> None:
    assert report.violations == []
    assert report.swaps == swaps
    # The load was what it should be: both states were seen, and requests were answered while tables were swapped.
    assert report.statuses.keys() == set(STATES)
    assert report.in_between > 0


def test_scenes_are_swapped_under_load_and_no_request_fails(tmp_path: Path) -> None:
    check_load(run(tmp_path / "shop", SWAPS), SWAPS)


def test_workers_that_share_a_redis_swap_too(tmp_path: Path, redis_servers: Callable[[str], RedisServer]) -> None:
    url = redis_servers(sorted(server_binaries())[0]).url()
    check_load(run(tmp_path / "shop", SWAPS // 4, url), SWAPS // 4)


def test_the_check_finds_a_publication_that_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Method: hold a publication for served before it is begun."""
    swap = Swapping._swap

    def swap_too_early(self: Swapping, admin: object, number: int) -> None:
        self.served = self.begun + 1
        swap(self, admin, number)

    monkeypatch.setattr(Swapping, "_swap", swap_too_early)
    assert any("instead of" in text for text in run(tmp_path / "shop", 2).violations)
