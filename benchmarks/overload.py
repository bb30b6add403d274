"""Goodput past capacity: claims answered a second when half as much, as much and up to three times as much is offered.

The ledger is slowed down (each batch holds few claims and takes a fixed time more), so that the generator can outrun
it; the server, its sockets and its ledger are real, and every request is a code never claimed before. Shares of what a
closed loop gets are offered in an open loop that does not wait for replies; the peak is the best of all, closed or
open. A run in which the generator fell behind is void. Every reply is checked after the clock, and the audit counts
the claims:

    python overload.py [--ledger sqlite|everysec|strict] [--seconds 8] [--rounds 3]

Prints one line of JSON for each share: medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
sys.path.append(str(TESTS))  # The generator and the slow server are those of the tests.

import inputs  # noqa: E402
from open_loop import Offered, Told, claim_of, keep, offer  # noqa: E402
from redis_server import redis_server  # noqa: E402
from servers import audited, process  # noqa: E402

BATCH_MAX = 32
BATCH_S = 0.05
CONNECTIONS = 64
SHARES = (0.5, 1.0, 1.5, 2.0, 3.0)
LAG_S_MAX = 0.25
"""A generator that is later than this has not offered what it says."""
OVERLOADED = b"urn:scanengine:problem:overloaded"


@contextlib.contextmanager
def slow_server(folder: Path, kind: str, codes: int) -> Iterator[tuple[int, Iterator[str]]]:
    """Serve a workspace with a slow ledger; yield the port, and codes that nobody has claimed."""
    _, keyring = inputs.shop(folder / "shop", codes)
    texts = inputs.shuffled(keyring.code_keys.encode_many(1, 0, codes), 11)
    with contextlib.ExitStack() as stack:
        if kind != "sqlite":
            url = stack.enter_context(redis_server(folder / "redis", kind))
            settings = folder / "shop" / "scanengine.toml"
            text = settings.read_text()
            settings.write_text(text.replace("[ledger]", f'[ledger]\nurl = "{url}"\ndurability = "{kind}"'))
        slow = (str(TESTS / "slow_serve.py"), str(BATCH_MAX), str(BATCH_S))
        port = stack.enter_context(process(*slow, "-w", str(folder / "shop"), "serve", "--port", "0"))
        yield port, (row.tobytes().decode() for row in texts)


def requests(codes: Iterator[str], count: int) -> list[bytes]:
    return [claim_of(next(codes), f"wx:{number % 300_000}") for number in range(count)]


def is_made(told: Told) -> bool:
    """Whether a claim was made; whatever is neither made nor refused as overloaded is a fault."""
    if told.status == 200:
        answer = told.json
        assert answer["claim"]["status"] in ("awarded", "no_prize"), answer
        assert not answer["claim"]["replayed"]
        return True
    assert told.status == 503, told
    assert OVERLOADED in told.body, told
    return False


def quantile_ms(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(int(len(seconds) * share), len(seconds) - 1)] * 1e3 if seconds else 0.0


def figures(offered: Offered, per_s: float) -> dict[str, float]:
    made = [told.seconds for told in offered.told if is_made(told)]
    refused = [told.seconds for told in offered.told if told.status != 200]
    return {
        "goodput_per_s": len(made) / offered.seconds,
        "made": len(made),
        "refused": len(refused),
        "made_p50_ms": quantile_ms(made, 0.5),
        "made_p99_ms": quantile_ms(made, 0.99),
        "refused_p99_ms": quantile_ms(refused, 0.99),
        "offered_per_s": per_s,
        "lag_ms": offered.lag_s * 1e3,
    }


async def measure(port: int, codes: Iterator[str], seconds: float, rounds: int) -> int:
    """Print the figures; return how many claims were made."""
    claims = 0
    found: dict[float, list[dict[str, float]]] = {share: [] for share in SHARES}
    peaks = []
    for _ in range(rounds):
        best = await keep(port, requests(codes, round(BATCH_MAX / BATCH_S * 4)), 2 * CONNECTIONS)
        assert all(map(is_made, best.told))
        claims += len(best.told)
        peaks.append(len(best.told) / best.seconds)
        for share in SHARES:
            per_s = peaks[-1] * share
            offered = await offer(port, requests(codes, round(per_s * seconds)), per_s, 8 * CONNECTIONS)
            row = figures(offered, per_s)
            claims += int(row["made"])
            if offered.lag_s > LAG_S_MAX:
                print(f"void: at {share:.0%} the generator fell {offered.lag_s:.2f} s behind", file=sys.stderr)
            else:
                found[share].append(row)
    closed = statistics.median(peaks)
    medians = {
        share: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for share, rows in found.items()
        if rows
    }
    peak = max(closed, *(row["goodput_per_s"] for row in medians.values()))
    print(json.dumps({"peak_per_s": round(peak, 1), "closed_loop_per_s": round(closed, 1), "rounds": rounds}))
    for share, row in medians.items():
        shown = {"of_peak": row["goodput_per_s"] / peak, **row}
        rounded = {name: round(value, 3) for name, value in shown.items()}
        print(json.dumps({"offered": share, "valid_rounds": len(found[share]), **rounded}))
    return claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ledger", choices=("sqlite", "everysec", "strict"), default="sqlite")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    most = BATCH_MAX / BATCH_S * (sum(SHARES) * options.seconds * 1.2 + 8) * options.rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with slow_server(folder, options.ledger, round(most)) as (port, codes):
            claims = asyncio.run(measure(port, codes, options.seconds, options.rounds))
            counted = audited(folder / "shop")
            assert counted == claims, f"the audit counts {counted} claims, {claims} were answered"


if __name__ == "__main__":
    main()
