"""The key ring: secrets read from ``keys.toml``, sub-keys derived once, nothing secret shown.

Every secret has 32 bytes. Sub-keys are BLAKE2b with 16 bytes of digest, keyed by the secret, personalised by their use,
so that no use can be mistaken for another (RFC 7693, section 2.8 of the BLAKE2 paper for the personalisation).

    slot secret     scan-tag, scan-mask      codes: who holds it can make codes
    draw secret     scan-draw, scan-pool     odds: who holds it can compute winners; it can make no code
    program secret  scan-claim, scan-user,   claim ids and the 64-bit hashes of users and visits that the ledger keeps
                    scan-visit
    session secret  scan-session             cookies and login states; the program secret where none is given
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Final

import msgspec

from scanengine._claim_keys import ClaimKeys
from scanengine._core import CodeKeys
from scanengine.errors import KeyringError
from scanengine.model import SLOT_COUNT, Party

SECRET_BYTES: Final = 32
_LONG_HEX: Final = re.compile(r"[0-9A-Fa-f]{16,}")
SLOT_STATES: Final = ("active", "verify", "revoked")


def derive_key(secret: bytes, person: str, data: bytes = b"") -> bytes:
    """Return the 16-byte sub-key of a 32-byte secret for one use.

    References
    ----------
    Aumasson, Neves, Wilcox-O'Hearn, Winnerlein (2013), BLAKE2.
    """
    return blake2b(data, digest_size=16, key=secret, person=person.encode()).digest()


class _SlotEntry(msgspec.Struct, forbid_unknown_fields=True):
    slot: int
    secret: str
    state: str


class _SecretEntry(msgspec.Struct, forbid_unknown_fields=True):
    secret: str


class _TokenEntry(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    token: str
    admin: bool = False


class _SessionEntry(msgspec.Struct, forbid_unknown_fields=True):
    secrets: list[str]


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    slots: list[_SlotEntry]
    draw: _SecretEntry
    program: _SecretEntry
    tokens: list[_TokenEntry] = []
    sessions: _SessionEntry | None = None
    wechat: _SecretEntry | None = None


class Caller(msgspec.Struct, frozen=True):
    """A back end that showed a bearer token; only an `is_admin` one may change tables and ledger."""

    name: str
    is_admin: bool = False


class Keyring:
    """All keys of one program, prepared for use.

    Parameters
    ----------
    slots : sequence of (int, bytes, str)
        Slot 0 to 31, its secret, and its state: ``active`` makes and checks codes, ``verify`` only checks,
        ``revoked`` does neither.
    draw_secret, program_secret : bytes
        32 bytes each.
    tokens : sequence of (str, str, bool)
        Name and bearer token of each trusted back end, and whether it may change tables and ledger.
    session_secrets : sequence of bytes
        32 bytes each: the first signs cookies, all of them are accepted, so that a new one can be known to all servers
        before any of them signs with it.
    wechat_secret : str or None
        AppSecret of the official account.

    Raises
    ------
    KeyringError
        If a slot, a state or a length is wrong. The message holds no secret.
    """

    def __init__(
        self,
        slots: Sequence[tuple[int, bytes, str]],
        draw_secret: bytes,
        program_secret: bytes,
        tokens: Sequence[tuple[str, str, bool]] = (),
        session_secrets: Sequence[bytes] = (),
        wechat_secret: str | None = None,
    ) -> None:
        self.slot_states: dict[int, str] = {}
        prepared = []
        for slot, secret, state in slots:
            if not 0 <= slot < SLOT_COUNT or slot in self.slot_states:
                raise KeyringError(f"slots: slot {slot} is given twice or is not 0 to {SLOT_COUNT - 1}")
            if state not in SLOT_STATES:
                # What stands there may be a secret in the wrong place, so it is not shown.
                raise KeyringError(f"slot {slot}: unknown state, expected one of {', '.join(SLOT_STATES)}")
            _checked_secret(f"slot {slot}", secret)
            self.slot_states[slot] = state
            prepared.append((slot, derive_key(secret, "scan-tag"), derive_key(secret, "scan-mask")))
        self.code_keys = CodeKeys([keys for keys in prepared if self.slot_states[keys[0]] != "revoked"])
        # Tells whether a code was ever made here; no scan is decided by it.
        self.all_code_keys = CodeKeys(prepared)
        self._draw_secret = _checked_secret("draw", draw_secret)
        _checked_secret("program", program_secret)
        self.claim_keys = ClaimKeys(
            blake2b(digest_size=16, key=program_secret, person=b"scan-claim"),
            derive_key(program_secret, "scan-user"),
            derive_key(program_secret, "scan-visit"),
        )
        for name, token, _ in tokens:
            if not token.strip():
                raise KeyringError(f"token {name!r} is empty, and would let everybody in")
        self._callers = tuple(
            (sha256(token.encode()).digest(), Caller(name, is_admin)) for name, token, is_admin in tokens
        )
        for secret in session_secrets:
            _checked_secret("sessions", secret)
        self.session_keys = tuple(derive_key(secret, "scan-session") for secret in session_secrets or [program_secret])
        self.wechat_secret = wechat_secret
        self.program_key_id = derive_key(program_secret, "scan-program-id").hex()[:16]
        self.draw_key_id = derive_key(draw_secret, "scan-draw-id").hex()[:16]

    def __repr__(self) -> str:
        return f"<Keyring of slots {self.slot_states}>"

    def __reduce__(self) -> str:
        raise TypeError("a Keyring holds secrets and cannot be pickled")

    @property
    def has_tokens(self) -> bool:
        """Whether any bearer token is configured."""
        return bool(self._callers)

    def caller(self, token: str) -> Caller | None:
        """Return whose bearer token this is, None if it is nobody's; compared in constant time."""
        digest = sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = [caller for known, caller in self._callers if hmac.compare_digest(digest, known)]
        return found[0] if found else None

    def issuing_slot(self, wanted: int | None = None) -> int:
        """Return the slot that makes new codes: the one wanted, or the highest active one.

        Raises
        ------
        KeyringError
            If the slot is not active, or none is.
        """
        active = sorted(slot for slot, state in self.slot_states.items() if state == "active")
        if wanted is None and active:
            return active[-1]
        if wanted not in active:
            raise KeyringError(f"slot {wanted} does not make codes: active slots are {active}; see keys.toml")
        return wanted

    def draw_key(self, campaign_id: str) -> bytes:
        """Return the 16-byte key of all draws of one campaign."""
        return derive_key(self._draw_secret, "scan-draw", campaign_id.encode())

    def pool_key(self, campaign_id: str, rule: int) -> bytes:
        """Return the 16-byte key of the pool of one rule."""
        return derive_key(self._draw_secret, "scan-pool", campaign_id.encode() + bytes((0, rule)))

    def claim_id(self, item: int, party: Party) -> str:
        """Return the id of the one claim that (item, party) can have: 26 characters, fit for a payout number."""
        return self.claim_keys.claim_id(item, party)

    def user_hash(self, user: str) -> int:
        """Return the 64-bit keyed hash under which records and counters know a user."""
        return self.claim_keys.user_hash(user)

    def visit_hash(self, visit: str) -> int:
        """Return the 64-bit keyed hash under which records know a visit."""
        return self.claim_keys.visit_hash(visit)


