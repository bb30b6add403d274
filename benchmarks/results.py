"""What was measured: kept by the day, of each benchmark the newest, with where it was measured, of what, and how.

{"date": "2026-11-22", "runs": {"bench_open": {"command", "commit", "machine", "versions", "figures"}, ...}}
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("aiohttp", "uvloop", "redis", "hiredis", "numpy", "msgspec", "fastapi", "uvicorn")
PROGRAMS = {"redis-server": "--version", "nginx": "-v", "wrk": "-v"}
CHANGES = ("GROWTH_MAX", "BENCH_PEERS")
"""Environment variables that change what is measured: part of the command."""
MEASURED = ("src", "setup.py", "pyproject.toml", "benchmarks", ":!benchmarks/results")


def kept_runs() -> dict[str, dict[str, Any]]:
    """Return the newest kept run of each benchmark, each with its date."""
    runs: dict[str, dict[str, Any]] = {}
    for path in sorted(RESULTS.glob("20*.json")):
        day = json.loads(path.read_text("utf-8"))
        runs |= {name: {"date": day["date"], **run} for name, run in day["runs"].items()}
    return runs


def kept_figures() -> dict[str, Any]:
    """Return the newest kept figures of each benchmark."""
    return {name: run["figures"] for name, run in kept_runs().items()}


def take() -> Path:
    """Keep what `make bench` wrote last beside the day's other runs, without what would name user or folders."""
    found = json.loads((RESULTS / "latest.json").read_text())
    info = found["machine_info"]
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    about = {
        "commit": commit(),
        "machine": f"{info['cpu'].get('brand_raw', 'unknown')}, {info['cpu'].get('count', '?')} cores, "
        f"{memory_gb:.0f} GiB, {info['system']}",
        "versions": versions() | {info["python_implementation"]: info["python_version"]},
    }
    changes = "".join(f"{name}={os.environ[name]} " for name in CHANGES if name in os.environ)
    runs = {
        row["name"]: {
            "command": f"{changes}make bench BENCH={row['fullname'].partition('::')[0]}",
            **about,
            "figures": row["extra_info"],
        }
        for row in found["benchmarks"]
        if row["extra_info"] and "is_short" not in row["extra_info"]
    }
    date = datetime.now(UTC).date().isoformat()
    path = RESULTS / f"{date}.json"
    if path.exists():
        runs = json.loads(path.read_text("utf-8"))["runs"] | runs
    path.write_text(json.dumps({"date": date, "runs": runs}, indent=1) + "\n", "utf-8")
    return path


def commit() -> str:
    """Return the commit that was measured, and whether there were changes beside it; "" outside of a checkout."""
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        return found + (" and changes" if _git("status", "--porcelain", "--", *MEASURED) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions() -> dict[str, str]:
    """Return the versions of what the figures depend on, of those that are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, option in PROGRAMS.items():
        if shutil.which(name):
            # wrk says its version and fails, nginx says it where others say errors.
            done = subprocess.run([name, option], capture_output=True, text=True, check=False)
            words = (done.stdout + done.stderr).replace("/", " ").replace("v=", " ").split()
            found[name] = next((word for word in words if word[0].isdigit()), "?")
    return found


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()
