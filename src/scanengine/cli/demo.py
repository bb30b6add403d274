"""``demo``: the whole line in a fresh folder, from codes to a prize, on the embedded default."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import segno

from scanengine import open as open_program
from scanengine.engine import Engine
from scanengine.keys import load_keyring
from scanengine.model import NO_PRIZE, Product, Scene, SegmentState
from scanengine.program import publishing

_CODES: Final = 100_000
_CAMPAIGN: Final = """\
id = "demo"
title = "Open a cap, win"
opens = {opens}
closes = {closes}
timezone = "Asia/Shanghai"
[limits]
per_user_per_day = 20
[budget]
currency = "CNY"
total = 1_500_000
per_day = 500_000
[[prizes]]
id = "cash-88"
kind = "cash"
amount = 8800
title = "88 yuan"
stock = 150
fallback = "points-10"
[[prizes]]
id = "points-10"
kind = "points"
amount = 10
title = "10 points"
[[rules]]
id = "everyone"
draw = {{ mode = "weighted", weights = {{ cash-88 = 1, points-10 = 99, none = 900 }} }}
"""

Say = Callable[[str], None]


@click.command()
@click.option("--once", is_flag=True, help="Make the scans and exit instead of serving on.")
@click.option("--port", default=8080, type=click.IntRange(0, 65535), help="Port of the server; 0 for any free one.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where; a new folder by default.")
def demo(once: bool, port: int, folder: Path | None) -> None:
    """Show all of it in a fresh folder: make codes, publish a campaign, serve, scan, win, scan again."""
    try:
        import uvloop

        from scanengine.server import Server
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'scanengine[server]'") from error

    if not once:
        check_port(port)
    folder = folder or Path(tempfile.mkdtemp(prefix="scanengine-demo-")) / "shop"
    samples = prepare(folder, click.echo)

    async def run() -> None:
        program = open_program(folder)
        server = Server(program, port=0 if once else port)
        await server.start()
        try:
            place = f"http://127.0.0.1:{server.port}"
            show_urls(place, samples)
            await asyncio.to_thread(make_scans, server.port, samples, click.echo)
            if not once:
                click.echo(f"\nserving {place} until Ctrl-C; try: curl {place}/s/{samples['prize']}")
                await server.run_until_stopped()
        finally:
            await server.close()

    uvloop.run(run())
    click.echo(f"\nthe workspace stays in {folder}; check it: scanengine -w {folder} audit")


def check_port(port: int) -> None:
    """Refuse a port that is taken before anything is made."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise click.ClickException(f"port {port} cannot be had: {error.strerror}; choose another --port") from error


def prepare(folder: Path, say: Say) -> dict[str, str]:
    """Make workspace, codes, scenes and campaign; return one code that wins cash, one points, one nothing."""
    workspace = publishing.create_workspace(folder)
    keyring = load_keyring(workspace.keys_path)
    say(f"1. workspace {folder} with fresh keys")
    codes = publishing.create_batch(workspace, keyring, "cola", _CODES, product=Product("6901234567892", "Cola 500 ml"))
    say(f"2. batch cola: {_CODES:,} codes that prove themselves, no bytes each")
    everything = np.array([(0, _CODES)], np.uint64)
    change = publishing.SceneChange(SegmentState.ACTIVE, Scene.AUTHENTICITY | Scene.MARKETING, "demo")
    publishing.assign_scenes(workspace, "cola", everything, change)
    say("3. scenes: active, authenticity and marketing, campaign demo")
    now = datetime.now(UTC).replace(microsecond=0)
    text = _CAMPAIGN.format(opens=(now - timedelta(days=1)).isoformat(), closes=(now + timedelta(days=30)).isoformat())
    path = workspace.campaigns_folder / "demo.toml"
    path.write_text(text, "utf-8")
    publication = publishing.publish_campaign(workspace, keyring, path)
    say(f"4. campaign demo published, generation {publication.generation}: 1 in 1,000 wins 88 yuan, 99 in 1,000 points")
    letters = keyring.code_keys.encode_many(codes.slot, codes.serial_start, _CODES)
    decisions = Engine(keyring, publication.snapshot).decide_many(letters, int(now.timestamp() * 1000))
    numbers = {"prize": 0, "points": 1, "nothing": NO_PRIZE}
    return {
        name: letters[int(np.argmax(decisions.prize == number))].tobytes().decode() for name, number in numbers.items()
    }


def show_urls(place: str, samples: dict[str, str]) -> None:
    """Print a QR code and three URLs to open."""
    segno.make(f"{place}/s/{samples['prize']}", error="m").terminal(compact=True)
    click.echo("three codes of the batch:")
    for code in samples.values():
        click.echo(f"  {place}/s/{code}")


def make_scans(port: int, samples: dict[str, str], say: Say) -> None:
    """Scan as people do, over HTTP, and show the answers."""
    prize = samples["prize"]
    forged = prize[:-2] + ("00" if prize[-2:] != "00" else "11")
    steps = (
        ("somebody looks at the first code, claiming nothing", prize, None),
        ("Ann scans it", prize, "demo:ann"),
        ("Ann scans it again: the same answer, for ever", prize, "demo:ann"),
        ("Bob finds the cap and tries", prize, "demo:bob"),
        ("Bob scans a bottle of his own", samples["points"], "demo:bob"),
        ("and one more", samples["nothing"], "demo:bob"),
        ("somebody types a code wrong", forged, "demo:eve"),
    )
    say("\nscans:")
    for title, code, user in steps:
        answer = _post(port, "/v1/verify", {"code": code}) if user is None else _post(
            port, "/v1/scans", {"code": code, "user": user}
        )  # fmt: skip
        say(f"  {title}\n    {_in_words(answer)}")


def _post(port: int, path: str, body: dict[str, str]) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
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
