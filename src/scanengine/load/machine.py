"""On what and with what a load test ran: processor, memory, system, version, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import scanengine
from scanengine.load.results import Machine

_CPU_INFO: Final = Path("/proc/cpuinfo")
_GIT_S: Final = 5.0


def this_machine() -> Machine:
    """Return where this process runs."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        names = [line for line in _CPU_INFO.read_text("utf-8").splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    memory = 0
    with suppress(ValueError, OSError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=memory,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def commit_of_sources() -> str:
    """Return the commit that this package's sources are checked out at, "" if they are not a checkout."""
    folder = Path(scanengine.__file__).parents[2]
    if not (folder / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=_GIT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
