"""Commands that publish, export and check: what they write, what they say, and what they leave alone."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scanengine.cli.commands import cli
from scanengine.errors import AssignmentError, CampaignError, ScanEngineError, SettingsError, TableFormatError
from serving import CASH_FOR_ALL, PLACES, Market, a_campaign, a_copy, a_market

COLA = (0, 30_000)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return a_market(tmp_path_factory.mktemp("publishing") / "shop")


@pytest.fixture
def market(template: Market, tmp_path: Path) -> Market:
    return a_copy(template, tmp_path / "shop")


def run(market: Market, *arguments: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["-w", str(market.folder), *map(str, arguments)], input=answer)


def ok(market: Market, *arguments: object) -> str:
    done = run(market, *arguments)
    assert (done.exit_code, done.exception) == (0, None), done.output
    return done.stdout


def refused(market: Market, kind: type[ScanEngineError], *arguments: object) -> str:
    """Run a command that fails with an error of this kind and publishes nothing; return what it says."""
    manifest = market.shop.workspace.manifest_path.read_bytes()
    done = run(market, *arguments)
    assert type(done.exception) is kind, done.output
    assert market.shop.workspace.manifest_path.read_bytes() == manifest
    return str(done.exception)


def segments(market: Market, label: str = "cola") -> dict[str, Any]:
    """Return what ``scenes show --json`` says, by range."""
    rows = json.loads(ok(market, "scenes", "show", label, "--limit", 1000, "--json"))
    return {row.pop("range"): row for row in rows}


# Batches ------------------------------------------------------------------------------------------------------------


def test_batches_are_listed_in_the_order_of_their_serials(market: Market) -> None:
    ok(market, "batch", "create", "apple", "--count", 5)
    rows = json.loads(ok(market, "batch", "list", "--json"))
    assert [(row["batch"], row["count"], row["slot"], row["serial_start"]) for row in rows] == [
        ("cola", 30_000, 1, 0), ("apple", 5, 1, 30_000),
    ]  # fmt: skip
    lines = ok(market, "batch", "list").splitlines()
    assert [line.split()[0] for line in lines] == ["batch", "cola", "apple"]


def test_a_product_that_has_a_line_needs_no_title(market: Market) -> None:
    ok(market, "batch", "create", "one", "--count", 1, "--gtin", "6901234567892")
    ok(market, "batch", "create", "two", "--count", 1, "--gtin", "4006381333931", "--title", 'Say "cheese"')
    ok(market, "batch", "create", "three", "--count", 1, "--gtin", "4006381333931")
    assert segments(market, "three")["0:1"]["product"] == "4006381333931"
    assert market.shop.snapshot.products["4006381333931"].title == 'Say "cheese"'


@pytest.mark.parametrize("form", ["csv", "ndjson", "text"])
def test_an_export_is_the_same_on_the_screen_and_in_a_file(market: Market, tmp_path: Path, form: str) -> None:
    codes = market.shop.codes(5, 9)
    url = "HTTPS://EXAMPLE.COM/S/"
    expected = {
        "text": "".join(f"{code}\n" for code in codes),
        "csv": "offset,code,url\n" + "".join(f"{place},{code},{url}{code}\n" for place, code in enumerate(codes, 5)),
        "ndjson": "".join(
            f'{{"offset":{place},"code":"{code}","url":"{url}{code}"}}\n' for place, code in enumerate(codes, 5)
        ),
    }
    assert ok(market, "batch", "export", "cola", "--range", "5:9", "--format", form) == expected[form]
    path = tmp_path / "codes"
    assert ok(market, "batch", "export", "cola", "--range", "5:9", "--format", form, "-o", path) == ""
    assert path.read_text() == expected[form]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "no file of them is overwritten" in refused(
        market, AssignmentError, "batch", "export", "cola", "--range", "0:1", "-o", path
    )
    assert path.read_text() == expected[form]


@pytest.mark.parametrize(("bounds", "count"), [(":", 30_000), (":10", 10), ("29990:", 10), (None, 30_000)])
def test_a_bound_left_out_is_the_batchs_own(market: Market, bounds: str | None, count: int) -> None:
    options = [] if bounds is None else ["--range", bounds]
    assert ok(market, "batch", "export", "cola", "--format", "text", *options).count("\n") == count


def test_deleting_asks_first(market: Market) -> None:
    code = market.take("cash")
    done = run(market, "batch", "delete", "cola", answer="n\n")
    assert (done.exit_code, "Its codes become unknown, for good" in done.output) == (1, True)
    assert json.loads(ok(market, "verify", code, "--json"))["status"] == "valid"
    assert run(market, "batch", "delete", "cola", answer="y\n").exit_code == 0
    assert json.loads(ok(market, "verify", code, "--json"))["status"] == "unknown"
    assert json.loads(ok(market, "batch", "list", "--json")) == []
    assert "labels are not used again" in refused(market, AssignmentError, "batch", "create", "cola", "--count", 5)


# Scenes -------------------------------------------------------------------------------------------------------------


def test_scenes_are_set_by_range_between_codes_and_by_a_file(market: Market, tmp_path: Path) -> None:
    first, last = market.shop.code(20), market.shop.code(29)
    listed = tmp_path / "codes.txt"
    listed.write_text(f"{market.shop.code(40)}\n\n  https://example.com/s/{market.shop.code(42).lower()}  \n")
    assert "cola: 10 codes set" in ok(market, "scenes", "set", "cola", "--range", "0:10", "--lot", "L1")
    assert "cola: 10 codes set" in ok(market, "scenes", "set", "cola", "--from", first, "--to", last, "--lot", "L2")
    assert "cola: 2 codes set" in ok(market, "scenes", "set", "cola", "--codes", listed, "--lot", "L3")
    listed.write_text(f"{market.shop.code(40)}\n{market.shop.code(42)}\n{market.shop.code(40)}\n")
    assert "cola: 2 codes set" in ok(market, "scenes", "set", "cola", "--codes", listed, "--lot", "L3")
    lots = {place: row["lot"] for place, row in segments(market).items() if row["lot"]}
    assert lots == {"0:10": "L1", "20:30": "L2", "40:41": "L3", "42:43": "L3"}


def test_what_is_not_named_stays_and_an_empty_text_takes_away(market: Market) -> None:
    start, end = PLACES["no_rule"][:2]
    place = f"{start}:{end}"
    before = segments(market)[place]
    ok(market, "scenes", "set", "cola", "--range", place, "--market", "44", "--link", "https://example.com/{code}")
    assert segments(market)[place] == {**before, "market": "44"}
    ok(market, "scenes", "set", "cola", "--range", place, "--campaign", "", "--market", "", "--scenes", "trace,link")
    assert segments(market)[place] == {**before, "campaign": None, "scenes": "trace,link"}
    ok(market, "scenes", "set", "cola", "--range", place, "--scenes", "")
    assert segments(market)[place]["scenes"] == ""


def test_an_active_window_is_set_in_any_zone(market: Market) -> None:
    code = market.shop.code(3)
    ok(market, "scenes", "set", "cola", "--range", "3:4", "--active-from", "2020-01-01T00:00:00+08:00",
       "--active-until", "2021-01-01T00:00:00Z")  # fmt: skip
    assert json.loads(ok(market, "verify", code, "--json"))["status"] == "expired"
    ok(market, "scenes", "set", "cola", "--range", "3:4", "--active-from", "2990-01-01T00:00:00Z",
       "--active-until", "2991-01-01T00:00:00Z")  # fmt: skip
    assert json.loads(ok(market, "verify", code, "--json"))["status"] == "inactive"


def test_codes_of_elsewhere_are_refused_without_being_shown(market: Market, tmp_path: Path) -> None:
    ok(market, "batch", "create", "tea", "--count", 5)
    good, foreign = market.shop.code(1), market.shop.code(1, "tea")
    bad = {foreign: "not in batch 'cola'", market.forged(good): "forged", "hello": "malformed"}
    listed = tmp_path / "codes.txt"
    for code, said in bad.items():
        listed.write_text(f"{good}\n\n{code}\n")
        message = refused(market, AssignmentError, "scenes", "set", "cola", "--codes", listed, "--state", "void")
        assert message.startswith("line 3: ")
        assert said in message
        assert code not in message
        for first, last in ((good, code), (code, good)):
            bounds = ("--from", first, "--to", last)
            message = refused(market, AssignmentError, "scenes", "set", "cola", *bounds, "--lot", "L")
            assert said in message
            assert code not in message


def test_a_file_of_codes_that_is_empty_or_no_text(market: Market, tmp_path: Path) -> None:
    listed = tmp_path / "codes.txt"
    for content in (b"", b"\n\n"):
        listed.write_bytes(content)
        refused(market, AssignmentError, "scenes", "set", "cola", "--codes", listed, "--state", "void")
    listed.write_bytes(b"\xff\xfe\0binary")
    assert "line 1: " in refused(market, AssignmentError, "scenes", "set", "cola", "--codes", listed, "--state", "void")


def test_the_segments_shown_can_be_cut(market: Market) -> None:
    count = len(segments(market))
    lines = ok(market, "scenes", "show", "cola", "--limit", 3).splitlines()
    assert lines[0].split() == ["range", "state", "scenes", "product", "lot", "market", "campaign"]
    assert len(lines) == 5
    assert lines[-1] == f"… and {count - 3} more segments"
    assert "more segments" not in ok(market, "scenes", "show", "cola", "--limit", count)
    assert len(json.loads(ok(market, "scenes", "show", "cola", "--limit", 3, "--json"))) == 3


# Campaigns ----------------------------------------------------------------------------------------------------------


def test_scenes_and_campaign_in_either_order_say_what_is_unbound(market: Market) -> None:
    path = market.shop.workspace.campaigns_folder / "summer.toml"
    path.write_text(a_campaign("summer", CASH_FOR_ALL))
    waiting = "unbound: campaign 'summer' of batch cola is not published yet\n"
    unused = "unbound: campaign 'summer' is published, but no batch is assigned to it yet\n"
    said = ok(market, "scenes", "set", "cola", "--range", "0:5", "--campaign", "summer")
    assert waiting in said
    assert waiting not in ok(market, "campaign", "publish", "summer")
    ok(market, "scenes", "set", "cola", "--range", "0:5", "--campaign", "")
    assert unused in ok(market, "campaign", "publish", path)
    assert unused not in ok(market, "scenes", "set", "cola", "--range", "0:5", "--campaign", "summer")
    claimed = json.loads(ok(market, "claim", market.shop.code(0), "--user", "ann", "--json"))
    assert claimed["claim"]["prize"]["id"] == "cash-88"


def test_a_check_notes_what_is_odd_and_publishes_nothing(market: Market) -> None:
    path = market.shop.workspace.campaigns_folder / "summer.toml"
    limits = '[budget]\ncurrency = "CNY"\ntotal = 88_000'
    path.write_text(a_campaign("summer", CASH_FOR_ALL, before=limits))
    manifest = market.shop.workspace.manifest_path.read_bytes()
    notes = ok(market, "campaign", "check", "summer", "--expected-scans", 1000).splitlines()
    assert notes[-1] == "campaign summer: the file is valid"
    assert any("88,000" in note for note in notes[:-1])
    assert market.shop.workspace.manifest_path.read_bytes() == manifest


@pytest.mark.parametrize("command", ["check", "publish"])
def test_faults_are_named_with_their_places(market: Market, command: str) -> None:
    path = market.shop.workspace.campaigns_folder / "summer.toml"
    rule = '[[rules]]\nid = "everyone"\ndraw = { mode = "weighted", weights = { cash-8 = 1 } }'
    path.write_text(a_campaign("summer", rule))
    message = refused(market, CampaignError, "campaign", command, "summer")
    assert "rules[0].draw.weights: unknown prize 'cash-8'" in message
    path.write_bytes(b"\xff")
    assert "cannot be read" in refused(market, CampaignError, "campaign", command, path)


def test_a_published_campaign_is_shown(market: Market) -> None:
    lines = ok(market, "campaign", "show", "purse").splitlines()
    assert lines[0].startswith("purse: Open a cap, win (generation ")
    assert "  prize 0 cash-88: cash 8800 CNY '88 yuan'" in lines
    shown = json.loads(ok(market, "campaign", "show", "purse", "--json"))
    assert [prize["id"] for prize in shown["prizes"]] == ["cash-88", "points-10"]


# Checks -------------------------------------------------------------------------------------------------------------


def test_the_audit_lists_a_lost_claim_and_a_changed_one(market: Market, tmp_path: Path) -> None:
    """Method: three claims are acknowledged; one is taken out of the ledger file, another gets a different prize."""
    witness = tmp_path / "acked.ndjson"
    codes = [market.take("cash"), market.take("points"), market.take("nothing")]
    answers = [json.loads(ok(market, "claim", code, "--user", "ann", "--json")) for code in codes]
    refusal = ok(market, "claim", market.take("ended"), "--user", "ann", "--json")
    witness.write_text("".join(json.dumps(answer) + "\n" for answer in answers) + refusal)
    report = json.loads(ok(market, "audit", "--witness", witness, "--json"))
    assert (report["acknowledged"], report["lost"], report["changed"], report["problems"]) == (3, [], [], [])
    answers[1]["claim"]["prize"]["id"] = "cash-88"
    witness.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    ledger = sqlite3.connect(market.shop.workspace.ledger_path)
    with ledger:
        ledger.execute("DELETE FROM claims WHERE seq = 3")
    ledger.close()
    done = run(market, "audit", "--witness", witness)
    assert done.exit_code == 3
    lines = done.stdout.splitlines()
    assert "witness: 3 acknowledged claims, 1 lost, 1 changed" in lines
    assert f"lost: claim {answers[2]['claim']['id']}" in lines
    assert f"changed: claim {answers[1]['claim']['id']}" in lines
    assert any(line.startswith("problem: claim 3") for line in lines)
    assert lines[-1] == "PROBLEMS FOUND"
    as_json = run(market, "audit", "--witness", witness, "--json")
    assert as_json.exit_code == 3
    report = json.loads(as_json.stdout)
    assert (report["lost"], report["changed"]) == ([answers[2]["claim"]["id"]], [answers[1]["claim"]["id"]])


def test_a_witness_may_hold_batches_problems_and_empty_lines(market: Market, tmp_path: Path) -> None:
    reply = ok(market, "claim", market.take("cash"), "--user", "ann", "--json").strip()
    other = ok(market, "claim", market.take("nothing"), "--user", "ann", "--json").strip()
    problem = '{"type": "urn:scanengine:problem:bad-request", "title": "Bad request", "status": 400, "detail": "…"}'
    witness = tmp_path / "acked.ndjson"
    witness.write_text("\n".join([reply, "", f'{{"results": [{other}, {{"problem": {problem}}}]}}', problem, ""]))
    assert "witness: 2 acknowledged claims, 0 lost, 0 changed" in ok(market, "audit", "--witness", witness)


def test_a_witness_that_is_no_reply_is_refused_by_line(market: Market, tmp_path: Path) -> None:
    witness = tmp_path / "acked.ndjson"
    witness.write_text(ok(market, "claim", market.take("cash"), "--user", "ann", "--json") + "{}\n")
    assert "line 2 is not a reply" in refused(market, SettingsError, "audit", "--witness", witness)


def test_every_table_is_read_whole(market: Market) -> None:
    snapshot = market.shop.snapshot
    said = ok(market, "tables", "verify")
    assert said.startswith(f"generation {snapshot.generation}: {2 + len(snapshot.prizes)} tables sound, ")
    # What opening trusts, verifying reads: damage in the middle of a large section.
    path = snapshot.batches[0].scenes.path
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    assert str(path.name) in refused(market, TableFormatError, "tables", "verify")
