"""``load``: many scans at once, every answer checked; a report card at the end."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from scanengine.cli.shared import Context, pass_context
from scanengine.errors import SettingsError

if TYPE_CHECKING:
    from scanengine.load.options import Options
    from scanengine.load.playing import Progress
    from scanengine.load.results import LoadResult, Step
    from scanengine.load.target import Target

TOKEN_VARIABLE: Final = "SCANENGINE_TOKEN"
"""Environment variable with the bearer token; on a command line everybody on the machine could read it."""
_EXIT_BAD: Final = 1
_EXIT_UNKNOWN: Final = 4
_PASSWORD: Final = re.compile(r"(?<=://)[^/@\s]*@")


class Parsed(click.ParamType[Any]):
    """An argument that is read by a function of :mod:`scanengine.load.options`, named as it is written in there."""

    def __init__(self, name: str, reader: str) -> None:
        self.name = name
        self._reader = reader

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return what the text means; a usage error if it means nothing."""
        from scanengine.load import options

        try:
            return getattr(options, self._reader)(value) if isinstance(value, str) else value
        except SettingsError as error:
            self.fail(str(error), parameter, context)


_TIME, _RATE, _SHARE = Parsed("TIME", "duration_of"), Parsed("RATE", "rate_of"), Parsed("SHARE", "share_of")


