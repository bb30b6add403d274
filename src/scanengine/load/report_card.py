"""What the report card says, in words and figures, and in which order; how it looks is for :mod:`.report`.

A card is made once from a result and shown by every writer, so that terminal, page and picture never differ.
What must not be overlooked comes first: a void run, wrong answers, a ledger that does not agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from scanengine.load.charts import Bar, Line, bar_chart, line_chart, percentile_chart
from scanengine.load.report_words import WORDS, Language, words
from scanengine.load.results import LoadResult, Profile, Window, WrongAnswer

WRONG_MAX: Final = 20
"""Wrong answers that a card lists; the JSON has all that were kept."""
_REGIONS_MAX: Final = 6
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_TREND_MIN, _TREND_COLUMNS = 4, 40

Say = Callable[..., str]


class Row(msgspec.Struct, frozen=True):
    """A name and what there is to say of it."""

    name: str
    value: str
    is_bad: bool = False


class Section(msgspec.Struct, frozen=True):
    """Rows under a heading; `key` is the same in every language."""

    key: str
    title: str
    rows: list[Row]


class Charts(msgspec.Struct, frozen=True):
    """SVG of what happened; None where there is nothing to draw."""

    throughput: str | None
    curve: str | None
    by_second: str | None
    answers: str | None

    def __iter__(self) -> Iterator[str]:
        """Yield those there are, in the order of a page."""
        yield from filter(None, (self.throughput, self.curve, self.by_second, self.answers))


class Card(msgspec.Struct, frozen=True):
    """All that a report shows.

    Parameters
    ----------
    void : str
        Why the figures say nothing; "" if they do.
    alarms : list of str
        What is wrong, the worst first.
    verdict : str
        How many answers were wrong, in words.
    is_good : bool
        Whether answers came, and all were right.
    headline, unit, beneath : str
        Scans an hour: the figure, what it is, and the same for a second.
    figures : list of Row
        Latencies in milliseconds.
    trend : str
        Answers by second as a line of blocks, "" if there is nothing to show.
    command, made : str
        What was run; by which version, and when.
    """

    language: Language
    title: str
    void_mark: str
    void: str
    alarms: list[str]
    verdict: str
    is_good: bool
    headline: str
    unit: str
    beneath: str
    latency: str
    figures: list[Row]
    trend: str
    sections: list[Section]
    command: str
    made: str
    charts: Charts


def make_card(result: LoadResult, language: Language) -> Card:
    """Return the card of a load test in a language."""
    say = words(language)
    outcome, latencies = result.outcome, result.outcome.latencies
    is_checked = outcome.answered > 0
    figures = [
        Row("p50", milliseconds(latencies.p50_ms)),
        Row("p90", milliseconds(latencies.p90_ms)),
        Row("p99", milliseconds(latencies.p99_ms)),
        Row("p99.9", milliseconds(latencies.p999_ms)),
        Row(say("max"), milliseconds(latencies.max_ms)),
    ]
    right = say("right", answered=count(outcome.answered)) if is_checked else say("unchecked")
    seconds = f"{outcome.seconds:,.1f}"
    return Card(
        language=language,
        title=say("title"),
        void_mark=say("void"),
        void=say("void_about", reason=outcome.void_reason) if outcome.is_void else "",
        alarms=list(_alarms(result, say)),
        verdict=say("wrong", count=count(outcome.wrong)) if outcome.wrong else right,
        is_good=result.is_right and is_checked,
        headline=count(outcome.per_hour),
        unit=say("per_hour"),
        beneath=say("per_second", rate=count(outcome.per_second), seconds=seconds),
        latency=f"{say('latency')} (ms)",
        figures=figures,
        trend=_trend(_whole_windows(result)),
        sections=[Section(key, say(key), rows) for key, rows in _sections(result, say) if rows],
        command=result.command,
        made=f"scanengine {result.version}, {say('commit')} {result.commit or say('unknown')}, {result.date}",
        charts=_charts(result, say),
    )


def count(value: float) -> str:
    """Return a whole number for people."""
    return f"{value:,.0f}"


def milliseconds(value: float) -> str:
    """Return milliseconds for people: three figures, or all of what stands before the point."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


# What is wrong ------------------------------------------------------------------------------------------------------


def _alarms(result: LoadResult, say: Say) -> Iterator[str]:
    """Yield the wrong answers and what the audit found."""
    outcome = result.outcome
    shown = outcome.wrong_answers[:WRONG_MAX]
    for wrong in shown:
        yield _wrong(wrong, say)
    if shown and outcome.wrong > len(shown):
        yield say("more", count=count(outcome.wrong - len(shown)))
    if result.audit is not None and not result.audit.is_clean:
        yield say("audit_bad")
        yield from result.audit.found[:WRONG_MAX]


