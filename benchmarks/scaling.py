"""What a number of scans an hour takes, from kept figures: servers, primaries, memory, network, disk.

    python benchmarks/scaling.py                        prints the table
    python benchmarks/scaling.py --scans-per-hour 5e8   of another number
    python benchmarks/scaling.py --write                puts it into docs/scaling.md

Every scan is taken for a first claim, which costs most. Figures are those of ``benchmarks/results``; where one is not
kept yet the table names the benchmark that measures it. Nothing here is measured, and what is chosen is named below.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from results import ROOT, kept_runs

PAGE = ROOT / "docs" / "scaling.md"
MARKS = re.compile(r"(<!-- scaling:begin -->\n).*?(<!-- scaling:end -->)", re.DOTALL)
LOAD = 0.7
"""Chosen: how much of what was measured is planned for, as latency grows near the end."""
SCANS_PER_HOUR = (1e8, 3e8, 1e9)
Figures = Mapping[str, Any]


def machines(rate: float, each: float) -> str:
    """Return how many are needed of what does `each` a second."""
    return f"{math.ceil(rate / (each * LOAD)):,}"


def gigabytes(rate: float, each: float) -> str:
    """Return what the claims of an hour take, at `each` bytes."""
    return f"{rate * 3600 * each / 1e9:,.0f} GB"


def gigabits(rate: float, each: float) -> str:
    """Return what flows in a second, at `each` bytes a claim."""
    return f"{rate * each * 8 / 1e9:,.2f} Gbit/s"


class Row(NamedTuple):
    """One line: what is needed, the figure that it follows from, and how."""

    what: str
    run: str
    figure: str
    need: Callable[[float, float], str]
    """Of scans a second and the figure."""


ROWS = (
    Row("processes of the server, Redis `everysec`", "bench_post_scans", "everysec_per_s", machines),
    Row("processes of the server, Redis `strict`", "bench_post_scans", "strict_per_s", machines),
    Row("primaries, `everysec`", "bench_redis_claims[everysec]", "ledger_256", machines),
    Row("primaries, `strict`", "bench_redis_claims[strict]", "ledger_256", machines),
    Row("memory of all primaries, claims of an hour alone", "bench_growth[redis]", "bytes_a_claim", gigabytes),
    Row("append-only files of an hour, before a rewrite", "bench_wire", "aof_bytes", gigabytes),
    Row("network into the servers, from clients", "bench_wire", "request_bytes", gigabits),
    Row("network out of the servers, to clients", "bench_wire", "reply_bytes", gigabits),
    Row("network into all primaries", "bench_wire", "redis_in_bytes", gigabits),
    Row("network out of all primaries", "bench_wire", "redis_out_bytes", gigabits),
)
FORMULAS: dict[Callable[[float, float], str], tuple[str, str]] = {
    machines: ("{:,.0f} claims/s each", "R ÷ (each × load)"),
    gigabytes: ("{:,.0f} bytes a claim", "R × 3,600 × bytes"),
    gigabits: ("{:,.0f} bytes a claim", "R × bytes × 8"),
}
"""How the figure is written, and what is made of it."""


def figure_of(runs: Figures, row: Row) -> float | None:
    """Return a kept figure, of the largest size if it was measured at several; None if there is none."""
    figures = runs.get(row.run, {}).get("figures", {})
    if row.figure in figures:
        return float(figures[row.figure])
    sizes = [int(name.rpartition("_")[2]) for name in figures if re.fullmatch(rf"{row.figure}_\d+", name)]
    return float(figures[f"{row.figure}_{max(sizes)}"]) if sizes else None


def source_of(run: str) -> str:
    """Return the file that makes a run."""
    name = {"bench_post_scans": "bench_server", "bench_redis_claims": "bench_redis"}
    base = run.partition("[")[0]
    return f"benchmarks/{name.get(base, base)}.py"


def table(runs: Figures, scans_per_hour: tuple[float, ...] = SCANS_PER_HOUR) -> str:
    """Return the table for so many scans an hour, and of what it was made."""
    heads = [f"{count:,.0f} scans an hour, R = {count / 3600:,.0f}/s" for count in scans_per_hour]
    lines = [f"| what | measured | formula | {' | '.join(heads)} |", "| --- |" + " --- |" * (2 + len(heads))]
    used: dict[str, set[str]] = {}
    for row in ROWS:
        figure = figure_of(runs, row)
        shown, formula = FORMULAS[row.need]
        if figure is None:
            cells = [f"not measured yet: `make bench BENCH={source_of(row.run)}`", formula, *("–" for _ in heads)]
        else:
            needs = [row.need(count / 3600, figure) for count in scans_per_hour]
            cells = [shown.format(figure), formula, *needs]
            run = runs[row.run]
            about = ", ".join(
                filter(None, (run["date"], run["machine"], run.get("commit") and f"commit {run['commit']}"))
            )
            used.setdefault(about, set()).add(f"`{run['command']}`")
        lines.append(f"| {row.what} | {' | '.join(cells)} |")
    lines += ["", f"Load is {LOAD:.0%}. Server, Redis and generator shared the machine's processors in every run.", ""]
    lines += [f"- {about}: {', '.join(sorted(commands))}" for about, commands in sorted(used.items())]
    return "\n".join(lines).rstrip() + "\n"


def pages(runs: Figures) -> dict[Path, str]:
    """Return the page with its table made anew."""
    made = table(runs)
    return {PAGE: MARKS.sub(lambda marks: marks[1] + made + marks[2], PAGE.read_text("utf-8"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scans-per-hour", type=float, help="instead of 100 million, 300 million and a billion")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.scans_per_hour is not None and not 0 < arguments.scans_per_hour < math.inf:
        parser.error(f"--scans-per-hour is {arguments.scans_per_hour}: expected a number above 0, such as 5e8")
    if arguments.write:
        for path, text in pages(kept_runs()).items():
            path.write_text(text, "utf-8")
    else:
        asked = (arguments.scans_per_hour,) if arguments.scans_per_hour else SCANS_PER_HOUR
        print(table(kept_runs(), asked), end="")


if __name__ == "__main__":
    main()
