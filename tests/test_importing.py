"""Imported codes from file to answer: what is taken, what is refused and how, and what a kill leaves behind."""

from __future__ import annotations

import io
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from helpers import ACTIVE, GTIN, NOW_MS, SPRING, Shop
from helpers_cli import Run, ok
from scanengine._core import fill_slots
from scanengine.errors import AssignmentError, TableFormatError
from scanengine.keys import load_keyring
from scanengine.model import IMPORTED_START, Status
from scanengine.program.importing import import_batch
from scanengine.program.moving import no_progress
from scanengine.program.publishing import SceneChange, delete_batch, ranges_of_codes
from scanengine.tables.codes import CodeTable, CodeTexts
from scanengine.tables.container import KIND_CODE, write_container
from serving import WAIT_S, serving

RAW = ["044GZ*J10", "1%2F+/:A.", "$$$$$$$$$"]
NORMAL = ["P.URL.CN/0P$M%LZ4LHSVSDCR2L2", "P.URL.CN/0V/L$O*CBI/WJATNX+Y", "P.URL.CN/0A.JYJXP3HJI2/S/A9O"]
"""In the form of WeChat's own; the last looks like one of our URLs."""


def taken_in(shop: Shop, label: str, content: str | bytes, **options: Any) -> tuple[CodeTable, bool]:
    """Import a file and return its table."""
    data = content.encode() if isinstance(content, str) else content
    return import_batch(shop.workspace, shop.keyring, label, io.BytesIO(data), progress=no_progress, **options)


def refusal(shop: Shop, label: str, content: str | bytes) -> str:
    """Import what is refused: nothing is published, and no table number handed out."""
    before = shop.workspace.read_manifest(), (shop.folder / "allocations").read_bytes()
    with pytest.raises(AssignmentError) as caught:
        taken_in(shop, label, content)
    assert (shop.workspace.read_manifest(), (shop.folder / "allocations").read_bytes()) == before
    return str(caught.value)


def in_lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def test_each_text_is_one_item_exactly_as_it_is_spelled(shop: Shop) -> None:
    table, is_new = taken_in(shop, "u", in_lines([*RAW, *NORMAL]))
    assert (table.table, table.item_start, is_new) == (0, IMPORTED_START, True)
    shop.assign(0, 6, ACTIVE, "u")
    engine = shop.engine
    for offset, text in enumerate([*RAW, *NORMAL]):
        decision = engine.decide(text, NOW_MS)
        assert (decision.status, decision.item, decision.code) == (Status.VALID, IMPORTED_START + offset, text)
        assert (decision.batch, decision.terms.id, len(decision.offers)) == ("u", "spring", 1)
        if text != text.lower():
            assert engine.decide(text.lower(), NOW_MS).item != decision.item or len(text) == 28
        for around in (f" {text}\r\n", f"https://example.com/s/{quote(text, safe='')}", f"?q={quote(text, safe='')}"):
            assert engine.decide(around, NOW_MS).item == decision.item
    assert engine.decide(RAW[1].replace("%2F", "/"), NOW_MS).status == Status.MALFORMED
    for text in NORMAL:
        for seen in (f"http://{text}", f"https://{text}", f"HTTP://{text.lower()}"):
            assert engine.decide(seen, NOW_MS).code == text
    many = engine.decide_many([*RAW, f"http://{NORMAL[0]}", shop.code(0), "nonsense", GTIN], NOW_MS)
    assert many.item.tolist()[:5] == [*range(IMPORTED_START, IMPORTED_START + 4), shop.item(0)]
    assert many.status.tolist()[5:] == [Status.MALFORMED, Status.PRODUCT_ONLY]
    for dtype in ("S9", "S20", "S64"):
        assert engine.decide_many(np.array(RAW, dtype), NOW_MS).item.tolist() == many.item.tolist()[:3]


