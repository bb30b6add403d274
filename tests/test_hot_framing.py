"""The framing of the hot path against a plain reading of the same rules, and what it must leave to aiohttp."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanengine.server._hot import COLD, DOOR, FOREIGN, LOOK, SCAN, Framer
from scanengine.server._replies import write_reply

CODE = "0000100000000000000P"
BODY = b'{"code": "' + CODE.encode() + b'", "user": "ann"}'
HEAD_BYTES = 8 << 10
BODY_BYTES = 64 << 10


def a_request(line: str = "POST /v1/scans", *headers: str, body: bytes = BODY, version: str = "HTTP/1.1") -> bytes:
    lines = [f"{line} {version}", "Host: shop.example", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def front(data: bytes) -> tuple[int, int] | None:
    """Return kind and size of the message at the front, None if it is not whole."""
    framer = Framer()
    framer.feed(data)
    found = framer.next()
    return None if found is None else (found.kind, found.size)


SCANNED = a_request()
LOOKED = a_request(f"GET /v1/codes/{CODE}", body=b"")
OPENED = a_request(f"GET /S/{CODE}", "Accept: text/html", body=b"")
OTHER = a_request("POST /v1/verify")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (SCANNED, SCAN),
        (LOOKED, LOOK),
        (OPENED, DOOR),
        (a_request(f"GET /s/{CODE}", body=b""), DOOR),
        (a_request("POST /v1/scans", "CONNECTION: Keep-Alive", "X-Odd:", "x-empty: \t"), SCAN),
        (OTHER, COLD),
        (a_request("GET /healthz", body=b""), COLD),
        (a_request(f"HEAD /s/{CODE}", body=b""), COLD),
        (a_request(f"GET /s/{CODE}?login=done", body=b""), COLD),
        (a_request(f"GET /s/{CODE}/", body=b""), COLD),
        (a_request("GET /s/%30", body=b""), COLD),
        (a_request("GET /s/", body=b""), COLD),
        (a_request(f"GET /s/{'0' * 65}", body=b""), COLD),
        (a_request(f"GET /s/{CODE}", body=b"x"), COLD),
        (a_request("POST /v1/scans", body=b""), COLD),
        (a_request("POST /v1/scans/"), COLD),
        (a_request("POST /v1/scans", "Connection: close"), COLD),
        (a_request("POST /v1/scans", "Content-Encoding: gzip"), COLD),
        (
            a_request("GET /s/0", "Cookie: a=1", "Accept: a", "cookie: b=2", "accept: b", "Via: 1", "VIA: 2", body=b""),
            DOOR,
        ),
    ],
)
def test_a_message_is_told_apart_and_measured(data: bytes, kind: int) -> None:
    assert front(data) == (kind, len(data))
    assert front(data + b"GET / HTTP/1.1\r\n") == (kind, len(data)), "what follows is not part of it"


@pytest.mark.parametrize(
    "data",
    [
        a_request("POST /v1/scans", "Transfer-Encoding: chunked"),
        a_request("POST /v1/scans", "transfer-encoding : chunked"),
        a_request("POST /v1/scans", "Expect: 100-continue"),
        a_request("POST /v1/scans", "Upgrade: h2c"),
        a_request("POST /v1/scans", "Connection: keep-alive, upgrade"),
        a_request("POST /v1/scans", "TE: trailers"),
        a_request("POST /v1/scans", "Proxy-Connection: keep-alive"),
        a_request("POST /v1/scans", "Sec-WebSocket-Key1: x"),
        a_request("POST /v1/scans", "Trailer: X"),
        a_request("POST /v1/scans", f"Content-Length: {len(BODY)}"),
        a_request("POST /v1/scans", "Host: other.example"),
        a_request("POST /v1/scans", "Authorization: Bearer a", "Authorization: Bearer b"),
        a_request("POST /v1/scans", "Content-Type: a/b", "content-TYPE: a/b"),
        a_request("POST /v1/scans", "X-Any: a", "Accept: b", "x-any: a"),
        a_request("POST /v1/scans", " folded"),
        a_request("POST /v1/scans", "X Y: z"),
        a_request("POST /v1/scans", ": z"),
        a_request("POST /v1/scans", "X: a\x00b"),
        a_request("POST /v1/scans", "X: a\nTransfer-Encoding: chunked"),
        a_request("POST /v1/scans", "X: a\rb"),
        a_request("POST /v1/scans", "no colon"),
        a_request(version="HTTP/1.0"),
        a_request(version="HTTP/1.1 "),
        a_request("post /v1/scans"),
        a_request("POST  /v1/scans"),
        a_request("POST http://shop.example/v1/scans"),
        a_request("OPTIONS *"),
        a_request("CONNECT shop.example:80"),
        a_request("BREW /v1/scans"),
        a_request("GET /s/\xe4", body=b""),
        b"POST /v1/scans HTTP/1.1\r\n\r\n",
        b"\r\n" + SCANNED,
        b"\x16\x03\x01\x02\x00",
        SCANNED.replace(b"\r\n", b"\n"),
        SCANNED.replace(b"Content-Length: ", b"Content-Length: +"),
        SCANNED.replace(b"Content-Length: ", b"Content-Length: 0"),
        SCANNED.replace(b"Content-Length: ", b"Content-Length: 0x"),
        SCANNED.replace(b"Content-Length: ", b"Content-Length: 5, "),
        SCANNED.replace(b"Content-Length: %d" % len(BODY), b"Content-Length:"),
        SCANNED.replace(b"Content-Length: %d" % len(BODY), b"Content-Length: 9999999999999999"),
        a_request("POST /v1/scans", *(f"X-{n}: y" for n in range(70))),
        a_request("POST /v1/scans", "X: " + "y" * HEAD_BYTES),
        b"GET /" + b"x" * HEAD_BYTES,
    ],
)
def test_what_another_reader_might_frame_otherwise_is_not_framed(data: bytes) -> None:
    assert front(data) == (FOREIGN, 0)


def test_a_body_that_is_too_large_is_for_aiohttp_before_it_is_here() -> None:
    data = a_request(body=b"x" * (BODY_BYTES + 1))
    assert front(data[:200]) == (COLD, len(data))
    assert front(a_request(body=b"x" * BODY_BYTES)) == (SCAN, len(a_request(body=b"x" * BODY_BYTES)))


@pytest.mark.parametrize("data", [SCANNED, LOOKED, OPENED])
def test_every_part_of_a_message_waits_for_the_rest(data: bytes) -> None:
    """And what would never become one does not: no prefix of a good message may look like a bad one."""
    head_size = data.index(b"\r\n\r\n") + 4
    assert [front(data[:size]) for size in range(head_size)] == [None] * head_size


def test_a_scan_is_known_before_its_body_is_here() -> None:
    """Who shows no token is refused without waiting for what they have to say."""
    for size in range(len(SCANNED) - len(BODY), len(SCANNED)):
        framer = Framer()
        framer.feed(SCANNED[:size])
        found = framer.next()
        assert found is not None
        assert (found.kind, found.size, found.body) == (SCAN, len(SCANNED), None)


def test_a_request_says_what_was_sent() -> None:
    framer = Framer()
    framer.feed(a_request("POST /v1/scans", "Authorization:  Bearer secret ", "Via: 1.1 x", "X-Name: sm\xf6rg\xe5s"))
    found = framer.next()
    assert found is not None
    assert (found.body, found.token, found.is_passed_on) == (BODY, b"Bearer secret", True)
    assert found.headers()[:2] == [("Host", "shop.example"), ("Authorization", "Bearer secret")]
    assert found.headers()[3] == ("X-Name", b"sm\xf6rg\xe5s".decode("utf-8", "surrogateescape"))
    assert len(framer) == found.size == len(framer.take(found.size))
    framer.feed(LOOKED)
    assert found.body == BODY, "it stays what it was when other bytes are there"


messages = st.sampled_from([SCANNED, LOOKED, OPENED, OTHER])


@given(sent=st.lists(messages, max_size=8), cuts=st.lists(st.integers(0, 2_000), max_size=12))
def test_messages_are_the_same_however_they_are_cut(sent: list[bytes], cuts: list[int]) -> None:
    """Goal: where segments end says nothing. Method: any cuts; the messages that come out are those that went in."""
    data = b"".join(sent)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    framer = Framer()
    found = []
    for start, end in pairwise(places):
        framer.feed(data[start:end])
        while (message := framer.next()) is not None:
            if message.size > len(framer):
                break
            found.append(framer.take(message.size))
    assert found == sent


HEAD = re.compile(
    rb"(?:GET|POST|HEAD|PUT|DELETE|OPTIONS|PATCH) /[!-~]* HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)
PLAIN_LENGTH = re.compile(rb"0|[1-9][0-9]{0,14}")
MAY_REPEAT = {b"cookie", b"x-forwarded-for", b"forwarded", b"via", b"accept"}
FORBIDDEN = {
    b"transfer-encoding",
    b"expect",
    b"upgrade",
    b"te",
    b"trailer",
    b"http2-settings",
    b"proxy-connection",
    b"sec-websocket-key1",
}


def plainly(data: bytes) -> int | None:
    """Return the size of the message at the front by the rules as they are written down; None if it is not framed."""
    head = HEAD.match(data)
    if head is None:
        return None
    pairs = [line.split(b":", 1) for line in head.group(1).split(b"\r\n")[:-1]]
    named = [(name.lower(), value.strip(b"\t ")) for name, value in pairs]
    names = [name for name, _ in named]
    lengths = [value for name, value in named if name == b"content-length"]
    ends = [value.lower() for name, value in named if name == b"connection"]
    if (
        b"host" not in names
        or FORBIDDEN & {*names}
        or any(names.count(name) > 1 for name in {*names} - MAY_REPEAT)
        or not all(PLAIN_LENGTH.fullmatch(value) for value in lengths)
        or not {*ends} <= {b"close", b"keep-alive"}
    ):
        return None
    return head.end() + int(lengths[0] if lengths else 0)


pieces = st.sampled_from(
    [b"GET", b"POST", b" ", b"/s/", b"/v1/scans", b"0", b"5", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b"\t", b":", b"Host",
     b"a", b"Content-Length", b"Connection", b"keep-alive", b"close", b"TE", b"Transfer-Encoding", b"chunked", b"\x00",
     b"\xff", b"Host: a\r\n", b"GET /s/0 HTTP/1.1\r\n", b"POST /v1/scans HTTP/1.1\r\n", b"Content-Length: 5\r\n"]
)  # fmt: skip


@given(data=st.lists(pieces, max_size=14).map(b"".join))
def test_it_frames_exactly_what_the_rules_say(data: bytes) -> None:
    """Goal: native framing equals the rules written as an expression, on heads made of what heads are made of."""
    whole = data + b"\r\n\r\n"
    found = front(whole)
    expected = plainly(whole)
    if expected is None:
        assert found == (FOREIGN, 0)
    else:
        assert found is None or (found[0] != FOREIGN and found[1] == expected)


def test_no_more_is_skipped_than_is_here() -> None:
    framer = Framer()
    framer.feed(SCANNED + LOOKED)
    framer.skip(len(SCANNED))
    found = framer.next()
    assert found is not None
    assert found.kind == LOOK
    for size in (-1, len(LOOKED) + 1, 1 << 62):
        with pytest.raises(ValueError, match="cannot be skipped"):
            framer.skip(size)
    framer.skip(len(LOOKED))
    assert len(framer) == 0


# Replies ------------------------------------------------------------------------------------------------------------


@given(
    head=st.binary(max_size=80),
    request_id=st.text(st.characters(codec="ascii"), max_size=64),
    tail=st.binary(max_size=80),
    body=st.one_of(st.binary(max_size=2000), st.integers(0, 100_001).map(bytes)),
)
def test_a_reply_is_what_plain_python_puts_together(head: bytes, request_id: str, tail: bytes, body: bytes) -> None:
    expected = b"%b%b\r\nContent-Length: %d%b%b" % (head, request_id.encode(), len(body), tail, body)
    assert write_reply(head, request_id, tail, body) == expected
