"""Login of a page's visitor in WeChat: OAuth 2 with the silent scope, which tells the openid and nothing else.

    browser                      WeChat                                us
      | <------------ 302 authorize?…&state=…#wechat_redirect ---------- |
      | -- authorize --------------> |                                   |
      | <- 302 callback?code&state - |                                   |
      | -- callback?code&state -----------------------------------------> |
      |                              | <-- access_token?appid&secret&code |
      |                              | --- {"openid": …} ---------------> |

The code is good once and for five minutes. The answer comes as JSON whatever its content type says, errors with
status 200 and an ``errcode``. A call takes some 0.4 s, now and then many seconds: so there is a deadline, which begins
when the caller does and not when a place is free, and a bound on calls and on those who wait.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from enum import Enum
from time import monotonic
from typing import Final
from urllib.parse import quote

import aiohttp
import msgspec

logger = logging.getLogger(__name__)

TOKEN_PATH: Final = "/sns/oauth2/access_token"
_ANSWER_BYTES_MAX: Final = 64 << 10
"""A whole answer has less than one kilobyte."""
_WAITING_PER_CALL: Final = 8
"""Callers that may wait for each call on its way: at 0.4 s a call the last of them has its turn in some 3 s."""
_TELL_AGAIN_S: Final = 60.0
"""While WeChat is away every visitor finds it out; the log need not hear of each."""
_CODE_IS_SPENT: Final = frozenset((40029, 40163, 42003))
"""Not a code, used before, expired: a new login gives a new one."""
_ACCOUNT_IS_WRONG: Final = frozenset((40001, 40013, 40125, 48001))
"""Secret, app id, secret again, an ability that the account was not granted."""
_OPENID: Final = re.compile(r"[0-9A-Za-z_-]{1,60}")
"""28 characters in practice. With its prefix it must fit in the 64 bytes of a user, and as it is in a cookie."""


def authorize_prefix(authorize_url: str, app_id: str, redirect_uri: str) -> str:
    """Return all of the login address that comes before the state; after it comes ``#wechat_redirect``.

    WeChat wants the parameters in this order, and the fragment.
    """
    uri = quote(redirect_uri, safe="")
    return f"{authorize_url}?appid={app_id}&redirect_uri={uri}&response_type=code&scope=snsapi_base&state="


class Outcome(Enum):
    """What became of a code."""

    KNOWN = "WeChat said who it is"
    SPENT = "the code is no good any more: log in again"
    LATER = "WeChat did not answer, or not now"
    REFUSED = "WeChat does not take our account: nobody can log in until the settings are right"


class Exchange(msgspec.Struct, frozen=True):
    """The answer to one code; `openid` is empty unless it is known."""

    outcome: Outcome
    openid: str = ""

    def __repr__(self) -> str:
        """Do not show the person."""
        return f"<Exchange {self.outcome.name.lower()}>"


class _Answer(msgspec.Struct):
    errcode: int = 0
    openid: str = ""


_decode: Final = msgspec.json.Decoder(_Answer).decode


class OAuthClient:
    """Exchanges codes for openids; an asynchronous context manager.

    Parameters
    ----------
    app_id, secret : str
        Of the official account.
    api_url : str
        Where WeChat's interfaces are, without a slash at the end.
    timeout_s : float
        Deadline of one exchange, the waiting for a free place included, seconds.
    concurrency : int
        Most calls on their way at a time.
    clock_s : callable
        Monotonic seconds, for the log.
    """

    def __init__(
        self,
        app_id: str,
        secret: str,
        *,
        api_url: str,
        timeout_s: float,
        concurrency: int,
        clock_s: Callable[[], float] = monotonic,
    ) -> None:
        self._query = {"appid": app_id, "secret": secret}
        self._url = api_url.rstrip("/") + TOKEN_PATH
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._gate = asyncio.Semaphore(concurrency)
        self._inside = 0
        self._clock_s = clock_s
        self._told: dict[str, float] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> OAuthClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency),
            timeout=aiohttp.ClientTimeout(total=None),  # The deadline of an exchange holds for all of it.
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def exchange(self, code: str) -> Exchange:
        """Ask WeChat once whose code this is.

        Notes
        -----
        Never raises but when it is cancelled. When the connection breaks, the code may be spent already: ask for a new
        login, not again.
        """
        if self._inside >= self._concurrency * (1 + _WAITING_PER_CALL):
            self._tell("crowded", "more logins wait for WeChat than can be answered in time: some are sent away")
            return Exchange(Outcome.LATER)
        self._inside += 1
        try:
            async with asyncio.timeout(self._timeout_s), self._gate:
                return self._outcome(await self._ask(code))
        except TimeoutError:
            self._tell("slow", f"WeChat did not answer a login within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Only its kind: the text of an error may hold the address, and with it the secret and the code.
            self._tell("away", f"WeChat could not be asked for a login, or not understood: {type(error).__name__}")
        finally:
            self._inside -= 1
        return Exchange(Outcome.LATER)

    async def _ask(self, code: str) -> _Answer:
        assert self._session is not None  # Whoever exchanges has entered the context.
        query = {**self._query, "code": code, "grant_type": "authorization_code"}
        async with self._session.get(self._url, params=query, allow_redirects=False) as reply:
            if reply.status != 200:
                raise aiohttp.ClientError(f"status {reply.status}")
            body = b""
            async for piece in reply.content.iter_any():
                body += piece
                if len(body) > _ANSWER_BYTES_MAX:
                    raise ValueError("the answer is too long")
        return _decode(body)

    def _outcome(self, answer: _Answer) -> Exchange:
        if answer.errcode in _CODE_IS_SPENT:
            return Exchange(Outcome.SPENT)
        if answer.errcode in _ACCOUNT_IS_WRONG:
            self._tell(
                f"account {answer.errcode}",
                f"WeChat does not take our account (errcode {answer.errcode}), nobody can log in: "
                "check app_id in [wechat] of scanengine.toml and secret in [wechat] of keys.toml",
                logging.ERROR,
            )
            return Exchange(Outcome.REFUSED)
        if answer.errcode or not _OPENID.fullmatch(answer.openid):
            self._tell(f"answer {answer.errcode}", f"WeChat gave no openid for a login (errcode {answer.errcode})")
            return Exchange(Outcome.LATER)
        return Exchange(Outcome.KNOWN, answer.openid)

    def _tell(self, kind: str, message: str, level: int = logging.WARNING) -> None:
        now_s = self._clock_s()
        if now_s - self._told.get(kind, -_TELL_AGAIN_S) >= _TELL_AGAIN_S:
            self._told[kind] = now_s
            logger.log(level, "%s", message)