def test_a_digital_link_names_code_and_product(shop: Shop) -> None:
    """Goal: code and product are read; another product is wrong, and that is told to nobody outside."""
    taken_in(shop, "u", in_lines(RAW))
    shop.assign(0, 3, ACTIVE, "u")
    program = shop.program()
    for code in (shop.code(0), RAW[0], RAW[1]):
        serial = quote(code, safe="")
        for path in (
            f"/01/0{GTIN}/21/{serial}",
            f"/01/{GTIN}/10/L%2F1/21/{serial}?17=270101",
            f"/01/{GTIN}/22/A/21/{serial}",
        ):
            for url in (path, f"https://ID.example.com/brand{path}"):
                assert program.decide(url).status == Status.VALID, url
        wrong = f"https://example.com/01/96385074/21/{serial}"
        decision = program.decide(wrong)
        assert (decision.status, decision.batch, decision.offers) == (Status.WRONG_PRODUCT, None, ())
        assert decision.item == program.decide(code).item
        assert program.engine.decide_many([wrong, code], NOW_MS).status.tolist() == [6, 12]
        assert program.verify(wrong).public().status == "invalid"
    for product in (GTIN, f"0{GTIN}", f"https://example.com/01/{GTIN}", f"/01/{GTIN}/10/L1"):
        decision = program.decide(product)
        assert (decision.status, decision.code, decision.product.gtin) == (Status.PRODUCT_ONLY, None, GTIN)
    assert program.decide("96385074").product is None
    for other in (f"/01/{GTIN[:-1]}3/21/{RAW[0]}", "/01/21/A", f"/01/{GTIN}/21/{RAW[0]}/8005/1", GTIN[:-1] + "3"):
        assert program.decide(other).status == Status.MALFORMED, other


def test_an_item_without_a_product_contradicts_no_link(shop: Shop) -> None:
    shop.make("blank")
    assert shop.engine.decide(f"/01/96385074/21/{shop.code(0, 'blank')}", NOW_MS).status == Status.INACTIVE


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("A B\n", "1 bad line, nothing was imported: line 1: byte 0x20 at place 2, expected printable ASCII"),
        ("A\n\n\tB\n", "line 3: byte 0x09 at place 1"),
        ("A\nü\n", "line 2: byte 0xc3 at place 1"),
        ("A\n" + "B" * 65, "line 2: more than 64 characters"),
        (
            "A\n" + "B" * 9_000_000 + "\nC D",
            "2 bad lines, nothing was imported: line 2: more than 64 characters; line 3",
        ),
        ("A\r\nB\r\n\r\nA\r\n", "line 4: the same as line 1"),
        ("A\n" * 13, "12 bad lines, nothing was imported: line 2: the same as line 1"),
        ("A\n" * 13, "; and 2 more"),
        ("\n\r\n", "there is no code in the file"),
        ("", "there is no code in the file"),
        ("A\0\n", "line 1: byte 0x00 at place 2"),
        ("A\n..\n", "1 bad line, nothing was imported: line 2: only dots, which browsers leave out of an address"),
        (".\n", "line 1: only dots"),
        ("...\n.a\na.\n\n..\n.\n", "2 bad lines, nothing was imported: line 5: only dots"),
    ],
)
def test_a_bad_file_is_refused_with_its_lines(empty_shop: Shop, content: str, fault: str) -> None:
    assert fault in refusal(empty_shop, "u", content)


def test_a_code_is_one_item_whoever_brings_it(shop: Shop) -> None:
    taken_in(shop, "u", in_lines(RAW))
    assert refusal(shop, "v", f"other\n{RAW[2]}\n") == (
        "1 bad line, nothing was imported: line 2: batch 'u' holds this code"
    )
    own = shop.code(5)
    for spelled in (own, own.lower(), "-".join((own[:5], own[5:10], own[10:15], own[15:]))):
        message = refusal(shop, "v", f"other\n\n{spelled}\n")
        assert "line 3: a code of this program" in message
        assert own not in message
    delete_batch(shop.workspace, "u")
    assert taken_in(shop, "v", in_lines(RAW))[0].table == 1


AROUND = [
    "HTTPS://EXAMPLE.COM/S/{}", "https://e.com/s/{}", "http://e.com/a/s/{}#x", "?q={}", "https://w.cn/?a=1&q={}",
    "?q=HTTPS%3A%2F%2FE.COM%2FS%2F{}", "?q=/s/{}&q=B", "/01/96385074/21/{}", "/01/96385074/10/L/21/{}",
]  # fmt: skip
"""Texts in which a scan finds a code."""


