"""``python -m scanengine``."""

from scanengine.cli import main

main()