@click.command()
@click.option("--url", help="Server to put under load, with test codes of the workspace -w; an own one by default.")
@click.option("--batch", "labels", multiple=True, metavar="LABEL", help="With --url: test batch to take codes of.")
@click.option("--ledger", default="sqlite", metavar="LEDGER", help="sqlite, redis for an own one, or redis://HOST/0.")
@click.option("--durability", type=click.Choice(["strict", "everysec", "volatile"]), help="Of an own Redis: everysec.")
@click.option("--workers", default=1, type=click.IntRange(1, 256), help="Processes of the own server.")
@click.option("--connections", default=64, type=click.IntRange(1, 10_000))
@click.option("--processes", default=1, type=click.IntRange(1, 64), help="Processes of the generator.")
@click.option("--rate", type=_RATE, help="Open loop: arrivals a second, as 20000/s or 20k/s; else a closed loop.")
@click.option("--duration", default="10s", type=_TIME, help="How long, as 10s or 2m.")
@click.option("--requests", default=0, type=click.IntRange(0, 10_000_000), metavar="N", help="Instead of a duration.")
@click.option("--warmup", default="1s", type=_TIME, help="Closed loop before the clock starts.")
@click.option("--timeout", default="10s", type=_TIME, help="For one reply.")
@click.option("--ramp", type=_TIME, help="Let the rate grow from 0 over this time.")
@click.option("--burst", type=Parsed("BURST", "burst_of"), help="3x:2s/10s: three times the rate, 2 s of every 10 s.")
@click.option(
    "--mix",
    default="new=70,repeat=10,taken=15,forged=5",
    type=Parsed("MIX", "mix_of"),
    help="Shares of the kinds of scans.",
)
@click.option("--people", default=300_000, type=click.IntRange(1, 10_000_000), metavar="N", help="How many different.")
@click.option("--spread", default="zipf", type=click.Choice(["zipf", "uniform"]), help="Of scans over people.")
@click.option("--regions", default="china", type=Parsed("REGIONS", "regions_of"), help="31=40,4403=10, china or none.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="For the same order and people again.")
@click.option("--find-max", is_flag=True, help="Search for the highest rate that holds --p99 without an error.")
@click.option("--p99", default="10ms", type=_TIME, help="With --find-max: the latency to hold.")
@click.option("--step", default="3s", type=_TIME, help="With --find-max: how long each step takes.")
@click.option("--at", type=_SHARE, help="With --find-max: then run at this share of the rate found, as 70%.")
@click.option("--lag", default="10ms", type=_TIME, help="A run whose generator is further behind (p99) is void.")
@click.option("--witness", type=click.Path(dir_okay=False, path_type=Path), help="Keep all replies, for audit.")
@click.option("--keep", is_flag=True, help="Keep the scratch folder and say where it is.")
@click.option("--report", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
              help="Write the report card: .json, .html or .png by its name.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report card as JSON.")
@click.option("--lang", default="en", type=click.Choice(["en", "zh"]), help="Language of the report card.")
@click.option("--export-wrk", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="With --url: send nothing, write --requests scans for wrk.")  # fmt: skip
@pass_context
def load(context: Context, /, **asked: Any) -> None:
    """Put a server under load, check every answer, and say what it can do."""
    try:
        import hdrh  # noqa: F401 - told here by name, not as a traceback later
        import uvloop  # noqa: F401

        from scanengine.load.report import card_json, check_card_path, print_card, write_card
        from scanengine.load.whole import Search
        from scanengine.load.whole import load as run_load
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'scanengine[load]'") from error
    _check_together(asked)
    if asked["export_wrk"] is not None:
        _export_wrk(context, asked)
        return
    options = _options(asked)
    for path in asked["report"]:
        check_card_path(path, asked["lang"])
    search = Search(asked["p99"] * 1000, asked["step"], asked["at"]) if asked["find_max"] else None
    with _until_told_to_end(), _target(context, asked) as (target, folder), _live() as (watch, on_step):
        result = run_load(
            target, options, folder, search=search, token=os.environ.get(TOKEN_VARIABLE), command=_command(),
            witness_path=asked["witness"], watch=watch, on_step=on_step,
        )  # fmt: skip
    for path in asked["report"]:
        write_card(result, path, asked["lang"])
    if asked["as_json"]:
        sys.stdout.buffer.write(card_json(result))
    else:
        print_card(result, asked["lang"])
    sys.exit(exit_code(result))


def exit_code(result: LoadResult) -> int:
    """Return 1 if anything was wrong or the run is void, 4 if the outcome of a scan is unknown, else 0."""
    if not result.is_right or result.outcome.is_void:
        return _EXIT_BAD
    return _EXIT_UNKNOWN if result.outcome.unsettled else 0


def _check_together(asked: dict[str, Any]) -> None:
    """Refuse options that do not go together; a usage error naming them."""
    given = click.get_current_context().get_parameter_source
    own_only = [name for name in ("ledger", "durability", "workers", "keep") if _is_given(given(name))]
    if asked["url"] is not None and own_only:
        raise click.UsageError(f"--{own_only[0]} is of an own server: leave it out, or leave out --url")
    if asked["url"] is None and asked["labels"]:
        raise click.UsageError("--batch goes with --url: an own server has codes of its own")
    if asked["url"] is None and asked["export_wrk"] is not None:
        raise click.UsageError("--export-wrk goes with --url, and takes test codes of the workspace -w")
    search_only = [name for name in ("p99", "step", "at") if _is_given(given(name))]
    if not asked["find_max"] and search_only:
        raise click.UsageError(f"--{search_only[0]} goes with --find-max")
    if asked["find_max"] and (asked["rate"] is not None or asked["requests"]):
        raise click.UsageError("--find-max finds the rate itself: leave out --rate and --requests")
    if asked["requests"] and _is_given(given("duration")):
        raise click.UsageError("--duration or --requests, not both")
    if asked["keep"] and asked["witness"] is not None:
        raise click.UsageError("--keep keeps the witness file too: leave out --witness")


def _is_given(source: object) -> bool:
    return source is not None and getattr(source, "name", "") not in ("DEFAULT", "DEFAULT_MAP")


def _options(asked: dict[str, Any]) -> Options:
    from scanengine.load.options import Options

    options = Options(
        rate=asked["rate"],
        duration_s=asked["duration"],
        requests=asked["requests"],
        connections=asked["connections"],
        processes=asked["processes"],
        mix=asked["mix"],
        people=asked["people"],
        spread=asked["spread"],
        regions=asked["regions"],
        ramp_s=asked["ramp"] or 0.0,
        burst=asked["burst"],
        warmup_s=asked["warmup"],
        timeout_s=asked["timeout"],
        lag_s=asked["lag"],
        seed=secrets.randbits(63) if asked["seed"] is None else asked["seed"],
    )
    options.check()
    return options


@contextlib.contextmanager
def _target(context: Context, asked: dict[str, Any]) -> Iterator[tuple[Target, Path]]:
    """Yield what is put under load, and a folder for what is needed meanwhile."""
    from scanengine.load.target import own_target, scratch_folder, target_at

    with scratch_folder(keep=asked["keep"]) as folder:
        if asked["keep"]:
            click.echo(f"the scratch folder stays: {folder}; its workspace: {folder / 'shop'}", err=True)
        if asked["url"] is not None:
            yield (
                target_at(asked["url"], context.workspace, context.settings, context.keyring, asked["labels"]), folder,
            )  # fmt: skip
            return
        with own_target(folder, asked["ledger"], asked["durability"], asked["workers"]) as target:
            yield target, folder


def _export_wrk(context: Context, asked: dict[str, Any]) -> None:
    from scanengine.load.session import Session, generator
    from scanengine.load.wrk import export_wrk

    options = _options(asked)
    if not options.requests:
        raise click.UsageError("--export-wrk: say how many scans with --requests")
    with _until_told_to_end(), _target(context, asked) as (target, folder), generator(folder) as clients:
        session = Session(target, clients, options, token=os.environ.get(TOKEN_VARIABLE))
        codes = session.fresh_codes(options.requests, options)
        count = export_wrk(
            asked["export_wrk"], codes, url=target.shown, workspace=context.folder, people=options.people,
            seed=options.seed,
        )  # fmt: skip
    click.echo(f"{count:,} scans for wrk in {asked['export_wrk']}; its README.md says how to run them")


def _command() -> str:
    """Return the command line that was given, without passwords."""
    return _PASSWORD.sub("***@", shlex.join(["scanengine", *sys.argv[1:]]))


@contextlib.contextmanager
def _until_told_to_end() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does: what was started is stopped on the way out."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _live() -> Iterator[tuple[Callable[[Progress], None] | None, Callable[[Step], None]]]:
    """Show how a run goes on standard error: live where a person is to see it; steps of a search in any case."""
    console = Console(stderr=True)

    def tell(step: Step) -> None:
        kind = "closed loop" if step.rate is None else f"{step.rate:,.0f}/s asked for"
        mark = "good" if step.is_good else step.why
        done = f"{step.per_second:,.0f}/s, p99 {step.p99_ms:.1f} ms, {mark}"
        # Not by the console, which would break a line that a program is to read.
        click.echo(f"{step.connections} connections, {kind}: {done}", err=True)

    if not console.is_terminal:
        yield None, tell
        return
    with Live(Text(""), console=console, auto_refresh=False, transient=True) as live:
        yield lambda progress: live.update(Text(_in_a_line(progress)), refresh=True), tell


def _in_a_line(progress: Progress) -> str:
    return (
        f"{progress.seconds:5.1f} s  {progress.per_second:,.0f}/s  p99 {progress.p99_ms:.1f} ms  "
        f"errors {progress.errors:,}  lag {progress.lag_ms:.1f} ms  answered {progress.answered:,}"
    )
