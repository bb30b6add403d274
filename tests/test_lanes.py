"""The lanes: every path that this processor has gives the answers of the one word at a time, and of the reference."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
from siphash24 import siphash24 as independent_siphash24

from helpers_core import (
    ALPHABET,
    NOW_MS,
    SERIAL_END,
    BatchSpec,
    ResolverSpec,
    RuleSpec,
    active_profile,
    plain,
    rows_of,
    vector_slots,
)
from scanengine import _core, _lanes, _reference
from scanengine.campaigns.odds import build_alias
from scanengine.model import Status

PAPER_KEY = bytes(range(16))
PAPER_ANSWER = struct.unpack("<Q", bytes.fromhex("6224939a79f5f593"))[0]
"""Of the bytes 00 to 07, published with the paper by its authors."""
ROW_COUNTS = [*range(1, 10), 31, 32, 33, 64, 257]
"""Around the widths of lanes and blocks."""


@pytest.fixture(params=_lanes.PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each path in turn; where the processor has it not, the refusal and the widest that it has."""
    before = _lanes.path()
    if request.param in _lanes.paths():
        _lanes.choose(request.param)
    else:
        with pytest.raises(ValueError, match=rf"no lanes '{request.param}' here: choose one of scalar"):
            _lanes.choose(request.param)
    yield request.param
    _lanes.choose(before)


def shop() -> ResolverSpec:
    """Make batches of two slots with a draw of several prizes, some of their codes not in any batch."""
    everyone = RuleSpec().add_rule(3, build_alias([1, 99, 900]), [0, 1, -1])
    shops = RuleSpec(draw_key=bytes(range(50, 66))).add_rule(
        7, build_alias([1, 1]), [5, 6], [(_core.FIELD_ROLE, [[0, 2]])]
    )
    slots = sorted(slot for slot, _, _ in vector_slots())[:2]
    batches = [
        BatchSpec(slots[0] * SERIAL_END, 200, [0, 50, 120], [0, 1, 2], 3, 0),
        BatchSpec(slots[1] * SERIAL_END + 70, 90, [0], [0], 1, 3),
    ]
    profiles = [
        active_profile(gtin=7, rule_set=0),
        active_profile(rule_set=1),
        active_profile(state=2),
        active_profile(rule_set=1),
    ]
    return ResolverSpec(batches, profiles, [everyone, shops])


def hostile_texts(count: int, seed: int) -> list[str]:
    """Codes that are right, forged, mistyped, of unknown slots, lower-case, half letters, and bytes at random."""
    random, keys = Random(seed), _reference.CodeKeys(vector_slots())
    slots = sorted(slot for slot, _, _ in vector_slots())[:2]
    odd = [chr(byte) for byte in range(256)]
    texts = []
    for _ in range(count):
        text = keys.encode(random.choice(slots), random.randrange(250))
        place, kind = random.randrange(20), random.randrange(8)
        if kind == 0:
            text = text[:place] + random.choice(ALPHABET) + text[place + 1 :]
        elif kind == 1:
            text = text[:place] + random.choice(odd) + text[place + 1 :]
        elif kind == 2:
            text = text.lower().replace("0", random.choice("0oO")).replace("1", random.choice("1iIlL"))
        elif kind == 3:
            symbols = [random.randrange(32) for _ in range(19)]
            check = _reference.check_symbol(bytes(symbols))
            text = "".join(ALPHABET[symbol] for symbol in [*symbols, check])
        elif kind == 4:
            text = "".join(random.choice(odd) for _ in range(20))
        texts.append(text)
    return texts


def test_the_vectors_of_the_paper_hold_in_every_lane(path: str) -> None:
    values = np.full(19, struct.unpack("<Q", bytes(range(8)))[0], np.uint64)
    assert _lanes.siphash_many([PAPER_KEY] * 19, values).tolist() == [PAPER_ANSWER] * 19


@pytest.mark.parametrize("count", [0, *ROW_COUNTS])
def test_each_lane_has_its_own_key_and_value(path: str, count: int) -> None:
    random = Random(count)
    keys = [random.randbytes(16) for _ in range(count)]
    values = [random.choice([0, 2**64 - 1, random.getrandbits(64)]) for _ in range(count)]
    expected = [
        int.from_bytes(independent_siphash24(value.to_bytes(8, "little"), key=key).digest(), "little")
        for key, value in zip(keys, values, strict=True)
    ]
    assert _lanes.siphash_many(keys, np.array(values, np.uint64)).tolist() == expected


