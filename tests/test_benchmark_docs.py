"""What is said of speed is what was measured: pages are made of the kept results, and of nothing else."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import harness  # noqa: E402
import page  # noqa: E402
import rates  # noqa: E402
import results  # noqa: E402
import servers  # noqa: E402
import tables  # noqa: E402

MACHINE = {
    "cpu": {"brand_raw": "a processor", "count": 2},
    "system": "Linux",
    "python_implementation": "CPython",
    "python_version": "3.11.0",
    "node": "the-name-of-a-host",
}


def a_row(name: str, **figures: Any) -> dict[str, Any]:
    return {"name": name, "fullname": f"benchmarks/{name}.py::{name}", "extra_info": figures}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of their own in an empty folder."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return tmp_path


def take(kept: Path, *rows: dict[str, Any]) -> dict[str, Any]:
    (kept / "latest.json").write_text(json.dumps({"machine_info": MACHINE, "benchmarks": rows}))
    found: dict[str, Any] = json.loads(results.take().read_text())
    return found


def test_every_page_is_what_the_kept_results_make() -> None:
    """Goal: no figure of the READMEs, of docs/benchmarks.md or of its pictures was typed or is out of date."""
    made = tables.pages()
    assert {path.name for path in made} >= {"README.md", "README.zh-CN.md", "benchmarks.md", "bench-server.svg"}
    for path, text in made.items():
        assert path.read_text("utf-8") == text, f"{path.name}: run `python benchmarks/tables.py`"


@pytest.mark.parametrize("name", tables.READMES)
def test_a_readme_names_each_day_that_its_figures_are_of(name: str) -> None:
    dates = {f"{run['date']}.json" for run in results.kept_runs().values()}
    assert dates <= set(re.findall(r"[\d-]+\.json", (ROOT / name).read_text("utf-8")))


def test_another_figure_makes_other_pages() -> None:
    """Goal: the comparison above sees a figure that was changed."""
    runs = results.kept_runs()
    runs["bench_post_scans"]["figures"]["everysec_ratio"] += 1
    for path, text in page.pages_of_docs(runs).items():
        if path.name in ("benchmarks.md", "bench-server.svg"):
            assert path.read_text("utf-8") != text


def test_a_page_without_any_result_can_be_made() -> None:
    made = page.pages_of_docs({})
    assert list(made) == [page.PAGE]
    assert made[page.PAGE].count(page.NOT_YET) == len(page.MARKS.findall(made[page.PAGE]))


def test_growth_is_shown_relative_to_the_fewest_claims() -> None:
    figures = {"sizes": [1000, 2000], "ratio": 0.5}
    for size, rate in ((1000, 400.0), (2000, 200.0)):
        figures |= {f"claims_per_s_{size}": rate, f"p99_ms_{size}": 1.0, f"start_s_{size}": 2.0}
        figures |= {f"bytes_a_claim_{size}": 120.0, f"file_bytes_a_claim_{size}": 80.0}
    pictures: dict[Path, str] = {}
    text = page.growth_part({"bench_growth[sqlite]": figures}, pictures)
    assert "| SQLite `FULL` | 2,000 | 200 | 0.50 | 1.0 | 120 | 80 | 2.0 |" in text
    assert [path.name for path in pictures] == ["bench-growth.svg"]


def test_kept_results_say_where_they_come_from_and_nothing_of_its_owner() -> None:
    for name, run in results.kept_runs().items():
        assert run["machine"], name
        assert run["command"].partition("make bench BENCH=")[2].startswith("benchmarks/bench_"), name
        assert (ROOT / run["command"].rpartition("=")[2]).is_file(), name
        assert not {"/root", "/home", "/tmp"} & set(json.dumps(run).replace('"', " ").split()), name


def test_results_of_a_day_are_kept_beside_each_other(kept: Path) -> None:
    take(kept, a_row("bench_one", rate=1), a_row("bench_two", rate=2))
    found = take(kept, a_row("bench_two", rate=3))
    assert {name: run["figures"] for name, run in found["runs"].items()} == {
        "bench_one": {"rate": 1},
        "bench_two": {"rate": 3},
    }
    assert found["runs"]["bench_two"]["command"] == "make bench BENCH=benchmarks/bench_two.py"
    assert "a processor, 2 cores" in found["runs"]["bench_two"]["machine"]
    assert "the-name-of-a-host" not in json.dumps(found)


def test_what_changes_a_benchmark_is_in_its_command(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROWTH_MAX", "1000")
    found = take(kept, a_row("bench_growth", rate=1))
    assert found["runs"]["bench_growth"]["command"] == "GROWTH_MAX=1000 make bench BENCH=benchmarks/bench_growth.py"


def test_figures_of_a_short_run_are_not_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorder:
        extra_info: dict[str, Any] = {}  # noqa: RUF012

    monkeypatch.setattr(harness, "IS_SHORT", True)
    harness.report(Recorder, rate=1)
    assert Recorder.extra_info["rate"] == 1
    assert take(kept, a_row("bench_one", **Recorder.extra_info))["runs"] == {}


def test_each_benchmark_is_in_their_readme() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    for path in [*(ROOT / "benchmarks").glob("bench_*.py"), *(ROOT / "benchmarks" / "peers").glob("*.py")]:
        assert f"`{path.name}`" in text


@pytest.mark.parametrize("name", ["aiohttp_hello", "aiohttp_low_level", "uvloop_protocol"])
def test_a_peer_answers_each_prepared_scan(name: str, tmp_path: Path) -> None:
    """Goal: what is measured beside us answers as many bytes as it is told, and the client loses no request."""
    codes = np.frombuffer("".join(f"{n:020}" for n in range(300)).encode(), np.uint8).reshape(-1, 20)
    records = rates.Records.write(tmp_path / "scans", rates.scan_records(codes, np.arange(300)))
    body = json.loads(records.read(7).partition(b"\r\n\r\n")[2])
    assert body == {"code": f"{7:020}", "user": f"wx:{7:09}"}
    with servers.peer(name, "77") as port:
        replies = rates.replies_to(port, records, 300, tmp_path)
    assert len(replies) == 300
    assert {reply[:15] for reply in replies} == {b"HTTP/1.1 200 OK"}
    assert {len(reply.partition(b"\r\n\r\n")[2]) for reply in replies} == {77}


def test_claims_that_the_ledger_does_not_hold_are_noticed(tmp_path: Path) -> None:
    records = rates.Records(tmp_path / "scans", 1, 100)
    asked = rates.Asked("ours", 0, records)
    asked.replies, asked.sent = 90, 95
    asked.check_total(92)
    for claims in (89, 96):
        with pytest.raises(AssertionError, match="90 replies, 95 requests"):
            asked.check_total(claims)
