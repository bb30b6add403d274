"""The documents do what they say: commands and programs in them run, HTTP examples are asked, links lead somewhere."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from helpers import KEYS, Shop
from scanengine.campaigns import parse_campaign
from scanengine.cli.commands import cli
from scanengine.keys import load_keyring
from scanengine.model import Product, SegmentState
from scanengine.program.publishing import SceneChange, create_batch, create_workspace
from serving import BOTH, CASH_FOR_ALL, EVERYONE, PLACES, TRADE_ONLY, WAIT_S, Market, a_campaign, serving

ROOT = Path(__file__).parents[1]
README, README_ZH = ROOT / "README.md", ROOT / "README.zh-CN.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
HTTP_PAGES = [ROOT / "docs" / name for name in ("http.md", "batches.md")]
PAGES = [README, README_ZH, ROOT / "CHANGELOG.md", *DOCS]
ANY = "…"
"""Stands in an expected reply for whatever there is."""
SHELL = """
set -euo pipefail
scanengine() { "$PYTHON" -m scanengine "$@"; }
"""


class Block(NamedTuple):
    """One fenced block: its language, its text, and the text between it and the block before."""

    language: str
    text: str
    before: str


def blocks(path: Path) -> list[Block]:
    found = []
    end = 0
    text = path.read_text("utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found.append(Block(match[1], match[2], text[end : match.start()]))
        end = match.end()
    return found


def of_language(path: Path, language: str) -> list[str]:
    return [block.text for block in blocks(path) if block.language == language]


def run(command: list[str], folder: Path) -> None:
    """Run a program of a document in a folder; it must succeed."""
    search = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search, "PYTHON": sys.executable, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def run_commands(path: Path, folder: Path) -> None:
    """Run all commands of the console blocks of a page, in their order, in one shell."""
    lines = "".join(of_language(path, "console")).splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    assert commands
    run(["bash", "-c", SHELL + "\n".join(commands)], folder)


@pytest.fixture(scope="module")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the README's commands have been run."""
    folder = tmp_path_factory.mktemp("readme")
    run_commands(README, folder)
    assert (folder / "shop" / "scanengine.toml").exists()
    return folder


@pytest.mark.parametrize("path", [path for path in DOCS if of_language(path, "console")], ids=lambda path: path.name)
def test_the_commands_of_a_page_run_as_they_stand(path: Path, tmp_path: Path) -> None:
    run_commands(path, tmp_path)


PROGRAMS = [(path, number) for path in (README, *DOCS) for number in range(len(of_language(path, "python")))]


@pytest.mark.parametrize(("path", "number"), PROGRAMS, ids=[f"{path.name}-{number}" for path, number in PROGRAMS])
def test_the_python_of_a_page_runs_after_the_readme(path: Path, number: int, shop_folder: Path) -> None:
    run([sys.executable, "-W", "error", "-c", of_language(path, "python")[number]], shop_folder)


def test_the_campaign_files_of_the_documents_are_valid() -> None:
    texts = [(path, text) for path in PAGES for text in of_language(path, "toml")]
    campaigns = [parse_campaign(text, path.name) for path, text in texts if "[[rules]]" in text]
    assert campaigns


# HTTP ---------------------------------------------------------------------------------------------------------------


def a_documented_market(folder: Path) -> Market:
    """Make the workspace that the examples of the pages on HTTP speak of."""
    workspace = create_workspace(folder)
    workspace.keys_path.write_text(KEYS.partition("[[tokens]]")[0])
    shop = Shop(workspace, load_keyring(workspace.keys_path))
    create_batch(workspace, shop.keyring, "cola", 30_000, product=Product("6901234567892", "Cola 500 ml"))
    shop.publish(a_campaign("spring", EVERYONE, before="[limits]\nper_user_per_day = 1"), "spring")
    shop.publish(a_campaign("past", CASH_FOR_ALL, days=(-9, -2)), "past")
    shop.publish(a_campaign("future", CASH_FOR_ALL, days=(2, 9)), "future")
    shop.publish(a_campaign("trade", TRADE_ONLY), "trade")
    for name, (start, end, change) in PLACES.items():
        shop.assign(start, end, change or SceneChange(SegmentState[name.upper()], BOTH, "spring"))
    return Market(shop)


def documented_codes(market: Market) -> dict[str, str]:
    names = {name for page in HTTP_PAGES for name in re.findall(r"\{\{(\w+)\}\}", page.read_text("utf-8"))}
    made = {"forged": market.forged, "mistyped": market.mistyped, "unknown": lambda _: market.unknown()}
    return {name: made[name](market.take("cash")) if name in made else market.take(name) for name in names}


