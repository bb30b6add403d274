"""Cookies and login states: what was signed is read again, and nothing else is."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from helpers_door import ALIPAY, DESKTOP, MINI_PROGRAM, SAFARI, WECHAT, WECHAT_WORK
from scanengine.server.sessions import CODE_BYTES_MAX, STATE_CHARS_MAX, STATE_S, Sessions
from scanengine.server.visitors import is_own_form
from scanengine.wechat import authorize_prefix, can_log_in
from wechat_stand_in import APP_ID

NOW_MS = 1_777_608_000_000
OLD, NEW = bytes(range(16)), bytes(range(16, 32))
ALPHANUMERIC = string.ascii_letters + string.digits
CODES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=CODE_BYTES_MAX)
VISIT = "0123456789abcdef01234567"


class Clock:
    """A program's clock that stands still."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    def clock(self) -> int:
        return self.now_ms


def some_sessions(clock: Clock | None = None, **changes: Any) -> Sessions:
    settings = {"keys": [OLD], "app_id": APP_ID, "is_secure": True, "session_s": 7_200, "visit_s": 1_800, **changes}
    return Sessions(settings.pop("keys"), program=clock or Clock(), **settings)


def cookies_of(*lines: str) -> str:
    """Return the header by which a browser shows the cookies of ``Set-Cookie`` lines."""
    return "; ".join(line.partition(";")[0] for line in lines)


# States -------------------------------------------------------------------------------------------------------------


@given(CODES, st.binary(min_size=12, max_size=12), st.integers(0, 255))
def test_a_state_carries_code_visit_and_attempt_in_letters_and_digits(code: str, visit: bytes, attempt: int) -> None:
    sessions = some_sessions()
    text = sessions.state_of(code, visit.hex(), attempt)
    assert re.fullmatch(f"[a-zA-Z0-9]{{1,{STATE_CHARS_MAX}}}", text)
    state = sessions.read_state(text)
    assert state is not None
    assert (state.code, state.visit, state.attempt, state.is_expired) == (code, visit.hex(), attempt, False)
    assert repr(state) == f"<State attempt={attempt} is_expired=False>"


@pytest.mark.parametrize("item", [0, 1, 2**45, 2**55 - 1])
def test_a_state_can_carry_an_item_number_instead(item: int) -> None:
    sessions = some_sessions()
    state = sessions.read_state(sessions.state_of(item, VISIT))
    assert state is not None
    assert (state.code, state.visit) == (item, VISIT)


@pytest.mark.parametrize("code", ["x" * (CODE_BYTES_MAX + 1), "码" * 17])
def test_a_code_too_long_for_a_state_is_refused_without_being_shown(code: str) -> None:
    assert some_sessions().state_of("x" * CODE_BYTES_MAX, VISIT)
    with pytest.raises(ValueError, match=r"at most 48 bytes, found (49|51)$"):
        some_sessions().state_of(code, VISIT)


def test_every_change_of_a_state_is_refused() -> None:
    sessions = some_sessions()
    text = sessions.state_of("0123456789ABCDEFGHJK", VISIT)
    assert sessions.read_state(text) is not None
    changed = {text[:place] + letter + text[place + 1 :] for place in range(len(text)) for letter in ALPHANUMERIC}
    cut = {text[:place] for place in range(len(text))} | {text[place:] for place in range(1, len(text))}
    for wrong in (changed | cut | {text + letter for letter in ALPHANUMERIC}) - {text}:
        assert sessions.read_state(wrong) is None


@given(st.text(max_size=200) | st.text(ALPHANUMERIC, max_size=200))
def test_a_text_that_is_no_state_is_none(text: str) -> None:
    assert some_sessions().read_state(text) is None


def test_a_state_lasts_as_long_as_wechats_code() -> None:
    clock = Clock()
    sessions = some_sessions(clock)
    text = sessions.state_of("CODE", VISIT)
    for after_s, is_expired in ((-61, True), (-60, False), (0, False), (STATE_S - 1, False), (STATE_S, True)):
        clock.now_ms = NOW_MS + after_s * 1000
        state = sessions.read_state(text)
        assert state is not None
        assert state.is_expired == is_expired


