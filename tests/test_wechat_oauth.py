"""The exchange of a code with WeChat: one answer for each, within the deadline, whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from redis_servers import free_port
from scanengine.server.login import Exchanges
from scanengine.wechat import Exchange, OAuthClient, Outcome
from wechat_stand_in import APP_ID, SECRET, WechatStandIn


@pytest.fixture
def stand_in() -> Iterator[WechatStandIn]:
    with WechatStandIn() as stand_in:
        yield stand_in
        stand_in.release()


def a_client(stand_in: WechatStandIn, **changes: Any) -> OAuthClient:
    settings = {"api_url": stand_in.url, "timeout_s": 5.0, "concurrency": 4, **changes}
    return OAuthClient(settings.pop("app_id", APP_ID), settings.pop("secret", SECRET), **settings)


@pytest_asyncio.fixture
async def client(stand_in: WechatStandIn) -> AsyncIterator[OAuthClient]:
    async with a_client(stand_in) as client:
        yield client


async def until(is_so: Any) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.005)


async def test_a_code_is_good_once_and_for_five_minutes(stand_in: WechatStandIn, client: OAuthClient) -> None:
    code, old = stand_in.code_for("openid-of-ann"), stand_in.code_for("openid-of-bob")
    assert await client.exchange(code) == Exchange(Outcome.KNOWN, "openid-of-ann")
    assert await client.exchange(code) == Exchange(Outcome.SPENT)
    assert await client.exchange("never handed out") == Exchange(Outcome.SPENT)
    stand_in.advance(300)
    assert await client.exchange(old) == Exchange(Outcome.SPENT)


@pytest.mark.parametrize("change", [{"app_id": "wx9999999999999999"}, {"secret": "wrong"}])
async def test_a_wrong_account_is_refused_and_told_in_the_log(
    stand_in: WechatStandIn, caplog: pytest.LogCaptureFixture, change: dict[str, str]
) -> None:
    code = stand_in.code_for("openid-of-ann")
    async with a_client(stand_in, **change) as client:
        for _ in range(3):
            assert await client.exchange(code) == Exchange(Outcome.REFUSED)
    (record,) = caplog.records
    assert (record.levelno, "check app_id in [wechat]" in record.getMessage()) == (logging.ERROR, True)


@pytest.mark.parametrize(
    ("trouble", "outcome"),
    [
        (40029, Outcome.SPENT), (40163, Outcome.SPENT), (42003, Outcome.SPENT), (40001, Outcome.REFUSED),
        (40013, Outcome.REFUSED), (40125, Outcome.REFUSED), (-1, Outcome.LATER), (45011, Outcome.LATER),
        (99999, Outcome.LATER), ("status", Outcome.LATER), ("garbage", Outcome.LATER), ("huge", Outcome.LATER),
        ("no_openid", Outcome.LATER), ("drop_before", Outcome.LATER), ("drop_after", Outcome.LATER),
    ],
)  # fmt: skip
async def test_each_trouble_has_one_outcome_and_its_log_no_secret(
    stand_in: WechatStandIn, client: OAuthClient, caplog: pytest.LogCaptureFixture, trouble: int | str, outcome: Outcome
) -> None:
    code = stand_in.code_for("openid-of-ann")
    stand_in.trouble = trouble
    found = await client.exchange(code)
    assert found == Exchange(outcome)
    assert len(caplog.records) == (0 if outcome is Outcome.SPENT else 1)
    for secret in (SECRET, code, "openid-of-ann", "access_token"):
        assert secret not in caplog.text + repr(found) + repr(client)


@pytest.mark.parametrize("openid", ["", "a b", "x" * 61, "ann\n", "码", "a;b", "a.b"])
async def test_an_openid_that_cannot_be_is_nobody(stand_in: WechatStandIn, client: OAuthClient, openid: str) -> None:
    assert await client.exchange(stand_in.code_for(openid)) == Exchange(Outcome.LATER)


async def test_where_nobody_listens_the_answer_is_later(stand_in: WechatStandIn) -> None:
    async with a_client(stand_in, api_url=f"http://127.0.0.1:{free_port()}") as client:
        assert await client.exchange("code") == Exchange(Outcome.LATER)


async def test_the_deadline_ends_a_call_and_the_waiting_for_one(stand_in: WechatStandIn) -> None:
    stand_in.hold()
    codes = [stand_in.code_for("openid-of-ann") for _ in range(6)]
    async with a_client(stand_in, timeout_s=0.2, concurrency=2) as client:
        assert await asyncio.gather(*map(client.exchange, codes)) == [Exchange(Outcome.LATER)] * 6
        assert (len(stand_in.calls), stand_in.at_once_max) == (2, 2)
        stand_in.release()
        assert (await client.exchange(codes[-1])).outcome is Outcome.KNOWN


async def test_who_would_wait_too_long_is_sent_away_at_once(
    stand_in: WechatStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.hold()
    codes = [stand_in.code_for("openid-of-ann") for _ in range(18)]
    async with a_client(stand_in, timeout_s=60.0, concurrency=2) as client:
        tasks = [asyncio.create_task(client.exchange(code)) for code in codes]
        await until(lambda: len(stand_in.calls) == 2)
        assert await client.exchange("one more") == Exchange(Outcome.LATER)
        assert "more logins wait for WeChat" in caplog.text
        stand_in.release()
        assert {found.outcome for found in await asyncio.gather(*tasks)} == {Outcome.KNOWN}
    assert stand_in.at_once_max == 2


async def test_a_cancelled_call_gives_its_place_back(stand_in: WechatStandIn) -> None:
    stand_in.hold()
    async with a_client(stand_in, concurrency=1) as client:
        for number in range(3):
            task = asyncio.create_task(client.exchange(stand_in.code_for("openid-of-ann")))
            await until(lambda number=number: len(stand_in.calls) == number + 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        stand_in.release()
        assert (await client.exchange(stand_in.code_for("openid-of-ann"))).outcome is Outcome.KNOWN


# Codes that come again ----------------------------------------------------------------------------------------------


async def test_a_code_that_comes_again_is_not_exchanged_again(stand_in: WechatStandIn, client: OAuthClient) -> None:
    exchanges = Exchanges(client)
    code = stand_in.code_for("openid-of-ann")
    found = await asyncio.gather(*(exchanges.exchange("visit", code) for _ in range(20)))
    assert {each.openid for each in [*found, await exchanges.exchange("visit", code)]} == {"openid-of-ann"}
    assert len(stand_in.calls) == 1
    # In another visit it is another browser's.
    assert (await exchanges.exchange("other", code)).outcome is Outcome.SPENT
    await exchanges.close()


async def test_what_came_of_trouble_is_not_remembered(stand_in: WechatStandIn, client: OAuthClient) -> None:
    exchanges = Exchanges(client)
    code = stand_in.code_for("openid-of-ann")
    for trouble in (-1, "status", 40001):
        stand_in.trouble = trouble
        assert (await exchanges.exchange("visit", code)).outcome is not Outcome.KNOWN
    stand_in.trouble = None
    assert (await exchanges.exchange("visit", code)).openid == "openid-of-ann"


async def test_the_memory_of_exchanges_ends(
    stand_in: WechatStandIn, client: OAuthClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scanengine.server.login._KNOWN_MAX", 10)
    now_s = 0.0
    exchanges = Exchanges(client, clock_s=lambda: now_s)
    codes = [stand_in.code_for("openid-of-ann") for _ in range(30)]
    for code in codes:
        await exchanges.exchange("visit", code)
    assert len(exchanges._known) <= 11
    now_s = 300.0
    assert (await exchanges.exchange("visit", codes[-1])).outcome is Outcome.SPENT
    assert len(exchanges._known) == 1


async def test_an_exchange_goes_on_when_the_one_who_began_it_has_gone(
    stand_in: WechatStandIn, client: OAuthClient
) -> None:
    exchanges = Exchanges(client)
    code = stand_in.code_for("openid-of-ann")
    stand_in.hold()
    gone = asyncio.create_task(exchanges.exchange("visit", code))
    await until(lambda: len(stand_in.calls) == 1)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    stand_in.release()
    assert (await exchanges.exchange("visit", code)).openid == "openid-of-ann"
    assert len(stand_in.calls) == 1


async def test_closing_ends_what_is_on_its_way(stand_in: WechatStandIn, client: OAuthClient) -> None:
    exchanges = Exchanges(client)
    stand_in.hold()
    waiting = asyncio.create_task(exchanges.exchange("visit", stand_in.code_for("openid-of-ann")))
    await until(lambda: len(stand_in.calls) == 1)
    await exchanges.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
