"""``init`` and ``serve``: a workspace's beginning, and its server."""

from __future__ import annotations

from pathlib import Path

import click

from scanengine import open as open_program
from scanengine.cli.shared import Context, pass_context
from scanengine.program.publishing import create_workspace


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
@pass_context
def serve(context: Context, host: str, port: int) -> None:
    """Answer scans over HTTP until SIGTERM or Ctrl-C; SIGHUP reads the tables again."""
    try:
        import uvloop

        from scanengine.server import Server, tune_interpreter
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'scanengine[server]'") from error

    async def run() -> None:
        server = Server(open_program(context.folder), host, port)
        await server.start()
        tune_interpreter()
        place = f"http://{f'[{server.host}]' if ':' in server.host else server.host}:{server.port}"
        tokens = "bearer token needed" if server.program.keyring.has_tokens else "no token configured, loopback only"
        click.echo(f"serving {context.folder} on {place} ({tokens})")
        await server.run_until_stopped()

    uvloop.run(run())
