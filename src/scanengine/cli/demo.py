"""``demo``: the whole line in a fresh folder, from codes to a prize, on the embedded default."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
import numpy as np

from scanengine import open as open_program
from scanengine.engine import Engine
from scanengine.keys import load_keyring
from scanengine.model import NO_PRIZE, Product, Scene, SegmentState
from scanengine.program import publishing
from scanengine.tables.workspace import Workspace

if TYPE_CHECKING:
    from scanengine.server import Server

CODES: Final = 100_000
BATCH: Final = "cola"
CAMPAIGN: Final = "demo"
_CAMPAIGN_FILE: Final = """\
id = "demo"
title = "开盖有奖"
opens = {opens}
closes = {closes}
timezone = "Asia/Shanghai"
[limits]
per_user_per_day = 20
[budget]
currency = "CNY"
total = 1_500_000
per_day = 500_000
[page]
moment = "red_packet"
color = "#c8102e"
title = "开盖有奖"
title_en = "Open a cap, win"
[[prizes]]
id = "cash-88"
kind = "cash"
amount = 8800
title = "88 元"
stock = 150
fallback = "points-10"
[[prizes]]
id = "points-10"
kind = "points"
amount = 10
title = "10 积分"
[[rules]]
id = "everyone"
draw = {{ mode = "weighted", weights = {{ cash-88 = 1, points-10 = 99, none = 900 }} }}
"""
_PRODUCT: Final = Product("6901234567892", "可乐 500 ml", "Cola 500 ml")
_KINDS: Final = {"cash": 0, "points": 1, "nothing": NO_PRIZE}
"""Prize number of each kind of code that is looked for."""

Say = Callable[[str], None]


class Place(msgspec.Struct, frozen=True):
    """Where the demo listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """URL of the server, without a path."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class Samples(msgspec.Struct, frozen=True):
    """Codes by what they win: one of each kind for the scans that the demo makes, one for whoever watches."""

    scanned: dict[str, str]
    untouched: dict[str, str]

    def __repr__(self) -> str:
        """Show no code, which is a bearer secret."""
        return "<Samples>"


@click.command()
@click.option("--once", is_flag=True, help="Make the scans and exit instead of serving on.")
@click.option("--lan", is_flag=True, help="Let phones on the same network scan codes from this terminal.")
@click.option("--host", metavar="ADDRESS", help="With --lan: which address of this machine phones reach.")
@click.option("--port", default=8080, type=click.IntRange(0, 65535), help="Port of the server; 0 for any free one.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where; a new folder by default.")
def demo(once: bool, lan: bool, host: str | None, port: int, folder: Path | None) -> None:
    """Show all of it in a fresh folder: make codes, publish a campaign, serve, scan, win, scan again."""
    if once and lan:
        raise click.UsageError("--once exits at once and --lan waits for phones: choose one of them")
    if host is not None and not lan:
        raise click.UsageError("--host goes with --lan; without it the demo listens on 127.0.0.1 only")
    try:
        import uvloop

        from scanengine.cli import lan as on_lan
        from scanengine.server import Server
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'scanengine[server]'") from error

    address = "127.0.0.1" if not lan else on_lan.own_address() if host is None else on_lan.read_address(host)
    folder = folder or Path(tempfile.mkdtemp(prefix="scanengine-demo-")) / "shop"
    with held_port(address, 0 if once else port) as place:
        samples = prepare(folder, place, click.echo, is_open=lan)
        program = open_program(folder)
        if lan:
            uvloop.run(on_lan.show(program, place, samples.untouched["cash"]))
        else:
            uvloop.run(_show(Server(program, place.host, place.port, shares_port=True), place, samples, once))
    click.echo(f"\nthe workspace stays in {folder}; check it: scanengine -w {folder} audit")


async def _show(server: Server, place: Place, samples: Samples, once: bool) -> None:
    """Serve, scan, and tell what a browser can open."""
    await server.start()
    try:
        await asyncio.to_thread(make_scans, place, samples.scanned, click.echo)
        if not once:
            click.echo("\nyour turn: open one of these in a browser and press the button")
            wins = {"cash": "wins 88 yuan", "points": "wins 10 points", "nothing": "wins nothing"}
            for kind, code in samples.untouched.items():
                click.echo(f"  {place.url}/s/{code}  {wins[kind]}")
            click.echo(f"\nserving {place.url} until Ctrl-C; with a phone: scanengine demo --lan")
            await server.run_until_stopped()
    finally:
        await server.close()


@contextmanager
def held_port(host: str, port: int) -> Iterator[Place]:
    """Hold a port before anything is made, so that its URL is known.

    Raises
    ------
    SettingsError
        If the port is taken or the address is none of this machine.
    """
    from scanengine.server.run import hold_port

    held = hold_port(host, port)
    try:
        yield Place(host, held[0].getsockname()[1])
    finally:
        for each in held:
            each.close()


def prepare(folder: Path, place: Place, say: Say, *, is_open: bool = False) -> Samples:
    """Make workspace, codes, scenes and campaign.

    Parameters
    ----------
    place : Place
        Where the server will listen: printed codes begin with it.
    is_open : bool
        Whether others than this machine reach the server: back ends then need a bearer token, and scans without a
        claim are events too, so that the terminal can show them.
    """
    workspace = publishing.create_workspace(folder)
    write_settings(workspace, base_url=place.url, guests=True, scan_events=is_open)
    if is_open:
        with open(workspace.keys_path, "a") as file:
            file.write(f'\n[[tokens]]\nname = "demo"\ntoken = "{secrets.token_hex(16)}"\n')
    keyring = load_keyring(workspace.keys_path)
    say(f"1. workspace {folder} with fresh keys; browsers may claim as guests")
    codes = publishing.create_batch(workspace, keyring, BATCH, CODES, product=_PRODUCT)
    say(f"2. batch {BATCH}: {CODES:,} codes that prove themselves, no bytes each")
    everything = np.array([(0, CODES)], np.uint64)
    change = publishing.SceneChange(SegmentState.ACTIVE, Scene.AUTHENTICITY | Scene.MARKETING, CAMPAIGN)
    publishing.assign_scenes(workspace, BATCH, everything, change)
    say(f"3. scenes: active, authenticity and marketing, campaign {CAMPAIGN}")
    now = datetime.now(UTC).replace(microsecond=0)
    opens, closes = ((now + timedelta(days=days)).isoformat() for days in (-1, 30))
    path = workspace.campaigns_folder / f"{CAMPAIGN}.toml"
    path.write_text(_CAMPAIGN_FILE.format(opens=opens, closes=closes), "utf-8")
    published = publishing.publish_campaign(workspace, keyring, path)
    say(f"4. campaign {CAMPAIGN}: generation {published.generation}; of 1,000 codes 1 wins 88 yuan, 99 win 10 points")
    letters = keyring.code_keys.encode_many(codes.slot, codes.serial_start, CODES)
    prizes = Engine(keyring, published.snapshot).decide_many(letters, int(now.timestamp() * 1000)).prize
    # The last ones of each kind: those at the beginning are for phones.
    found = {kind: letters[np.flatnonzero(prizes == number)[-2:]] for kind, number in _KINDS.items()}
    first, second = ({kind: rows[row].tobytes().decode() for kind, rows in found.items()} for row in (0, 1))
    return Samples(first, second)


def write_settings(workspace: Workspace, **values: str | bool) -> None:
    """Set what ``scanengine.toml`` shows, be it commented out or not."""
    text = workspace.settings_path.read_text("utf-8")
    for name, value in values.items():
        text, count = re.subn(rf"^(# )?{name} = .*$", f"{name} = {json.dumps(value)}", text, flags=re.MULTILINE)
        assert count == 1, name
    workspace.settings_path.write_text(text, "utf-8")


def make_scans(place: Place, samples: dict[str, str], say: Say) -> None:
    """Scan as people do, over HTTP, and show the answers."""
    prize = samples["cash"]
    mistyped = prize[:-2] + ("00" if prize[-2:] != "00" else "11")
    steps = (
        ("somebody looks at the first code, claiming nothing", prize, None),
        ("Ann scans it", prize, "demo:ann"),
        ("Ann scans it again: the same answer, for ever", prize, "demo:ann"),
        ("Bob finds the cap and tries", prize, "demo:bob"),
        ("Bob scans a bottle of his own", samples["points"], "demo:bob"),
        ("and one more", samples["nothing"], "demo:bob"),
        ("somebody types a code wrong", mistyped, "demo:carl"),
    )
    say("\nscans:")
    for title, code, user in steps:
        path, body = ("/v1/verify", {"code": code}) if user is None else ("/v1/scans", {"code": code, "user": user})
        say(f"  {title}\n    {_in_words(_post(place, path, body))}")


def _post(place: Place, path: str, body: dict[str, str]) -> dict[str, Any]:
    connection = http.client.HTTPConnection(place.host, place.port, timeout=10)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()


def _in_words(answer: dict[str, Any]) -> str:
    words = [answer["status"]] + ([answer["verdict"]] if answer["verdict"] else [])
    if answer["product"]:
        words.append(answer["product"]["title"])
    claim = answer["claim"]
    if claim:
        prize = claim.get("prize")
        words.append(claim["status"] + (f": {prize['title']}" if prize else ""))
        words.append(f"claim {claim['id']}" + (" (replayed)" if claim.get("replayed") else ""))
    return ", ".join(words)
