"""The bytes of requests, made by the column: all of one run have one length and differ in a few places only."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scanengine.errors import SettingsError
from scanengine.load.plan import FORGED, PERSON_DIGITS, Plan

_SESSION_DIGITS: Final = 8
_VISIT_DIGITS: Final = 8
_REGION_DIGITS: Final = 6
_HEXADECIMAL: Final = np.frombuffer(b"0123456789abcdef", np.uint8)
_ZERO: Final = ord("0")


def _request(path: str, host: str, token: str | None, body: str) -> tuple[bytes, int]:
    """Return one request and where its body begins; SettingsError if the token cannot stand in a header."""
    if token and not (token.isascii() and token.isprintable()):
        raise SettingsError("SCANENGINE_TOKEN: a bearer token is printable ASCII in one line, found something else")
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{bearer}Content-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    return (head + body).encode("ascii"), len(head)


class Writer:
    """Writes scans of equal length.

    Parameters
    ----------
    host : str
        For the Host header.
    token : str or None
        Bearer token.
    session : int
        32 bits that make the visits of this test others than those of any other.
    code_width : int
        Bytes of the longest code as JSON, quotes included; shorter ones are followed by spaces.
    """

    def __init__(self, host: str, token: str | None, session: int, code_width: int, *, has_region: bool) -> None:
        person, visit = "0" * PERSON_DIGITS, f"{session:0{_SESSION_DIGITS}x}{'0' * _VISIT_DIGITS}"
        region = f',"region":"{"0" * _REGION_DIGITS}"' if has_region else ""
        body = f'{{"code":{" " * code_width},"user":"load:{person}","visit":"{visit}"{region}}}'
        self._form, begin = _request("/v1/scans", host, token, body)
        self._code = begin + body.index(" ")
        self._person = begin + body.index("load:") + len("load:")
        self._visit = begin + body.index(visit) + _SESSION_DIGITS
        self._region = begin + body.index('"region":"') + len('"region":"') if has_region else 0
        self._code_width = code_width

    def __repr__(self) -> str:
        """Show no token."""
        return f"<Writer of {self.width} bytes>"

    @property
    def width(self) -> int:
        """Bytes of each request."""
        return len(self._form)

    def write(self, plan: Plan, codes: NDArray[np.uint8], forged: NDArray[np.uint8], out: memoryview[Any]) -> None:
        """Write the requests of a plan, one after the other.

        Parameters
        ----------
        codes, forged : uint8, shape (n, code_width)
            Codes as JSON.
        out : (len(plan) * width,) bytes
        """
        rows = np.frombuffer(out, np.uint8).reshape(len(plan), self.width)
        rows[:] = np.frombuffer(self._form, np.uint8)
        is_forged = plan.kind == FORGED
        place = slice(self._code, self._code + self._code_width)
        rows[~is_forged, place] = codes[plan.code[~is_forged]]
        rows[is_forged, place] = forged[plan.code[is_forged]]
        for digit in range(PERSON_DIGITS):
            rows[:, self._person + digit] = plan.person // 10 ** (PERSON_DIGITS - 1 - digit) % 10 + _ZERO
        for digit in range(_VISIT_DIGITS):
            rows[:, self._visit + digit] = _HEXADECIMAL[plan.visit >> 4 * (_VISIT_DIGITS - 1 - digit) & 15]
        if self._region:
            for digit in range(_REGION_DIGITS):
                rows[:, self._region + digit] = plan.region // 10 ** (_REGION_DIGITS - 1 - digit) % 10 + _ZERO


class LookWriter:
    """Writes looks at codes, which claim and count nothing; parameters as of :class:`Writer`."""

    def __init__(self, host: str, token: str | None, code_width: int) -> None:
        body = f'{{"code":{" " * code_width}}}'
        self._form, begin = _request("/v1/verify", host, token, body)
        self._code = begin + body.index(" ")
        self._code_width = code_width

    def __repr__(self) -> str:
        """Show no token."""
        return f"<LookWriter of {self.width} bytes>"

    @property
    def width(self) -> int:
        """Bytes of each request."""
        return len(self._form)

    def write(self, codes: NDArray[np.uint8], out: memoryview[Any]) -> None:
        """Write a look at each code (n, code_width)."""
        rows = np.frombuffer(out, np.uint8).reshape(len(codes), self.width)
        rows[:] = np.frombuffer(self._form, np.uint8)
        rows[:, self._code : self._code + self._code_width] = codes
