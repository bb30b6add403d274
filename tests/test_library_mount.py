"""``Program.web_app()``: the routes of a program inside somebody else's aiohttp application."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

import scanengine
from helpers import TOKEN, Shop, run_python
from scanengine.errors import LedgerUnavailableError
from scanengine.server.app import make_app
from scanengine.testing import SampleProgram, sample_program

BEARER = {"Authorization": f"Bearer {TOKEN}"}
ELSEWHERE = {"X-Forwarded-For": "203.0.113.9"}


@web.middleware
async def outer(request: web.Request, handler: Any) -> web.StreamResponse:
    """What a host does around its routes; it must see what the mounted ones answer, errors too."""
    response = await handler(request)
    response.headers["X-Outer"] = str(response.status)
    return response


def a_host(**programs: SampleProgram) -> web.Application:
    """Return an application of somebody else with programs mounted by name."""

    async def hello(request: web.Request) -> web.Response:
        return web.json_response({"hello": True})

    app = web.Application(middlewares=[outer])
    app.router.add_get("/healthz", hello)
    for name, program in programs.items():
        app.add_subapp(f"/{name}/", program.web_app())
    return app


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[tuple[ClientSession, str]]:
    """Serve over a real socket; yields a client and the URL."""
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with ClientSession() as client:
            yield client, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def ask(
    client: ClientSession | TestClient[Any, Any], url: str, body: Any = None, **headers: str
) -> tuple[int, Any, Any]:
    method = "GET" if body is None else "POST"
    data = None if body is None else io.BytesIO(json.dumps(body).encode())
    headers = {"Accept": "application/json"} | headers
    async with client.request(method, url, data=data, headers=headers) as reply:
        text = await reply.text()
        return reply.status, json.loads(text) if "json" in reply.content_type else text, reply.headers


async def test_a_mounted_program_answers_below_its_prefix() -> None:
    with sample_program() as program:
        code = program.code(prize="cash-88")
        async with served(a_host(scan=program)) as (client, url):
            status, answer, headers = await ask(client, f"{url}/scan/v1/scans", {"code": code, "user": "ann"})
            assert (status, answer["claim"]["status"], headers["X-Outer"]) == (200, "awarded", "200")
            status, answer, _ = await ask(client, f"{url}/scan/v1/codes/{code}")
            assert (status, answer["verdict"]) == (200, "repeat")
            status, answer, _ = await ask(client, f"{url}/scan/s/{code}")
            assert (status, answer["status"]) == (200, "valid")
            assert (await ask(client, f"{url}/scan/readyz"))[0] == 200
            assert "scanengine" in (await ask(client, f"{url}/scan/metrics"))[1]
            assert (await ask(client, f"{url}/healthz"))[1] == {"hello": True}
            assert (await ask(client, f"{url}/v1/scans", {"code": code, "user": "ann"}))[0] == 404


async def test_the_consumers_page_stays_below_the_prefix() -> None:
    with sample_program(settings="[page]\nguests = true\n") as program:
        code = program.code(prize="cash-88")
        async with TestClient(TestServer(a_host(scan=program))) as client:
            status, page, _ = await ask(client, f"/scan/s/{code}", Accept="text/html")
            assert status == 200
            assert f'action="/scan/s/{code}"' in page
            async with client.post(f"/scan/s/{code}", headers={"Accept": "application/json"}) as reply:
                assert reply.status == 403  # Without a sign that the page itself asked.
            own = {"Accept": "application/json", "Sec-Fetch-Site": "same-origin"}
            async with client.post(f"/scan/s/{code}", headers=own) as reply:
                assert (reply.status, len(program.events)) == (200, 1)


async def test_errors_of_the_mounted_part_are_problem_details() -> None:
    with sample_program() as program:
        async with served(a_host(scan=program)) as (client, url):
            for path, body, status in (
                ("/scan/v1/nothing", None, 404),
                ("/scan/v1/scans", [], 400),
                ("/scan/v1/scans", None, 405),
            ):
                found, problem, headers = await ask(client, url + path, body)
                assert (found, problem["status"], headers["X-Outer"]) == (status, status, str(status))
                assert problem["type"].startswith("urn:scanengine:problem:")


async def test_programs_mounted_side_by_side_share_nothing() -> None:
    with sample_program() as one, sample_program() as two:
        code = one.code()
        async with served(a_host(one=one, two=two)) as (client, url):
            for name in ("one", "two"):
                status, answer, _ = await ask(client, f"{url}/{name}/v1/scans", {"code": code, "user": name})
                assert (status, answer["claim"]["status"] in ("awarded", "no_prize")) == (200, True)
            assert (await ask(client, f"{url}/two/v1/scans", {"code": code, "user": "one"}))[1]["claim"][
                "status"
            ] == "taken"
            for name in ("one", "two"):
                assert 'route="/v1/scans"' in (await ask(client, f"{url}/{name}/metrics"))[1]
        assert [len(program.events) for program in (one, two)] == [1, 1]


async def test_a_program_may_be_mounted_twice() -> None:
    with sample_program() as program:
        code = program.code()
        app = a_host(one=program)
        app.add_subapp("/two/", program.web_app())
        async with TestClient(TestServer(app)) as client:
            first = (await ask(client, "/one/v1/scans", {"code": code, "user": "ann"}))[1]
            again = (await ask(client, "/two/v1/scans", {"code": code, "user": "ann"}))[1]
            assert (again["claim"]["replayed"], again["claim"]["id"]) == (True, first["claim"]["id"])


async def test_it_works_by_itself_under_the_test_client() -> None:
    with sample_program() as program:
        async with TestClient(TestServer(program.web_app())) as client:
            status, answer, _ = await ask(client, "/v1/verify", {"code": program.code()})
            assert (status, answer["status"]) == (200, "valid")


async def test_tokens_are_asked_for_as_configured() -> None:
    with sample_program(tokens={"backend": TOKEN}) as program:
        body = {"code": program.code(), "user": "ann"}
        async with TestClient(TestServer(a_host(scan=program))) as client:
            status, problem, headers = await ask(client, "/scan/v1/scans", body)
            assert (status, problem["type"]) == (401, "urn:scanengine:problem:unauthorized")
            assert headers["WWW-Authenticate"] == "Bearer"
            assert (await ask(client, "/scan/v1/scans", body, Authorization="Bearer wrong"))[0] == 401
            assert (await ask(client, "/scan/v1/scans", body, **BEARER))[0] == 200
            assert (await ask(client, "/scan/v1/scans", body, **BEARER, **ELSEWHERE))[0] == 200
            assert (await ask(client, f"/scan/s/{program.code()}"))[0] == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_without_tokens_only_this_machine_may_claim(header: str) -> None:
    """The other application may listen anywhere, so what a server answers on loopback alone is answered to loopback
    alone; and a proxy on this machine asks for somebody else."""
    with sample_program() as program:
        body = {"code": program.code(), "user": "ann"}
        async with TestClient(TestServer(a_host(scan=program))) as client:
            assert (await ask(client, "/scan/v1/scans", body, **{header: "for=203.0.113.9"}))[0] == 403
            assert program.events == []
            assert (await ask(client, f"/scan/s/{body['code']}", **{header: "for=203.0.113.9"}))[0] == 200
            assert (await ask(client, "/scan/v1/scans", body))[0] == 200


async def test_pending_is_503_and_the_same_visit_gets_the_answer() -> None:
    with sample_program() as program:
        body = {"code": program.code(prize="points-10"), "user": "ann", "visit": "v-1"}
        async with TestClient(TestServer(program.web_app())) as client:
            program.pending(1)
            status, answer, headers = await ask(client, "/v1/scans", body)
            assert (status, answer["claim"]["status"], "Retry-After" in headers) == (503, "pending", True)
            assert (await ask(client, "/v1/scans", body))[1]["claim"]["prize"]["id"] == "points-10"


async def test_operators_see_and_adjust_a_ledger_in_memory() -> None:
    with sample_program() as program:
        program.claim(program.code(prize="points-10"), user="ann")
        async with TestClient(TestServer(make_app(program, is_trusted=True))) as client:
            status, shown, _ = await ask(client, "/v1/ledger")
            assert (status, shown["kind"], shown["durability"]) == (200, "memory", "volatile")
            assert (shown["marks"]["claims"], shown["marks"]["events"], shown["marks"]["trimmed_claims"]) == (1, 1, 0)
            assert shown["totals"]["campaigns"][0]["awards"] == {"1": 1}
            body = {"id": "a", "campaign": "sample", "action": "pause"}
            assert (await ask(client, "/v1/ledger/adjust", body))[1] == {"id": "a", "applied": True}
            assert (await ask(client, "/v1/ledger"))[1]["totals"]["campaigns"][0]["is_paused"] is True


async def test_publications_are_served_once_the_host_refreshes(shop: Shop) -> None:
    code = shop.code(0)
    with scanengine.open(shop.folder) as program:
        async with TestClient(TestServer(program.web_app())) as client:
            assert (await ask(client, f"/s/{code}"))[1]["status"] == "valid"
            shop.publish((shop.workspace.campaigns_folder / "spring.toml").read_text())
            generation = shop.snapshot.generation
            assert (await ask(client, "/readyz"))[1]["generation"] < generation
            assert await asyncio.to_thread(program.refresh)
            assert (await ask(client, "/readyz"))[1]["generation"] == generation


async def test_large_batches_need_the_hosts_consent() -> None:
    """aiohttp lets the outermost application say how large a body may be."""
    with sample_program() as program:
        body = {"scans": [{"code": "X" * 500, "user": "u" * 60} for _ in range(2_500)]}
        for options, status in (({}, 413), ({"client_max_size": 4 << 20}, 200)):
            app = web.Application(**options)
            app.add_subapp("/scan/", program.web_app())
            async with TestClient(TestServer(app)) as client:
                assert (await ask(client, "/scan/v1/scans/batch", body))[0] == status


async def test_the_program_outlives_its_application() -> None:
    with sample_program() as program:
        for _ in range(3):
            async with TestClient(TestServer(a_host(scan=program))) as client:
                body = {"code": program.code(), "user": "ann"}
                assert (await ask(client, "/scan/v1/scans", body))[0] == 200
        assert program.claim(program.code(), user="ann").status == "valid"


def test_a_program_without_a_ledger_has_no_web_app(shop: Shop) -> None:
    with (
        scanengine.open(shop.folder, ledger="none") as program,
        pytest.raises(LedgerUnavailableError, match="ledger='own'"),
    ):
        program.web_app()


def test_a_missing_extra_is_named() -> None:
    """Method: aiohttp cannot be imported."""
    source = """
import sys
sys.modules["aiohttp"] = None
from scanengine.errors import SettingsError
from scanengine.testing import sample_program
with sample_program() as program:
    try:
        program.web_app()
    except SettingsError as error:
        print(error)
"""
    assert run_python(source) == "aiohttp is missing: pip install 'scanengine[server]'\n"
