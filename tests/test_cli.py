"""The command line as a contract: names, flags, output shapes and exit codes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from helpers import SLOT_SECRET
from helpers_cli import Run, ok
from scanengine.cli import scans
from scanengine.cli.commands import cli
from scanengine.model import Answer, ClaimReply
from serving import Market, a_copy, a_market, run_cli

GTIN, TITLE = "6901234567892", "Cola 500 ml"
WRONG_GTIN = "6901234567891"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("cli") / "shop")


@pytest.fixture
def market(template: Market, tmp_path: Path) -> Market:
    return a_copy(template, tmp_path / "shop")


# The contract, line by line -----------------------------------------------------------------------------------------


def test_the_contract_from_an_empty_folder_to_an_audit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: the commands that operators learn work as written, one after the other, with relative paths."""
    monkeypatch.chdir(tmp_path)

    def typed(line: str) -> str:
        return ok(run(*shlex.split(line)))

    assert "keys.toml" in typed("init shop")
    created = typed(f'-w shop batch create cola --count 100000 --gtin {GTIN} --title "{TITLE}"')
    assert created == "batch cola: 100,000 codes in slot 1, serials 0:100000, inactive\n"
    assert f'gtin = "{GTIN}"' in Path("shop/products.toml").read_text()
    scenes = "--range 0:100000 --state active --scenes authenticity,marketing --campaign spring"
    assert "100,000 codes set" in typed(f"-w shop scenes set cola {scenes}")
    assert "campaign spring: published" in typed("-w shop campaign publish shop/campaigns/spring.toml")
    assert "campaign spring: published" in typed("-w shop campaign publish spring")
    rows = typed("-w shop batch export cola --range 0:10 --format ndjson").splitlines()
    exported = [json.loads(row) for row in rows]
    assert [row["offset"] for row in exported] == list(range(10))
    code = exported[0]["code"]
    assert rows[0] == f'{{"offset":0,"code":"{code}","url":"HTTPS://EXAMPLE.COM/S/{code}"}}'
    looked = json.loads(typed(f"-w shop verify {code} --json"))
    assert (looked["status"], looked["scan"]["count"], looked["claim"]) == ("valid", 0, None)
    claimed = typed(f"-w shop claim {code} --user u1 --json")
    assert json.loads(claimed)["claim"]["replayed"] is False
    assert "everything agrees" in typed("-w shop audit")
    Path("acked.ndjson").write_text(claimed)
    assert "1 acknowledged claims, 0 lost, 0 changed" in typed("-w shop audit --witness acked.ndjson")
    assert "tables sound" in typed("-w shop tables verify")
    above = click.Context(cli, **cli.context_settings)
    serve = cli.commands["serve"].make_context("serve", ["--port", "8080"], parent=above)
    assert (serve.params["port"], serve.params["host"]) == (8080, "127.0.0.1")


def test_the_contract_in_processes_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    assert run_cli(folder, "init", folder).returncode == 0
    assert run_cli(folder, "batch", "create", "cola", "--count", 5, "--json").stdout == (
        '{"batch": "cola", "count": 5, "slot": 1, "serial_start": 0}\n'
    )
    code = run_cli(folder, "batch", "export", "cola", "--range", "0:1", "--format", "text").stdout.strip()
    done = run_cli(folder, "verify", code, "--json")
    assert (done.returncode, done.stderr, json.loads(done.stdout)["status"]) == (0, "", "inactive")
    assert run_cli(folder, "verify", "nonsense").returncode == 0
    assert run_cli(folder, "batch", "list", "--nothing").returncode == 2


def test_an_answer_has_the_keys_of_the_contract_in_its_order(market: Market, run: Run) -> None:
    answer = json.loads(ok(run("-w", market.folder, "claim", market.take("cash"), "--user", "u1", "--json")))
    assert list(answer) == ["status", "code", "verdict", "scan", "product", "batch", "scenes", "claim"]
    assert list(answer["scan"]) == ["count", "first_at"]
    assert list(answer["product"]) == ["gtin", "title"]
    assert list(answer["claim"]) == ["id", "status", "replayed", "at", "prize"]
    assert list(answer["claim"]["prize"]) == ["id", "kind", "amount", "currency", "title"]


def test_a_claim_in_words(market: Market, run: Run) -> None:
    code = market.take("cash")
    first = ok(run("-w", market.folder, "claim", code, "--user", "u1", "--visit", "v1"))
    assert re.fullmatch(
        r"status   valid \(first_scan\)\nproduct  可乐 \(\d+\)\nbatch    cola: authenticity, marketing\n"
        r"scans    1, first at 20\S+\nclaim    awarded: \w{26}\nprize    88 yuan \(cash-88\)\n",
        first,
    )
    again = ok(run("-w", market.folder, "claim", code, "--user", "u1"))
    assert "claim    awarded, the same answer as before: " in again
    assert "claim    taken: " in ok(run("-w", market.folder, "claim", code, "--user", "u2"))
    closed = ok(run("-w", market.folder, "claim", market.take("ended"), "--user", "u1"))
    assert "claim    closed (ended): " in closed
    awarded = ok(run("-w", market.folder, "claim", market.take("no_rule"), "--user", "s", "--role", "retailer"))
    assert "prize    10 points (points-10)" in awarded


