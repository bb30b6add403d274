"""Published and independent answers: SipHash of its authors, BLAKE2b of hashlib, golden vectors of codes and draws."""

from __future__ import annotations

import struct
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from siphash24 import siphash24 as independent_siphash24

from helpers_core import (
    CODE_VECTORS,
    DRAW_VECTORS,
    both,
    rows_of,
    sub_key,
    vector_slots,
)
from scanengine.campaigns.odds import build_alias
from scanengine.model import NO_ITEM, Status

# The answers for key 00 01 .. 0f and the inputs (), 00, 00 01, .. of 0 to 63 bytes, published with the paper by its
# authors; the one of 15 bytes is the worked example of the paper itself.
SIPHASH_ANSWERS = struct.unpack(
    "<64Q",
    bytes.fromhex(
        """
    310e0edd47db6f72 fd67dc93c539f874 5a4fa9d909806c0d 2d7efbd796666785
    b7877127e09427cf 8da699cd64557618 cee3fe586e46c9cb 37d1018bf50002ab
    6224939a79f5f593 b0e4a90bdf82009e f3b9dd94c5bb5d7a a7ad6b22462fb3f4
    fbe50e86bc8f1e75 903d84c02756ea14 eef27a8e90ca23f7 e545be4961ca29a1
    db9bc2577fcc2a3f 9447be2cf5e99a69 9cd38d96f0b3c14b bd6179a71dc96dbb
    98eea21af25cd6be c7673b2eb0cbf2d0 883ea3e395675393 c8ce5ccd8c030ca8
    94af49f6c650adb8 eab8858ade92e1bc f315bb5bb835d817 adcf6b0763612e2f
    a5c91da7acaa4dde 716595876650a2a6 28ef495c53a387ad 42c341d8fa92d832
    ce7cf2722f512771 e37859f94623f3a7 381205bb1ab0e012 ae97a10fd434e015
    b4a31508beff4d31 81396229f0907902 4d0cf49ee5d4dcca 5c73336a76d8bf9a
    d0a704536ba93e0e 925958fcd6420cad a915c29bc8067318 952b79f3bc0aa6d4
    f21df2e41d4535f9 87577519048f53a9 10a56cf5dfcd9adb eb75095ccd986cd0
    51a9cb9ecba312e6 96afadfc2ce666c7 72fe52975a4364ee 5a1645b276d592a1
    b274cb8ebf87870a 6f9bb4203de7b381 eaecb2a30b22a87f 9924a43cc1315724
    bd838d3aafbf8db7 0b1a2a3265d51aea 135079a3231ce660 932b2846e4d70666
    e1915f5cb1eca46c f325965ca16d629f 575ff28e60381be5 724506eb4c328a95
    """
    ),
)

VALID_CODES = CODE_VECTORS["valid"]
CAMPAIGNS = {campaign["id"]: campaign for campaign in DRAW_VECTORS["campaigns"]}
DRAW_SECRET = bytes.fromhex(DRAW_VECTORS["draw_secret_hex"])


def short(case: dict[str, Any]) -> str:
    return ascii(case["text"])[:30]


@both
@pytest.mark.parametrize("length", range(64))
def test_siphash_gives_the_published_answers(impl: ModuleType, length: int) -> None:
    assert impl.siphash24(bytes(range(16)), bytes(range(length))) == SIPHASH_ANSWERS[length]


def test_siphash_answers_hold_the_worked_example_of_the_paper() -> None:
    assert SIPHASH_ANSWERS[15] == 0xA129CA6149BE45E5


@both
def test_siphash_equals_an_independent_implementation(impl: ModuleType) -> None:
    """Method: 500 random keys and inputs of up to 300 bytes, so that the length byte wraps too."""
    random = Random(24)
    for _ in range(500):
        key, data = random.randbytes(16), random.randbytes(random.randrange(300))
        expected = int.from_bytes(independent_siphash24(data, key=key).digest(), "little")
        assert impl.siphash24(key, data) == expected


def test_code_sub_keys_are_blake2b_of_the_secret() -> None:
    for slot, tag_key, mask_key in vector_slots():
        expected = CODE_VECTORS["subkeys_hex"][str(slot)]
        assert tag_key.hex() == expected["scan-tag"]
        assert mask_key.hex() == expected["scan-mask"]


@both
def test_codes_are_written_as_in_the_vectors(impl: ModuleType) -> None:
    keys = impl.CodeKeys(vector_slots())
    for case in VALID_CODES:
        assert keys.encode(case["slot"], case["serial"]) == case["text"]


