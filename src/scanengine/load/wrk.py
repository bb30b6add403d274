"""Scans for people who measure with wrk: a folder with a script, the prepared scans, and what to do with them.

Lines of ``requests.ndjson`` are the bodies of ``POST /v1/scans``, all of one length, so that the script
(``pages/scans.lua``) finds each thread's part by counting and holds none of it in memory.
"""

from __future__ import annotations

import json
import os
import random
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from scanengine.errors import SettingsError
from scanengine.load.charts import template

SCRIPT: Final = "scans.lua"
REQUESTS: Final = "requests.ndjson"
README: Final = "README.md"
PEOPLE: Final = 300_000
_USER_DIGITS: Final = 9
_VISIT_DIGITS: Final = 9
_README: Final = """\
# {count:,} scans for wrk

Each line of `requests.ndjson` is the body of one scan with a code of its own, in random order, by one of {people:,}
people. Codes are as good as the prizes behind them: keep the folder to yourself, and remove it afterwards.

Run (`-c` and `-d` as you like; the number at the end is that of the threads, `-t`):

    wrk -t2 -c64 -d30s --latency -s {script} {url} -- 2

If the server asks for a token, put it into the environment variable `SCANENGINE_TOKEN` first.

wrk sees only whether a reply was a 200. What became of the scans says the ledger:

    scanengine -w {workspace} audit
    curl {url}/metrics | grep scanengine_claims_total

(with `-H "Authorization: Bearer $SCANENGINE_TOKEN"` if there are tokens). The audit finds no problem. All of
`scanengine_claims_total` has grown by no less than wrk's replies that were a 200, and by no more than the scans that
the script says it handed over: what was on its way when wrk stopped was done and not heard of, at most one scan a
connection. `taken` has not grown.

A folder is good for one run, as a second one would be answered with the claims of the first: the script leaves the
file `used` and refuses. wrk is a closed loop: it waits for a reply before it asks again, so its latencies leave out
what people would have waited while the server stood still. `scanengine load --rate` counts that.
"""


def export_wrk(
    folder: Path, codes: Iterable[str], *, url: str, workspace: Path, people: int = PEOPLE, seed: int | None = None
) -> int:
    """Write what wrk needs to scan each of these codes once.

    Parameters
    ----------
    folder : Path
        Made by this call, or empty; only its owner may read it, as codes are bearer secrets.
    codes : iterable of str
        Unclaimed codes of test batches, at least one.
    url : str
        The server, such as ``http://127.0.0.1:8000``.
    workspace : Path
        For the commands in the ``README.md``.
    people : int
        So many different users, at random.
    seed : int or None
        For the same order and people again.

    Returns
    -------
    int
        Number of scans.

    Raises
    ------
    SettingsError
        If the folder holds anything, there is no code, or there are no people.
    """
    if not 1 <= people <= 10**_USER_DIGITS:
        raise SettingsError(f"people: expected 1 to {10**_USER_DIGITS:,}, found {people:,}")
    shuffled = list(dict.fromkeys(codes))
    if not shuffled:
        raise SettingsError("there is no code to export: make a batch with --test, or more codes in it")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SettingsError(f"{folder} is not empty: name a new folder, as codes of two exports must not mix")
    chance = random.Random(seed)
    chance.shuffle(shuffled)
    bodies = [_body(code, chance.randrange(people), number) for number, code in enumerate(shuffled)]
    folder.chmod(0o700)
    _write(folder / REQUESTS, _padded(bodies))
    _write(folder / SCRIPT, [template(SCRIPT).encode()])
    values = {"script": folder / SCRIPT, "url": url.rstrip("/"), "workspace": workspace}
    quoted = {name: shlex.quote(str(value)) for name, value in values.items()}
    _write(folder / README, [_README.format(count=len(bodies), people=people, **quoted).encode()])
    return len(bodies)


def _body(code: str, person: int, number: int) -> bytes:
    # Numbers of one width: bodies of codes of one length are of one length without padding.
    scan = {"code": code, "user": f"load:{person:0{_USER_DIGITS}}", "visit": f"wrk-{number:0{_VISIT_DIGITS}}"}
    return json.dumps(scan, separators=(",", ":")).encode()


def _padded(bodies: list[bytes]) -> Iterator[bytes]:
    """Yield lines of one length; spaces after a value mean nothing in JSON."""
    length = max(map(len, bodies))
    for body in bodies:
        yield body.ljust(length) + b"\n"


def _write(path: Path, parts: Iterable[bytes]) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.writelines(parts)
