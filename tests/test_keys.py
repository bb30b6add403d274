"""The key ring: what it refuses, whom it lets read, and that nothing secret is ever shown."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import re
import traceback
from hashlib import blake2b
from pathlib import Path

import pytest

from helpers import DRAW_SECRET, KEYS, PROGRAM_SECRET, SLOT_SECRET, TOKEN, replaced
from helpers_core import CODE_VECTORS, DRAW_VECTORS
from scanengine.errors import KeyringError
from scanengine.keys import Caller, Keyring, derive_key, load_keyring, new_key_file
from scanengine.model import Party

SECRETS = (SLOT_SECRET, DRAW_SECRET, PROGRAM_SECRET)
OTHER_SLOT = '[[slots]]\nslot = 1\nsecret = "' + "ab" * 32 + '"\nstate = "verify"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "keys.toml", KEYS)


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def ring(slots: list[tuple[int, bytes, str]] | None = None) -> Keyring:
    return Keyring(slots if slots is not None else [(1, SLOT_SECRET, "active")], DRAW_SECRET, PROGRAM_SECRET)


def shows_a_secret(text: str) -> bool:
    """Whether a text holds a secret or a good part of one, as digits, as bytes or as a list of numbers."""
    lowered = text.lower()
    for secret in SECRETS:
        forms = (secret.hex()[:16], secret.hex()[-16:], repr(secret)[2:20], str(list(secret))[1:20])
        if any(form.lower() in lowered for form in forms):
            return True
    return TOKEN in text


def refusal(path: Path) -> str:
    """Return why a key file is refused, having looked for secrets in everything that could be printed."""
    with pytest.raises(KeyringError) as caught:
        load_keyring(path)
    shown = [str(caught.value), repr(caught.value), repr(caught.value.args)]
    shown += traceback.format_exception(caught.value)
    assert not any(shows_a_secret(text) for text in shown)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_written_key_file_is_read(path: Path) -> None:
    keyring = load_keyring(path)
    assert keyring.slot_states == {1: "active"}
    assert keyring.issuing_slot() == 1
    assert keyring.has_tokens


def test_a_fresh_key_file_is_read_and_is_never_the_same(tmp_path: Path) -> None:
    texts = [new_key_file(), new_key_file()]
    secrets = [secret for text in texts for secret in re.findall(r'secret = "([0-9a-f]{64})"', text)]
    assert len(set(secrets)) == 6
    keyring = load_keyring(write(tmp_path / "keys.toml", texts[0]))
    assert keyring.issuing_slot() == 1
    assert not keyring.has_tokens


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("slot = 1", "slot = 32", "slots: slot 32 is given twice or is not 0 to 31"),
        ("slot = 1", "slot = -1", "slots: slot -1 is given twice or is not 0 to 31"),
        ("[draw]", OTHER_SLOT + "[draw]", "slots: slot 1 is given twice"),
        ("slot = 1", "slot = true", "Expected `int`, got `bool`"),
        ("slot = 1", "", "missing required field `slot`"),
        ('state = "active"', 'state = "resting"', "slot 1: unknown state, expected one of active, verify, revoked"),
        ('state = "active"', "", "missing required field `state`"),
        ('state = "active"', f'state = "{SLOT_SECRET.hex()}"', "slot 1: unknown state"),
        (SLOT_SECRET.hex(), SLOT_SECRET.hex()[:-2], "slot 1: the secret has 31 bytes, expected 32"),
        (DRAW_SECRET.hex(), DRAW_SECRET.hex() + "00", "draw: the secret has 33 bytes, expected 32"),
        (PROGRAM_SECRET.hex(), "", "program: the secret has 0 bytes, expected 32"),
        (SLOT_SECRET.hex(), SLOT_SECRET.hex()[:-1] + "g", "slot 1: the secret is not hexadecimal"),
        (DRAW_SECRET.hex(), DRAW_SECRET.hex()[:-1], "draw: the secret is not hexadecimal"),
        (PROGRAM_SECRET.hex(), PROGRAM_SECRET.hex()[:-1] + "ä", "program: the secret is not hexadecimal"),
        (f'"{DRAW_SECRET.hex()}"', "7", "Expected `str`, got `int`"),
        ("[draw]", "[drew]", "unknown field `drew`"),
        (f'[program]\nsecret = "{PROGRAM_SECRET.hex()}"', "", "missing required field `program`"),
        (TOKEN, "", "token 'shop-backend' is empty"),
        (TOKEN, "  ", "token 'shop-backend' is empty"),
        # What is on the faulty line is a secret, and the decoder would quote some of it.
        (f'"{SLOT_SECRET.hex()}"', SLOT_SECRET.hex(), "not TOML (at line 4, column"),
        (f'"{SLOT_SECRET.hex()}"', f'"{SLOT_SECRET.hex()}', "not TOML (at line 4, column"),
        (f'secret = "{DRAW_SECRET.hex()}"', DRAW_SECRET.hex(), "not TOML (at line 7, column"),
        (f'secret = "{DRAW_SECRET.hex()}"', f'secret = "{DRAW_SECRET.hex()}"\n' * 2, "not TOML (at line 8, column"),
        ("[draw]", f"[{DRAW_SECRET.hex()}]\n[{DRAW_SECRET.hex()}]\n[draw]", "not TOML (at line 7"),
        ("[draw]", f"[{DRAW_SECRET.hex()}]\n[draw]", "unknown field `…`"),
        ("slot = 1", f"slot = {'9' * 5_000}", "a number that is too long"),
    ],
)
def test_each_fault_is_named_without_a_secret(path: Path, old: str, new: str, message: str) -> None:
    assert message in refusal(write(path, replaced(KEYS, old, new)))


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    assert "not UTF-8 text" in refusal(write(path, KEYS.encode() + b"\xff"))


def test_a_missing_file_says_to_restore_it(tmp_path: Path) -> None:
    assert "restore it from your copy" in refusal(tmp_path / "keys.toml")
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o640])
def test_root_may_let_its_group_read(path: Path, mode: int) -> None:
    os.chown(path, 0, 0)
    path.chmod(mode)
    assert load_keyring(path).slot_states == {1: "active"}


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o606, 0o601, 0o777])
def test_others_may_never_read(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert f"mode {mode:04o} lets others read the secrets, expected 0600: chmod 600 {path}" in refusal(path)


@pytest.mark.parametrize(("mode", "is_read"), [(0o600, True), (0o640, False), (0o604, False)])
def test_a_file_of_a_user_is_for_that_user_alone(path: Path, mode: int, is_read: bool) -> None:
    os.chown(path, 65_534, 65_534)
    path.chmod(mode)
    if is_read:
        assert load_keyring(path).has_tokens
    else:
        assert f"mode {mode:04o}" in refusal(path)


def test_nothing_secret_is_shown_or_copied(path: Path) -> None:
    keyring = load_keyring(path)
    assert repr(keyring) == str(keyring) == "<Keyring of slots {1: 'active'}>"
    assert not shows_a_secret(f"{keyring!r} {keyring.code_keys!r} {keyring.draw_key_id}")
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled") as caught:
            leak(keyring)
        assert not shows_a_secret("".join(traceback.format_exception(caught.value)))
    with pytest.raises(TypeError):
        json.dumps(keyring)


def test_slots_make_and_check_as_their_state_says() -> None:
    code = ring().code_keys.encode(1, 7)
    item = (1 << 40) + 7
    slots = {state: ring([(1, SLOT_SECRET, state)]) for state in ("active", "verify", "revoked")}
    assert [slots[state].code_keys.decode(code)[1] == item for state in slots] == [True, True, False]
    assert slots["active"].issuing_slot(1) == 1
    for state in ("verify", "revoked"):
        for wanted in (None, 1):
            with pytest.raises(KeyringError, match=r"does not make codes: active slots are \[\]; see keys.toml"):
                slots[state].issuing_slot(wanted)


def test_the_highest_active_slot_makes_new_codes() -> None:
    states = [(3, "active"), (9, "active"), (20, "verify"), (31, "revoked")]
    keyring = ring([(slot, bytes([slot]) * 32, state) for slot, state in states])
    assert keyring.issuing_slot() == 9
    assert keyring.issuing_slot(3) == 3
    with pytest.raises(KeyringError, match=r"slot 20 does not make codes: active slots are \[3, 9\]"):
        keyring.issuing_slot(20)


def test_a_ring_without_slots_checks_nothing() -> None:
    keyring = ring([])
    assert keyring.code_keys.decode(ring().code_keys.encode(1, 7))[0] == 3
    with pytest.raises(KeyringError, match="slot None does not make codes"):
        keyring.issuing_slot()


def test_tokens_are_accepted_whole_or_not_at_all(path: Path) -> None:
    second = '[[tokens]]\nname = "other"\ntoken = "另一个令牌"\nadmin = true\n'
    keyring = load_keyring(write(path, KEYS + second))
    assert keyring.caller(TOKEN) == Caller("shop-backend")
    assert keyring.caller("另一个令牌") == Caller("other", is_admin=True)
    for wrong in ("", " ", TOKEN[:-1], TOKEN + " ", TOKEN.upper(), "shop-backend", "\udcff"):
        assert keyring.caller(wrong) is None
    assert ring().caller("") is None


def test_claim_ids_are_those_of_the_written_rule() -> None:
    """Base 32 of a keyed hash of item and party: 26 characters that say nothing of the serial."""
    letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    keyring = ring()
    seen = set()
    for item in (0, 1, (1 << 40) + 5, (1 << 55) - 1):
        for party in Party:
            data = item.to_bytes(8, "little") + bytes([party])
            digest = blake2b(data, digest_size=16, key=PROGRAM_SECRET, person=b"scan-claim").digest()
            number = 0
            claim_id = keyring.claim_id(item, party)
            for letter in claim_id:
                number = number * 32 + letters.index(letter)
            assert number == int.from_bytes(digest, "big")
            assert re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", claim_id)
            seen.add(claim_id)
    assert len(seen) == 8
    assert Keyring([], DRAW_SECRET, SLOT_SECRET).claim_id(0, Party.CONSUMER) not in seen


def test_users_and_visits_are_hashed_apart() -> None:
    keyring = ring()
    hashes = {keyring.user_hash("u1"), keyring.visit_hash("u1"), keyring.user_hash("u2"), keyring.user_hash("")}
    assert len(hashes) == 4
    assert all(0 <= each < 1 << 64 for each in hashes)
    assert keyring.user_hash("用户") == ring().user_hash("用户")


def test_sub_keys_are_those_of_the_vectors() -> None:
    for slot, keys in CODE_VECTORS["subkeys_hex"].items():
        secret = bytes.fromhex(CODE_VECTORS["secrets_hex"][slot])
        assert {person: derive_key(secret, person).hex() for person in keys} == keys
    secret = bytes.fromhex(DRAW_VECTORS["draw_secret_hex"])
    keyring = Keyring([], secret, PROGRAM_SECRET)
    for campaign in DRAW_VECTORS["campaigns"]:
        assert keyring.draw_key(campaign["id"]).hex() == campaign["draw_key_hex"]
    pool_key = blake2b(b"spring\0\x04", digest_size=16, key=secret, person=b"scan-pool").digest()
    assert keyring.pool_key("spring", 4) == pool_key


def test_the_name_of_a_draw_secret_tells_secrets_apart_and_nothing_else() -> None:
    names = {Keyring([], secret, PROGRAM_SECRET).draw_key_id for secret in SECRETS}
    assert len(names) == 3
    for name in names:
        assert re.fullmatch(r"[0-9a-f]{16}", name)
    assert ring().draw_key_id not in {DRAW_SECRET.hex()[:16], hashlib.sha256(DRAW_SECRET).hexdigest()[:16]}


def test_cookies_are_signed_with_the_first_session_secret_and_checked_with_all(path: Path) -> None:
    first, second = "11" * 32, "22" * 32
    both = load_keyring(write(path, f'{KEYS}\n[sessions]\nsecrets = ["{first}", "{second}"]\n')).session_keys
    assert len({*both, ring().session_keys[0]}) == 3
    assert load_keyring(write(path, f'{KEYS}\n[sessions]\nsecrets = ["{second}"]\n')).session_keys == both[1:]
    with pytest.raises(KeyringError, match="sessions: the secret has 2 bytes"):
        load_keyring(write(path, f'{KEYS}\n[sessions]\nsecrets = ["beef"]\n'))


def test_the_secret_of_the_official_account_is_kept(path: Path) -> None:
    assert load_keyring(write(path, f'{KEYS}\n[wechat]\nsecret = "an AppSecret"\n')).wechat_secret == "an AppSecret"
    assert ring().wechat_secret is None