def _wrong(wrong: WrongAnswer, say: Say) -> str:
    item = say("item", item=wrong.item) if wrong.item >= 0 else say("no_item")
    return say("wrong_answer", kind=_named(wrong.kind, say), item=item, expected=wrong.expected, found=wrong.found)


def _named(name: str, say: Say) -> str:
    """Return the word for a name of the results, or the name of one that came later than the words."""
    return say(name) if name in WORDS else name


# Sections -----------------------------------------------------------------------------------------------------------


def _sections(result: LoadResult, say: Say) -> Iterator[tuple[str, list[Row]]]:
    """Yield the key and the rows of each section."""
    yield "outcome", list(_outcome(result, say))
    yield "answers", [Row(_named(name, say), count(n)) for name, n in _by_count(result.outcome.counts)]
    yield "prizes", [Row(name, count(n)) for name, n in _by_count(result.outcome.prizes)]
    yield "audit", list(_audit(result, say))
    yield "search", list(_search(result, say))
    yield "load", list(_load(result.profile, say))
    yield "server", list(_server(result.profile, say))
    yield "machine", list(_machine(result, say))
    yield "run", list(_run(result, say))
    yield "notes", [Row("", note) for note in result.notes]


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: -pair[1])


def _outcome(result: LoadResult, say: Say) -> Iterator[Row]:
    outcome = result.outcome
    yield Row(say("sent"), count(outcome.sent))
    yield Row(say("answered"), count(outcome.answered), outcome.answered == 0)
    errors = say("comma").join(f"{name} {count(n)}" for name, n in _by_count(outcome.errors) if n)
    yield Row(say("errors"), errors or say("none"), bool(errors))
    if outcome.settled or outcome.unsettled:
        values = {"settled": count(outcome.settled), "unsettled": count(outcome.unsettled)}
        yield Row(say("no_answer"), say("settled", **values), outcome.unsettled > 0)
    lag = {"p99": milliseconds(outcome.lag_p99_ms), "most": milliseconds(outcome.lag_max_ms)}
    yield Row(say("lag"), say("lag_values", **lag), outcome.is_void)
    yield Row(say("counted"), say("counted_open" if result.profile.is_open_loop else "counted_closed"))
    yield Row(say("mean"), f"{milliseconds(outcome.latencies.mean_ms)} ms")


def _audit(result: LoadResult, say: Say) -> Iterator[Row]:
    audit = result.audit
    if audit is None:
        yield Row(say("audit"), say("audit_none"))
        return
    held = {"claims": count(audit.claims), "scans": count(audit.scans), "events": count(audit.events)}
    yield Row(say("held"), say("held_values", **held))
    compared = {"acknowledged": audit.acknowledged, "lost": audit.lost, "changed": audit.changed}
    shown = {name: count(value) for name, value in compared.items()}
    yield Row(say("compared"), say("compared_values", **shown), bool(audit.lost or audit.changed))
    yield Row(say("problems"), count(audit.problems) if audit.problems else say("none"), audit.problems > 0)


def _search(result: LoadResult, say: Say) -> Iterator[Row]:
    if not result.steps:
        return
    best = say("best_values", rate=count(result.best_rate), limit=f"{result.p99_limit_ms:g}")
    yield Row(say("best"), best if result.best_rate else say("none"))
    for number, step in enumerate(result.steps, 1):
        values = {
            "rate": say("no_rate") if step.rate is None else count(step.rate) + "/s",
            "connections": count(step.connections),
            "per_second": count(step.per_second),
            "p99": milliseconds(step.p99_ms),
            "judged": say("good") if step.is_good else say("bad", why=step.why or "–"),
        }
        yield Row(str(number), say("step", **values), not step.is_good)


def _load(profile: Profile, say: Say) -> Iterator[Row]:
    is_open = profile.rate is not None
    yield Row(say("loop"), say("open_loop", rate=count(profile.rate or 0)) if is_open else say("closed_loop"))
    if profile.duration_s:
        yield Row(say("length"), say("length_seconds", seconds=f"{profile.duration_s:g}"))
    else:
        yield Row(say("length"), say("length_requests", requests=count(profile.requests)))
    if profile.ramp_s:
        yield Row(say("ramp"), say("length_seconds", seconds=f"{profile.ramp_s:g}"))
    if profile.burst:
        yield Row(say("burst"), profile.burst)
    yield Row(say("connections"), count(profile.connections))
    yield Row(say("processes"), count(profile.processes))
    mix = profile.mix
    shares = (("new", mix.new), ("repeat", mix.repeat), ("mix_taken", mix.taken), ("forged", mix.forged))
    yield Row(say("mix"), say("comma").join(say(name, share=share) for name, share in shares if share))
    if profile.people:
        yield Row(say("people"), say("people_of", people=count(profile.people), spread=_named(profile.spread, say)))
    if profile.regions:
        yield Row(say("regions"), _regions(profile.regions, say))
    yield Row(say("seed"), str(profile.seed))