def test_a_label_that_was_printed_is_no_second_item(shop: Shop, run: Run) -> None:
    """Goal: one label, one item. Method: this program's own URLs, as it exports them for the printer, are handed in."""
    exported = ok(run("-w", shop.folder, "batch", "export", "cola", "--range", "0:20"))
    urls = [line.split(",")[2] for line in exported.splitlines()[1:]]
    assert refusal(shop, "shadow", in_lines(urls)).startswith(
        "20 bad lines, nothing was imported: line 1: a code of this program; line 2: a code of this program; "
    )


@pytest.mark.parametrize("around", AROUND)
def test_a_code_of_this_program_is_found_inside_a_line(shop: Shop, around: str) -> None:
    """Goal: whatever a scan would find in a line, the import finds too, however the code is spelled."""
    own = shop.code(5)
    for spelled in (own, own.lower(), "-".join((own[:5], own[5:10], own[10:])), f"%{ord(own[0]):02X}{own[1:]}"):
        line = around.format(spelled)
        if len(line) > 64 or ("%3A" in around and "%" in spelled):
            continue
        assert shop.engine.decide(line, NOW_MS).item == shop.item(5)
        assert "line 2: a code of this program" in refusal(shop, "v", f"other\n{line}\n")
    forged = ("0" if own[8] != "0" else "1").join((own[:8], own[9:]))
    assert taken_in(shop, "v", around.format(forged))[1]


def test_codes_of_a_revoked_slot_are_still_of_this_program(shop: Shop) -> None:
    """A slot may be trusted again, and its labels are on the shelves either way."""
    path = shop.workspace.keys_path
    path.write_text(path.read_text().replace('"active"', '"revoked"'))
    revoked = Shop(shop.workspace, load_keyring(path))
    assert revoked.engine.decide(shop.code(5), NOW_MS).status == Status.UNKNOWN_KEY
    for line in (shop.code(5), f"HTTPS://E.COM/S/{shop.code(6)}"):
        assert "line 1: a code of this program" in refusal(revoked, "v", f"{line}\n")


def test_labels_are_used_once_and_the_same_import_changes_nothing(shop: Shop) -> None:
    taken_in(shop, "u", in_lines(RAW))
    before = shop.workspace.read_manifest()
    assert taken_in(shop, "u", "\ufeff" + "\r\n".join(RAW))[1] is False
    assert shop.workspace.read_manifest() == before
    assert "'u' exists" in refusal(shop, "u", in_lines(RAW[:2]))
    assert "'cola' exists" in refusal(shop, "cola", in_lines(NORMAL))
    with pytest.raises(AssignmentError, match="'u' exists"):
        taken_in(shop, "u", in_lines(RAW), test=True)


def test_imported_codes_are_not_for_everybody_on_the_machine(shop: Shop) -> None:
    taken_in(shop, "u", in_lines(RAW))
    (path,) = (shop.folder / "codes").glob("u@*")
    assert stat.S_IMODE(path.stat().st_mode) == 0o440


def test_exports_give_back_what_was_imported(shop: Shop, run: Run) -> None:
    texts = ['a","b', *RAW, *NORMAL]
    path = shop.folder / "codes.txt"
    path.write_text(in_lines(texts))
    done = run("-w", shop.folder, "batch", "import", "u", path, "--json")
    assert json.loads(done.out) == {"batch": "u", "count": 7, "table": 0, "is_new": True}
    exported = {
        form: run("-w", shop.folder, "batch", "export", "u", "--format", form).out for form in ("text", "ndjson")
    }
    assert exported["text"] == in_lines(texts)
    found = [json.loads(line) for line in exported["ndjson"].splitlines()]
    assert found == [{"offset": offset, "code": text, "url": None} for offset, text in enumerate(texts)]
    assert run("-w", shop.folder, "batch", "export", "u", "--range", "0:2").out == (
        'offset,code,url\n0,"a"",""b",\n1,044GZ*J10,\n'
    )
    assert run("-w", shop.folder, "scenes", "set", "u", "--codes", path, "--state", "frozen").code == 0
    assert run("-w", shop.folder, "scenes", "set", "u", "--from", RAW[0], "--to", NORMAL[2], "--lot", "L1").code == 0
    assert "imported" in run("-w", shop.folder, "batch", "list").out
    assert run("-w", shop.folder, "tables", "verify").code == 0


