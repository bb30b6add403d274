"""Unwrapping: from what a scanner hands over to the text of a code, and back to the URL that is printed."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import GTIN
from scanengine._core import normalize
from scanengine.codes import code_url, gtin_fault, hyphenate, unwrap
from scanengine.model import TEXT_CHARS_MAX

CODE = "1F256XGNGKYHKH4VG59N"
WECHAT = "https://mp.example.com/a/~~abc?appid=wx1&q="


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        f"https://example.com/s/{CODE}",
        f"HTTPS://EXAMPLE.COM/S/{CODE}",
        f"http://example.com:8080/s/{CODE}",
        f"//example.com/s/{CODE}",
        f"/s/{CODE}",
        f"https://example.com/brand/shop/s/{CODE}",
        f"https://example.com/s/{CODE}?from=timeline&isappinstalled=0",
        f"https://example.com/s/{CODE}?from=timeline#wechat_redirect",
        f"  https://example.com/s/{CODE}\n",
        f"https://用户.example/s/{CODE}",
        f"https://[::1]/s/{CODE}",
        f"https://example.com/s/{quote(CODE[:5])}%31{CODE[6:]}".replace("%31", quote(CODE[5])),
        f"?q={CODE}",
        f"page?q={CODE}",
        f"{WECHAT}{quote(f'https://example.com/s/{CODE}', safe='')}",
        f"{WECHAT}{quote(f'HTTPS://EXAMPLE.COM/S/{CODE}', safe='')}&scancode_time=1700000000",
        f"{WECHAT}{quote(f'https://example.com/x?q={CODE}', safe='')}",
        f"https://example.com/s/{'0' * 20}?q={CODE}",
    ],
)
def test_each_way_to_write_a_code_gives_the_code(text: str) -> None:
    assert unwrap(text) == CODE


def test_percent_encoding_of_a_path_is_decoded_once() -> None:
    encoded = "".join(f"%{ord(letter):02X}" for letter in CODE)
    assert unwrap(f"https://example.com/s/{encoded}") == CODE
    assert unwrap(f"https://example.com/s/{quote(encoded)}") == encoded


def test_what_a_typing_scanner_puts_around_a_code_is_taken_away() -> None:
    for typed in (f"{CODE}\n", f"{CODE}\r\n", f"  {CODE}\t"):
        assert unwrap(typed) == CODE


def test_a_spelling_is_left_to_the_decoder() -> None:
    """Hyphens, spaces and small letters mean the same code, but it is not unwrapping that says so."""
    for spelled in (hyphenate(CODE), CODE.lower(), f"{CODE[:7]} {CODE[7:]}", "nonsense", "\ud800", "码"):
        assert unwrap(spelled) == spelled
    assert unwrap(f"https://example.com/s/{hyphenate(CODE)}") == hyphenate(CODE)
    assert normalize(unwrap(hyphenate(CODE).lower())) == CODE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://example.com/",
        f"https://example.com/{CODE}",
        f"https://example.com/t/{CODE}",
        f"https://example.com/s/{CODE}/",
        f"https://example.com/s/{CODE}/more",
        f"https://example.com/ss/{CODE}",
        f"s/{CODE}",
        f"https://example.com/x?Q={CODE}",
        f"https://example.com/x?code={CODE}",
        f"https://[broken/s/{CODE}",
        f"https://example.com/#/s/{CODE}",
    ],
)
def test_other_texts_hold_no_code(text: str) -> None:
    assert unwrap(text) == ""


def test_a_wrapping_is_followed_twice_and_no_further() -> None:
    def wrapped(times: int) -> str:
        text = f"https://example.com/s/{CODE}"
        for _ in range(times):
            text = f"https://example.com/w?q={quote(text, safe='')}"
        return text

    assert [unwrap(wrapped(times)) for times in range(4)] == [CODE, CODE, CODE, ""]


def test_a_text_has_at_most_512_characters() -> None:
    url = f"https://example.com/s/{CODE}?x="
    fitting = url + "y" * (TEXT_CHARS_MAX - len(url))
    assert len(fitting) == TEXT_CHARS_MAX == 512
    assert unwrap(fitting) == CODE
    assert unwrap(fitting + "y") == ""
    assert unwrap("码" * 512) == "码" * 512
    assert unwrap("码" * 513) == ""


hostile = st.one_of(
    st.text(st.characters(exclude_categories=())),
    st.lists(
        st.sampled_from(
            ["/", "//", "?", "q=", "&", "%", "%ff", "%2F", "#", ":", "@", "[", "]", "s/", "/S/", CODE, "https:", "\0",
             "\n", " ", "\ud800", "℀", ";", "="]
        ),
        max_size=14,
    ).map("".join),
)  # fmt: skip


@given(hostile)
def test_any_text_is_unwrapped_to_a_text(text: str) -> None:
    found = unwrap(text)
    assert isinstance(found, str)
    assert len(found) <= TEXT_CHARS_MAX
    normalize(found)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://example.com", f"HTTPS://EXAMPLE.COM/S/{CODE}"),
        ("https://example.com/", f"HTTPS://EXAMPLE.COM/S/{CODE}"),
        ("http://example.com:8080", f"HTTP://EXAMPLE.COM:8080/S/{CODE}"),
        # A path is case-sensitive, so only scheme and host are raised.
        ("https://example.com/Brand/", f"HTTPS://EXAMPLE.COM/Brand/S/{CODE}"),
    ],
)
def test_a_printed_url_is_upper_case_and_unwraps(base: str, url: str) -> None:
    assert code_url(base, CODE) == url
    assert unwrap(url) == CODE


def test_a_printed_url_fits_the_alphanumeric_mode_of_qr_codes() -> None:
    """Version 3 with medium error correction holds 61 of these characters (ISO/IEC 18004, table 7)."""
    url = code_url("https://example.com", CODE)
    assert set(url) <= set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:")
    assert len(url) <= 61


def test_hyphens_stand_after_every_fifth_symbol() -> None:
    assert hyphenate(CODE) == "1F256-XGNGK-YHKH4-VG59N"


@pytest.mark.parametrize("gtin", [GTIN, "96385074", "036000291452", "10614141000415"])
def test_a_right_gtin_has_no_fault(gtin: str) -> None:
    assert gtin_fault(gtin) is None


@pytest.mark.parametrize(
    ("gtin", "fault"),
    [
        ("6901234567890", "the check digit of '6901234567890' should be 2"),
        ("690123456789", "the check digit of '690123456789' should be 7"),
        ("", "expected a GTIN of 8, 12, 13 or 14 digits, found ''"),
        ("0000000000000", "expected a GTIN of 8, 12, 13 or 14 digits, found '0000000000000'"),
        ("６９０１２３４５６７８９２", "expected a GTIN of 8, 12, 13 or 14 digits, found '６９０１２３４５６７８９２'"),
        ("69012345678-2", "expected a GTIN of 8, 12, 13 or 14 digits, found '69012345678-2'"),
    ],
)
def test_a_wrong_gtin_is_explained(gtin: str, fault: str) -> None:
    assert gtin_fault(gtin) == fault


@pytest.mark.parametrize("scheme", ["https://", "HTTP://", "hTTps://"])
@pytest.mark.parametrize("host", ["example.com", "a.b-c.example:8443", "127.0.0.1:80", "EXAMPLE.COM"])
@pytest.mark.parametrize(
    "path", [f"/s/{CODE}", f"/S/{CODE}", "/s/0", f"/s/{CODE[:5]}-{CODE[5:]}", f"/a/s/{CODE}", "/s/a b"]
)
def test_a_printed_address_is_read_as_any_url_is(scheme: str, host: str, path: str) -> None:
    """Goal: the short way for what is printed says what the long one says, which an empty query takes."""
    assert unwrap(f"{scheme}{host}{path}") == unwrap(f"{scheme}{host}{path}?")
