"""The figures of ``docs/benchmarks.md``: each part of the page between two marks, and the pictures beside it.

What stands outside of the marks is written by hand and holds no figures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from results import ROOT
from scanengine.load.charts import Bar, bar_chart

PAGE = ROOT / "docs" / "benchmarks.md"
PICTURES = ROOT / "docs" / "pictures"
MARKS = re.compile(r"(<!-- bench:(\w+):begin -->\n).*?(<!-- bench:\2:end -->)", re.DOTALL)
NOT_YET = "Not measured yet.\n"
Figures = dict[str, Any]

SERVERS = {
    "everysec": "`POST /v1/scans`, Redis `everysec`",
    "strict": "`POST /v1/scans`, Redis `strict`",
    "sqlite": "`POST /v1/scans`, SQLite `FULL`",
    "everysec_slow": "the same on Redis `everysec`, `hot_path = false`",
    "one_fcall": "our core and function, one call a request, Redis `everysec`",
    "fastapi": "FastAPI + redis-py as commonly written, Redis `everysec`",
    "hello": "bare aiohttp hello, POST",
    "hello_get": "bare aiohttp hello, GET",
    "low_level": "aiohttp's low-level `web.Server`, POST",
    "nginx": "nginx `return 200`, one worker",
    "protocol": "bare uvloop protocol, which reads nothing",
}
"""In the order of the page: what claims, then what only answers."""
BARS = {
    "everysec": "ours, everysec",
    "strict": "ours, strict",
    "sqlite": "ours, SQLite",
    "everysec_slow": "ours, no hot path",
    "one_fcall": "one call a request",
    "fastapi": "FastAPI + redis-py",
    "hello": "aiohttp hello",
    "hello_get": "aiohttp hello, GET",
    "low_level": "aiohttp low-level",
    "nginx": "nginx",
    "protocol": "uvloop protocol",
}
DOORS = {
    "look_sqlite": "`GET /v1/codes/CODE`, SQLite",
    "look_everysec": "`GET /v1/codes/CODE`, Redis `everysec`",
    "redirect": "`GET /S/CODE` in WeChat, the redirect to the login",
    "hello": "bare aiohttp hello",
    "browser": "bare aiohttp hello, sent the headers of a phone",
}
_HMAC = "one `hmac.digest` a code takes {hmac_ratio:.1f} × as long"
_SQLITE = "{claims_per_s:,.0f}/s, p99 {p99_ms:.1f} ms"
_REDIS = "{ledger_256:,.0f}/s, p99 {ledger_256_p99_ms:.1f} ms"
_POOL = "{ratio_256:.1f} × one call a claim over a pool ({pool_256:,.0f}/s)"
_SINGLE = "a single scan meanwhile: {single_ms_meanwhile:.1f} ms; alone: {single_ms_alone:.1f} ms"
_CODES = "{million_codes_per_s:.1f} million codes/s"
_DECIDE = "`decide_many`, 10 million codes, 1 million segments, in order"
_FOREIGN = "`decide_many` of imported codes of 28 characters, in random order"
_LONGER = "{foreign_ratio:.1f} × as long as codes of its own"
CORE = (
    ("bench_decide_many[in order]", _DECIDE, "{native_ns:,.0f} ns a code", _HMAC),
    ("bench_decide_many[random order]", "the same, in random order", "{native_ns:,.0f} ns a code", _HMAC),
    (
        "bench_decide_one",
        "one `program.decide` from Python",
        "{program_ns:,.0f} ns",
        "`hmac.digest`: {hmac_ns:,.0f} ns",
    ),
    ("bench_export_text", "export as text", _CODES, "–"),
    ("bench_import[9]", "`batch import`, codes of 9 characters", _CODES, "–"),
    ("bench_import[28]", "`batch import`, codes of 28 characters", _CODES, "–"),
    ("bench_look_up[28]", _FOREIGN, "{foreign_ns:,.0f} ns a code", _LONGER),
    ("bench_open", "opening 100 million codes", "{open_own_ms:.0f} ms, {open_own_mb:.1f} MB", "–"),
)
LEDGERS = (
    ("bench_ledger_claims[0]", "SQLite `FULL`, 256 callers, empty", _SQLITE, "–"),
    ("bench_ledger_claims[5000000]", "SQLite `FULL`, 256 callers, 5 million earlier claims", _SQLITE, "–"),
    ("bench_redis_claims[everysec]", "Redis `everysec`, 256 callers", _REDIS, _POOL),
    ("bench_redis_claims[strict]", "Redis `strict`, 256 callers", _REDIS, _POOL),
)
_SHARE = "{%s_share:.0%%} of a bare `decide_many`"
BATCHES = (
    ("bench_verify_batch", "`POST /v1/verify/batch`, JSON", "{json_per_s:,.0f} codes/s", _SHARE % "json"),
    ("bench_verify_batch", "the same, MessagePack", "{msgpack_per_s:,.0f} codes/s", _SHARE % "msgpack"),
    ("bench_scans_batch", "`POST /v1/scans/batch`, Redis `everysec`", "{claims_per_s:,.0f} claims/s", _SINGLE),
)


def pages_of_docs(runs: dict[str, dict[str, Any]]) -> dict[Path, str]:
    """Return the page and its pictures as the kept runs make them."""
    figures = {name: run["figures"] for name, run in runs.items()}
    pictures: dict[Path, str] = {}
    parts: dict[str, Callable[[], str]] = {
        "server": lambda: server_part(figures.get("bench_post_scans", {}), pictures),
        "door": lambda: rates_part(figures.get("bench_get_routes", {}), DOORS),
        "batches": lambda: rows_part(figures, BATCHES),
        "core": lambda: rows_part(figures, CORE),
        "ledger": lambda: rows_part(figures, LEDGERS),
        "growth": lambda: growth_part(figures, pictures),
        "runs": lambda: runs_part(runs),
    }
    text = MARKS.sub(lambda found: found[1] + parts[found[2]]() + found[3], PAGE.read_text("utf-8"))
    return {PAGE: text, **pictures}


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table, or that there is nothing to show."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    heads = list(heads)
    top = ["| " + " | ".join(heads) + " |", "| --- |" + " --- |" * (len(heads) - 1)]
    return "\n".join(top + lines) + "\n" if lines else NOT_YET


def rows_part(figures: dict[str, Figures], rows: Iterable[tuple[str, str, str, str]]) -> str:
    """Return the rows of what was measured."""
    shown = []
    for name, what, measured, beside in rows:
        try:
            shown.append((what, measured.format(**figures[name]), beside.format(**figures[name])))
        except KeyError:
            continue
    return table(("what", "measured", "beside it, in the same run"), shown)


def rates_part(found: Figures, names: dict[str, str]) -> str:
    """Return requests a second and latencies of servers that took turns in one run."""
    rows = [
        (
            words,
            f"{found[f'{name}_per_s']:,.0f}",
            f"{found[f'{name}_ratio']:.2f}",
            *(f"{found[key]:,.1f}" if (key := f"{name}_{kind}_ms") in found else "–" for kind in ("p50", "p99")),
        )
        for name, words in names.items()
        if f"{name}_per_s" in found
    ]
    return table(("what", "requests/s", "× hello", "p50, ms", "p99, ms"), rows)


def server_part(found: Figures, pictures: dict[Path, str]) -> str:
    """Return the table of the server and its peers, and its picture."""
    rates = {label: found[f"{name}_ratio"] for name, label in BARS.items() if f"{name}_ratio" in found}
    if not rates:
        return NOT_YET
    bars = [Bar(label, rate, f"{rate:.2f}") for label, rate in rates.items()]
    picture = PICTURES / "bench-server.svg"
    words = "Requests a second, in multiples of a bare aiohttp hello"
    pictures[picture] = bar_chart("Requests/s, × bare aiohttp hello", words, bars, key="server")
    text = rates_part(found, SERVERS)
    gains = []
    if "everysec_fcall_ratio" in found:
        shown = ", ".join(f"`{name}` {found[f'{name}_fcall_ratio']:.1f} ×" for name in ("everysec", "strict"))
        gains.append(f"Against one call of Redis a request: {shown}.")
    if "hot_path_gain" in found:
        gains.append(f"With the hot path {found['hot_path_gain']:.1f} × as many as without it.")
    if "generator" in found:
        gains.append(f"Asked by {found['generator']}; {found['everysec_claims']:,} claims on `everysec` in the run.")
    return f"{text}\n{' '.join(gains)}\n\n![{words}](pictures/{picture.name})\n" if gains else text


def growth_part(figures: dict[str, Figures], pictures: dict[Path, str]) -> str:
    """Return how claims, memory and start-up change with the number of earlier claims."""
    rows, bars = [], []
    for kind, words in (("sqlite", "SQLite `FULL`"), ("redis", "Redis `everysec`")):
        found = figures.get(f"bench_growth[{kind}]")
        if found is None:
            continue
        first = found[f"claims_per_s_{found['sizes'][0]}"]
        for size in found["sizes"]:
            rate = found[f"claims_per_s_{size}"]
            rows.append(
                (
                    words,
                    f"{size:,}",
                    f"{rate:,.0f}",
                    f"{rate / first:.2f}",
                    f"{found[f'p99_ms_{size}']:.1f}",
                    f"{found[f'bytes_a_claim_{size}']:.0f}",
                    f"{found[f'file_bytes_a_claim_{size}']:.0f}" if kind == "sqlite" else "–",
                    f"{found[f'start_s_{size}']:.1f}",
                )
            )
            bars.append(Bar(f"{kind}, {size:,}", rate / first, f"{rate / first:.2f}"))
    if bars:
        picture = PICTURES / "bench-growth.svg"
        description = "Claims a second by the number of earlier claims, in multiples of the fewest"
        pictures[picture] = bar_chart("Claims/s by earlier claims", description, bars, key="growth")
    heads = ("ledger", "earlier claims", "claims/s", "× the fewest", "p99, ms", "memory a claim, bytes")
    text = table((*heads, "file a claim, bytes", "start-up, s"), rows)
    return f"{text}\n![Claims a second by earlier claims](pictures/bench-growth.svg)\n" if bars else text


def runs_part(runs: dict[str, dict[str, Any]]) -> str:
    """Return where each figure comes from, and what was installed there."""
    rows = [
        (f"`{name}`", f"`{run['command']}`", run["date"], run["commit"] or "not recorded", run["machine"])
        for name, run in sorted(runs.items())
    ]
    newest = max(runs.values(), key=lambda run: (run["date"], len(run["versions"])), default=None)
    text = table(("benchmark", "command", "date", "commit", "machine"), rows)
    if newest is None or not newest["versions"]:
        return text
    said = ", ".join(f"{name} {version}" for name, version in sorted(newest["versions"].items()))
    return f"{text}\nWith {said}.\n"
