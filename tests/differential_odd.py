"""Hostile and unusual requests for ``differential.py``: bodies that are hardly JSON, messages that are hardly HTTP."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

_Body = Callable[[str, str], bytes]
_END: Final = "\uffff"
"""Where a whole request ends and what follows may be refused: see the module of the cases."""


def _good(code: str, user: str) -> bytes:
    return json.dumps({"code": code, "user": user}).encode()


def _with(more: str) -> _Body:
    """Return what makes a good body with more behind its fields."""
    end = more.encode("utf-8", "surrogatepass") + b"}"
    # Nobody claims in two connections: which of them comes first is for no server to say.
    return lambda code, user: _good(code, user)[:-1] + end.replace(b"{user}", user.encode())


def _around(before: bytes, after: bytes) -> _Body:
    return lambda code, user: before + _good(code, user) + after


def _fixed(body: bytes) -> _Body:
    return lambda code, user: body


ODD_BODIES: Final[tuple[_Body, ...]] = (
    *(
        _with(f", {more}")
        for more in (
            '"code": "other"', '"user": "{user}-b"', '"role": "retailer", "role": "consumer"', '"extra": 1', '"": ""',
            '"region": 44.0', '"region": 4.4e1', '"region": 44.5', '"region": 1e400', '"region": -0', '"region": -44',
            '"region": 99999999999999999999999999', '"region": NaN', '"region": Infinity', '"region": 0x2c',
            '"region": 044', '"region": +44', '"region": true', '"region": "44 "', '"region": []', '"region": {}',
            '"region": 44e0', '"region": 44.000000000000000000001', '"region": "４４"', '"region": 440300.0',
            '"visit": ""', '"visit": 1', '"visit": "\\u0000"', '"visit": "\\ud83c"', '"visit": "\\ud83c\\udf7a"',
            '"visit": "\\udf7a\\ud83c"', '"visit": "\ud83c"', '"visit": "' + "x" * 65 + '"', '"visit": "a\tb"',
            '"visit": "\\x41"', '"visit": "\\u00"', '"visit": "\\/\\b\\f\\n\\r\\t\\"\\\\"', '"visit": "é\u2028\x7f"',
            '"role": null', '"role": 1', '"role": "CONSUMER"', '"r\\u006fle": "retailer"', '"ROLE": "consumer"',
            '"audience": "x"',
            '"deep": ' + "[" * 600 + "]" * 600, '"deep": ' + "[" * 3000, '"big": "' + "x" * 9000 + '"',
            '"huge": "' + "x" * 70_000 + '"', "", "1", '"a"', '"a":', "// comment", "/* comment */ \"visit\": \"v\"",
        )
    ),
    _around(b"\xef\xbb\xbf", b""), _around(b"", b"x"), _around(b"", b"\x00"), _around(b"", b"{}"), _around(b"[", b"]"),
    _around(b"\x00", b""), _around(b"\x0c", b""), _around(b"\xc2\xa0", b""), _around(b"", b"\xff"),
    _around(b"", b" \n"), _fixed(b""), _fixed(b" "), _fixed(b"null"), _fixed(b"[]"), _fixed(b"{}"), _fixed(b'"x"'),
    _fixed(b"{"), _fixed(b"\xff\xfe"),
    _fixed(b'{"code": "x"}'), _fixed(b'{"user": "x"}'), _fixed(b"[" * 5000), _fixed(b'{"a":' * 5000),
    _fixed(b"x" * 66_000),
    lambda code, user: _good(code, user).decode().encode("utf-16"),
    lambda code, user: _good(code, user).replace(b'"', b"'"),
    lambda code, user: _good(code, user)[:-1],
    lambda code, user: _good(code, user)[:-1] + b",}",
    lambda code, user: _good(code, user).replace(b"ann", b"\xffnn"),
    lambda code, user: _good(code, user).replace(b"ann", b"\xed\xa0\xbcnn"),
    lambda code, user: _good(code, user).replace(b"ann", b"\xc0\x80"),
    lambda code, user: _good(code, user).replace(b"ann", b"\\u0061nn"),
    lambda code, user: json.dumps([code, user]).encode(),
    lambda code, user: json.dumps({"code": list(code), "user": user}).encode(),
    lambda code, user: json.dumps({"code": None, "user": user}).encode(),
    lambda code, user: json.dumps({"code": code, "user": None}).encode(),
    lambda code, user: "".join(f"\\u{ord(c):04x}" for c in code).join(('{"code":"', f'","user":"{user}"}}')).encode(),
)  # fmt: skip


class Odd(NamedTuple):
    """A message that a server must not misread.

    Parameters
    ----------
    ends : tuple of int
        Places where what stands before is whole and must be answered before the rest is sent.
    """

    name: str
    data: bytes
    ends: tuple[int, ...]


def odd_request(rng: Random, code: str, user: str, token: str) -> Odd:
    """Return one of the messages that a server must not misread."""
    name, text = rng.choice(list(_odd_texts(code, user, token).items()))
    pieces = [_to_bytes(piece) for piece in text.split(_END)]
    return Odd(name, b"".join(pieces), tuple(itertools.accumulate(map(len, pieces[:-1]))))


def _odd_texts(code: str, user: str, token: str) -> dict[str, str]:
    """Return all of them by name.

    Parameters
    ----------
    token : str
        Header lines that let a request in, each with its end.
    """
    body = _good(code, user).decode()
    size = len(body.encode())
    host = f"Host: test\r\n{token}"
    look = f"GET /v1/codes/{code} HTTP/1.1\r\n{host}\r\n"
    hidden = f"POST /v1/scans HTTP/1.1\r\n{host}Content-Length: {size}\r\n\r\n{body}"
    chunked = f"{size:x}\r\n{body}\r\n0\r\n\r\n"

    def scan_and(length: int, headers: str = "") -> str:
        """A scan whose length is less than what follows."""
        return scan(f"{headers}Content-Length: {length}\r\n", f"{body[:length]}{_END}{body[length:]}")

    def scan(headers: str, content: str = body, line: str = "POST /v1/scans HTTP/1.1\r\n") -> str:
        return f"{line}{host}{headers}\r\n{content}"

    def get(headers: str, line: str = f"GET /v1/codes/{code} HTTP/1.1\r\n") -> str:
        return f"{line}{host}{headers}\r\n"

    whole = f"Content-Length: {size}\r\n"
    lengths = (
        f"+{size}", f"-{size}", f" {size} ", f"{size},{size}", f"{size}, {size}", f"0x{size:x}", f"000{size}", "",
        f"{size} {size}", f"{size}.0", f"{size}e0", "99999999999999999999999", "70000", "4294967396",
        "18446744073709551616", f"{size}\t", f"{size}\x0b", f"{size};a", f'"{size}"', "١٢٣", "nan", f"{size}\x00",
    )  # fmt: skip
    encodings = (
        "chunked", "Chunked", " chunked", "chunked ", "\tchunked", "identity", "gzip, chunked", "chunked, identity",
        "chunked, chunked", "xchunked", "chunked;q=1", "", '"chunked"', "\x0bchunked", "gzip",
    )  # fmt: skip
    return {
        **{f"content-length {value!r}": scan(f"Content-Length: {value}\r\n") for value in lengths},
        **{f"transfer-encoding {value!r}": scan(f"Transfer-Encoding: {value}\r\n", chunked) for value in encodings},
        **{
            f"both, transfer-encoding {value!r}": scan(f"{whole}Transfer-Encoding: {value}\r\n", chunked)
            for value in encodings
        },
        "a length of 0": scan_and(0),
        "a length too short": scan_and(size - 1),
        "a length of a half": scan_and(size // 2),
        "both, other way round": scan("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", chunked),
        "two content-lengths": scan(whole + whole),
        "two content-lengths that differ": scan(f"{whole}Content-Length: {size - 1}\r\n"),
        "hidden in a body": scan("Content-Length: 0\r\n", hidden),
        "hidden in chunks": scan("Transfer-Encoding: chunked\r\n", f"0\r\n\r\n{hidden}"),
        "bad chunk size": scan("Transfer-Encoding: chunked\r\n", f"zz\r\n{body}\r\n0\r\n\r\n"),
        "negative chunk size": scan("Transfer-Encoding: chunked\r\n", f"-1\r\n{body}\r\n0\r\n\r\n"),
        "chunk extension": scan("Transfer-Encoding: chunked\r\n", f"{size:x};a=b\r\n{body}\r\n0\r\n\r\n"),
        "chunk with bare line feeds": scan("Transfer-Encoding: chunked\r\n", f"{size:x}\n{body}\n0\n\n"),
        "trailer": scan("Transfer-Encoding: chunked\r\n", f"{size:x}\r\n{body}\r\n0\r\nX-T: 1\r\n\r\n"),
        "space before colon": scan(f"Content-Length : {size}\r\n"),
        "tab before colon": scan(f"Content-Length\t: {size}\r\n"),
        "space before a name": get(" X-A: b\r\n"),
        "obs-fold": get("X-A: b\r\n c\r\n"),
        "obs-fold of a length": scan(f"Content-Length:\r\n {size}\r\n"),
        "header without colon": get("X-A\r\n"),
        "header without name": get(": b\r\n"),
        "name with a control": get("X\x01A: b\r\n"),
        "name with an umlaut": get("X-\xe4: b\r\n"),
        "name with brackets": get("X(A): b\r\n"),
        "value with NUL": get("X-A: b\x00c\r\n"),
        "value with a control": get("X-A: b\x01c\r\n"),
        "value with DEL": get("X-A: b\x7fc\r\n"),
        "value with a bare CR": get("X-A: b\rc\r\n"),
        "value with a bare LF": get("X-A: b\nX-B: c\r\n"),
        "only bare LF": scan(whole).replace("\r\n", "\n"),
        "only bare CR": look.replace("\r\n", "\r"),
        "head ends with LF": look[:-2] + "\n",
        "head ends with CR CR LF": look[:-2] + "\r\r\n",
        "line ends with CR CR LF": look.replace("\r\n", "\r\r\n", 1),
        "empty lines first": "\r\n\r\n" + look,
        "empty line of LF first": "\n" + look,
        "CR first": "\r" + look,
        "space first": " " + look,
        "NUL first": "\x00" + look,
        "garbage": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "HTTP/1.0": get("", f"GET /v1/codes/{code} HTTP/1.0\r\n"),
        "HTTP/1.0 that stays": get("Connection: keep-alive\r\n", f"GET /v1/codes/{code} HTTP/1.0\r\n"),
        "scan by HTTP/1.0": scan(whole, line="POST /v1/scans HTTP/1.0\r\n"),
        "HTTP/0.9": f"GET /s/{code}\r\n\r\n",
        "HTTP/2": get("", f"GET /v1/codes/{code} HTTP/2.0\r\n"),
        "HTTP/2 preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/1.2": get("", f"GET /v1/codes/{code} HTTP/1.2\r\n"),
        "HTTP/1.10": get("", f"GET /v1/codes/{code} HTTP/1.10\r\n"),
        "http/1.1": get("", f"GET /v1/codes/{code} http/1.1\r\n"),
        "no version": get("", f"GET /v1/codes/{code}\r\n"),
        "two spaces": get("", f"GET  /v1/codes/{code} HTTP/1.1\r\n"),
        "two spaces before the version": get("", f"GET /v1/codes/{code}  HTTP/1.1\r\n"),
        "tab for a space": get("", f"GET\t/v1/codes/{code} HTTP/1.1\r\n"),
        "space after the version": get("", f"GET /v1/codes/{code} HTTP/1.1 \r\n"),
        "space in the target": get("", f"GET /v1/codes/{code} x HTTP/1.1\r\n"),
        "umlaut in the target": get("", f"GET /v1/codes/{code}\xe4 HTTP/1.1\r\n"),
        "NUL in the target": get("", f"GET /v1/codes/{code}\x00 HTTP/1.1\r\n"),
        "fragment in the target": get("", f"GET /v1/codes/{code}#x HTTP/1.1\r\n"),
        "absolute target": get("", f"GET http://test/v1/codes/{code} HTTP/1.1\r\n"),
        "absolute target of a scan": scan(whole, line="POST http://test/v1/scans HTTP/1.1\r\n"),
        "absolute target elsewhere": get("", f"GET https://other.example/s/{code} HTTP/1.1\r\n"),
        "target without slash": get("", f"GET v1/codes/{code} HTTP/1.1\r\n"),
        "asterisk": get("", "OPTIONS * HTTP/1.1\r\n"),
        "asterisk for GET": get("", "GET * HTTP/1.1\r\n"),
        "CONNECT": get("", "CONNECT test:443 HTTP/1.1\r\n"),
        "CONNECT with a path": get("", f"CONNECT /s/{code} HTTP/1.1\r\n"),
        "OPTIONS": get("", f"OPTIONS /v1/codes/{code} HTTP/1.1\r\n"),
        "TRACE": get("", f"TRACE /s/{code} HTTP/1.1\r\n"),
        "unknown method": get("", f"GETT /s/{code} HTTP/1.1\r\n"),
        "method of WebDAV": get("", f"PROPFIND /s/{code} HTTP/1.1\r\n"),
        "lower case method": get("", f"get /s/{code} HTTP/1.1\r\n"),
        "lower case scan": scan(whole, line="post /v1/scans HTTP/1.1\r\n"),
        "method with a control": get("", f"G\x01ET /s/{code} HTTP/1.1\r\n"),
        "long method": get("", f"{'X' * 300} /s/{code} HTTP/1.1\r\n"),
        "no host": f"GET /v1/codes/{code} HTTP/1.1\r\n{token}\r\n",
        "two hosts": get("Host: other\r\n"),
        "empty host": f"GET /v1/codes/{code} HTTP/1.1\r\nHost:\r\n{token}\r\n",
        "odd host": f"GET /s/{code} HTTP/1.1\r\nHost: a b<c>\r\n{token}\r\n",
        "no headers": f"GET /s/{code} HTTP/1.1\r\n\r\n",
        "upgrade to a websocket": get(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        ),
        "upgrade to HTTP/2": get(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
        ),
        "upgrade of a scan": scan(f"{whole}Connection: upgrade\r\nUpgrade: websocket\r\n"),
        "upgrade without connection": get("Upgrade: websocket\r\n"),
        "expect": scan(f"{whole}Expect: 100-continue\r\n"),
        "expect something else": scan(f"{whole}Expect: 200-ok\r\n"),
        "connection close": scan(f"{whole}Connection: close\r\n"),
        "connection close, more after it": scan(f"{whole}Connection: close\r\n", body + _END + hidden),
        "connection keep-alive": scan(f"{whole}Connection: keep-alive\r\n"),
        "connection lists": scan(f"{whole}Connection: keep-alive, close\r\nConnection: x\r\n"),
        "connection names a length": scan(f"{whole}Connection: content-length\r\n"),
        "connection empty": scan(f"{whole}Connection:\r\n"),
        "proxy-connection": scan(f"{whole}Proxy-Connection: close\r\n"),
        "huge header": get(f"X-A: {'b' * 9000}\r\n"),
        "large header": get(f"X-A: {'b' * 8000}\r\n"),
        "huge name": get(f"{'X' * 9000}: b\r\n"),
        "huge head": get("".join(f"X-{n}: {'b' * 700}\r\n" for n in range(60))),
        "many headers": get("".join(f"X-{n}: b\r\n" for n in range(100))),
        "too many headers": get("".join(f"X-{n}: b\r\n" for n in range(200))),
        "long target": get("", f"GET /v1/codes/{code * 60} HTTP/1.1\r\n"),
        "huge target": get("", f"GET /v1/codes/{'A' * 9000} HTTP/1.1\r\n"),
        "huge query": get("", f"GET /s/{code}?{'a' * 8000} HTTP/1.1\r\n"),
        "body on GET": get(f"{whole}") + body,
        "body on HEAD": get(f"{whole}", f"HEAD /s/{code} HTTP/1.1\r\n") + body,
        "chunked GET": get("Transfer-Encoding: chunked\r\n") + chunked,
        "length 0 on GET": get("Content-Length: 0\r\n"),
        "scan without length": scan("", _END + body),
        "scan without body": scan("Content-Length: 0\r\n", ""),
        "scan with a longer length": scan(f"Content-Length: {size + 10}\r\n"),
        "scan with a large body": scan("Content-Length: 65537\r\n", " " * 65537),
        "scan with as large a body as may be": scan("Content-Length: 65536\r\n", body.ljust(65536)),
        "gzip that is none": scan(f"{whole}Content-Encoding: gzip\r\n"),
        "deflate that is none": scan(f"{whole}Content-Encoding: deflate\r\n"),
        "unknown content-encoding": scan(f"{whole}Content-Encoding: x\r\n"),
        "scan with a query": scan(whole, line="POST /v1/scans?a=b HTTP/1.1\r\n"),
        "scan with an empty query": scan(whole, line="POST /v1/scans? HTTP/1.1\r\n"),
        "scan, escaped": scan(whole, line="POST /v1/%73cans HTTP/1.1\r\n"),
        "scan, upper case": scan(whole, line="POST /V1/SCANS HTTP/1.1\r\n"),
        "scan, two slashes": scan(whole, line="POST //v1/scans HTTP/1.1\r\n"),
        "scan, dots": scan(whole, line="POST /v1/../v1/scans HTTP/1.1\r\n"),
        "scan, slash behind": scan(whole, line="POST /v1/scans/ HTTP/1.1\r\n"),
        "scan by PUT": scan(whole, line="PUT /v1/scans HTTP/1.1\r\n"),
        "two tokens": get("Authorization: Bearer other\r\n"),
        "openapi": get("", "GET /openapi.json HTTP/1.1\r\n"),
    }  # fmt: skip


def _to_bytes(text: str) -> bytes:
    """Return what a text is on the wire: bytes of a head as they are written here, and letters of a body in UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return b"".join(symbol.encode("latin-1" if ord(symbol) < 256 else "utf-8") for symbol in text)
