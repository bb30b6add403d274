"""What a browser carries for us: cookies and login states, signed where somebody could gain by writing them.

    scan_visit     24 hex digits                          one visit; reloads, login and claim carry the same
    scan_session   issued . app id . openid . tag         who logged in with WeChat
    scan_guest     32 hex digits . tag                    who may claim without WeChat, if guests may

    state          | attempt 1 | issued 4 | visit 12 | code ... or 0, item 8 | tag 10 |   as letters and digits

Where cookies go over TLS only, their names begin with ``__Host-``: a browser then takes them from this host alone. A
sibling's page could otherwise make a browser carry the visit in which somebody else's login began, and nobody signs a
visit. If several cookies of one name come, the one that is ours counts, so that no second one can keep somebody out.

A tag is keyed BLAKE2b over all that is before it, personalised by its use. The first session key of ``keys.toml``
makes tags and all of them are accepted: a new key goes behind the old one until every server knows it. A state's
tag has 80 bits and five minutes; a session says of which account it is, as an openid means nothing to another one.

Times are of the program's clock. Nothing here reads a request or knows a route.
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Final, Protocol

import msgspec

from scanengine.ledger.processes import process_number

_HOST_ONLY: Final = "__Host-"
STATE_S: Final = 300
"""As long as WeChat's own code is good."""
STATE_CHARS_MAX: Final = 128
"""What WeChat carries there and back."""
CODE_BYTES_MAX: Final = 48
"""Of a code in a state; of a longer one its item number goes there. 75 bytes are 100 characters of base 64, of which
some 5 are written as two: never 128."""
GUEST_S: Final = 365 * 86_400
_VISIT_BYTES: Final = 12
_GUEST_BYTES: Final = 16
_RANDOM_AT_ONCE: Final = 1_200
_STATE_TAG_BYTES: Final = 10
_COOKIE_TAG_BYTES: Final = 16
_HEAD_BYTES: Final = 1 + 4 + _VISIT_BYTES
_CLOCK_SKEW_S: Final = 60
"""Servers of one program need not agree to the second on what time it is."""
_ITEM_MARK: Final = b"\0"
"""In front of an item number; no code begins with it."""
_VISIT: Final = r"([0-9a-f]{24})"
_SESSION: Final = r"(([0-9]{1,12})\.([0-9A-Za-z]{1,32})\.([0-9A-Za-z_-]{1,60}))\.([0-9a-f]{32})"
_GUEST: Final = r"([0-9a-f]{32})\.([0-9a-f]{32})"
_ESCAPED: Final = re.compile(r"Z([ZAB])")
_ESCAPES: Final = {"Z": "Z", "A": "+", "B": "/"}


class HasClock(Protocol):
    """What sessions need of a program."""

    clock: Callable[[], int]
    """Milliseconds since 1970 UTC."""


class State(msgspec.Struct, frozen=True):
    """What a login carries there and back.

    Parameters
    ----------
    code : str or int
        Whose page is to be shown afterwards: the code in its bare spelling, or its item number.
    visit : str
        The visit in which the login began; the browser that comes back must show the same.
    attempt : int
        Logins of this visit that were begun anew before this one.
    is_expired : bool
    """

    code: str | int
    visit: str
    attempt: int
    is_expired: bool

    def __repr__(self) -> str:
        """Do not show the code, which is a bearer secret."""
        return f"<State attempt={self.attempt} is_expired={self.is_expired}>"


class _Signer:
    """Makes and checks tags of one use."""

    def __init__(self, keys: Sequence[bytes], person: bytes, tag_bytes: int) -> None:
        self._hashes = [blake2b(digest_size=tag_bytes, key=key, person=person) for key in keys]

    def tag(self, data: bytes) -> bytes:
        state = self._hashes[0].copy()
        state.update(data)
        return state.digest()

    def is_ours(self, data: bytes, tag: bytes) -> bool:
        found = False
        for known in self._hashes:
            state = known.copy()
            state.update(data)
            found |= hmac.compare_digest(state.digest(), tag)
        return found


class _Cookie:
    """One cookie: its lines for browsers, and the values of its form that a header holds, other people's too."""

    def __init__(self, name: str, form: str, age_s: int, attributes: str) -> None:
        self._find_all = re.compile(rf"(?:^|;)[ \t]*{name}={form}(?=;|\Z)").finditer
        self._start = f"{name}="
        self._end = f"; Max-Age={age_s}{attributes}"

    def found(self, header: str) -> Iterator[re.Match[str]]:
        return self._find_all(header)

    def line(self, value: str) -> str:
        return f"{self._start}{value}{self._end}"


class _Random:
    """Random bytes, many asked of the system at a time: a system call costs more than all the rest of a redirect."""

    def __init__(self) -> None:
        self._left = b""
        self._process = process_number()

    def take(self, size: int) -> bytes:
        """Return bytes that nobody was given before, in this process or one that was forked from it."""
        if len(self._left) < size or self._process != process_number():
            self._process = process_number()
            self._left = secrets.token_bytes(_RANDOM_AT_ONCE)
        taken, self._left = self._left[:size], self._left[size:]
        return taken


