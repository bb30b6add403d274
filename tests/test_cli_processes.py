"""The command line as processes of its own: what it imports, and pipes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from helpers import run_python
from serving import WAIT_S, Market, a_market

MODULE = [sys.executable, "-m", "scanengine"]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("processes") / "shop")


BLOCKED = """
import sys

class Missing:
    names = sys.argv[1].split(",")

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["scanengine", *sys.argv[2:]]
from scanengine.cli import main
main()
"""


@pytest.mark.parametrize("module", ["click", "rich", "segno"])
def test_a_missing_extra_of_the_command_line_is_named(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, module, "batch", "list"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"scanengine: {module} is missing: pip install 'scanengine[cli]'\n"


def test_another_missing_module_is_not_taken_for_an_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "msgspec", "batch", "list"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, "No module named 'msgspec'" in done.stderr) == (1, True)
    assert "pip install" not in done.stderr


@pytest.mark.parametrize("module", ["aiohttp", "uvloop"])
@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["demo", "--once"]], ids=lambda command: command[0])
def test_a_missing_extra_of_the_server_is_named(market: Market, module: str, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, module, "-w", str(market.folder), *command],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{module} is missing: pip install 'scanengine[server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_looking_at_a_code_does_not_need_the_server_packages(market: Market) -> None:
    folder, code = market.folder, market.take("cash")
    for command in (["verify", code], ["claim", code, "--user", "u"]):
        answer = json.loads(run_python(BLOCKED, "aiohttp,uvloop", "-w", folder, *command, "--json"))
        assert answer["status"] == "valid"


@pytest.mark.parametrize("form", ["text", "csv", "ndjson"])
def test_a_reader_that_goes_away_is_no_error(market: Market, form: str) -> None:
    command = f'"$@" -w "{market.folder}" batch export cola --format {form} | head -1; echo "${{PIPESTATUS[@]}}" >&2'
    done = subprocess.run(
        ["bash", "-c", command, "bash", *MODULE], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr in ("1 0\n", "0 0\n")