@both
def test_codes_in_a_row_are_written_as_in_the_vectors(impl: ModuleType) -> None:
    keys = impl.CodeKeys(vector_slots())
    for case in VALID_CODES:
        np.testing.assert_array_equal(keys.encode_many(case["slot"], case["serial"], 1), rows_of([case["text"]]))
    first_three = [case["text"] for case in VALID_CODES if case["slot"] == 0 and case["serial"] < 3]
    np.testing.assert_array_equal(keys.encode_many(0, 0, 3), rows_of(first_three))


@both
def test_codes_of_the_vectors_are_valid(impl: ModuleType) -> None:
    keys = impl.CodeKeys(vector_slots())
    for case in VALID_CODES:
        assert keys.decode(case["text"]) == (Status.VALID, case["slot"] * 2**40 + case["serial"])


@both
@pytest.mark.parametrize("case", CODE_VECTORS["accepted_spellings"], ids=short)
def test_every_accepted_spelling_is_the_same_code(impl: ModuleType, case: dict[str, Any]) -> None:
    keys = impl.CodeKeys(vector_slots())
    assert keys.decode(case["text"]) == (Status.VALID, case["slot"] * 2**40 + case["serial"])
    assert impl.normalize(case["text"]) == keys.encode(case["slot"], case["serial"])


@both
@pytest.mark.parametrize("case", CODE_VECTORS["rejected"], ids=short)
def test_rejected_texts_have_the_status_of_the_vectors(impl: ModuleType, case: dict[str, Any]) -> None:
    keys = impl.CodeKeys(vector_slots())
    assert keys.decode(case["text"]) == (Status[case["status"].upper()], NO_ITEM)
    assert (impl.normalize(case["text"]) is None) == (case["status"] == "malformed")


@both
def test_the_check_symbol_ends_every_code(impl: ModuleType) -> None:
    for case in VALID_CODES:
        symbols = bytes(impl.ALPHABET.index(letter) for letter in case["text"])
        assert impl.check_symbol(symbols[:-1]) == symbols[-1]


@pytest.mark.parametrize("campaign", CAMPAIGNS)
def test_draw_keys_are_blake2b_of_the_campaign(campaign: str) -> None:
    vectors = CAMPAIGNS[campaign]
    assert sub_key(DRAW_SECRET, b"scan-draw", campaign.encode()).hex() == vectors["draw_key_hex"]
    for case in vectors["permutations"]:
        data = campaign.encode() + b"\0" + bytes([case["rule"]])
        assert sub_key(DRAW_SECRET, b"scan-pool", data).hex() == case["pool_key_hex"]


@both
@pytest.mark.parametrize("campaign", CAMPAIGNS)
def test_draw_words_are_those_of_the_vectors(impl: ModuleType, campaign: str) -> None:
    key = bytes.fromhex(CAMPAIGNS[campaign]["draw_key_hex"])
    for case in CAMPAIGNS[campaign]["words"]:
        assert impl.draw_words(key, case["item"], case["rule"]) == (int(case["w0"]), int(case["w1"]))


@pytest.mark.parametrize("case", DRAW_VECTORS["alias"], ids=lambda case: f"n={len(case['weights'])}")
def test_alias_tables_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    assert build_alias(case["weights"]) == (list(map(int, case["thresholds"])), case["aliases"])


@both
@pytest.mark.parametrize("case", DRAW_VECTORS["alias"], ids=lambda case: f"n={len(case['weights'])}")
def test_draws_are_those_of_the_vectors(impl: ModuleType, case: dict[str, Any]) -> None:
    key = bytes.fromhex(CAMPAIGNS["spring-2026"]["draw_key_hex"])
    thresholds = np.array(list(map(int, case["thresholds"])), np.uint64)
    aliases = np.array(case["aliases"], np.uint32)
    for item, outcome in case["outcomes"]:
        assert impl.alias_draw(thresholds, aliases, *impl.draw_words(key, item, 2)) == outcome


@both
@pytest.mark.parametrize("campaign", CAMPAIGNS)
def test_pool_permutations_are_those_of_the_vectors(impl: ModuleType, campaign: str) -> None:
    for case in CAMPAIGNS[campaign]["permutations"]:
        key = bytes.fromhex(case["pool_key_hex"])
        for position, image in case.get("at") or enumerate(case["image"]):
            assert impl.permute(key, case["rule"], case["n"], position) == image