class Sessions:
    """Writes and reads cookies and states; cookies are read from the whole ``Cookie`` header, "" for none.

    Parameters
    ----------
    keys : sequence of bytes
        16 bytes each, the first signs: `Keyring.session_keys`.
    app_id : str or None
        The account whose sessions are accepted; None for no login.
    is_secure : bool
        Whether cookies go over TLS only.
    session_s, visit_s : int
        How long a login and a visit hold, seconds.
    program : HasClock
        Whose clock it goes by; asked anew each time, as it can be replaced.
    """

    def __init__(
        self,
        keys: Sequence[bytes],
        *,
        app_id: str | None,
        is_secure: bool,
        session_s: int,
        visit_s: int,
        program: HasClock,
    ) -> None:
        self._sessions = _Signer(keys, b"session-cookie", _COOKIE_TAG_BYTES)
        self._guests = _Signer(keys, b"guest-cookie", _COOKIE_TAG_BYTES)
        self._states = _Signer(keys, b"login-state", _STATE_TAG_BYTES)
        self._random = _Random()
        self._app_id = app_id
        self._session_s = session_s
        self._program = program
        # Lax: sent when WeChat sends the browser back to us, and with no POST of another site.
        attributes = f"; Path=/; HttpOnly; SameSite=Lax{'; Secure' if is_secure else ''}"
        start = _HOST_ONLY if is_secure else ""
        self._visit_cookie = _Cookie(f"{start}scan_visit", _VISIT, visit_s, attributes)
        self._session_cookie = _Cookie(f"{start}scan_session", _SESSION, session_s, attributes)
        self._guest_cookie = _Cookie(f"{start}scan_guest", _GUEST, GUEST_S, attributes)

    # Visits ---------------------------------------------------------------------------------------------------------

    def visit_of(self, cookies: str) -> str | None:
        """Return the visit that a browser is in."""
        found = next(self._visit_cookie.found(cookies), None)
        return found and found[1]

    def new_visit(self) -> str:
        """Return a new visit."""
        return self._random.take(_VISIT_BYTES).hex()

    def visit_cookie(self, visit: str) -> str:
        """Return the ``Set-Cookie`` that makes a browser carry a visit, from now on for `visit_s`."""
        return self._visit_cookie.line(visit)

    # Users ----------------------------------------------------------------------------------------------------------

    def user_of(self, cookies: str) -> str | None:
        """Return who logged in with WeChat, if the login is ours, of this account, and still holds."""
        for found in self._session_cookie.found(cookies):
            signed, issued, app_id, openid, tag = found.groups()
            if app_id == self._app_id and self._sessions.is_ours(signed.encode(), bytes.fromhex(tag)):
                age_s = self._now_s() - int(issued)
                if -_CLOCK_SKEW_S <= age_s < self._session_s:
                    return f"wx:{openid}"
        return None

    def session_cookie(self, openid: str) -> str:
        """Return the ``Set-Cookie`` of somebody who has just logged in."""
        signed = f"{self._now_s()}.{self._app_id}.{openid}"
        return self._session_cookie.line(f"{signed}.{self._sessions.tag(signed.encode()).hex()}")

    def guest_of(self, cookies: str) -> str | None:
        """Return the guest that a browser was made before."""
        for found in self._guest_cookie.found(cookies):
            guest, tag = found.groups()
            if self._guests.is_ours(guest.encode(), bytes.fromhex(tag)):
                return f"web:{guest}"
        return None

    def new_guest(self) -> tuple[str, str]:
        """Return a new guest, and the ``Set-Cookie`` that makes a browser carry it."""
        guest = self._random.take(_GUEST_BYTES).hex()
        return f"web:{guest}", self._guest_cookie.line(f"{guest}.{self._guests.tag(guest.encode()).hex()}")

    # Logins ---------------------------------------------------------------------------------------------------------

    def state_of(self, code: str | int, visit: str, attempt: int = 0) -> str:
        """Return the state of a login that begins now: at most 128 letters and digits.

        Parameters
        ----------
        code : str or int
            At most ``CODE_BYTES_MAX`` bytes; of a longer code its item number.
        visit : str
            Of :meth:`new_visit` or :meth:`visit_of`.
        attempt : int
            0 to 255.

        Raises
        ------
        ValueError
            If the code is too long.
        """
        text = _ITEM_MARK + code.to_bytes(8, "big") if isinstance(code, int) else code.encode()
        if len(text) > CODE_BYTES_MAX:
            raise ValueError(f"a state holds codes of at most {CODE_BYTES_MAX} bytes, found {len(text)}")
        signed = bytes((attempt,)) + self._now_s().to_bytes(4, "big") + bytes.fromhex(visit) + text
        return _letters(signed + self._states.tag(signed))

    def read_state(self, text: str) -> State | None:
        """Return a state of ours, also an expired one; None for any other text."""
        data = _bytes_of(text) if len(text) <= STATE_CHARS_MAX else b""
        signed, tag = data[:-_STATE_TAG_BYTES], data[-_STATE_TAG_BYTES:]
        if len(signed) < _HEAD_BYTES or not self._states.is_ours(signed, tag):
            return None
        age_s = self._now_s() - int.from_bytes(signed[1:5], "big")
        code = signed[_HEAD_BYTES:]
        return State(
            code=int.from_bytes(code[1:], "big") if code.startswith(_ITEM_MARK) else code.decode(),
            visit=signed[5:_HEAD_BYTES].hex(),
            attempt=signed[0],
            is_expired=not -_CLOCK_SKEW_S <= age_s < STATE_S,
        )

    def _now_s(self) -> int:
        return self._program.clock() // 1000


def _letters(data: bytes) -> str:
    """Write bytes in letters and digits: base 64 with Z for an escape, as WeChat carries no other characters."""
    text = b64encode(data).rstrip(b"=")
    return text.replace(b"Z", b"ZZ").replace(b"+", b"ZA").replace(b"/", b"ZB").decode()


def _bytes_of(text: str) -> bytes:
    """Read what :func:`_letters` wrote; nothing for any other spelling."""
    if not (text.isascii() and text.isalnum()):
        return b""
    plain = _ESCAPED.sub(lambda match: _ESCAPES[match[1]], text)
    try:
        data = b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except Base64Error:
        return b""
    return data if _letters(data) == text else b""
