"""The arithmetic of ``docs/scaling.md``: made from kept figures, right, and open about what was not measured."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import scaling  # noqa: E402
from results import kept_runs  # noqa: E402

BILLION = 1e9


def a_run(**figures: float) -> dict[str, Any]:
    about = {"date": "2026-01-01", "machine": "a machine", "commit": "abc", "command": "make bench"}
    return {**about, "figures": figures}


def all_runs(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        "bench_post_scans": a_run(everysec_per_s=40_000, strict_per_s=30_000),
        "bench_redis_claims[everysec]": a_run(ledger_256=100_000),
        "bench_redis_claims[strict]": a_run(ledger_256=50_000),
        "bench_growth[redis]": a_run(bytes_a_claim_100000=98, bytes_a_claim_10000000=50),
        "bench_wire": a_run(request_bytes=140, reply_bytes=550, redis_in_bytes=300, redis_out_bytes=130, aof_bytes=400),
    } | changes


def needed(table: str, what: str) -> list[str]:
    """Return the cells of a line after its formula."""
    line = next(line for line in table.splitlines() if line.startswith(f"| {what}"))
    return line.strip("| ").split(" | ")[3:]


def test_the_table_of_the_page_is_that_of_the_kept_figures() -> None:
    """Goal: no figure is typed by hand. ``python benchmarks/scaling.py --write`` makes it anew."""
    text = scaling.PAGE.read_text("utf-8")
    assert scaling.pages(kept_runs()) == {scaling.PAGE: text}
    assert scaling.table(kept_runs()) in text
    assert scaling.pages(all_runs()) != {scaling.PAGE: text}


def test_a_billion_an_hour_is_counted_right() -> None:
    """Worked by hand: 277,778/s, of machines at 70 % of what each does."""
    table = scaling.table(all_runs(), (BILLION,))
    assert needed(table, "processes of the server, Redis `everysec`") == ["10"]
    assert needed(table, "primaries, `everysec`") == ["4"]
    assert needed(table, "primaries, `strict`") == ["8"]
    assert needed(table, "network out of the servers") == ["1.22 Gbit/s"]
    assert needed(table, "append-only files") == ["400 GB"]


def test_memory_is_that_of_the_largest_ledger_measured() -> None:
    assert needed(scaling.table(all_runs(), (BILLION,)), "memory") == ["50 GB"]


def test_more_scans_need_no_less() -> None:
    few, many = (needed(scaling.table(all_runs(), (count,)), "processes") for count in (1e8, BILLION))
    assert int(few[0]) <= int(many[0])
    assert needed(scaling.table(all_runs(), (1.0,)), "processes") == ["1"]


def test_what_was_not_measured_names_the_benchmark_that_does() -> None:
    table = scaling.table({})
    named = re.findall(r"make bench BENCH=([\w/.]+)", table)
    assert len(named) == len(scaling.ROWS)
    assert [path for path in named if not (ROOT / path).is_file()] == []
    assert "claims/s each" not in table


def test_every_figure_that_is_asked_for_is_one_that_its_benchmark_reports() -> None:
    for row in scaling.ROWS:
        text = "".join(path.read_text("utf-8") for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "scaling")
        name = row.figure.removeprefix("everysec_").removeprefix("strict_").removesuffix("256")
        assert name in text, row.figure


@pytest.mark.parametrize("count", ["0", "-5", "inf", "nan", "many"])
def test_a_number_that_is_none_is_refused(count: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), "--scans-per-hour", count]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--scans-per-hour" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_prints_the_table_of_another_number() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), "--scans-per-hour", "5e8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "500,000,000 scans an hour, R = 138,889/s" in done.stdout