def examples(page: Path) -> list[tuple[str, int, str]]:
    """Return request, status and reply of each example, in the order of the page."""
    found = blocks(page)
    pairs = [(ask, reply) for ask, reply in itertools.pairwise(found) if ask.language == "http"]
    assert all(reply.language == "json" for _, reply in pairs)
    assert sum(block.language == "json" for block in found) == len(pairs)
    result = []
    for ask, reply in pairs:
        status = re.fullmatch(r"\s*Replies (\d{3}):\s*", reply.before)
        assert status is not None, reply.text
        result.append((ask.text, int(status[1]), reply.text))
    return result


def differences(expected: Any, found: Any, place: str = "reply") -> list[str]:
    """Return where a reply differs from the documented one; "…" is any value, or any part of a text."""
    if expected == ANY:
        return []
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return [f"{place}: keys {sorted(found)}, documented {sorted(expected)}"]
        return [line for key in expected for line in differences(expected[key], found[key], f"{place}.{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f"{place}[{index}]")]
    if isinstance(expected, str) and isinstance(found, str) and ANY in expected:
        pattern = ".*".join(map(re.escape, expected.split(ANY)))
        return [] if re.fullmatch(pattern, found, re.DOTALL) else [f"{place}: {found!r}, documented {expected!r}"]
    same = type(expected) is type(found) and expected == found
    return [] if same else [f"{place}: {found!r}, documented {expected!r}"]


def test_every_http_example_is_answered_as_documented(tmp_path: Path) -> None:
    market = a_documented_market(tmp_path / "shop")
    codes = documented_codes(market)
    wrong = []
    with serving(market.folder) as served, served.client() as client:
        for request, status, expected in itertools.chain(*map(examples, HTTP_PAGES)):
            for name, code in codes.items():
                request, expected = (text.replace(f"{{{{{name}}}}}", code) for text in (request, expected))  # noqa: PLW2901
            head, _, body = request.partition("\n\n")
            line, *headers = head.strip().splitlines()
            method, path, version = line.split()
            assert version == "HTTP/1.1"
            pairs = dict(header.split(": ", 1) for header in headers)
            reply = client.ask(method, path, body.strip().encode() or None, **pairs)
            lines = differences(json.loads(expected), reply.json)
            if reply.status != status:
                lines.append(f"status {reply.status}, documented {status}")
            wrong += [f"{line}: {difference}" for difference in lines]
    assert wrong == []


def test_the_examples_show_every_status_and_every_claim_status() -> None:
    text = "".join(of_language(ROOT / "docs" / "http.md", "json") + of_language(ROOT / "docs" / "http.md", "text"))
    statuses = set(re.findall(r'"status": ?"(\w+)"', text))
    assert statuses >= {
        "valid", "inactive", "frozen", "void", "recalled", "expired", "invalid", "mistyped", "malformed",
        "awarded", "no_prize", "taken", "limited", "closed", "ineligible", "pending",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "found", "is_same"),
    [
        ({"a": "…"}, {"a": None}, True),
        ({"a": "x…z"}, {"a": "xyz"}, True),
        ({"a": "x…z"}, {"a": "xy"}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1, 2], [1], False),
    ],
)
def test_the_comparison_sees_what_differs(expected: Any, found: Any, is_same: bool) -> None:
    assert (differences(expected, found) == []) == is_same


# Pages --------------------------------------------------------------------------------------------------------------


def commands_of(group: click.Group, *above: str) -> list[str]:
    names = []
    for name, command in group.commands.items():
        is_group = isinstance(command, click.Group)
        names += commands_of(command, *above, name) if is_group else [" ".join((*above, name))]
    return names


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    names = commands_of(cli)
    assert "scenes set" in names
    assert [name for name in names if f"\n## {name}\n" not in text] == []
    missing = []
    for name in names:
        command: click.Command = cli
        for part in name.split():
            assert isinstance(command, click.Group)
            command = command.commands[part]
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        missing += [f"{name} {option.name}" for option in options if not any(word in section for word in option.opts)]
    assert missing == []


def test_both_readmes_have_the_same_blocks() -> None:
    """Word for word but for comments, which are in the page's own language."""
    english, chinese = ([(block.language, _bare(block.text)) for block in blocks(path)] for path in (README, README_ZH))
    assert english == chinese
    assert of_language(README, "console") == of_language(README_ZH, "console")


def _bare(text: str) -> str:
    return "\n".join(line.partition("  #")[0].rstrip() for line in text.splitlines())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            page, _, anchor = target.partition("#")
            found = path.parent / page if page else path
            if not found.exists() or (anchor and anchor not in _anchors(found)):
                lost.append(target)
    assert lost == []


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings: lower case, punctuation dropped, spaces as hyphens."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