def test_two_states_of_one_code_differ_by_visit_and_time() -> None:
    clock = Clock()
    sessions = some_sessions(clock)
    first = sessions.state_of("CODE", VISIT)
    assert sessions.state_of("CODE", VISIT[::-1]) != first
    clock.now_ms += 1000
    assert sessions.state_of("CODE", VISIT) != first


# Cookies ------------------------------------------------------------------------------------------------------------


def test_a_session_is_its_person_until_it_ends() -> None:
    clock = Clock()
    sessions = some_sessions(clock)
    line = sessions.session_cookie("o6_bmjrPTlm6_2sgVt7hMZOPfL2M")
    assert line.endswith("; Max-Age=7200; Path=/; HttpOnly; SameSite=Lax; Secure")
    for after_s, user in (
        (-61, None),
        (0, "wx:o6_bmjrPTlm6_2sgVt7hMZOPfL2M"),
        (7_199, "wx:o6_bmjrPTlm6_2sgVt7hMZOPfL2M"),
        (7_200, None),
    ):
        clock.now_ms = NOW_MS + after_s * 1000
        assert sessions.user_of(cookies_of(line)) == user


def test_every_change_of_a_session_or_guest_is_refused() -> None:
    sessions = some_sessions()
    for line, read in (
        (sessions.session_cookie("openid-of-ann"), sessions.user_of),
        (sessions.new_guest()[1], sessions.guest_of),
    ):
        name, _, value = cookies_of(line).partition("=")
        assert read(f"{name}={value}") is not None
        letters = ALPHANUMERIC + "._-\0 é"
        changed = {value[:place] + letter + value[place + 1 :] for place in range(len(value)) for letter in letters}
        cut = {value[:place] for place in range(len(value))} | {value[place:] for place in range(1, len(value))}
        for wrong in (changed | cut | {value + letter for letter in letters}) - {value}:
            assert read(f"{name}={wrong}") is None


@given(st.text(max_size=120))
def test_a_cookie_that_is_none_of_ours_is_nobody(text: str) -> None:
    sessions = some_sessions()
    cookies = "; ".join(f"__Host-{name}={text}" for name in ("scan_visit", "scan_session", "scan_guest"))
    for header in (text, cookies):
        assert (sessions.user_of(header), sessions.guest_of(header)) == (None, None)
        assert sessions.visit_of(header) in (None, text)


@pytest.mark.parametrize("is_secure", [True, False])
def test_of_several_cookies_of_one_name_ours_counts(is_secure: bool) -> None:
    """Goal: nobody is kept out by a cookie that an older server or a sibling's page has written beside ours."""
    sessions = some_sessions(is_secure=is_secure)
    stranger = some_sessions(keys=[NEW], is_secure=is_secure)
    guest, guest_line = sessions.new_guest()
    for read, ours, user, foreign in (
        (sessions.user_of, sessions.session_cookie("ann"), "wx:ann", stranger.session_cookie("bob")),
        (sessions.guest_of, guest_line, guest, stranger.new_guest()[1]),
        (sessions.visit_of, sessions.visit_cookie(VISIT), VISIT, sessions.visit_cookie("made-up")),
    ):
        name = ours.partition("=")[0]
        for other in (f"{name}=junk", f"{name}=", f"{name}", foreign, f"x{ours}", f"y={VISIT}"):
            assert read(cookies_of(other, ours)) == user
            assert read(cookies_of(ours, other)) == user
            assert read(cookies_of(other)) is None


