"""One scan as a caller describes it, checked field by field."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Final

import msgspec

from scanengine.errors import ScanError
from scanengine.model import TEXT_CHARS_MAX, USER_BYTES_MAX, VISIT_BYTES_MAX, Role
from scanengine.program._claims import Names, are_sized

_ROLES: Final = {role.name.lower(): role for role in Role}
_REGION_DIGITS: Final = 6
_SHOWN_CHARS: Final = 14
_TIME_MS_END: Final = 253_370_764_800_000
"""The year 9999 UTC: a later time is a mistake in its unit, and none could be told in every zone."""
_VISIT_PREFIX_BYTES: Final = 9
_visits = Names(os.urandom(_VISIT_PREFIX_BYTES))


class Scan(msgspec.Struct, frozen=True, gc=False):
    """One visit of one code by one person.

    Parameters
    ----------
    code : str
        What the scanner handed over.
    user : str
        1 to 64 bytes of UTF-8.
    visit : str
        1 to 64 bytes of UTF-8; the same for all retries of one scan.
    region : int
        Six-digit adcode, 0 if unknown.
    """

    code: str
    user: str
    visit: str
    role: Role = Role.CONSUMER
    region: int = 0

    def __repr__(self) -> str:
        """Show neither the code, which is a bearer secret, nor the person."""
        return f"<Scan role={self.role.name.lower()} region={self.region}>"

    @classmethod
    def of(
        cls, code: str, user: str, visit: str | None, role: str | Role = Role.CONSUMER, region: str | int | None = None
    ) -> Scan:
        """Check the fields of a scan; without a visit it is a new one.

        Raises
        ------
        ScanError
            Naming the field.
        """
        if not are_sized(code, user, visit):
            _refuse(code, user, visit)
        if visit is None:
            visit = _visits.next()
        return cls(code, user, visit, role_of(role), 0 if region is None else region_code(region))


def check_code(code: object) -> str:
    """Return a text of at most 512 characters; ScanError otherwise."""
    if not isinstance(code, str) or len(code) > TEXT_CHARS_MAX:
        found = f"{len(code)} characters" if isinstance(code, str) else type(code).__name__
        raise ScanError("code", f"expected a text of at most {TEXT_CHARS_MAX} characters, found {found}")
    return code


def role_of(role: str | Role) -> Role:
    """Return the role of a name."""
    if isinstance(role, Role):
        return role
    try:
        return _ROLES[role]
    except (KeyError, TypeError):
        raise ScanError("role", f"expected one of {', '.join(_ROLES)}, found {_shown(role)}") from None


def region_code(region: str | int | None) -> int:
    """Return a six-digit region code: a province or city of 2 or 4 digits is filled up with zeros; None is 0."""
    if region is None or (region == 0 and not isinstance(region, bool)):
        return 0
    text = str(region)
    if isinstance(region, bool) or not (text.isascii() and text.isdecimal()) or len(text) not in (2, 4, 6):
        raise ScanError("region", f"expected an adcode of 2, 4 or 6 digits, found {_shown(region)}")
    return int(text.ljust(_REGION_DIGITS, "0"))


def time_ms_of(now: datetime | int) -> int:
    """Return milliseconds since 1970 UTC; ScanError for a time without a zone, or none that can be told."""
    if isinstance(now, datetime):
        if now.tzinfo is None:
            raise ScanError("now", f"expected a time with a zone, found {now.isoformat()}")
        now = round(now.timestamp() * 1000)
    if not 0 <= now < _TIME_MS_END:
        raise ScanError("now", f"expected milliseconds since 1970 before the year 9999, found {now}")
    return now


def _shown(value: object) -> str:
    """Return a wrong value for a message, cut so that no whole code is in it."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _refuse(code: object, user: object, visit: object) -> None:
    """Say which field of a scan has not the size that it may have."""
    check_code(code)
    _check_bytes("user", user, USER_BYTES_MAX)
    if visit is not None:
        _check_bytes("visit", visit, VISIT_BYTES_MAX)


def _check_bytes(field: str, text: object, size_max: int) -> None:
    try:
        size = len(text.encode()) if isinstance(text, str) else -1
    except UnicodeEncodeError:
        size = -1
    if not 1 <= size <= size_max:
        found = f"{size} bytes" if size >= 0 else "no text"
        raise ScanError(field, f"expected 1 to {size_max} bytes of UTF-8, found {found}")


def _renew_visits() -> None:
    """Give a forked process visits of its own."""
    global _visits  # noqa: PLW0603 - set once a process
    _visits = Names(os.urandom(_VISIT_PREFIX_BYTES))


os.register_at_fork(after_in_child=_renew_visits)