def _checked_secret(place: str, secret: bytes) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise KeyringError(f"{place}: the secret has {len(secret)} bytes, expected {SECRET_BYTES}")
    return secret


def load_keyring(path: Path) -> Keyring:
    """Read ``keys.toml``.

    Raises
    ------
    KeyringError
        If the file is missing, readable by others, not TOML, or has a wrong entry.

    Notes
    -----
    Mode 0600. A file of root may be readable by its group, for a service that runs under its own user.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
    except OSError as error:
        raise KeyringError(
            f"{path}: cannot be read: {error.strerror}; restore it from your copy, "
            "as new keys know no code that was printed before"
        ) from error
    allowed = 0o640 if status.st_uid == 0 else 0o600
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~allowed & 0o077:
        raise KeyringError(f"{path}: mode {mode:04o} lets others read the secrets, expected 0600: chmod 600 {path}")
    try:
        entries = msgspec.convert(tomllib.loads(content.decode()), _KeyFile)
        slots = [(entry.slot, _from_hex(f"slot {entry.slot}", entry.secret), entry.state) for entry in entries.slots]
        draw, program = _from_hex("draw", entries.draw.secret), _from_hex("program", entries.program.secret)
        tokens = [(entry.name, entry.token, entry.admin) for entry in entries.tokens]
        sessions = [_from_hex("sessions", secret) for secret in entries.sessions.secrets] if entries.sessions else []
        return Keyring(
            slots, draw, program, tokens, sessions, wechat_secret=entries.wechat.secret if entries.wechat else None
        )
    except tomllib.TOMLDecodeError as error:
        # The decoder's own message may quote the line, and with it a secret.
        raise KeyringError(f"{path}: not TOML {_place_of(error)}") from None
    except UnicodeDecodeError:
        raise KeyringError(f"{path}: not UTF-8 text") from None
    except msgspec.ValidationError as error:
        # A name that nobody expects may be a secret in the wrong place.
        raise KeyringError(f"{path}: {_LONG_HEX.sub('…', str(error))}") from None
    except ValueError:
        raise KeyringError(f"{path}: holds a number that is too long") from None
    except KeyringError as error:
        raise KeyringError(f"{path}: {error}") from None


def _from_hex(place: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise KeyringError(f"{place}: the secret is not hexadecimal") from None


def _place_of(error: tomllib.TOMLDecodeError) -> str:
    message = str(error)
    return message[message.rfind("(at ") :] if "(at " in message else ""


def new_key_file() -> str:
    """Return the text of a fresh ``keys.toml`` with random secrets."""
    return (
        "# The secrets of this program. Keep a copy offline: codes that are printed cannot be checked without them.\n"
        "# Who holds a slot's secret can make codes; who holds the draw secret can compute winners.\n\n"
        "[[slots]]\nslot = 1\n"
        f'secret = "{secrets.token_hex(SECRET_BYTES)}"\n'
        'state = "active"              # active: makes and checks codes | verify: only checks | revoked: neither\n\n'
        f'[draw]\nsecret = "{secrets.token_hex(SECRET_BYTES)}"\n\n'
        f'[program]\nsecret = "{secrets.token_hex(SECRET_BYTES)}"\n\n'
        "# A bearer token for each back end that may call the server. Without any, it listens on loopback only and\n"
        "# answers back ends of this machine only, none behind a proxy.\n"
        '# [[tokens]]\n# name = "shop-backend"\n# token = "…"\n'
        "# admin = false                 # true: may change scenes and adjust the ledger, too\n\n"
        "# Cookies are signed with the first of these and checked with all. To change it: append the new one, restart\n"
        "# all servers; move it to the front, restart; take the old one out when session_s has passed, restart.\n"
        '# [sessions]\n# secrets = ["…"]            # 64 hexadecimal digits each; else the program secret\n\n'
        '# [wechat]\n# secret = "…"                  # AppSecret of the official account\n'
    )
