"""Replies to many looks, written from prepared bytes: the very bytes of single answers, whatever the codes are."""

from __future__ import annotations

import io
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import ACTIVE, COLA, NOW_MS, SLOT, Shop, a_copy
from scanengine.model import Scene, SegmentState
from scanengine.program import Program
from scanengine.program.importing import import_batch
from scanengine.program.moving import no_progress
from scanengine.program.publishing import SceneChange, create_batch
from scanengine.server._batches import read_letters, write_rows
from scanengine.server.formats import FORMATS
from scanengine.server.looks import Looks
from scanengine.server.problems import problem_of

IMPORTED = (
    "12345678901234567890", 'A"CDE-"FGHIJKLMNOPQR', "back\\slash-567890123", "abcdefghijklmnopqrst", "https://example.com/",
    "1234567890123456", "~" * 20, "x" * 64, "http://P.URL.CN/abcd1234567",
)  # fmt: skip
"""Imported codes of 20 characters and of others; not folded, and some of them not written by JSON as they are."""
MEDIA = tuple(FORMATS)[:2]


@dataclass
class Written:
    """A program, and what its codes are written by."""

    program: Program
    shop: Shop

    def looks(self, media: str, *, is_trusted: bool) -> Looks:
        return Looks(FORMATS[media].frame, is_trusted=is_trusted, problem=problem_of)

    def write(self, looks: Looks, texts: list[Any]) -> tuple[bytes, Counter[str]]:
        return looks.write(self.program.engine, self.program.answerer, texts, NOW_MS)

    def one_by_one(self, media: str, texts: list[str], *, is_trusted: bool) -> tuple[bytes, Counter[str]]:
        """Return what single answers would be, encoded together by msgspec."""
        answers = [self.program.answerer.verified(self.program.engine.decide(text, NOW_MS), None) for text in texts]
        shown = [answer if is_trusted else answer.public() for answer in answers]
        return FORMATS[media].frame.encode({"results": shown}), Counter(answer.status for answer in answers)


