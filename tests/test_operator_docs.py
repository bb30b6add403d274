"""The requests of ``docs/events.md`` and ``docs/operations.md`` are answered as they say, each page in its order."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from serving import a_market, serving
from test_docs import ROOT, blocks, differences

ADMIN = "an-admins-token-for-tests-only"


def examples(page: str) -> list[tuple[str, int, str]]:
    """Return request, status and reply of each example, in the order of the page."""
    found = blocks(ROOT / "docs" / page)
    result = []
    for ask, reply in itertools.pairwise(found):
        if ask.language == "http":
            status = re.search(r"Replies (\d{3}):\s*$", reply.before)
            assert status is not None, ask.text
            result.append((ask.text, int(status[1]), reply.text))
    assert len(result) == sum(block.language == "json" for block in found)
    return result


@pytest.mark.parametrize("page", ["events.md", "operations.md"])
def test_the_requests_of_a_page_are_answered_as_it_says(page: str, tmp_path: Path) -> None:
    market = a_market(tmp_path / "shop", tokens=True)
    keys_path = market.shop.workspace.keys_path
    keys_path.write_text(keys_path.read_text() + f'[[tokens]]\nname = "boss"\ntoken = "{ADMIN}"\nadmin = true\n')
    wrong = []
    with serving(market.folder) as served, served.client(ADMIN) as client:
        for number, (request, status, expected) in enumerate(examples(page)):
            if number == 1:
                client.claim(market.take("cash"), "wx:ann", visit="one", region="440300")
            head, _, body = request.partition("\n\n")
            line, *headers = head.strip().splitlines()
            method, path, _ = line.split()
            reply = client.ask(method, path, body.encode() or None, **dict(pair.split(": ", 1) for pair in headers))
            wrong += [f"{line}: {text}" for text in differences(json.loads(expected), reply.json)]
            assert reply.status == status, reply.body
    assert wrong == []
