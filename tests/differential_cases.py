"""The cases of ``differential.py``: what a connection carries, made from a seed and a number and nothing else.

A case is a list of parts, most of them one request, cut into segments anywhere. Before a part, and where it is cut, the
client may wait: not at all, until the server has read what was sent before, or until it has answered all of it.

What comes out of a case must not depend on chance, or a difference would mean nothing:

* A request that may be refused as no HTTP, or end the connection, stands alone between waits for all replies: aiohttp's
  parser forgets the good requests that stand before bad bytes in the same segment, and any bytes are bad after a
  ``Connection: close``. Where segments end is for the network to say.
* Such a head may be refused as soon as a server sees why or when it is whole, so that nobody looks in its middle at
  what has come then.
* What one case claims or counts, no other one looks at, and each has an address and thus a budget of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Any, Final

from differential_goods import BAD_CODES_PER_MINUTE, CODES_PER_CASE, Goods
from differential_odd import ODD_BODIES, odd_request
from helpers import GTIN, TOKEN
from helpers_door import ALIPAY, DESKTOP, HTML, MINI_PROGRAM, SAFARI, WECHAT

REQUESTS_MAX: Final = 40
REQUESTS_MEAN: Final = 8
"""How many requests a case has in the mean, roughly: most are short, some are long pipelines."""
_ROLES: Final = ("consumer", "retailer", "associate", "distributor", "inspector", "Consumer", "king", "")
_REGIONS: Final[tuple[Any, ...]] = ("44", "440300", 44, 4403, 440300.0, 44.0, None, 0, "", "4", 44.5, -1, "99999999")
_AGENTS: Final = (
    None, WECHAT, DESKTOP, MINI_PROGRAM, ALIPAY, SAFARI, "curl/8.5.0", "Googlebot/2.1", "WhatsApp/2.23", "x" * 600, "é",
)  # fmt: skip
_ACCEPTS: Final = (
    None, HTML, "application/json", "*/*", "application/json, text/html", "text/html", "", "APPLICATION/JSON",
)  # fmt: skip
_MORE_HEADERS: Final = (
    ("Accept-Encoding", "gzip, deflate, br"), ("Accept-Language", "zh-CN,zh;q=0.9"), ("Accept-Language", "en"),
    ("Cache-Control", "no-cache"), ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("X-Request-Id", "from-the-client-1"), ("X-Empty", ""), ("Origin", "https://shop.example"), ("Pragma", "no-cache"),
    ("Sec-Fetch-Dest", "document"), ("Sec-Fetch-Dest", "iframe"), ("Sec-Purpose", "prefetch"), ("Purpose", "preview"),
    ("X-Moz", "prefetch"), ("Sec-Fetch-Site", "none"), ("Referer", "https://shop.example/"), ("DNT", "1"),
    ("Accept", "text/html"), ("Cookie", "scan_visit=0123456789abcdef01234567"),
    ("X-Latin", "caf\xe9"), ("Priority", "u=1, i"), ("Connection", "keep-alive"), ("Connection", "Keep-Alive"),
)  # fmt: skip
_RARE_HEADERS: Final = (
    ("Via", "1.1 proxy"), ("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=203.0.113.9"),
    ("X-Real-IP", "203.0.113.9"), ("Content-Encoding", "gzip"), ("Content-Encoding", "identity"),
    ("Connection", "close"), ("Connection", "keep-alive, close"), ("Connection", "foo"), ("Connection", "Close"),
    ("Expect", "100-continue"), ("Expect", "200-ok"), ("Cookie", "scan_guest=x; scan_session=1.wx.y.z; a"),
    ("Authorization", "Bearer other"), ("Authorization", "Basic YW5uOmJvYg=="), ("TE", "trailers"),
    ("Range", "bytes=0-1"), ("If-None-Match", "*"), ("Host", "second.example"), ("X-HTTP-Method-Override", "DELETE"),
    ("Keep-Alive", "timeout=1"), ("Proxy-Connection", "close"), ("Sec-WebSocket-Key1", "x"),
    ("User-Agent", "second"), ("Content-Type", "text/html"), ("Content-Length", "1"), ("Transfer-Encoding", "chunked"),
)  # fmt: skip


class Wait(Enum):
    """What a client waits for before it sends more."""

    NOTHING = "nothing"
    READ = "what was sent is read"
    ANSWERED = "all is answered"


@dataclass(frozen=True)
class Part:
    """Some bytes that are sent in order: one request, or what stands in the place of one.

    Parameters
    ----------
    cuts : tuple of (int, Wait)
        Places in the bytes where a segment ends, and what is waited for there.
    before : Wait
        What is waited for before the first byte.
    joins : bool
        Whether the first byte may be in one segment with what stands before.
    is_odd : bool
        Whether it may be refused as no HTTP, or end the connection.
    """

    name: str
    data: bytes
    cuts: tuple[tuple[int, Wait], ...] = ()
    before: Wait = Wait.NOTHING
    joins: bool = True
    is_odd: bool = False

    @property
    def segments(self) -> list[tuple[bytes, Wait]]:
        """The segments, each with what is waited for after it."""
        places = [0, *(place for place, _ in self.cuts), len(self.data)]
        waits = [*(wait for _, wait in self.cuts), Wait.NOTHING]
        return [(self.data[places[i] : places[i + 1]], wait) for i, wait in enumerate(waits)]


@dataclass(frozen=True)
class Case:
    """What one connection carries.

    Parameters
    ----------
    source : str
        Address that the client has.
    """

    number: int
    source: str
    parts: tuple[Part, ...]

    def only(self, places: list[int]) -> Case:
        """Return the case with some of its parts."""
        return replace(self, parts=tuple(self.parts[place] for place in places))


def a_case(seed: int, number: int, goods: Goods, *, place: int | None = None) -> Case:
    """Return a case.

    Parameters
    ----------
    place : int, optional
        Whose codes and address it has; those of its own number if not given. A case that is tried again needs others,
        as its codes have been claimed.
    """
    place = number if place is None else place
    return _Maker(Random(f"{seed}/{number}"), number, place, goods).case()


class _Maker:
    """Makes one case."""

    def __init__(self, rng: Random, number: int, place: int, goods: Goods) -> None:
        self.rng = rng
        self.number = number
        self.place = place
        self.goods = goods
        self.codes = goods.codes(place)
        self.links = goods.links(place)
        self._has_rare_header = False
        self.people = [f"u{place}-{name}" for name in ("ann", "bob", "湖南")]
        # 127.1.0.1 and so on: all of 127.0.0.0/8 is this machine.
        self.source = f"127.{1 + (place >> 14) % 250}.{(place >> 7) % 128}.{1 + place % 128}"

    def case(self) -> Case:
        rng = self.rng
        count = min(REQUESTS_MAX, 1 + int(rng.expovariate(1 / REQUESTS_MEAN)))
        # A pipeline is sent without waiting; another client waits now and then.
        patience, cutting = rng.choice((0.0, 0.1, 0.6)), rng.choice((0.0, 0.0, 0.15, 0.6))
        makers: list[Callable[[], Part]] = [self._scan, self._code, self._door, self._other, self._odd_body, self._odd]
        parts = []
        for _ in range(count):
            part = rng.choices(makers, (50, 16, 14, 8, 8, 4))[0]()
            is_odd = part.is_odd or self._has_rare_header
            self._has_rare_header = False
            if is_odd or (parts and parts[-1].is_odd):
                part = replace(part, before=Wait.ANSWERED)
            elif rng.random() < patience:
                part = replace(part, before=rng.choice((Wait.READ, Wait.ANSWERED)))
            if rng.random() < cutting and not part.cuts:
                part = replace(part, cuts=self._cuts(part.data, is_odd=is_odd))
            parts.append(replace(part, joins=rng.random() < 0.8, is_odd=is_odd))
        if rng.random() < 0.04:
            # More bad codes than a source may show, and then whatever comes: good ones are refused too.
            lines = [f"GET /s/{rng.randrange(32**4)} HTTP/1.1" for _ in range(BAD_CODES_PER_MINUTE + 2)]
            guesses = [Part("guess", f"{line}\r\nHost: test\r\n\r\n".encode()) for line in lines]
            first = replace(parts[0], before=Wait.ANSWERED)
            parts = [*(replace(guess, joins=True) for guess in guesses), first, *parts[1:]]
        if rng.random() < 0.06:
            whole = self._plain().data
            end = rng.randrange(1, len(whole))
            parts.append(Part("partial", whole[:end], before=Wait.ANSWERED, is_odd=True))
        return Case(self.number, self.source, tuple(parts))

    def _plain(self) -> Part:
        """Return a request of which no part may be refused."""
        while True:
            part = self.rng.choice((self._scan, self._scan, self._code, self._door))()
            if not self._has_rare_header:
                return part
            self._has_rare_header = False

    def _cuts(self, data: bytes, *, is_odd: bool) -> tuple[tuple[int, Wait], ...]:
        rng = self.rng
        places = {rng.randrange(1, len(data)) for _ in range(rng.choice((1, 1, 1, 2, 5)))} if len(data) > 1 else set()
        ends = data.find(b"\r\n\r\n")
        if ends > 0 and rng.random() < 0.5:
            places.add(min(ends + rng.choice((1, 2, 3, 4)), len(data) - 1))
        cuts = []
        for place in sorted(places):
            wait = rng.choice((Wait.NOTHING, Wait.READ, Wait.READ, Wait.ANSWERED))
            if is_odd and (wait is Wait.NOTHING or place < ends + 4):
                wait = Wait.READ
            cuts.append((place, wait))
        return tuple(cuts)

    # Requests -------------------------------------------------------------------------------------------------------

    def _head(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes | None = None) -> bytes:
        rng = self.rng
        headers = [("Host", rng.choice(("test", "shop.example", "127.0.0.1:8080"))), *headers]
        if body is not None:
            headers.append(("Content-Length", str(len(body))))
        while rng.random() < 0.3:
            headers.append(rng.choice(_MORE_HEADERS))
        if rng.random() < 0.03:
            headers.append(rng.choice(_RARE_HEADERS))
            self._has_rare_header = True
        if rng.random() < 0.3:
            rng.shuffle(headers)
        style = rng.choice((str, str, str, str.lower, str.upper))
        blank = rng.choice((" ", " ", " ", " ", "", "  ", "\t", " \t "))
        after = rng.choice(("", "", "", "", "", " ", "\t"))
        lines = [f"{method} {target} HTTP/1.1", *(f"{style(name)}:{blank}{value}{after}" for name, value in headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _authorized(self) -> list[tuple[str, str]]:
        if not self.goods.has_tokens:
            return []
        odd = (
            f"bearer {TOKEN}", f"BEARER  {TOKEN} ", f"Bearer\t{TOKEN}", f"Bearer{TOKEN}", "Bearer", f"Bearer {TOKEN}x",
            "", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN} x", "Bearer é",
        )  # fmt: skip
        if self.rng.random() < 0.95:
            return [("Authorization", f"Bearer {TOKEN}")]
        return [("Authorization", self.rng.choice(odd))] if self.rng.random() < 0.8 else []

    def _text(self) -> str:
        """Return what a scanner hands over."""
        rng = self.rng
        if rng.random() < 0.1:
            return rng.choice(
                (
                    "",
                    " ",
                    "hello",
                    GTIN,
                    "x" * 512,
                    "x" * 513,
                    "0" * 20,
                    "é" * 20,
                    "https://shop.example/s/",
                    "😀",
                    "\x00",
                )
            )
        if rng.random() < 0.1:
            return rng.choice(rng.choice(list(self.goods.shared.values())))
        # Early ones more often, so that they are repeated.
        code = self.codes[min(int(rng.expovariate(0.5)), CODES_PER_CASE - 1)]
        if rng.random() < 0.8:
            return code
        return rng.choice(
            (
                code.lower(), "-".join(code[i : i + 5] for i in range(0, 20, 5)), f" {code} ", code.replace("0", "O"),
                f"https://shop.example/s/{code}", f"HTTPS://SHOP.EXAMPLE/S/{code}", f"{code}\n", code[:-1], code + code,
                f"https://shop.example/01/{GTIN.zfill(14)}/21/{code}", f"https://shop.example/01/06901234567885/21/{code}",
                f"https://shop.example/s/{code}?from=timeline", f"https%3A%2F%2Fshop.example%2Fs%2F{code}",
            )
        )  # fmt: skip

    def _fields(self) -> dict[str, Any]:
        rng = self.rng
        fields: dict[str, Any] = {"code": self._text(), "user": rng.choice(self.people)}
        if rng.random() < 0.4:
            fields["visit"] = rng.choice(("v-1", "v-2", "v-3", "湖南", None, "x" * 64))
        if rng.random() < 0.3:
            fields["role"] = rng.choice(_ROLES if rng.random() < 0.3 else _ROLES[:5])
        if rng.random() < 0.3:
            fields["region"] = rng.choice(_REGIONS if rng.random() < 0.3 else _REGIONS[:6])
        if rng.random() < 0.02:
            long = f"{self.place:064}"
            fields["user"] = rng.choice(("", long, f"{long}0", "é" * 33, f"{self.place}\x00", None, 7))
        if rng.random() < 0.2:
            fields = dict(rng.sample(list(fields.items()), len(fields)))
        return fields

    def _json(self, fields: dict[str, Any]) -> bytes:
        rng = self.rng
        separators = rng.choice(((",", ":"), (", ", ": "), (" ,\n\t", " :\r\n ")))
        text = json.dumps(fields, ensure_ascii=rng.random() < 0.5, separators=separators)
        if rng.random() < 0.03:
            text = text.replace("code", "\\u0063ode", 1).replace("/", "\\/")
        if rng.random() < 0.05:
            text = rng.choice((" ", "\r\n", "\t")) + text + rng.choice(("", " ", "\n"))
        return text.encode()

    def _post(self, name: str, target: str, body: bytes) -> Part:
        kind = self.rng.choice(
            ("application/json", "application/json", "application/json; charset=utf-8", "text/plain")
        )
        headers = [*self._authorized(), *([("Content-Type", kind)] if self.rng.random() < 0.9 else [])]
        return Part(name, self._head("POST", target, headers, body) + body)

    def _get(self, name: str, target: str, headers: list[tuple[str, str]]) -> Part:
        method = self.rng.choices(("GET", "HEAD"), (9, 1))[0]
        return Part(name, self._head(method, target, headers))

    def _scan(self) -> Part:
        return self._post("scan", "/v1/scans", self._json(self._fields()))

    def _odd_body(self) -> Part:
        body = self.rng.choice(ODD_BODIES)(self.rng.choice(self.codes), self.people[0])
        return self._post("odd body", self.rng.choice(("/v1/scans",) * 4 + ("/v1/verify",)), body)

    def _spelt(self, code: str) -> str:
        """Return a code as it may stand in the target of a request."""
        rng = self.rng
        if rng.random() < 0.6:
            return code
        place = rng.randrange(max(1, len(code)))
        escaped = (
            code[:place] + "".join(f"%{ord(symbol):02X}" for symbol in code[place : place + 1]) + code[place + 1 :]
        )
        hyphens = "-".join(code[i : i + 5] for i in range(0, len(code), 5))
        return rng.choice(
            (
                code.lower(), escaped, hyphens, f"{code}/", f"{code}//", f"{code}?", f"{code}?a=b", f"{code}+",
                f"{code}?login=done", f"{code}#x", f"%20{code}", f"{code}%0A", f"{code}%", f"{code}%2", f"{code}%zz",
                f"{code}%2F",
                f"{code};x", f"./{code}", f"../s/{code}", f"{code}%C3%A9", f"{code}%FF", f"{code[:10]}%00{code[10:]}",
                f"{code}/x", f"{code}?login=failed", code[:-1], "", "%E5%8F%AF", f"{code}&x", code.replace("1", "l"),
            )
        )  # fmt: skip

    def _code_in_target(self) -> str:
        rng = self.rng
        if rng.random() < 0.2:
            return self._spelt(rng.choice(rng.choice(list(self.goods.shared.values()))))
        return self._spelt(rng.choice(self.codes))

    def _code(self) -> Part:
        return self._get("code", f"/v1/codes/{self._code_in_target()}", self._authorized())

    def _door(self) -> Part:
        rng = self.rng
        headers = [
            (name, value)
            for name, values in (("User-Agent", _AGENTS), ("Accept", _ACCEPTS))
            if (value := rng.choice(values)) is not None
        ]
        prefix = rng.choice(("/s/", "/s/", "/s/", "/S/", f"/01/{GTIN.zfill(14)}/21/", "//s/", "/s//"))
        # A landing is counted after its reply, so nothing else may look at what it counts.
        has_link = bool(self.links) and rng.random() < 0.1
        code = self.links.pop() if has_link else self._code_in_target()
        if rng.random() < 0.12:
            site = rng.choice(([("Sec-Fetch-Site", "same-origin")], [("Sec-Fetch-Site", "cross-site")], []))
            return Part("claim at the door", self._head("POST", f"{prefix}{code}", [*headers, *site], b""))
        return self._get("door", f"{prefix}{code}", headers)

    def _other(self) -> Part:
        rng = self.rng
        choice = rng.randrange(5)
        if choice == 0:
            return self._post("verify", "/v1/verify", self._json({"code": self._text()}))
        if choice == 1:
            scans = [self._fields() for _ in range(rng.randrange(4))]
            return self._post("batch", "/v1/scans/batch", self._json({"scans": scans}))
        target = rng.choice(
            (
                "/healthz",
                "/",
                "/favicon.ico",
                "/v1/scans",
                "/v1/codes",
                "/v1/codes/",
                "/s",
                "/s/",
                "/v1/scans/",
                "/nothing",
            )
        )
        method = rng.choice(("GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))
        body = None if method in ("GET", "HEAD") else rng.choice((b"", b"{}"))
        return Part("other", self._head(method, target, self._authorized(), body) + (body or b""))

    def _odd(self) -> Part:
        rng = self.rng
        token = f"Authorization: Bearer {TOKEN}\r\n" if self.goods.has_tokens else ""
        odd = odd_request(rng, rng.choice(self.codes), self.people[1], token)
        cuts = tuple((end, Wait.ANSWERED) for end in odd.ends)
        return Part(f"odd: {odd.name}", odd.data, cuts, is_odd=True)