@pytest.fixture(scope="module")
def written(shop_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Codes of every state, of batches with and without a product, generated and imported, for tests and for sale."""
    shop = a_copy(shop_template, tmp_path_factory.mktemp("looks") / "shop")
    for place, state in enumerate(SegmentState):
        shop.assign(100 * place, 100 * place + 50, SceneChange(state, Scene(place)))
    shop.assign(900, 950, SceneChange(active_until_ms=1_000))
    create_batch(shop.workspace, shop.keyring, "trial", 50, test=True)
    shop.assign(0, 50, ACTIVE, "trial")
    shop.make("plain", 50)
    lines = "\n".join(IMPORTED).encode()
    import_batch(shop.workspace, shop.keyring, "old", io.BytesIO(lines), product=COLA, progress=no_progress)
    shop.assign(0, 5, ACTIVE, "old")
    return Written(shop.program(), shop)


def codes_of_every_kind(shop: Shop, count: int, seed: int) -> list[str]:
    """Return codes of all batches, and of none, in many spellings, in random order."""
    choose = random.Random(seed)
    own = [*shop.codes(0, 1000), *shop.codes(0, 50, "trial"), *shop.codes(0, 50, "plain"), *IMPORTED]
    others = [shop.keyring.code_keys.encode(SLOT, 10**9 + number) for number in range(100)]
    symbols = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    junk = ["".join(choose.choices(symbols, k=20)) for _ in range(100)]
    spellings = [
        str,
        str.lower,
        lambda code: code.replace("0", "o").replace("1", "l"),
        lambda code: f"https://example.com/s/{code}",
        lambda code: f"{code[:5]}-{code[5:10]} {code[10:]}",
        lambda code: code[:-1] + choose.choice(symbols),
        lambda code: f" {code}\n",
        lambda code: code[:18],
        lambda code: f"/01/{COLA.gtin}/21/{code}",
        lambda code: f"/01/4006381333931/21/{code}",
    ]
    weights = [20, 3, 3, 1, 1, 3, 1, 1, 1, 1]
    pool = [*own, *others, *junk, COLA.gtin, "", "可" * 20, "\0" * 20, "1234567890123456789\0"]
    return [choose.choices(spellings, weights)[0](choose.choice(pool)) for _ in range(count)]


@pytest.mark.parametrize("is_trusted", [True, False])
@pytest.mark.parametrize("media", MEDIA)
def test_prepared_bytes_are_those_of_single_answers(written: Written, media: str, is_trusted: bool) -> None:
    """Goal: nobody can tell how a reply was written. Method: codes of every kind, at once and one by one."""
    looks = written.looks(media, is_trusted=is_trusted)
    statuses: set[str] = set()
    for seed, count in ((1, 3_000), (2, 1_000), (3, 1), (4, 15), (5, 16)):
        texts = codes_of_every_kind(written.shop, count, seed)
        body, counts = written.write(looks, texts)
        expected, expected_counts = written.one_by_one(media, texts, is_trusted=is_trusted)
        assert body == expected
        assert counts == expected_counts
        statuses |= set(counts)
    assert statuses >= {
        "malformed", "mistyped", "forged", "unknown", "unknown_key", "inactive", "frozen", "void", "recalled",
        "expired", "valid", "product_only", "wrong_product",
    }  # fmt: skip


@given(st.lists(st.text(max_size=24) | st.sampled_from(IMPORTED) | st.integers(0, 999), max_size=20))
def test_any_texts_are_written_as_single_answers(written: Written, drawn: list[str | int]) -> None:
    own = written.shop.codes(0, 3)
    texts = [each if isinstance(each, str) else own[each % 3] for each in drawn]
    for media in MEDIA:
        body, counts = written.write(written.looks(media, is_trusted=True), texts)
        assert (body, counts) == written.one_by_one(media, texts, is_trusted=True)


def test_what_is_no_text_has_a_problem_in_its_place(written: Written) -> None:
    code = written.shop.code(60)
    texts = [code, 7, None, code, ["x"], "x" * 513, "\ud83c", b"bytes of 20 letters.", 0.5, True, {}]
    for media in MEDIA:
        body, counts = written.write(written.looks(media, is_trusted=False), texts)
        module = msgspec.json if media == MEDIA[0] else msgspec.msgpack
        results = module.decode(body)["results"]
        assert [("problem" in each) or each["code"] for each in results] == [code, True, True, code, *[True] * 7]
        assert {each["problem"]["field"] for each in results if "problem" in each} == {"code"}
        assert counts == {"valid": 2}


def test_a_publication_is_seen_by_the_next_reply(written: Written, shop: Shop) -> None:
    """Goal: bytes of an old snapshot are forgotten with it. Method: freeze codes between two replies of one writer."""
    mine = Written(shop.program(), shop)
    looks = mine.looks(MEDIA[0], is_trusted=False)
    assert mine.write(looks, shop.codes(0, 9))[1] == {"valid": 9}
    shop.assign(0, 4, SceneChange(SegmentState.FROZEN))
    assert mine.program.refresh()
    body, counts = mine.write(looks, shop.codes(0, 9))
    assert counts == {"frozen": 4, "valid": 5}
    assert body == mine.one_by_one(MEDIA[0], shop.codes(0, 9), is_trusted=False)[0]


def test_letters_are_read_of_bare_texts_only() -> None:
    letters, is_plain = read_letters(["A" * 20, "A" * 19, "é" * 20, 7, "\x7f" + "A" * 19, '"' * 20, "~ " * 10])
    assert is_plain.tolist() == [1, 0, 0, 0, 0, 0, 1]
    assert letters[0].tobytes() == b"A" * 20
    assert letters[6].tobytes() == b"~ " * 10
    assert not letters[1:6].any()


@pytest.mark.parametrize(
    ("which", "rows", "folds"),
    [([0, 2], 2, 2), ([-1, 0], 2, 2), ([0, 1], 1, 2), ([0, 1], 3, 2), ([0, 1], 2, 3), ([0, 2**31 - 1], 2, 2)],
)
def test_rows_that_do_not_fit_are_refused(which: list[int], rows: int, folds: int) -> None:
    with pytest.raises(ValueError, match=r"expected 2 rows|row [01] has pieces"):
        write_rows(
            b"", b"", b"", ((b"a", b"b"), (b"c", b"d")), 1, np.array(which, np.int32),
            np.zeros((rows, 20), np.uint8), np.zeros(folds, np.uint8),
        )  # fmt: skip


@pytest.mark.parametrize("piece", [(None, b"b"), (b"a", None)])
def test_a_piece_is_two_bytes(piece: tuple[Any, Any]) -> None:
    rows = np.zeros((1, 20), np.uint8)
    with pytest.raises(TypeError, match="piece 0"):
        write_rows(b"", b"", b"", (piece,), 1, np.zeros(1, np.int32), rows, np.zeros(1, np.uint8))


def test_rows_are_put_together() -> None:
    letters = np.frombuffer(b"ol0123456789abcdefgh" * 3, np.uint8).reshape(3, 20)
    folds = np.array([1, 0, 1], np.uint8)
    made = write_rows(b"<", b",", b">", ((b"a", b"b"), (b"c", b"d")), 1, np.array([0, 0, 1], np.int32), letters, folds)
    assert made == b"<a010123456789ABCDEFGHb,aol0123456789abcdefghb,cd>"