def _regions(regions: Mapping[str, int], say: Say) -> str:
    shown = [f"{region} {weight}" for region, weight in list(regions.items())[:_REGIONS_MAX]]
    others = len(regions) - len(shown)
    return say("comma").join([*shown, say("more", count=count(others))] if others else shown)


def _server(profile: Profile, say: Say) -> Iterator[Row]:
    yield Row(say("target"), _named(profile.target, say))
    yield Row(say("workers"), count(profile.workers) if profile.workers else say("unknown"))
    yield Row(say("ledger"), profile.ledger)
    yield Row(say("durability"), _named(profile.durability, say))


def _machine(result: LoadResult, say: Say) -> Iterator[Row]:
    machine = result.machine
    yield Row(say("cpu"), machine.cpu or say("unknown"))
    yield Row(say("cores"), count(machine.cores))
    yield Row(say("memory"), f"{machine.memory_bytes / 2**30:,.1f} GiB" if machine.memory_bytes else say("unknown"))
    yield Row(say("system"), f"{machine.system}, Python {machine.python}")


def _run(result: LoadResult, say: Say) -> Iterator[Row]:
    yield Row(say("command"), result.command)
    yield Row(say("date"), result.date)
    yield Row(say("version"), f"scanengine {result.version}")
    yield Row(say("commit"), result.commit or say("unknown"))


# Pictures -----------------------------------------------------------------------------------------------------------


def _whole_windows(result: LoadResult) -> list[Window]:
    """Return the seconds that ran to their end: the last one would look like a drop."""
    return [window for window in result.windows if window.second + 1 <= result.outcome.seconds] or result.windows


def _trend(windows: list[Window]) -> str:
    """Return answers by second as blocks, the highest one full; several seconds share a block if there are many."""
    answered = [window.answered for window in windows]
    most = max(answered, default=0)
    if len(answered) < _TREND_MIN or most <= 0:
        return ""
    size = -(-len(answered) // _TREND_COLUMNS)
    means = [sum(part) / len(part) for part in (answered[n : n + size] for n in range(0, len(answered), size))]
    return "".join(_BLOCKS[max(0, round(mean / most * (len(_BLOCKS) - 1)))] for mean in means)


def _charts(result: LoadResult, say: Say) -> Charts:
    windows = _whole_windows(result)
    return Charts(
        throughput=_throughput(windows, say) if len(windows) > 1 else None,
        curve=_curve(result, say),
        by_second=_by_second(windows, say) if len(windows) > 1 else None,
        answers=_answers(result, say),
    )


def _throughput(windows: list[Window], say: Say) -> str:
    answered = [window.answered for window in windows]
    about = say("throughput_about", low=count(min(answered)), high=count(max(answered)))
    lines = [
        Line(say("sent"), [(window.second, window.sent) for window in windows]),
        Line(say("answered"), [(window.second, window.answered) for window in windows]),
    ]
    return line_chart(say("throughput"), about, lines, say("second"), say("a_second"), key="throughput")


def _by_second(windows: list[Window], say: Say) -> str | None:
    measured = [window for window in windows if window.answered]
    if not measured:
        return None
    about = say("latency_by_second_about", high=milliseconds(max(window.p99_ms for window in measured)))
    # A second without a reply has no latency; it is a gap.
    lines = [
        Line("p50", [(window.second, window.p50_ms if window.answered else None) for window in windows]),
        Line("p99", [(window.second, window.p99_ms if window.answered else None) for window in windows]),
    ]
    return line_chart(say("latency_by_second"), about, lines, say("second"), "ms", key="by-second")


def _curve(result: LoadResult, say: Say) -> str | None:
    latencies = result.outcome.latencies
    if not latencies.curve:
        return None
    values = {"p50": latencies.p50_ms, "p99": latencies.p99_ms, "p999": latencies.p999_ms, "most": latencies.max_ms}
    about = say("curve_about", **{name: milliseconds(value) for name, value in values.items()})
    return percentile_chart(say("curve"), about, [Line(say("latency"), latencies.curve)], "", "ms", key="curve")


def _answers(result: LoadResult, say: Say) -> str | None:
    bars = [Bar(_named(name, say), n, count(n)) for name, n in _by_count(result.outcome.counts)]
    if result.outcome.wrong:
        wrong = result.outcome.wrong
        bars.insert(0, Bar(say("wrong_bar"), wrong, count(wrong), is_bad=True))
    if not bars:
        return None
    about = say("answers_about", list=say("comma").join(f"{bar.name} {bar.shown}" for bar in bars))
    return bar_chart(say("answers"), about, bars, key="answers")
