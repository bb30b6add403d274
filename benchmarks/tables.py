"""Turns kept figures into pages: README tables, ``docs/benchmarks.md``, ``scaling.md``. No figure is typed by hand.

python benchmarks/tables.py            write the pages from benchmarks/results/DATE.json, of each benchmark the newest
python benchmarks/tables.py --take     first keep benchmarks/results/latest.json, of `make bench`, as today's figures
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import scaling
from page import pages_of_docs
from results import ROOT, kept_figures, kept_runs, take

BEGIN, END = "<!-- speed:begin -->\n", "<!-- speed:end -->"
READMES = {"README.md": 0, "README.zh-CN.md": 1}
HEADS = ("| what | measured | beside it, in the same run |", "| 项目 | 实测 | 同一次运行的对照 |")
ROWS = (
    (
        "bench_decide_many[in order]",
        (
            "`decide_many`, 10 million codes, 1 million segments, in order",
            "`decide_many`，1000 万个码、100 万个区段，顺序",
        ),
        ("{native_ns:.0f} ns a code", "每码 {native_ns:.0f} ns"),
        (
            "{hmac_ratio:.1f} × faster than one `hmac.digest` a code; {reference_ratio:.0f} × the reference twin",
            "比每码一次 `hmac.digest` 快 {hmac_ratio:.1f} 倍；是参考实现的 {reference_ratio:.0f} 倍",
        ),
    ),
    (
        "bench_decide_many[random order]",
        ("the same, in random order", "同上，乱序"),
        ("{native_ns:.0f} ns a code", "每码 {native_ns:.0f} ns"),
        ("{hmac_ratio:.1f} ×; {reference_ratio:.0f} ×", "{hmac_ratio:.1f} 倍；{reference_ratio:.0f} 倍"),
    ),
    (
        "bench_decide_one",
        ("one `program.decide` from Python", "Python 里一次 `program.decide`"),
        ("{program_ns:,.0f} ns", "{program_ns:,.0f} ns"),
        ("one `hmac.digest`: {hmac_ns:,.0f} ns", "一次 `hmac.digest`：{hmac_ns:,.0f} ns"),
    ),
    (
        "bench_export_text",
        ("export as text", "导出文本"),
        ("{million_codes_per_s:.1f} million codes/s", "每秒 {million_codes_per_s:.1f} 百万个码"),
        ("–", "–"),
    ),
    (
        "bench_open",
        ("opening a workspace with 100 million codes", "打开有 1 亿个码的工作区"),
        ("{open_own_ms:.0f} ms, {open_own_mb:.1f} MB", "{open_own_ms:.0f} ms，{open_own_mb:.1f} MB"),
        ("–", "–"),
    ),
    (
        "bench_ledger_claims[0]",
        ("durable claims, 256 callers, empty ledger", "持久领取，256 个并发调用者，空账本"),
        ("{claims_per_s:,.0f}/s, p99 {p99_ms:.0f} ms", "{claims_per_s:,.0f}/s，p99 {p99_ms:.0f} ms"),
        ("SQLite, `synchronous=FULL`", "SQLite，`synchronous=FULL`"),
    ),
    (
        "bench_ledger_claims[5000000]",
        ("durable claims, 256 callers, 5 million earlier claims", "持久领取，256 个并发调用者，已有 500 万条"),
        ("{claims_per_s:,.0f}/s, p99 {p99_ms:.0f} ms", "{claims_per_s:,.0f}/s，p99 {p99_ms:.0f} ms"),
        ("SQLite, `synchronous=FULL`", "SQLite，`synchronous=FULL`"),
    ),
    (
        "bench_redis_claims[everysec]",
        ("claims in Redis `everysec`, 256 callers", "Redis `everysec` 中的领取，256 个并发调用者"),
        ("{ledger_256:,.0f}/s, p99 {ledger_256_p99_ms:.0f} ms", "{ledger_256:,.0f}/s，p99 {ledger_256_p99_ms:.0f} ms"),
        (
            "{ratio_256:.1f} × one call a claim over a pool ({pool_256:,.0f}/s); 16 callers: {ledger_16:,.0f}/s, "
            "{ratio_16:.1f} ×; one: {ledger_1:,.0f}/s, {ratio_1:.1f} ×",
            "是连接池上每次领取一次调用（{pool_256:,.0f}/s）的 {ratio_256:.1f} 倍；16 个调用者：{ledger_16:,.0f}/s，"
            "{ratio_16:.1f} 倍；1 个：{ledger_1:,.0f}/s，{ratio_1:.1f} 倍",
        ),
    ),
    (
        "bench_redis_claims[strict]",
        ("claims in Redis `strict`, 256 callers", "Redis `strict` 中的领取，256 个并发调用者"),
        ("{ledger_256:,.0f}/s, p99 {ledger_256_p99_ms:.0f} ms", "{ledger_256:,.0f}/s，p99 {ledger_256_p99_ms:.0f} ms"),
        (
            "{ratio_256:.1f} × one call a claim over a pool ({pool_256:,.0f}/s)",
            "是连接池上每次领取一次调用（{pool_256:,.0f}/s）的 {ratio_256:.1f} 倍",
        ),
    ),
    (
        "bench_post_scans",
        (
            "`POST /v1/scans`, one process, 64 connections, Redis `everysec`",
            "`POST /v1/scans`，单进程，64 个连接，Redis `everysec`",
        ),
        (
            "{everysec_per_s:,.0f}/s, p99 {everysec_p99_ms:.0f} ms",
            "{everysec_per_s:,.0f}/s，p99 {everysec_p99_ms:.0f} ms",
        ),
        (
            "{everysec_ratio:.2f} × a bare aiohttp hello ({hello_per_s:,.0f}/s, p99 {hello_p99_ms:.0f} ms)",
            "空 aiohttp 应答的 {everysec_ratio:.2f} 倍（{hello_per_s:,.0f}/s，p99 {hello_p99_ms:.0f} ms）",
        ),
    ),
    (
        "bench_post_scans",
        (
            "`POST /v1/scans`, one process, 64 connections, Redis `strict`",
            "`POST /v1/scans`，单进程，64 个连接，Redis `strict`",
        ),
        ("{strict_per_s:,.0f}/s, p99 {strict_p99_ms:.0f} ms", "{strict_per_s:,.0f}/s，p99 {strict_p99_ms:.0f} ms"),
        (
            "{strict_ratio:.2f} × a bare aiohttp hello ({hello_per_s:,.0f}/s, p99 {hello_p99_ms:.0f} ms)",
            "空 aiohttp 应答的 {strict_ratio:.2f} 倍（{hello_per_s:,.0f}/s，p99 {hello_p99_ms:.0f} ms）",
        ),
    ),
    (
        "bench_post_scans",
        ("`POST /v1/scans`, one process, 64 connections, SQLite", "`POST /v1/scans`，单进程，64 个连接，SQLite"),
        ("{sqlite_per_s:,.0f}/s, p99 {sqlite_p99_ms:.0f} ms", "{sqlite_per_s:,.0f}/s，p99 {sqlite_p99_ms:.0f} ms"),
        (
            "{sqlite_ratio:.2f} × a bare aiohttp hello ({hello_per_s:,.0f}/s, p99 {hello_p99_ms:.0f} ms)",
            "空 aiohttp 应答的 {sqlite_ratio:.2f} 倍（{hello_per_s:,.0f}/s，p99 {hello_p99_ms:.0f} ms）",
        ),
    ),
    (
        "bench_post_scans",
        (
            "the same, Redis `everysec`, beside services that ask Redis once a request",
            "同上，Redis `everysec`，对照每个请求调用一次 Redis 的服务",
        ),
        (
            "{everysec_fcall_ratio:.1f} × our own function called so ({one_fcall_per_s:,.0f}/s)",
            "是如此调用我们自己函数的 {everysec_fcall_ratio:.1f} 倍（{one_fcall_per_s:,.0f}/s）",
        ),
        (
            "FastAPI + redis-py: {fastapi_per_s:,.0f}/s; without the hot path: {everysec_slow_per_s:,.0f}/s",
            "FastAPI + redis-py：{fastapi_per_s:,.0f}/s；关闭热路径：{everysec_slow_per_s:,.0f}/s",
        ),
    ),
    (
        "bench_get_routes",
        (
            "`GET /v1/codes/CODE`, one process, 64 connections, SQLite",
            "`GET /v1/codes/CODE`，单进程，64 个连接，SQLite",
        ),
        (
            "{look_sqlite_per_s:,.0f}/s, p99 {look_sqlite_p99_ms:.0f} ms",
            "{look_sqlite_per_s:,.0f}/s，p99 {look_sqlite_p99_ms:.0f} ms",
        ),
        (
            "{look_sqlite_ratio:.2f} × a bare aiohttp hello ({hello_per_s:,.0f}/s); Redis `everysec`: "
            "{look_everysec_ratio:.2f} ×",
            "空 aiohttp 应答的 {look_sqlite_ratio:.2f} 倍（{hello_per_s:,.0f}/s）；"
            "Redis `everysec`：{look_everysec_ratio:.2f} 倍",
        ),
    ),
    (
        "bench_get_routes",
        ("`GET /S/CODE` in WeChat, the redirect to the login", "微信里的 `GET /S/CODE`，跳转登录"),
        (
            "{redirect_per_s:,.0f}/s, p99 {redirect_p99_ms:.0f} ms",
            "{redirect_per_s:,.0f}/s，p99 {redirect_p99_ms:.0f} ms",
        ),
        (
            "{redirect_ratio:.2f} × a bare aiohttp hello that is sent the same headers ({browser_per_s:,.0f}/s)",
            "收到同样请求头的空 aiohttp 应答的 {redirect_ratio:.2f} 倍（{browser_per_s:,.0f}/s）",
        ),
    ),
    (
        "bench_import[28]",
        ("`batch import`, 1 million codes of 28 characters", "`batch import`，100 万个 28 位的码"),
        ("{million_codes_per_s:.2f} million codes/s", "每秒 {million_codes_per_s:.2f} 百万个码"),
        ("–", "–"),
    ),
    (
        "bench_look_up[28]",
        (
            "`decide_many` of imported codes of 28 characters, in random order",
            "`decide_many`，28 位的外部码，乱序",
        ),
        ("{foreign_ns:.0f} ns a code", "每码 {foreign_ns:.0f} ns"),
        ("{foreign_ratio:.2f} × as long as codes of its own", "是自有码耗时的 {foreign_ratio:.2f} 倍"),
    ),
)


def table(figures: dict[str, Any], language: int) -> str:
    """Return the table of one language (0 English, 1 Chinese); what was not measured is left out."""
    lines = [HEADS[language], "| --- | --- | --- |"]
    for name, *cells in ROWS:
        try:
            shown = [cell[language].format(**figures[name]) for cell in cells]
        except KeyError:
            continue
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def with_table(text: str, figures: dict[str, Any], language: int) -> str:
    """Return a README with its table made anew."""
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:start] + table(figures, language) + text[end:]


def pages() -> dict[Path, str]:
    """Return what each page and picture should hold."""
    figures = kept_figures()
    made = {ROOT / name: with_table((ROOT / name).read_text("utf-8"), figures, n) for name, n in READMES.items()}
    return made | pages_of_docs(kept_runs()) | scaling.pages(kept_runs())


def main() -> None:
    if "--take" in sys.argv[1:]:
        print(f"kept in {take().relative_to(ROOT)}")
    for path, text in pages().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