def test_operators_see_the_true_status(market: Market, run: Run) -> None:
    cash = market.take("cash")
    texts = {
        "forged": market.forged(cash), "unknown": market.unknown(), "unknown_key": market.unknown_key(),
        "mistyped": market.mistyped(cash), "malformed": "hello", "void": market.take("void"),
    }  # fmt: skip
    for status, text in texts.items():
        assert ok(run("-w", market.folder, "verify", text)).startswith(f"status   {status}\n")
        assert json.loads(ok(run("-w", market.folder, "claim", text, "--user", "u1", "--json")))["status"] == status


def test_verify_neither_claims_nor_counts_and_needs_no_ledger(market: Market, run: Run) -> None:
    code = market.take("cash")
    for _ in range(2):
        assert json.loads(ok(run("-w", market.folder, "verify", code, "--json")))["scan"]["count"] == 0
    assert not market.shop.workspace.ledger_path.exists()
    ok(run("-w", market.folder, "claim", code, "--user", "u1"))
    assert json.loads(ok(run("-w", market.folder, "verify", code, "--json")))["scan"]["count"] == 1


def test_the_workspace_comes_from_the_environment_or_is_the_current_folder(
    market: Market, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(market.folder)
    assert "cola" in ok(run("batch", "list"))
    monkeypatch.chdir("/")
    assert run("batch", "list").code == 1
    monkeypatch.setenv("SCANENGINE_WORKSPACE", str(market.folder))
    assert "cola" in ok(run("batch", "list"))


# Exit codes and what is said ----------------------------------------------------------------------------------------


def test_an_unknown_outcome_is_exit_code_4(market: Market, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def __enter__(self) -> Silent:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def claim_many(self, asked: list[object]) -> list[Answer]:
            return [Answer("valid", None, claim=ClaimReply("ID", "pending")) for _ in asked]

    monkeypatch.setattr(scans, "open_program", lambda folder, settings: Silent())
    done = run("-w", market.folder, "claim", "x", "--user", "u1")
    assert (done.code, "claim    pending: ID" in done.out) == (4, True)


USAGE = f"""
nonsense
batch
batch create tea
batch create tea --count 0
batch create tea --count many
batch create tea --count 5 --slot 32
batch create tea --count 5 --title Tea
batch create tea --count 5 --gtin {GTIN[:-1]}
batch export cola --range 5
batch export cola --range -5:3
batch export cola --range 0:99999999999999999999
batch export cola --format xml
batch export cola -o /
scenes set cola --state active
scenes set cola --range 0:5
scenes set cola --range 0:5 --state open
scenes set cola --range 0:5 --codes /dev/null --state active
scenes set cola --range 0:5 --from a --to b --state active
scenes set cola --from a --state active
scenes set cola --to a --state active
scenes set cola --range 0:5 --scenes dancing
scenes set cola --codes /missing --state active
scenes set cola --range 0:5 --active-from today
scenes set cola --range 0:5 --active-until 2026-05-01T00:00:00
scenes show cola --limit 0
campaign check
campaign check spring --expected-scans -1
verify
claim x
claim --user u
serve --port 65536
audit --witness /missing
demo --port x
tables
"""


@pytest.mark.parametrize("line", USAGE.strip().splitlines())
def test_a_wrong_command_line_is_exit_code_2_and_does_nothing(market: Market, run: Run, line: str) -> None:
    before = market.shop.workspace.manifest_path.read_bytes()
    done = run("-w", market.folder, *line.split())
    assert (done.code, done.out, done.err.startswith("Usage: ")) == (2, "", True)
    assert market.shop.workspace.manifest_path.read_bytes() == before


NOT_TEXT = "\udcff"
"""What an argument that is no UTF-8 arrives as."""
FAULTS: dict[str, tuple[list[str], str]] = {
    "init again": (["init", "{folder}"], "there is a workspace already"),
    "init in a file": (["init", "{folder}/keys.toml/x"], "Not a directory"),
    "label taken": (["batch", "create", "cola", "--count", "5"], "labels are not used again"),
    "label of a path": (["batch", "create", "../tea", "--count", "5"], "batch label '../tea'"),
    "label no text": (["batch", "create", NOT_TEXT, "--count", "5"], "batch label"),
    "too many codes": (["batch", "create", "tea", "--count", "2000000000000"], "serials left"),
    "slot without keys": (["batch", "create", "tea", "--count", "5", "--slot", "9"], "slot 9 does not make codes"),
    "bad GTIN": (["batch", "create", "tea", "--count", "5", "--gtin", WRONG_GTIN, "--title", "Tea"], "check digit"),
    "other title": (["batch", "create", "tea", "--count", "5", "--gtin", GTIN, "--title", "Tea"], "edit the file"),
    "no such batch": (["batch", "export", "tea"], "no batch 'tea': there are cola"),
    "range outside": (["batch", "export", "cola", "--range", "0:30001"], "outside the batch"),
    "range reversed": (["scenes", "set", "cola", "--range", "9:5", "--state", "active"], "range 9:5"),
    "no such folder": (["batch", "export", "cola", "-o", "/missing/codes.csv"], "/missing/codes.csv"),
    "delete what is not": (["batch", "delete", "tea", "--yes"], "no batch 'tea'"),
    "product without line": (["scenes", "set", "cola", "--range", "0:5", "--product", "4006381333931"], "add it first"),
    "lot no text": (["scenes", "set", "cola", "--range", "0:5", "--lot", NOT_TEXT], "text in UTF-8"),
    "no such campaign": (["campaign", "publish", "summer"], "no such file"),
    "campaign not published": (["campaign", "show", "nobody"], "not published"),
    "user too long": (["claim", "x", "--user", "u" * 65], "user: expected 1 to 64 bytes"),
    "visit empty": (["claim", "x", "--user", "u", "--visit", ""], "visit: expected 1 to 64 bytes"),
    "role unknown": (["claim", "x", "--user", "u", "--role", "king"], "role: expected one of consumer"),
    "region unknown": (["claim", "x", "--user", "u", "--region", "south"], "region: expected an adcode"),
    "code too long": (["verify", "x" * 513], "code: expected a text of at most 512"),
    "no ledger yet": (["audit"], "there is no ledger"),
    "demo in a workspace": (["demo", "--once", "--folder", "{folder}"], "there is a workspace already"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_an_error_is_one_line_and_exit_code_1(market: Market, run: Run, name: str) -> None:
    arguments, said = FAULTS[name]
    done = run("-w", market.folder, *[argument.format(folder=market.folder) for argument in arguments])
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("scanengine: ")
    assert done.err.count("\n") == 1
    assert said in done.err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("keys.toml", "slots = 1", "keys.toml"),
        ("keys.toml", "not TOML " + SLOT_SECRET.hex(), "not TOML"),
        ("scanengine.toml", "[program]\nid = 1", "scanengine.toml"),
        ("products.toml", "[[products]]", "products.toml"),
        ("manifest", "{}", "manifest"),
        ("ledger.sqlite", "not a database" * 100, "not a ledger, or damaged"),
    ],
)
def test_a_damaged_file_is_named(market: Market, run: Run, name: str, content: str, said: str) -> None:
    (market.folder / name).write_text(content)
    done = run("-w", market.folder, "claim", "x", "--user", "u")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert said in done.err
    assert SLOT_SECRET.hex() not in done.err


def test_keys_that_others_can_read_are_refused(market: Market, run: Run) -> None:
    (market.folder / "keys.toml").chmod(0o644)
    done = run("-w", market.folder, "verify", "x")
    assert (done.code, "chmod 600" in done.err) == (1, True)


def every_command(group: click.Group = cli, *above: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [above]
    for name, command in group.commands.items():
        found += every_command(command, *above, name) if isinstance(command, click.Group) else [(*above, name)]
    return found


@pytest.mark.parametrize("path", every_command(), ids=" ".join)
def test_every_command_explains_itself(run: Run, path: tuple[str, ...]) -> None:
    text = ok(run(*path, "--help"))
    assert text == ok(run(*path, "-h"))
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    assert command.help.splitlines()[0][:40] in text
    assert "Options:" in text


def test_the_version_is_the_packages(run: Run) -> None:
    assert ok(run("--version")).startswith("scanengine, version ")


def test_no_command_prints_a_secret(market: Market, run: Run, tmp_path: Path) -> None:
    code = market.take("cash")
    commands = [
        ["init", tmp_path / "other"], ["batch", "list"], ["batch", "list", "--json"], ["scenes", "show", "cola"],
        ["campaign", "check", "spring"], ["campaign", "publish", "spring"], ["campaign", "show", "spring", "--json"],
        ["verify", code], ["claim", code, "--user", "u1", "--json"], ["audit"], ["audit", "--json"],
        ["tables", "verify"],
    ]  # fmt: skip
    printed = "".join(ok(run("-w", market.folder, *command)) for command in commands)
    secrets = re.findall(r'secret = "(\w{64})"', (market.folder / "keys.toml").read_text())
    secrets += re.findall(r'secret = "(\w{64})"', (tmp_path / "other" / "keys.toml").read_text())
    assert len(secrets) == 6
    assert [secret for secret in secrets if secret in printed] == []
