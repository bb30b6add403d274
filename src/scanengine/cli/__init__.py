"""The command line: translates arguments into calls and answers into text. Decides nothing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``scanengine``; a missing extra is named instead of a traceback."""
    try:
        from scanengine.cli.commands import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich", "segno"):
            raise
        print(f"scanengine: {error.name} is missing: pip install 'scanengine[cli]'", file=sys.stderr)
        sys.exit(1)
    run()
