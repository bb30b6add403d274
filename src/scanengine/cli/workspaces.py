"""``init`` and ``serve``: a workspace's beginning, and its server."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scanengine import open as open_program
from scanengine.cli.shared import LEDGER_VARIABLE, Context, pass_context
from scanengine.errors import ScanEngineError, SettingsError
from scanengine.program.publishing import create_workspace
from scanengine.program.settings import Settings, override_ledger

if TYPE_CHECKING:
    from scanengine.server import Place


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def init(folder: Path) -> None:
    """Make a workspace: keys, settings, and a commented example campaign."""
    create_workspace(folder)
    click.echo(f"workspace {folder}: keys.toml (keep a copy offline), scanengine.toml, campaigns/spring.toml")
    click.echo(f"next: scanengine -w {folder} batch create cola --count 100000")


@click.command()
@click.option("--host", default="127.0.0.1", help="Address to listen on; beyond loopback a bearer token is needed.")
@click.option("--port", default=8080, type=click.IntRange(0, 65535), help="0 for any free one.")
@click.option("--ledger", envvar=LEDGER_VARIABLE, show_envvar=True,
              help="URL of a Redis or Valkey, instead of what scanengine.toml says.")  # fmt: skip
@click.option("--durability", help="The least that a Redis must promise, instead of what scanengine.toml says.")
@click.option("--workers", default=1, type=click.IntRange(1, 1024), help="Processes; more than one need a Redis.")
@click.option("--worker", "place", type=(int, int, int, int), hidden=True)
@pass_context
def serve(
    context: Context,
    host: str,
    port: int,
    ledger: str | None,
    durability: str | None,
    workers: int,
    place: tuple[int, int, int, int] | None,
) -> None:
    """Answer scans over HTTP until SIGTERM or Ctrl-C; SIGHUP reads the tables again."""
    try:
        import uvloop

        from scanengine.server import Place
        from scanengine.server.logs import logging_as
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'scanengine[server]'") from error

    settings = override_ledger(context.settings, url=ledger, durability=durability)

    def announce(port: int) -> None:
        tokens = "bearer token needed" if context.keyring.has_tokens else "no token configured, this machine only"
        many = f", {workers} workers" if workers > 1 else ""
        click.echo(f"serving {context.folder} on http://{f'[{host}]' if ':' in host else host}:{port} ({tokens}{many})")

    with logging_as(settings.server.log):
        if place is not None:
            uvloop.run(_serve_as_worker(context, settings, host, port, Place(*place)))
        elif workers == 1:
            uvloop.run(_serve(context, settings, host, port, announce))
        else:
            _serve_with_workers(context, settings, host, port, announce, workers)


async def _serve(context: Context, settings: Settings, host: str, port: int, announce: Callable[[int], None]) -> None:
    """Serve in one process."""
    from scanengine.server import Server, tune_interpreter

    server = Server(open_program(context.folder, settings=settings), host, port)
    await server.start()
    tune_interpreter()
    announce(server.port)
    await server.run_until_stopped()


async def _serve_as_worker(context: Context, settings: Settings, host: str, port: int, place: Place) -> None:
    """Serve in one of several processes, as its supervisor says."""
    from scanengine.server import Metrics, Server, tune_interpreter

    try:
        program = open_program(context.folder, settings=settings)
        metrics = Metrics(place.memory, place.worker)
        server = Server(program, host, port, metrics=metrics, budget_memory=place.budgets, shares_port=True)
        await server.start()
    except (ScanEngineError, OSError) as error:
        place.refuses(error)
    tune_interpreter()
    place.answers(server)
    await server.run_until_stopped()


def _serve_with_workers(
    context: Context, settings: Settings, host: str, port: int, announce: Callable[[int], None], workers: int
) -> None:
    """Supervise processes that serve."""
    from scanengine.server import Supervisor, check_bind, time_to_stop_s

    if settings.ledger.url is None:
        raise SettingsError(
            f"--workers {workers}: one process owns an SQLite ledger; name a ledger that many share, "
            "--ledger redis://..., or serve with --workers 1"
        )
    check_bind(host, context.keyring)
    command = [sys.executable, "-m", "scanengine", "-w", str(context.folder), "serve", "--host", host]
    command += ["--durability", settings.ledger.durability]
    # By the environment, which only we can read: the URL may hold a password.
    environment = {**os.environ, LEDGER_VARIABLE: settings.ledger.url}
    supervisor = Supervisor(command, environment, host, port, workers, time_to_stop_s(settings))
    if not asyncio.run(supervisor.run(lambda: announce(supervisor.port))):
        sys.exit(1)
