"""``scenes``: what codes may be used for 空码赋值."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from scanengine.cli.shared import (
    Context,
    MomentType,
    RangeType,
    json_option,
    pass_context,
    print_json,
    print_table,
    print_unbound,
    whole_range,
)
from scanengine.errors import AssignmentError
from scanengine.model import Scene
from scanengine.program import publishing
from scanengine.program.answers import scene_names
from scanengine.program.operating import STATE_NAMES, scenes_of, state_of
from scanengine.tables.scenes import merge_ranges


class _ScenesType(click.ParamType[Scene]):
    name = "NAMES"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> Scene:
        try:
            return scenes_of(name.strip().lower() for name in str(value).split(",") if name)
        except AssignmentError as error:
            self.fail(str(error), parameter, context)


@click.group()
def scenes() -> None:
    """Say what codes may be used for 空码赋值."""


@scenes.command("set")
@click.argument("label")
@click.option("--range", "offsets", type=RangeType(), help="Half-open range of offsets.")
@click.option("--from", "first", metavar="CODE", help="First code of a range, as printed.")
@click.option("--to", "last", metavar="CODE", help="Last code of the range, included.")
@click.option("--codes", "codes_path", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="File with one code a line.")  # fmt: skip
@click.option("--state", type=click.Choice(STATE_NAMES))
@click.option("--scenes", "scene_set", type=_ScenesType(), help="Comma-separated; they replace what was on.")
@click.option("--campaign", help='Campaign of the marketing scene; "" takes it away.')
@click.option("--product", metavar="GTIN")
@click.option("--lot", help="Production lot 生产批号.")
@click.option("--market", help="Market the goods are meant for.")
@click.option("--link", help="Landing link; {code} is filled in.")
@click.option("--active-from", type=MomentType())
@click.option("--active-until", type=MomentType())
@pass_context
def set_scenes(
    context: Context, label: str, offsets: tuple[int | None, int | None] | None, first: str | None, last: str | None,
    codes_path: Path | None, state: str | None, scene_set: Scene | None, campaign: str | None, product: str | None,
    lot: str | None, market: str | None, link: str | None, active_from: int | None, active_until: int | None,
) -> None:  # fmt: skip
    """Set what the codes of a range, between two codes, or in a file may be used for; the rest stays as it is."""
    ranges = _ranges(context, label, offsets, first, last, codes_path)
    change = publishing.SceneChange(
        state=None if state is None else state_of(state), scenes=scene_set, campaign=campaign,
        product=product, lot=lot, market=market, link=link, active_from_ms=active_from, active_until_ms=active_until,
    )  # fmt: skip
    if change == publishing.SceneChange():
        raise click.UsageError("nothing to set: give --state, --scenes, --campaign, --product or another attribute")
    snapshot = publishing.assign_scenes(context.workspace, label, ranges, change)
    count = int((ranges[:, 1] - ranges[:, 0]).sum())
    click.echo(f"batch {label}: {count:,} codes set, generation {snapshot.generation}")
    print_unbound(snapshot)


def _ranges(
    context: Context, label: str, offsets: tuple[int | None, int | None] | None, first: str | None, last: str | None,
    codes_path: Path | None,
) -> NDArray[np.uint64]:  # fmt: skip
    if (offsets is not None) + (first is not None or last is not None) + (codes_path is not None) != 1:
        raise click.UsageError("say which codes, in one way: --range A:B, --from CODE --to CODE, or --codes FILE")
    batch = context.batch(label)
    if codes_path is not None:
        lines = codes_path.read_text("utf-8-sig", errors="replace").splitlines()
        # A code that stands in the file twice is one code.
        return merge_ranges(publishing.ranges_of_codes(context.keyring, batch, lines), batch.codes.count)
    if offsets is not None:
        start, end = whole_range(offsets, batch.codes.count)
    elif first is None or last is None:
        raise click.UsageError("--from and --to go together; both codes are included")
    else:
        start, end = publishing.range_between(context.keyring, batch, first, last)
    return np.array([(start, end)], np.uint64)


@scenes.command("show")
@click.argument("label")
@click.option("--limit", default=20, type=click.IntRange(1), help="Segments to show.")
@json_option
@pass_context
def show(context: Context, label: str, limit: int, as_json: bool) -> None:
    """Show the segments of a batch."""
    segments = context.batch(label).scenes.segments()
    starts = segments.starts[: limit + 1].tolist()
    ends = [*starts[1:], segments.count]
    rows = []
    for start, end, index in list(zip(starts, ends, segments.indices.tolist(), strict=False))[:limit]:
        profile = segments.profiles[index]
        rows.append(
            (f"{start}:{end}", profile.state.name.lower(), ",".join(scene_names(profile.scenes)), profile.product,
             profile.lot, profile.market, profile.campaign)
        )  # fmt: skip
    columns = ("range", "state", "scenes", "product", "lot", "market", "campaign")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    print_table(columns, [["" if cell is None else cell for cell in row] for row in rows])
    if len(segments.starts) > limit:
        click.echo(f"… and {len(segments.starts) - limit:,} more segments")
