"""The words of the report card, in English and Chinese."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

Language = Literal["zh", "en"]
LANGUAGES: Final[tuple[Language, ...]] = ("zh", "en")

WORDS: Final[dict[str, tuple[str, str]]] = {
    "title": ("Load test", "压力测试"),
    "per_hour": ("scans an hour", "次扫码/小时"),
    "per_second": ("{rate} a second, over {seconds} s", "每秒 {rate} 次，历时 {seconds} 秒"),
    # The verdict.
    "right": ("0 wrong answers of {answered}", "{answered} 个应答中 0 个错误"),
    "wrong": ("wrong answers: {count}", "错误应答：{count} 个"),
    "wrong_bar": ("wrong", "错误"),
    "unchecked": ("no answer came, so nothing was checked", "没有收到应答，无从检查"),
    "audit_bad": ("the ledger does not agree with the answers", "账本与应答不一致"),
    "void": ("VOID", "作废"),
    "void_about": (
        "VOID, these figures say nothing of the server: {reason}",
        "作废，这些数字不能说明服务器的能力：{reason}",
    ),
    "more": ("and {count} more", "另有 {count} 个"),
    "wrong_answer": (
        "{kind}, {item}: expected {expected}, found {found}",
        "{kind}（{item}）：应为 {expected}，实为 {found}",
    ),
    "item": ("item {item}", "第 {item} 号"),
    "no_item": ("no item", "无码号"),
    "double_award": ("awarded twice", "重复发奖"),
    "wrong_prize": ("wrong prize", "奖品错误"),
    "changed_replay": ("another answer on retry", "重试时应答改变"),
    "lost_claim": ("claim lost", "领取丢失"),
    "wrong_code": ("answer for another code", "应答的码不符"),
    "wrong_status": ("wrong status", "状态错误"),
    "wrong_count": ("wrong scan count", "扫码次数错误"),
    "overspent": ("overspent", "超发"),
    "not_a_reply": ("not a reply", "不是有效应答"),
    # Sections.
    "outcome": ("What came of it", "结果"),
    "answers": ("Answers", "应答"),
    "prizes": ("Prizes", "奖品"),
    "load": ("Load", "负载"),
    "server": ("Server", "服务器"),
    "machine": ("Machine", "机器"),
    "audit": ("Audit of the ledger", "账本审计"),
    "search": ("Search for the highest rate", "寻找最高速率"),
    "run": ("What was run", "运行内容"),
    "notes": ("Notes", "说明"),
    # Figures.
    "latency": ("Latency", "延迟"),
    "mean": ("mean latency", "平均延迟"),
    "max": ("max", "最大"),
    "sent": ("sent", "已发送"),
    "answered": ("answered", "已应答"),
    "errors": ("errors", "错误"),
    "none": ("none", "无"),
    "no_answer": ("asked again afterwards", "事后重新询问"),
    "settled": ("{settled} answered then, {unsettled} never", "{settled} 个得到应答，{unsettled} 个始终没有"),
    "lag": ("generator behind by", "发生器滞后"),
    "lag_values": ("p99 {p99} ms, at most {most} ms", "p99 {p99} ms，最大 {most} ms"),
    "counted": ("latency counts", "延迟起算"),
    "counted_open": ("from the moment a scan was due, waiting included", "自计划发送的时刻，包括等待"),
    "counted_closed": (
        "from the moment a scan was sent; who waits sends nothing meanwhile",
        "自发送的时刻；等待应答期间不再发送",
    ),
    # Answers.
    "awarded": ("awarded", "中奖"),
    "no_prize": ("no prize", "未中奖"),
    "replayed": ("the same again", "重复应答"),
    "taken": ("taken by another", "已被他人领取"),
    "invalid": ("invalid", "无效"),
    "limited": ("limited", "达到上限"),
    "closed": ("closed", "活动未开放"),
    "ineligible": ("ineligible", "不符合条件"),
    "overloaded": ("overloaded (not done)", "过载（未执行）"),
    "rate_limited": ("rate limited", "被限流"),
    "pending": ("pending", "待定"),
    # The load.
    "loop": ("loop", "方式"),
    "open_loop": ("open, {rate} arrivals a second", "开环，每秒到达 {rate} 次"),
    "closed_loop": ("closed: each connection waits for its answer", "闭环：每个连接等到应答再发"),
    "length": ("length", "规模"),
    "length_seconds": ("{seconds} s", "{seconds} 秒"),
    "length_requests": ("{requests} scans", "{requests} 次扫码"),
    "ramp": ("ramp", "爬坡"),
    "burst": ("burst", "突发"),
    "connections": ("connections", "连接"),
    "processes": ("generator processes", "发生器进程"),
    "mix": ("mix", "构成"),
    "new": ("new {share}", "新码 {share}"),
    "repeat": ("repeat {share}", "本人重复 {share}"),
    "mix_taken": ("taken {share}", "他人已领 {share}"),
    "forged": ("forged {share}", "伪造 {share}"),
    "people": ("people", "人数"),
    "people_of": ("{people}, spread {spread}", "{people}，分布 {spread}"),
    "zipf": ("zipf", "齐普夫"),
    "uniform": ("uniform", "均匀"),
    "regions": ("regions", "地区"),
    "seed": ("seed", "种子"),
    # The server.
    "target": ("target", "对象"),
    "own server": ("a server of its own", "自带的服务器"),
    "workers": ("workers", "工作进程"),
    "unknown": ("unknown", "未知"),
    "ledger": ("ledger", "账本"),
    "durability": ("an answer survives", "应答可经受"),
    "strict": (
        "the death of the process and of the machine (strict)",
        "进程崩溃与机器断电（strict）",
    ),
    "everysec": (
        "the death of the process; a power cut loses up to about two seconds (everysec)",
        "进程崩溃；断电最多丢失约两秒（everysec）",
    ),
    "volatile": ("nothing: a restart forgets it (volatile)", "不保证：重启即丢失（volatile）"),
    "unverified": (
        "what its operator knows; the server does not say (unverified)",
        "以运维方所知为准；服务器未说明（unverified）",
    ),
    # Machine, run, audit.
    "cpu": ("processor", "处理器"),
    "cores": ("cores", "核数"),
    "memory": ("memory", "内存"),
    "system": ("system", "系统"),
    "command": ("command", "命令"),
    "date": ("date", "日期"),
    "version": ("version", "版本"),
    "commit": ("commit", "提交"),
    "held": ("in the ledger", "账本中"),
    "held_values": (
        "{claims} claims, {scans} scans, {events} events",
        "领取 {claims}，扫码 {scans}，事件 {events}",
    ),
    "compared": ("answered as recorded", "应答为已记录"),
    "compared_values": (
        "{acknowledged}, of them lost {lost}, changed {changed}",
        "{acknowledged}，其中丢失 {lost}，改变 {changed}",
    ),
    "problems": ("other problems", "其他问题"),
    "audit_none": ("not made: the ledger is not ours to read", "未进行：账本不可读"),
    "best": ("highest good rate", "最高合格速率"),
    "best_values": ("{rate} a second with p99 within {limit} ms", "每秒 {rate}，p99 不超过 {limit} ms"),
    "step": (
        "{rate}, {connections} connections: {per_second}/s, p99 {p99} ms, {judged}",
        "{rate}，{connections} 个连接：{per_second}/s，p99 {p99} ms，{judged}",
    ),
    "no_rate": ("closed loop", "闭环"),
    "good": ("good", "合格"),
    "bad": ("not good: {why}", "不合格：{why}"),
    # Charts.
    "throughput": ("Scans by second", "每秒扫码"),
    "throughput_about": (
        "Scans sent and answered in each second of the run: between {low} and {high} answers a second.",
        "运行中每一秒发送和应答的扫码数：每秒应答 {low} 至 {high} 次。",
    ),
    "latency_by_second": ("Latency by second", "每秒延迟"),
    "latency_by_second_about": (
        "Median and 99th percentile of the latency in each second: p99 at most {high} ms.",
        "每一秒的延迟中位数与 99 百分位：p99 最大 {high} ms。",
    ),
    "curve": ("Latency by percentile", "延迟分布"),
    "curve_about": (
        "Latency by percentile, each further nine as wide as the one before: median {p50} ms, p99 {p99} ms, "
        "p99.9 {p999} ms, at most {most} ms.",
        "按百分位的延迟，每多一个九等宽：中位数 {p50} ms，p99 {p99} ms，p99.9 {p999} ms，最大 {most} ms。",
    ),
    "answers_about": ("Answers by what they say: {list}.", "各类应答的数量：{list}。"),
    "a_second": ("per second", "每秒"),
    "second": ("second", "秒"),
    "comma": (", ", "、"),
}
"""English and Chinese of each text."""


def words(language: Language) -> Callable[..., str]:
    """Return what gives a text of a key in a language; values are filled in, and never read as patterns."""
    place = 0 if language == "en" else 1

    def say(key: str, **values: object) -> str:
        text = WORDS[key][place]
        return text.format_map(values) if values else text

    return say
