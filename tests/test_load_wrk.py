"""Scans prepared for wrk: each code is sent once whatever the number of threads, and the ledger says the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from redis_servers import wait_until
from scanengine.errors import SettingsError
from scanengine.load.wrk import export_wrk
from serving import Market, Served, a_market, recorded_claims, run_cli, serving

CODES = [f"{number:020}" for number in range(1000)]
WRK = shutil.which("wrk")
SECONDS = 2


def exported(folder: Path, codes: list[str], url: str = "http://127.0.0.1:1", workspace: Path = Path("shop")) -> Path:
    assert export_wrk(folder, codes, url=url, workspace=workspace, seed=1) == len(set(codes))
    return folder


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "requests.ndjson").read_bytes().splitlines(keepends=True)


def scans_of(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in lines_of(folder)]


def parts_of(folder: Path, threads: int) -> Iterator[list[bytes]]:
    """Yield the lines of each thread, as the script counts them."""
    lines = lines_of(folder)
    for number in range(threads):
        yield lines[len(lines) * number // threads : len(lines) * (number + 1) // threads]


# What is written ----------------------------------------------------------------------------------------------------


def test_every_code_is_one_line_and_in_another_order(tmp_path: Path) -> None:
    found = [scan["code"] for scan in scans_of(exported(tmp_path / "wrk", [*CODES, *CODES]))]
    assert sorted(found) == CODES
    assert found != CODES


def test_lines_have_one_length_whatever_the_codes(tmp_path: Path) -> None:
    """Goal: a thread finds its part by counting. Method: codes that JSON writes longer than they are."""
    codes = ["A", 'B"\\%+$*' * 4, "0123456789ABCDEFGHJK"]
    folder = exported(tmp_path / "wrk", codes)
    assert len({len(line) for line in lines_of(folder)}) == 1
    assert {scan["code"] for scan in scans_of(folder)} == set(codes)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 16])
def test_parts_of_threads_are_all_lines_and_no_line_twice(tmp_path: Path, threads: int) -> None:
    folder = exported(tmp_path / "wrk", CODES)
    parts = list(parts_of(folder, threads))
    assert [line for part in parts for line in part] == lines_of(folder)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_scan_is_a_visit_of_its_own_by_one_of_the_people(tmp_path: Path) -> None:
    export_wrk(tmp_path / "wrk", CODES, url="http://h:1", workspace=Path("shop"), people=10, seed=1)
    scans = scans_of(tmp_path / "wrk")
    assert len({scan["visit"] for scan in scans}) == len(scans)
    assert len({scan["user"] for scan in scans}) == 10
    assert max(len(value) for scan in scans for value in scan.values()) <= 64


def test_the_same_seed_makes_the_same_scans(tmp_path: Path) -> None:
    assert lines_of(exported(tmp_path / "one", CODES)) == lines_of(exported(tmp_path / "two", CODES))


def test_only_the_owner_can_read_the_codes(tmp_path: Path) -> None:
    folder = exported(tmp_path / "wrk", CODES)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_no_code_is_in_what_is_read_by_people(tmp_path: Path) -> None:
    folder = exported(tmp_path / "wrk", CODES)
    text = (folder / "README.md").read_text() + (folder / "scans.lua").read_text()
    assert [code for code in CODES if code in text] == []


def test_the_commands_of_the_readme_stand_a_strange_folder(tmp_path: Path) -> None:
    """Goal: a path is a word of the command line and never a command."""
    folder = exported(tmp_path / "a b;touch x", CODES, workspace=tmp_path / "$(touch x)")
    text = (folder / "README.md").read_text()
    commands = re.findall(r"^    (.+)$", text, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["wrk", "scanengine", "curl"]
    script = 'wrk() { printf \'%s\\n\' "$@"; }; scanengine() { wrk "$@"; }; ' + "; ".join(commands[:2])
    said = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert str(folder / "scans.lua") in said.splitlines()
    assert str(tmp_path / "$(touch x)") in said.splitlines()
    assert not (tmp_path / "x").exists()


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    where = {"url": "http://h:1", "workspace": Path("shop")}
    with pytest.raises(SettingsError, match=r"there is no code.*--test"):
        export_wrk(tmp_path / "none", [], **where)
    assert not (tmp_path / "none").exists()
    with pytest.raises(SettingsError, match=r"people: expected 1 to .*, found 0"):
        export_wrk(tmp_path / "none", CODES, people=0, **where)
    exported(tmp_path / "wrk", CODES)
    before = lines_of(tmp_path / "wrk")
    with pytest.raises(SettingsError, match="is not empty"):
        export_wrk(tmp_path / "wrk", CODES[:5], **where)
    assert lines_of(tmp_path / "wrk") == before


# Sent ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("market") / "shop")


@pytest.fixture(scope="module")
def served(market: Market) -> Iterator[Served]:
    with serving(market.folder) as started:
        yield started


def run_wrk(folder: Path, served: Served, threads: int, *last: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(WRK), f"-t{threads}", "-c8", f"-d{SECONDS}s", "-s", str(folder / "scans.lua"),
        f"http://127.0.0.1:{served.port}", *last,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "SCANENGINE_TOKEN"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def send(folder: Path, served: Served, threads: int) -> tuple[int, int]:
    """Send what is prepared; returns how many replies came at least, and how many scans were sent at most.

    Without wrk the parts of its threads are sent one after the other.
    """
    if WRK is None:
        with served.client() as client:
            replies = [client.post("/v1/scans", line) for part in parts_of(folder, threads) for line in part]
        assert {reply.status for reply in replies} == {200}
        return len(replies), len(replies)
    done = run_wrk(folder, served, threads, "--", str(threads))
    assert (done.returncode, done.stderr) == (0, "")
    handed = int(re.search(r"scanengine: (\d+) scans were handed", done.stdout)[1])
    replies, bad, errors = map(int, re.search(r"(\d+) replies, (\d+) of .* (\d+) errors", done.stdout).groups())
    assert (bad, errors) == (0, 0)
    # A thread that has no scan left asks for something harmless on each connection, and the run is void.
    return replies - 8 * ("VOID" in done.stdout), handed


def sums(served: Served, name: str) -> float:
    with served.client() as client:
        return sum(value for key, value in client.metrics().items() if key[0] == name)


@pytest.mark.parametrize("threads", [1, 3])
def test_no_code_is_sent_twice_and_the_ledger_has_them_all(
    tmp_path: Path, market: Market, served: Served, threads: int
) -> None:
    """Goal: what the README says of the totals. A code sent twice would be a scan without a claim of its own."""
    codes = [market.take("load") for _ in range(200)]
    claims, scans = len(recorded_claims(market.shop)), sums(served, "scanengine_scans_total")
    replies, handed = send(exported(tmp_path / "wrk", codes), served, threads)

    def sent() -> float:
        return sums(served, "scanengine_scans_total") - scans

    # What was on its way when wrk stopped may still be at work.
    wait_until(lambda: len(recorded_claims(market.shop)) - claims == sent(), "as many claims as scans")
    assert 0 < replies <= sent() <= handed <= len(codes)
    audit = run_cli(market.folder, "audit")
    assert audit.returncode == 0, audit.stdout + audit.stderr


REFUSED = [
    (2, [], "say how many threads there are"),
    (2, ["--", "x"], "say how many threads there are"),
    (2, ["--", "0"], "say how many threads there are"),
    (2, ["--", "1"], "more threads than the 1"),
]


@pytest.mark.parametrize(("threads", "last", "said"), REFUSED)
def test_the_script_refuses_a_number_of_threads_that_is_wrong(
    tmp_path: Path, market: Market, served: Served, threads: int, last: list[str], said: str
) -> None:
    folder = exported(tmp_path / "wrk", [market.take("load")])
    if WRK is None:
        assert said.partition(" the ")[0] in (folder / "scans.lua").read_text()
        return
    done = run_wrk(folder, served, threads, *last)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Requests/sec" not in done.stdout


def test_a_folder_is_good_for_one_run(tmp_path: Path, market: Market, served: Served) -> None:
    """Goal: replays are not taken for new claims. Method: the mark of a run is there, or the script would leave it."""
    folder = exported(tmp_path / "wrk", [market.take("load")])
    (folder / "used").touch()
    if WRK is None:
        assert 'folder .. "/used"' in (folder / "scans.lua").read_text()
        return
    done = run_wrk(folder, served, 1, "--", "1")
    assert done.returncode == 2
    assert "export anew" in done.stderr