def test_cookies_that_need_tls_are_of_this_host_alone() -> None:
    """Goal: a sibling's page cannot make a browser carry a visit. Method: names that browsers take from us only."""
    sessions, plain = some_sessions(), some_sessions(is_secure=False)
    for line, plain_line in (
        (sessions.visit_cookie(VISIT), plain.visit_cookie(VISIT)),
        (sessions.session_cookie("ann"), plain.session_cookie("ann")),
        (sessions.new_guest()[1], plain.new_guest()[1]),
    ):
        assert re.fullmatch(r"__Host-scan_\w+=[^;]+; Max-Age=\d+; Path=/; HttpOnly; SameSite=Lax; Secure", line)
        assert plain_line.startswith("scan_")
        assert not plain_line.endswith("Secure")
        header = cookies_of(plain_line)
        assert (sessions.visit_of(header), sessions.user_of(header), sessions.guest_of(header)) == (None, None, None)


def test_a_new_key_in_front_signs_and_the_old_one_is_still_accepted() -> None:
    old, both, new = some_sessions(keys=[OLD]), some_sessions(keys=[NEW, OLD]), some_sessions(keys=[NEW])
    for make, read in (
        (lambda one: cookies_of(one.session_cookie("ann")), lambda one, made: one.user_of(made)),
        (lambda one: cookies_of(one.new_guest()[1]), lambda one, made: one.guest_of(made)),
        (lambda one: one.state_of("CODE", VISIT), lambda one, made: one.read_state(made)),
    ):
        assert read(both, make(old)) is not None
        assert read(new, make(both)) is not None
        assert read(new, make(old)) is None
        assert read(old, make(both)) is None


def test_a_tag_of_one_use_is_good_for_no_other() -> None:
    """Goal: what is signed for one cookie cannot be shown as another. Method: one key, one text, three tags."""
    sessions = some_sessions()
    guest = sessions.new_guest()[0]
    name = guest.removeprefix("web:")
    tags = {signer.tag(name.encode())[:10] for signer in (sessions._guests, sessions._sessions, sessions._states)}
    assert len(tags) == 3


def test_a_session_of_another_account_is_nobody() -> None:
    made = cookies_of(some_sessions(app_id="wxfedcba9876543210").session_cookie("ann"))
    assert some_sessions().user_of(made) is None
    assert some_sessions(app_id=None).user_of(made) is None


def test_visits_and_guests_are_never_the_same() -> None:
    sessions = some_sessions(is_secure=False)
    visits = {sessions.new_visit() for _ in range(100)}
    assert len(visits) == 100
    for visit in visits:
        line = sessions.visit_cookie(visit)
        assert sessions.visit_of(cookies_of(line)) == visit
        assert line.endswith("; Max-Age=1800; Path=/; HttpOnly; SameSite=Lax")
    assert len({guest for guest, _ in (sessions.new_guest() for _ in range(100))}) == 100


# Browsers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "expected"),
    [(WECHAT, True), (DESKTOP, True), (MINI_PROGRAM, False), (WECHAT_WORK, False), (ALIPAY, False), (SAFARI, False)],
)
def test_the_browsers_that_can_log_in(agent: str, expected: bool) -> None:
    assert can_log_in(agent) == expected


def test_the_login_address_is_as_documented() -> None:
    found = authorize_prefix("https://open.weixin.qq.com/connect/oauth2/authorize", "wx1", "https://a.example/x?y=1&z")
    assert found == (
        "https://open.weixin.qq.com/connect/oauth2/authorize?appid=wx1"
        "&redirect_uri=https%3A%2F%2Fa.example%2Fx%3Fy%3D1%26z&response_type=code&scope=snsapi_base&state="
    )


def test_an_origin_must_be_ours_whole() -> None:
    def asked(origin: str) -> bool:
        request = make_mocked_request("POST", "/s/x", {"Host": "in.example:81", "Origin": origin})
        return is_own_form(request, "out.example", has_visit=False)

    assert asked("http://in.example:81")
    assert asked("https://out.example")
    for wrong in ("http://in.example", "http://evil.example", "https://out.example.evil.example", "", "x", "http://["):
        assert not asked(wrong)