def test_a_server_answers_imported_codes_with_every_character(shop: Shop) -> None:
    """Goal: percent signs and slashes survive the way through a URL. Method: a real server over a real socket."""
    shop.workspace.keys_path.write_text(shop.workspace.keys_path.read_text().partition("[[tokens]]")[0])
    taken_in(shop, "u", in_lines([*RAW, *NORMAL]))
    shop.assign(0, 6, ACTIVE, "u")
    with serving(shop.folder) as served, served.client() as client:
        for text in (*RAW, *NORMAL):
            reply = client.get(f"/v1/codes/{quote(text, safe='')}")
            assert (reply.status, reply.json["status"], reply.json["code"]) == (200, "valid", text)
            assert client.post("/v1/verify", {"code": text}).json["batch"] == "u"
            assert client.claim(f"http://{text}" if len(text) == 28 else text, "ann")["code"] == text


# Trouble ------------------------------------------------------------------------------------------------------------

IMPORT = """
import io, os, sys
from pathlib import Path
from scanengine.keys import load_keyring
from scanengine.program import importing
from scanengine.program.moving import no_progress
from scanengine.tables import container
from scanengine.tables.workspace import Workspace
step, steps = int(sys.argv[2]), 0
def counting(function):
    def wrapper(*arguments, **options):
        global steps
        if steps == step:
            print("here", flush=True)
            sys.stdin.read()
        steps += 1
        return function(*arguments, **options)
    return wrapper
for name in ("fsync", "replace", "link", "unlink"):
    setattr(os, name, counting(getattr(os, name)))
workspace = Workspace(Path(sys.argv[1]))
content = "".join(f"CODE-{number:07d}\\n" for number in range(1000)).encode()
importing.import_batch(workspace, load_keyring(workspace.keys_path), "u", io.BytesIO(content), progress=no_progress)
print("done", flush=True)
"""
THOUSAND = "".join(f"CODE-{number:07d}\n" for number in range(1000))


def killed_before(folder: Path, step: int) -> bool:
    """Import in a process that is killed before a step of its writing; False if it came to its end."""
    search = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORT, str(folder), str(step)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": search},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert select.select([process.stdout], [], [], WAIT_S)[0]
        is_waiting = process.stdout.readline() == "here\n"
    finally:
        process.kill()
        code = process.wait(WAIT_S)
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.close()
    assert not is_waiting or code == -signal.SIGKILL
    return is_waiting


def test_an_import_that_is_killed_is_run_again(empty_shop: Shop, tmp_path: Path) -> None:
    """Goal: nothing half is ever seen, no table number is lost, and the same command comes to its end.

    Method: kill the import (SIGKILL) before each sync, link, rename and removal; look; run it again, then another.
    """
    seen = set()
    step, is_killed = 0, True
    while is_killed:
        folder = tmp_path / f"killed-{step}"
        shutil.copytree(empty_shop.folder, folder)
        is_killed = killed_before(folder, step)
        shop = Shop(type(empty_shop.workspace)(folder), empty_shop.keyring)
        batch = shop.snapshot.batch("u")
        seen.add(batch is not None)
        if batch is not None:
            batch.codes.verify()
        table, is_new = taken_in(shop, "u", THOUSAND)
        assert (table.table, table.count, is_new) == (0, 1000, batch is None)
        assert taken_in(shop, "v", in_lines(RAW))[0].table == 1
        assert shop.engine.decide("CODE-0000999", NOW_MS).item == IMPORTED_START + 999
        assert [path.name for path in (folder / "codes").iterdir() if path.name.startswith(".")] == []
        assert len(list((folder / "codes").iterdir())) == 2
        step += 1
    assert step > 10
    assert seen == {True, False}


