"""Simulates leased budgets (``lease_protocol.py``) with everything going wrong, and counts after every step.

    python benchmarks/leases.py --seeds 3000

Each seed is a world of its own: two to five shards, a budget, a stock and what each may give on a day, and some hundred
steps in which messages are lost, doubled, delayed and overtaken, links are cut for minutes, nodes die between any two
of their writes and sends, clocks jump by days, limits are raised, and partitions are lost, with or without their disk.
What was given is counted from the claims that are on the disks, not from the accounts that the protocol keeps.

After every step: nothing is overspent, lent money is never more than there is, no partition spends what it was not
lent, no lease is larger than the bound. Then the faults end, everybody claims until nothing is left, and what lies
unspent is at most one ``floor`` for each shard, besides what was written off. Last everything is given back, and all
books must agree to the unit. A violation names its seed, and the seed repeats it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from typing import Any

from lease_world import Outcome, ViolationError, World


def run_seed(seed: int, **planted: Any) -> Outcome | str:
    """Return what a seed has shown, or the violation."""
    try:
        return World(seed, **planted).run_to_the_end()
    except ViolationError as violation:
        return f"seed {seed}: {violation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0, help="the first seed; a violation names its own")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    arguments = parser.parse_args()
    for name in ("seeds", "processes"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} is {getattr(arguments, name)}: expected 1 or more")
    start = time.perf_counter()
    with multiprocessing.Pool(arguments.processes) as pool:
        found = pool.map(run_seed, range(arguments.first, arguments.first + arguments.seeds), chunksize=20)
    violations = [outcome for outcome in found if isinstance(outcome, str)]
    outcomes = [outcome for outcome in found if not isinstance(outcome, str)]
    seconds = time.perf_counter() - start
    print("\n".join([*violations[:20], summary(outcomes)]))
    print(f"{len(found)} seeds in {seconds:.0f} s, {len(violations)} violations")
    sys.exit(bool(violations))


def summary(outcomes: list[Outcome]) -> str:
    """Say how bad the worlds were, and how near to the bounds they came."""
    steps, awards, crashes, lost, asks = (
        sum(getattr(outcome, name) for outcome in outcomes) for name in ("steps", "awards", "crashes", "lost", "asks")
    )
    stranded = max((outcome.stranded_of_bound for outcome in outcomes), default=0.0)
    left = max((outcome.left_of_bound for outcome in outcomes), default=0.0)
    return (
        f"{steps:,} steps, {awards:,} awards, {asks:,} asks sent; {crashes:,} deaths, {lost:,} partitions given up\n"
        f"overspent: 0 in {len(outcomes):,} worlds\n"
        f"in leases of partitions that were away: at most {stranded:.0%} of the bound (partitions x largest lease)\n"
        f"left when all was dry: at most {left:.0%} of the bound (shards x floor)"
    )


if __name__ == "__main__":
    main()
