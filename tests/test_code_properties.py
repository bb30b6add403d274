"""What the code format promises of mistypes and forgeries, tried out on random codes."""

from __future__ import annotations

from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from helpers_core import ALPHABET, NOW_MS, SERIAL_END, ResolverSpec, both, letters, rows_of, vector_slots
from scanengine import _core, _reference
from scanengine.model import NO_ITEM, Status

SLOTS = [slot for slot, _, _ in vector_slots()]
CODE_COUNTS = [pytest.param(_core, 2_000, id="core"), pytest.param(_reference, 15, id="reference")]


def random_codes(impl: ModuleType, count: int, seed: int) -> list[str]:
    random, keys = Random(seed), impl.CodeKeys(vector_slots())
    return [keys.encode(random.choice(SLOTS), random.randrange(SERIAL_END)) for _ in range(count)]


def single_errors(code: str) -> list[str]:
    """Return the 20 * 31 texts with one wrong symbol."""
    return [
        code[:place] + wrong + code[place + 1 :]
        for place, right in enumerate(code)
        for wrong in ALPHABET
        if wrong != right
    ]


def swaps(code: str) -> list[str]:
    """Return the texts with two different symbols, neighbours or not, in each other's place."""
    texts = []
    for left in range(20):
        for right in range(left + 1, 20):
            if code[left] != code[right]:
                symbols = list(code)
                symbols[left], symbols[right] = symbols[right], symbols[left]
                texts.append("".join(symbols))
    return texts


def statuses(impl: ModuleType, texts: list[str]) -> np.ndarray[Any, Any]:
    """Resolve texts without any batch: a proven code is ``UNKNOWN``."""
    status: np.ndarray[Any, Any] = ResolverSpec().build(impl).resolve_many(rows_of(texts), NOW_MS, 0, 0)[0]
    return status


@pytest.mark.parametrize(("impl", "count"), CODE_COUNTS)
def test_every_single_wrong_symbol_is_mistyped(impl: ModuleType, count: int) -> None:
    for code in random_codes(impl, count, seed=1):
        errors = single_errors(code)
        assert len(errors) == 20 * 31
        assert (statuses(impl, [code, *errors]) == [Status.UNKNOWN] + [Status.MISTYPED] * len(errors)).all(), code


@pytest.mark.parametrize(("impl", "count"), CODE_COUNTS)
def test_every_swap_of_two_different_symbols_is_mistyped(impl: ModuleType, count: int) -> None:
    for code in random_codes(impl, count, seed=2):
        swapped = swaps(code)
        assert len(swapped) > 100
        assert (statuses(impl, swapped) == Status.MISTYPED).all(), code


@both
def test_one_text_at_a_time_finds_the_same_mistypes(impl: ModuleType) -> None:
    keys = impl.CodeKeys(vector_slots())
    for code in random_codes(impl, 5, seed=3):
        assert {keys.decode(text) for text in single_errors(code) + swaps(code)} == {(Status.MISTYPED, NO_ITEM)}


@pytest.mark.parametrize(
    ("impl", "count"), [pytest.param(_core, 500, id="core"), pytest.param(_reference, 5, id="reference")]
)
def test_a_changed_code_with_a_right_check_symbol_is_forged(impl: ModuleType, count: int) -> None:
    """Goal: only the tag proves a code. Method: change each symbol of serial and tag, then repair the check symbol.

    A changed code is valid by chance once in 2**50 times; none of these is.
    """
    for code in random_codes(impl, count, seed=4):
        forged = []
        for text in single_errors(code)[31 : 19 * 31]:
            payload = bytes(letters(text)[:-1])
            forged.append(text[:-1] + ALPHABET[impl.check_symbol(payload)])
        assert len(forged) == 18 * 31
        assert (statuses(impl, forged) == Status.FORGED).all(), code


@both
def test_a_code_of_a_slot_without_keys_has_an_unknown_key(impl: ModuleType) -> None:
    only_seven = impl.CodeKeys([slot for slot in vector_slots() if slot[0] == 7])
    keys = impl.CodeKeys(vector_slots())
    assert only_seven.decode(keys.encode(7, 5)) == (Status.VALID, 7 * 2**40 + 5)
    assert only_seven.decode(keys.encode(0, 5)) == (Status.UNKNOWN_KEY, NO_ITEM)


def test_a_million_codes_in_a_row_differ_and_show_no_order() -> None:
    """Goal: neither volume nor order shows. Method: neighbours agree in a payload symbol as often as chance has it.

    18 symbols of serial and tag are compared a million times: 562 500 agreements expected, standard deviation 738;
    a right implementation fails with another key less than once in 10**9 (six standard deviations).
    """
    codes = _core.CodeKeys(vector_slots()).encode_many(7, 123_456, 1_000_001)
    assert len(np.unique(codes.view("S20"))) == len(codes)
    agreements = int((codes[1:, 1:19] == codes[:-1, 1:19]).sum())
    assert abs(agreements - 562_500) < 6 * 738


@both
def test_keys_show_in_no_representation(impl: ModuleType) -> None:
    keys = impl.CodeKeys([(3, b"tag-key-of-slot3", b"maskkey-of-slot3")])
    for shown in (repr(keys), str(keys), f"{keys}"):
        assert "3" in shown
        assert "key-of" not in shown


def test_core_and_reference_read_what_the_other_wrote() -> None:
    core, reference = _core.CodeKeys(vector_slots()), _reference.CodeKeys(vector_slots())
    for code in random_codes(_core, 50, seed=5):
        status, item = reference.decode(code)
        assert status == Status.VALID
        assert reference.encode(item >> 40, item % SERIAL_END) == code
        assert core.decode(code) == (status, item)
