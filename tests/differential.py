"""Send the same connections to a server with the hot path and to one without, and compare every byte of the replies.

    python tests/differential.py --requests 1000000
    python tests/differential.py --seed 7 --case 1234

Two processes serve twin workspaces, each with a ledger of its own, by a clock that stands still. A case is what one
connection carries: pipelines, segments cut anywhere, bodies that are hardly JSON, messages that are hardly HTTP.
Status, headers in order and bodies must be the same, and so must be what has come whenever the client has waited for
all of it, and whether the connection has ended then; in the end both ledgers must hold the same. Only what is new in
every reply is left out: the date, the request's id, and random cookies. A difference is tried again with fewer requests
until none can be left out, and is printed with seed and case. Exit code 1 on a difference.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop

from differential_cases import Case, Wait, a_case
from differential_goods import Goods, set_hot_path, set_redis
from differential_sides import STATUS, Side, Wire, a_side
from helpers import Shop
from redis_servers import RedisServer, newest_binary
from scanengine.program.ledgers import read_ledger
from scanengine.program.settings import load_settings
from scanengine.tables.workspace import Workspace

CONNECTIONS: Final = 96
ROUND: Final = 1_000
"""Cases after which every address gets a new budget of bad codes."""
SPARE: Final = 600
"""Cases whose codes are kept for trying again."""
REQUESTS_PER_CASE: Final = 8
_CHANCE: Final = (
    (re.compile(rb"(\r\nDate: )[^\r\n]*"), rb"\1-"),
    (re.compile(rb"(\r\nX-Request-Id: )[0-9a-f]{20}\r\n"), rb"\1-\r\n"),
    (re.compile(rb"(urn:scanengine:request:)[0-9a-f]{20}\""), rb'\1-"'),
    (re.compile(rb"(scan_visit=)[0-9a-f]{24};"), rb"\1-;"),
    (re.compile(rb"(scan_guest=)[0-9a-f]{32}\.[0-9a-f]{32};"), rb"\1-;"),
    (re.compile(rb"([?&]state=)[0-9A-Za-z%]*"), rb"\1-"),
)
"""What is another in every reply, and by what it is replaced."""


@dataclass(frozen=True)
class Told:
    """What a connection has got since it was waited for before, and whether it has ended."""

    data: bytes
    has_ended: bool


Outcome = tuple[Told, ...]


async def play(case: Case, side: Side) -> Outcome:
    """Return what comes of a case on one server."""
    wire = await side.connect(case.source)
    try:
        return await _played(case, side, wire)
    except TimeoutError:
        return (
            Told(b"no reply came where one was due, after: " + _without_chance(bytes(wire.received)), wire.has_ended),
        )
    finally:
        wire.abort()


async def _played(case: Case, side: Side, wire: Wire) -> Outcome:
    outcome: list[Told] = []
    size = due = 0
    ready = b""

    async def told(wait: Wait) -> None:
        nonlocal size, ready
        wire.write(ready)
        ready = b""
        if wait is Wait.ANSWERED:
            await wire.replied(due)
        await side.wait(wire, wait)
        if wait is Wait.ANSWERED:
            data = bytes(wire.received[size:])
            size += len(data)
            outcome.append(Told(_without_chance(data), wire.has_ended))

    for part in case.parts:
        if part.before is not Wait.NOTHING or not part.joins:
            await told(part.before)
        *segments, (last, _) = part.segments
        for segment, wait in segments:
            ready += segment
            await told(wait)
        ready += last
        if part.is_odd:
            # How many replies that has, the server says.
            await told(Wait.ANSWERED)
            due = wire.replies
        else:
            due += 1
    await told(Wait.ANSWERED)
    wire.finish()
    await wire.ended()
    outcome.append(Told(_without_chance(bytes(wire.received[size:])), has_ended=True))
    return tuple(outcome)


def _without_chance(data: bytes) -> bytes:
    for pattern, replacement in _CHANCE:
        data = pattern.sub(replacement, data)
    return data


@dataclass
class Difference:
    """A case that the two servers answer differently, made as small as it gets."""

    seed: int
    number: int
    has_tokens: bool
    case: Case
    hot: Outcome = field(repr=False)
    slow: Outcome = field(repr=False)

    def __str__(self) -> str:
        more = "" if self.has_tokens else " --no-tokens"
        lines = [
            f"seed {self.seed}, case {self.number}, made small; whole:",
            f"  python tests/differential.py --seed {self.seed} --case {self.number}{more}",
        ]
        for part in self.case.parts:
            lines.append(f"  {part.name}, after {part.before.value}:")
            lines += [f"    {segment!r}, then {wait.value}" for segment, wait in part.segments]
        for place, (hot, slow) in enumerate(zip(self.hot, self.slow, strict=False)):
            if hot != slow:
                lines += [f"  first difference, wait {place}:", *_shown(hot, slow)]
                break
        return "\n".join(lines)


def _shown(hot: Told, slow: Told) -> list[str]:
    """Return what differs, from a little before the first byte that does."""
    pairs = enumerate(zip(hot.data, slow.data, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), min(len(hot.data), len(slow.data)))
    start = max(0, same - 200)
    return [
        f"    {name}: …{told.data[start : same + 400]!r}, {'ended' if told.has_ended else 'open'}"
        for name, told in (("hot ", hot), ("slow", slow))
    ]


class Run:
    """One comparison of two servers."""

    def __init__(self, seed: int, goods: Goods, hot: Side, slow: Side) -> None:
        self.seed = seed
        self.goods = goods
        self.hot = hot
        self.slow = slow
        self.requests = 0
        self.kinds: Counter[str] = Counter()
        self._spare = iter(range(goods.cases - SPARE, goods.cases - 1))

    async def compare(self, case: Case) -> tuple[Outcome, Outcome]:
        hot, slow = await asyncio.gather(play(case, self.hot), play(case, self.slow))
        return hot, slow

    async def check(self, number: int) -> Difference | None:
        """Play one case; return the difference if there is one."""
        case = a_case(self.seed, number, self.goods)
        hot, slow = await self.compare(case)
        self.requests += len(case.parts)
        self.kinds.update(part.name for part in case.parts)
        for told in hot:
            self.kinds.update(f"status {int(code)}" for code in STATUS.findall(told.data))
        return None if hot == slow else Difference(self.seed, number, self.goods.has_tokens, case, hot, slow)

    async def shrink(self, found: Difference) -> Difference:
        """Leave out requests for as long as there is a difference."""
        keep = list(range(len(found.case.parts)))
        step = max(1, len(keep) // 2)
        while step:
            for start in range(0, len(keep), step):
                fewer = keep[:start] + keep[start + step :]
                place = next(self._spare, None)
                if place is None:
                    return found
                case = a_case(self.seed, found.number, self.goods, place=place).only(fewer)
                hot, slow = await self.compare(case)
                if hot != slow:
                    found = Difference(self.seed, found.number, self.goods.has_tokens, case, hot, slow)
                    keep = fewer
                    break
            else:
                step //= 2
        return found

    async def play_round(self, numbers: list[int]) -> list[Difference]:
        """Play cases, many at once; afterwards budgets are full again."""
        left = iter(numbers)
        found: list[Difference] = []

        async def work() -> None:
            for number in left:
                difference = await self.check(number)
                if difference is not None:
                    found.append(difference)

        await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
        for side in (self.hot, self.slow):
            await side.forward()
        return found


def ledger_of(shop: Shop) -> Counter[tuple[object, ...]]:
    """Return what a ledger holds, without what is of chance: numbers in order of arrival, random visits and guests."""
    workspace = shop.workspace
    held: Counter[tuple[object, ...]] = Counter()
    with read_ledger(workspace, load_settings(workspace.settings_path), shop.keyring) as reader:
        for _, event in reader.events():
            visit = re.sub(r"\A[0-9a-f]{17,32}\Z", "", event.visit)
            user = re.sub(r"\Aweb:[0-9a-f]{32}\Z", "", event.user)
            named = (
                event.type,
                event.at,
                event.item,
                user,
                event.role,
                event.region,
                event.campaign,
                event.claim,
                visit,
            )
            held["event", *named, event.rule, event.drawn, event.prize, event.amount] += 1
        for name, found in (("claim", reader.claims()), ("scan", reader.scans())):
            for _, records in found:
                for item in records["item"].tolist():
                    held[name, item] += 1
        for key, value in reader.counters().items():
            held["counter", *key] += value
    return held


@dataclass(frozen=True)
class Plan:
    """What is to be compared.

    Parameters
    ----------
    only : int, optional
        The one case to play.
    plant : str, optional
        A fault to put into the server without the hot path.
    hot_paths : tuple of bool
        Which of the two servers have the hot path.
    """

    seed: int = 1
    requests: int = 20_000
    only: int | None = None
    has_tokens: bool = True
    ledger: str = "sqlite"
    plant: str | None = None
    hot_paths: tuple[bool, bool] = (True, False)
    differences_max: int = 3


@dataclass
class Result:
    """What has come out."""

    requests: int
    kinds: Counter[str]
    differences: list[Difference]
    ledger_differences: list[str]

    @property
    def is_clean(self) -> bool:
        return not self.differences and not self.ledger_differences


async def run(plan: Plan, folder: Path, tell: Callable[[str], None] = lambda _: None) -> Result:
    """Compare as planned, in a folder that is empty."""
    cases = plan.requests // REQUESTS_PER_CASE if plan.only is None else plan.only + 1
    goods = Goods(folder / "hot", cases + SPARE, has_tokens=plan.has_tokens)
    shutil.copytree(folder / "hot", folder / "slow")
    shops = [goods.shop, Shop(Workspace(folder / "slow"), goods.shop.keyring)]
    with ExitStack() as servers:
        for shop, is_hot in zip(shops, plan.hot_paths, strict=True):
            set_hot_path(shop.folder, is_on=is_hot)
            if plan.ledger == "redis":
                server = servers.enter_context(
                    RedisServer(newest_binary(), shop.folder.with_name(f"redis-{shop.folder.name}"))
                )
                set_redis(shop.folder, server.url())
        code = goods.codes(goods.cases - 1)[0]
        differences: list[Difference] = []
        async with AsyncExitStack() as stack:
            hot = await stack.enter_async_context(a_side(shops[0].folder, code))
            slow = await stack.enter_async_context(a_side(shops[1].folder, code, plan.plant))
            runner = Run(plan.seed, goods, hot, slow)
            numbers = list(range(cases)) if plan.only is None else [plan.only]
            began = time.monotonic()
            for start in range(0, len(numbers), ROUND):
                found = await runner.play_round(numbers[start : start + ROUND])
                for difference in found[: plan.differences_max - len(differences)]:
                    differences.append(await runner.shrink(difference))
                    tell(str(differences[-1]))
                rate = runner.requests / (time.monotonic() - began)
                tell(f"{runner.requests} requests in {min(start + ROUND, len(numbers))} cases, {rate:.0f} a second")
                if len(differences) >= plan.differences_max:
                    break
        first, second = map(ledger_of, shops)
    wrong = [
        f"{count} x only in the one with hot path {plan.hot_paths[0]}: {key}" for key, count in (first - second).items()
    ]
    wrong += [
        f"{count} x only in the one with hot path {plan.hot_paths[1]}: {key}" for key, count in (second - first).items()
    ]
    return Result(runner.requests, runner.kinds, differences, wrong)


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=Plan.requests)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--case", type=int, help="play this case alone")
    parser.add_argument("--no-tokens", action="store_true", help="a server that answers this machine without a token")
    parser.add_argument("--ledger", choices=("sqlite", "redis"), default=Plan.ledger)
    parser.add_argument("--hot", choices=("both", "one", "none"), default="one", help="servers with the hot path")
    parser.add_argument("--differences", type=int, default=Plan.differences_max, help="stop after so many")
    parser.add_argument("--kinds", action="store_true", help="show how many of each kind there were")
    given = parser.parse_args()
    plan = Plan(
        given.seed,
        given.requests,
        given.case,
        has_tokens=not given.no_tokens,
        ledger=given.ledger,
        differences_max=given.differences,
        hot_paths={"both": (True, True), "one": (True, False), "none": (False, False)}[given.hot],
    )
    with tempfile.TemporaryDirectory(prefix="differential-") as folder:
        result = uvloop.run(run(plan, Path(folder), lambda line: print(line, flush=True)))
    if given.kinds:
        print("\n".join(f"{count:8} {kind}" for kind, count in sorted(result.kinds.items())))
    print("\n".join(result.ledger_differences[:20]))
    found = f"{len(result.differences)} differences, {len(result.ledger_differences)} in the ledgers"
    print(f"seed {plan.seed}: {result.requests} requests, {found}")
    return 0 if result.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
