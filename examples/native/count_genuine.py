"""Count the genuine codes of a file by the native example.

python setup.py build_ext --inplace
python count_genuine.py shop codes.txt
"""

from __future__ import annotations

import sys
from pathlib import Path

from genuine import count_genuine

import scanengine


def main() -> None:
    """Print how many lines are genuine."""
    workspace, codes = sys.argv[1:]
    with scanengine.open(workspace, ledger="none") as program:
        # Twenty symbols and the end of the line.
        genuine, _ = count_genuine(program.keyring.code_keys, Path(codes).read_bytes(), 21)
    print(f"{genuine:,} genuine codes")


if __name__ == "__main__":
    main()
