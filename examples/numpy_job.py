"""A batch job over arrays: what are the codes of a file, and what do they draw? Nothing is claimed or counted.

python numpy_job.py shop codes.txt
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

import scanengine


def main() -> None:
    """Read one bare code a line, decide all at once, and print what there is of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workspace")
    parser.add_argument("codes", help="file with one code of 20 symbols a line")
    arguments = parser.parse_args()
    codes = np.loadtxt(arguments.codes, dtype="S20", ndmin=1)
    with scanengine.open(arguments.workspace, ledger="none") as program:
        decisions = program.decide_many(codes)
        for status, count in zip(*np.unique(decisions.status, return_counts=True), strict=True):
            print(f"{scanengine.Status(status).name.lower():<12} {count:>10,}")
        # Offers are ragged: scan i has rows [offer_start[i], offer_start[i + 1]).
        offering = np.repeat(np.arange(len(decisions)), np.diff(decisions.offer_start))
        drawn = Counter(zip(decisions.campaign[offering].tolist(), decisions.prize.tolist(), strict=True))
        for (campaign, prize), count in sorted(drawn.items()):
            name = decisions.campaigns[campaign]
            entry = program.snapshot.prizes[name].prize(prize) if prize >= 0 else None
            print(f"{name}: {entry.id if entry else 'none':<12} {count:>10,}")
        print(f"worth {int(decisions.amount.sum()):,} in all, money in minor units and points alike")


if __name__ == "__main__":
    main()
