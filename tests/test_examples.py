"""The examples run as they stand, on the workspace that their page speaks of."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import scanengine
from helpers import TOKEN, Shop
from helpers_cli import Run, ok
from serving import CASH_FOR_ALL, WAIT_S, a_campaign

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = {"threads.py", "asyncio_service.py", "numpy_job.py", "native/count_genuine.py"}


@pytest.fixture
def open_shop(shop: Shop) -> Shop:
    """A shop whose campaign is open today and gives points or cash to everybody."""
    shop.publish(a_campaign("spring", CASH_FOR_ALL), "spring")
    return shop


@contextmanager
def running(name: str, folder: Path) -> Iterator[str]:
    """Run an example service; yields its URL, and it must end well when it is interrupted."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.stderr and process.stderr.read()
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")


def ask(url: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
            return reply.status, json.load(reply), dict(reply.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), dict(error.headers)


def run_job(*command: object, folder: Path) -> str:
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=WAIT_S * 2, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_and_on_the_page() -> None:
    found = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py") if path.name != "setup.py"}
    assert found == PROGRAMS
    page = (EXAMPLES / "README.md").read_text("utf-8")
    assert all(name in page or name.partition("/")[2] in page for name in PROGRAMS)
    links = re.findall(r"\]\(([^)#]+)\)", page)
    assert [link for link in links if not (EXAMPLES / link).exists()] == []


def test_threads_claim_in_one_program(open_shop: Shop) -> None:
    code, other = open_shop.codes(0, 2)
    with running("threads.py", open_shop.folder) as url:
        status, first, _ = ask(f"{url}/claim", {"code": code, "user": "ann", "visit": "v-1"})
        assert (status, first["claim"]["status"], first["claim"]["replayed"]) == (200, "awarded", False)
        assert ask(f"{url}/claim", {"code": code, "user": "ann", "visit": "v-1"})[1]["claim"]["replayed"]
        assert ask(f"{url}/claim", {"code": code, "user": "bob"})[1]["claim"]["status"] == "taken"
        status, problem, _ = ask(f"{url}/claim", {"code": other, "user": ""})
        assert (status, "user" in problem["error"]) == (400, True)
        assert ask(f"{url}/claim", ["no object"])[0] == 400
    with scanengine.open(open_shop.folder) as program:
        assert program.ledger.totals().claims == 1


def test_a_service_mounts_scanning_beside_its_own_routes(open_shop: Shop) -> None:
    codes = open_shop.codes(0, 3)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with running("asyncio_service.py", open_shop.folder) as url:
        status, answer, headers = ask(f"{url}/scan/v1/scans", {"code": codes[0], "user": "ann"}, **bearer)
        assert (status, answer["claim"]["status"], headers["X-Shop"]) == (200, "awarded", "corner")
        status, problem, headers = ask(f"{url}/scan/v1/scans", {"code": codes[0], "user": "ann"})
        assert (status, problem["type"], headers["X-Shop"]) == (401, "urn:scanengine:problem:unauthorized", "corner")
        assert ask(f"{url}/points/ann", {"codes": codes[1:]})[1] == {"points": 0, "pending": 0}
        open_shop.publish(a_campaign("spring", CASH_FOR_ALL), "spring")
        wanted, found = open_shop.snapshot.generation, 0
        while found < wanted:  # Bounded by the deadline of each request, and by the runner's.
            found = ask(f"{url}/scan/readyz")[1]["generation"]
    with scanengine.open(open_shop.folder) as program:
        assert program.ledger.totals().claims == 3


def test_a_job_over_arrays_counts_a_file(open_shop: Shop, run: Run, tmp_path: Path) -> None:
    ok(run("-w", open_shop.folder, "batch", "export", "cola", "--format", "text", "-o", tmp_path / "codes.txt"))
    out = run_job(EXAMPLES / "numpy_job.py", open_shop.folder, "codes.txt", folder=tmp_path)
    assert re.search(r"^valid +1,000$", out, re.M)
    assert re.search(r"^spring: cash-88 +1,000$", out, re.M), out


def test_native_code_is_built_against_the_package(open_shop: Shop, run: Run, tmp_path: Path) -> None:
    """Goal: whoever writes Cython finds the declarations where scanengine is, and the face stays what it is."""
    folder = tmp_path / "native"
    shutil.copytree(EXAMPLES / "native", folder, ignore=shutil.ignore_patterns("*.c", "*.so", "build"))
    run_job("setup.py", "-q", "build_ext", "--inplace", folder=folder)
    ok(run("-w", open_shop.folder, "batch", "export", "cola", "--format", "text", "-o", folder / "codes.txt"))
    text = (folder / "codes.txt").read_text()
    lines = text.splitlines()
    lines[3], lines[5] = lines[3][:-1] + "?", lines[4][:10] + lines[5][10:]
    (folder / "codes.txt").write_text("\n".join([*lines[:8], lines[8].lower(), *lines[9:]]) + "\n")
    assert run_job("count_genuine.py", open_shop.folder, "codes.txt", folder=folder) == "998 genuine codes\n"
    program = f"""
from genuine import count_genuine
import scanengine
with scanengine.open({str(open_shop.folder)!r}, ledger="none") as program:
    keys = program.keyring.code_keys
    print([count_genuine(keys, lines, 21) for lines in ({text[:21].encode()!r}, b"", b"A" * 20)])
    for wrong in ((None, b"", 21), (keys, b"", 0)):
        try:
            count_genuine(*wrong)
        except (TypeError, ValueError) as error:
            print(type(error).__name__)
"""
    item = open_shop.item(0)
    out = run_job("-W", "error", "-c", program, folder=folder)
    assert out == f"[(1, {item}), (0, None), (0, None)]\nTypeError\nValueError\n"