def test_keys_that_do_not_fit_the_values_are_refused(path: str) -> None:
    for keys in ([], [PAPER_KEY] * 3, [PAPER_KEY, b"short"]):
        with pytest.raises(ValueError, match=r"keys for 2 values|a SipHash key has 16 bytes, found 5"):
            _lanes.siphash_many(keys, np.zeros(2, np.uint64))


@pytest.mark.parametrize("count", ROW_COUNTS)
def test_many_rows_are_resolved_as_one_at_a_time_and_as_by_the_reference(path: str, count: int) -> None:
    core, reference = shop().build(_core), shop().build(_reference)
    texts, random = hostile_texts(count, seed=count), Random(count)
    roles = np.array([random.randrange(5) for _ in texts], np.uint8)
    gtins = np.array([random.choice([0, 7, 8]) for _ in texts], np.uint64)
    answers = core.resolve_many(rows_of(texts), NOW_MS, roles, 0, gtins)
    assert plain(answers) == plain(reference.resolve_many(rows_of(texts), NOW_MS, roles, 0, gtins))
    for row, text in enumerate(texts):
        status, item, _, profile, rule, drawn, _ = core.resolve(text, NOW_MS, int(roles[row]), 0, int(gtins[row]))
        assert [int(column[row]) for column in answers] == [status, item, profile, rule, drawn], ascii(text)


def test_the_hostile_texts_reach_every_outcome(path: str) -> None:
    """Goal: the comparison above compares something."""
    status, _, _, rule, drawn = shop().build(_core).resolve_many(rows_of(hostile_texts(4_000, 1)), NOW_MS, 0, 0)
    reached = {Status(value).name for value in np.unique(status)}
    assert reached >= {"MALFORMED", "MISTYPED", "UNKNOWN_KEY", "FORGED", "UNKNOWN", "FROZEN", "VALID"}
    assert {3, 7} <= set(rule.tolist())
    assert {1, -1, 5, 6} <= set(drawn.tolist())


@pytest.mark.parametrize("place", range(20))
def test_every_byte_at_every_place_is_read_as_the_reference_reads_it(path: str, place: int) -> None:
    code = _reference.CodeKeys(vector_slots()).encode(vector_slots()[0][0], 5)
    rows = rows_of([code[:place] + chr(byte) + code[place + 1 :] for byte in range(256)])
    answers = [shop().build(impl).resolve_many(rows, NOW_MS, 0, 0) for impl in (_core, _reference)]
    assert plain(answers[0]) == plain(answers[1])


def test_wider_rows_with_hyphens_are_hashed_in_the_same_lanes(path: str) -> None:
    codes = [_reference.CodeKeys(vector_slots()).encode(vector_slots()[0][0], serial) for serial in range(40)]
    bare = shop().build(_core).resolve_many(rows_of(codes), NOW_MS, 0, 0)
    spelled = np.array(["-".join(code[at : at + 5] for at in (0, 5, 10, 15)) for code in codes], "S24")
    rows = spelled.view(np.uint8).reshape(40, 24)
    assert plain(shop().build(_core).resolve_many(rows, NOW_MS, 0, 0)) == plain(bare)


SHOW = "from scanengine import _lanes; print(_lanes.path())"


def in_a_fresh_process(wanted: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "SCANENGINE_LANES"}
    if wanted is not None:
        environment["SCANENGINE_LANES"] = wanted
    return subprocess.run(
        [sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_environment_chooses_a_path() -> None:
    for wanted in _lanes.paths():
        assert in_a_fresh_process(wanted).stdout.split() == [wanted]


@pytest.mark.parametrize("nothing", [None, ""])
def test_the_widest_path_is_taken_by_default(nothing: str | None) -> None:
    assert in_a_fresh_process(nothing).stdout.split() == [_lanes.paths()[-1]]


def test_a_path_that_is_not_there_is_named() -> None:
    done = in_a_fresh_process("mmx")
    assert done.returncode != 0
    assert "SCANENGINE_LANES is 'mmx'; this processor has scalar" in done.stderr