def test_a_register_from_an_older_backup_gives_no_table_number_twice(empty_shop: Shop) -> None:
    path = empty_shop.folder / "allocations"
    kept = path.read_bytes()
    taken_in(empty_shop, "u", in_lines(RAW))
    path.write_bytes(kept)
    assert taken_in(empty_shop, "v", in_lines(NORMAL))[0].table == 1


def test_a_label_that_never_came_to_be_published_keeps_its_number_for_itself(
    empty_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other codes under the label of a table that was written get another number, as that table may have been seen."""

    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(CodeTable, "write", failing)
        with pytest.raises(OSError, match="No space"):
            taken_in(empty_shop, "u", in_lines(RAW))
    assert taken_in(empty_shop, "v", in_lines(NORMAL))[0].table == 1
    with monkeypatch.context() as patch:
        patch.setattr(type(empty_shop.workspace), "publish_manifest", failing)
        with pytest.raises(OSError, match="No space"):
            taken_in(empty_shop, "u", in_lines(RAW))
    assert taken_in(empty_shop, "u", in_lines(RAW[:2]))[0].table == 2


@pytest.mark.parametrize(
    "layout",
    [
        {"width": 0, "key": "00" * 16, "lengths": 1},
        {"width": 65, "key": "00" * 16, "lengths": 1},
        {"width": 9, "key": "00" * 15, "lengths": 1 << 8},
        {"width": 9, "key": "no", "lengths": 1 << 8},
        {"width": 9, "key": "00" * 16, "lengths": 0},
        {"width": 9, "key": "00" * 16, "lengths": 1 << 9},
        {"width": 9, "key": "00" * 16, "lengths": 2**63},
        {"width": 3, "key": "00" * 16, "lengths": 4},
        {"width": 9},
    ],
)
def test_a_layout_that_does_not_fit_is_refused(empty_shop: Shop, layout: dict[str, Any]) -> None:
    table, _ = taken_in(empty_shop, "u", in_lines(RAW))
    path = empty_shop.folder / "codes" / "damaged"
    metadata = {"label": "u", "slot": 32, "serial_start": 0, "count": 3, "texts": layout}
    write_container(path, KIND_CODE, metadata, {2: table.texts.rows, 3: table.texts.slots})
    with pytest.raises(TableFormatError, match=str(path)):
        CodeTable.read(path)


def test_verification_finds_a_text_that_its_index_does_not(empty_shop: Shop) -> None:
    """Sections of 64 MiB and more are not digested when they are opened; a text out of its place is still found out."""
    table, _ = taken_in(empty_shop, "u", in_lines(RAW))
    rows = table.texts.rows.copy()
    rows[0, 0] ^= 1
    path = empty_shop.folder / "codes" / "changed"
    changed = type(table.texts)(rows, table.texts.slots, table.texts.key, table.texts.lengths)
    CodeTable.imported("u", 0, changed, 0).write(path)
    with pytest.raises(TableFormatError, match="text 0 is not found at its place"):
        CodeTable.read(path).verify()


@pytest.mark.parametrize("wrong", [b"044G\xff*J10", b"044G\x1b*J10", b"044G *J10", b"044G\0*J10"])
def test_a_text_that_no_import_takes_is_damage(empty_shop: Shop, wrong: bytes) -> None:
    """Goal: a file with right digests and wrong texts is named as damaged, when verified and when exported."""
    rows = np.frombuffer(wrong + RAW[1].encode(), np.uint8).reshape(2, 9)
    key, slots = bytes(16), np.zeros(4, np.uint32)
    lengths, _, _ = fill_slots(rows, slots, key, 0, 2)
    path = empty_shop.folder / "codes" / "strange"
    CodeTable.imported("u", 0, CodeTexts(rows, slots, key, lengths), 0).write(path)
    table = CodeTable.read(path)
    with pytest.raises(TableFormatError, match="strange: text 0 is not 1 to 64 printable ASCII characters"):
        table.verify()
    assert table.texts is not None
    assert table.texts.between(1, 2) == [RAW[1]]
    with pytest.raises(TableFormatError, match="text 0 is not 1 to 64 printable"):
        table.texts.between(0, 2)


# Tables that no scan uses any more ----------------------------------------------------------------------------------


def damaged(path: Path) -> None:
    """Change one byte of a table."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_damaged_table_of_a_deleted_batch_is_named_with_what_to_do(shop: Shop, run: Run) -> None:
    """Goal: the refusal names the file and the way on, and that way works."""
    taken_in(shop, "u", in_lines(RAW))
    delete_batch(shop.workspace, "u")
    ok(run("-w", shop.folder, "tables", "verify"))
    (path,) = (shop.folder / "codes").glob("u@*")
    damaged(path)
    file = shop.folder / "codes.txt"
    file.write_text(in_lines(NORMAL))
    for command in (("tables", "verify"), ("batch", "import", "v", file), ("batch", "create", "v", "--count", "5")):
        done = run("-w", shop.folder, *command)
        assert done.code == 1
        assert f"{path}: " in done.err
        assert "restore it from a backup" in done.err
        assert "move it out of the folder" in done.err
    path.rename(shop.folder / "kept-for-a-while")
    for command in (("tables", "verify"), ("batch", "import", "v", file), ("batch", "create", "w", "--count", "5")):
        ok(run("-w", shop.folder, *command))
    assert shop.snapshot.batch("v").codes.table == 1


@pytest.mark.parametrize("kind", ["scenes", "prizes"])
def test_tables_of_former_generations_are_verified(shop: Shop, run: Run, kind: str) -> None:
    """What decided claims is read too, though it decides none any more."""
    former = min((shop.folder / kind).iterdir())
    shop.publish(SPRING)
    ok(run("-w", shop.folder, "tables", "verify"))
    damaged(former)
    done = run("-w", shop.folder, "tables", "verify")
    assert done.code == 1
    assert f"{former}: " in done.err
    assert "restore it from a backup" in done.err


def test_a_damaged_table_in_use_is_not_to_be_moved(shop: Shop, run: Run) -> None:
    damaged(shop.folder / "codes" / "cola@1.codes")
    done = run("-w", shop.folder, "batch", "create", "v", "--count", "5")
    assert done.code == 1
    assert "cola@1.codes: " in done.err
    assert "restore it from a backup" in done.err
    assert "move it" not in done.err


# What a terminal shows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "a\x7f", "\x9b31m", "\u202egnp", "\u200b", "a\u2028b"])
def test_what_a_terminal_would_obey_is_refused(shop: Shop, run: Run, text: str) -> None:
    """Goal: lots, markets and titles are shown in terminals, so they are printable; what is refused is not shown."""
    before = shop.workspace.read_manifest()
    file = shop.folder / "codes.txt"
    file.write_text(in_lines(RAW))
    title = ("--gtin", "96385074", "--title", text)
    for command, name in (
        (("scenes", "set", "cola", "--range", "0:5", "--lot", text), "lot"),
        (("scenes", "set", "cola", "--range", "0:5", "--market", text), "market"),
        (("batch", "create", "v", "--count", "5", *title), "title"),
        (("batch", "import", "v", file, *title), "title"),
    ):
        done = run("-w", shop.folder, *command)
        assert (done.code, done.out) == (1, "")
        assert f"{name}: expected printable characters, found U+" in done.err
        assert text not in done.err
    assert shop.workspace.read_manifest() == before
    assert "96385074" not in shop.snapshot.products


def test_spaces_of_every_width_are_printable(shop: Shop) -> None:
    shop.assign(0, 5, SceneChange(lot="批号\u3000A\u00a01", market="广东 44"))
    assert shop.engine.decide(shop.code(0), NOW_MS).lot == "批号\u3000A\u00a01"


def test_a_file_of_codes_names_the_codes_that_a_scan_would_find(shop: Shop) -> None:
    """Goal: a line that is an imported code and holds another is the one that a scan takes it for."""
    inner = "https://e.com/s/B"
    taken_in(shop, "u", in_lines([f"?q={inner}", inner, "B"]))
    batch = shop.snapshot.batch("u")
    for text in (f"?q={inner}", inner, "B", f"?q={quote(inner, safe='')}", "/s/B"):
        found = ranges_of_codes(shop.keyring, batch, [text])
        assert found.tolist()[0][0] == shop.engine.decide(text, NOW_MS).item - IMPORTED_START
