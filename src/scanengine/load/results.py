"""What one load test was and what came of it: data for the report card, for charts and for programs.

    LoadResult = what was run (command, machine, profile) + what came of it (outcome, windows, steps, audit)

Times are milliseconds unless a name says otherwise. Nothing here holds a code, a token or a password.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

WRONG_SHOWN_MAX: Final = 100
"""Wrong answers that are listed; all of them are counted."""


class Machine(Struct, frozen=True):
    """Where the load test ran.

    Parameters
    ----------
    cpu : str
        Model of the processor, as the system names it.
    cores : int
        Logical processors that this process may use.
    memory_bytes : int
        0 if the system does not say.
    """

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str


class Mix(Struct, frozen=True):
    """Shares of the kinds of requests, as weights: they need not add up to 100.

    Parameters
    ----------
    new : int
        A code that nobody has claimed.
    repeat : int
        The same person asks again with the same visit.
    taken : int
        Another person asks for a code that is claimed.
    forged : int
        A code with a wrong tag.
    """

    new: int = 100
    repeat: int = 0
    taken: int = 0
    forged: int = 0


class Profile(Struct, frozen=True):
    """What was measured, under which load.

    Parameters
    ----------
    ledger : str
        ``sqlite``, ``redis`` or ``memory``, as the server says.
    durability : str
        What an answer has survived: ``strict``, ``everysec``, ``volatile`` or ``unverified``, as the server says.
    target : str
        ``own server``, or the URL that was given, without user and password.
    workers : int
        Processes of the server; 0 if unknown.
    processes : int
        Processes of the load generator.
    connections : int
        Over all processes of the generator.
    rate : float or None
        Arrivals a second of an open loop; None for a closed loop, which sends on when it is answered.
    duration_s : float
        As asked for; 0 if a number of requests was.
    requests : int
        As asked for; 0 if a duration was.
    burst : str
        As given on the command line, "" for none.
    spread : str
        How claims are spread over people: ``zipf`` or ``uniform``.
    regions : dict of str to int
        Six-digit adcode to weight; empty if scans name no region.
    """

    ledger: str
    durability: str
    target: str
    workers: int
    processes: int
    connections: int
    mix: Mix
    rate: float | None
    duration_s: float
    requests: int
    ramp_s: float = 0.0
    burst: str = ""
    people: int = 0
    spread: str = "zipf"
    regions: dict[str, int] = field(default_factory=dict)
    seed: int = 0

    @property
    def is_open_loop(self) -> bool:
        """Whether requests were sent on a schedule, whether or not those before were answered."""
        return self.rate is not None


class Window(Struct, frozen=True):
    """One second of the run; a request belongs to the second in which it was due, its answer to that in which it came.

    Parameters
    ----------
    second : int
        From the start of the run, 0 first.
    sent, answered, errors : int
        Requests sent, replies that came, and of these or of the requests those that failed.
    p50_ms, p99_ms : float
        Of the replies that came in this second; 0 if none did.
    lag_ms : float
        How far the generator itself was behind at most.
    """

    second: int
    sent: int
    answered: int
    p50_ms: float
    p99_ms: float
    errors: int
    lag_ms: float


class Latencies(Struct, frozen=True):
    """How long answers took: from the moment a request was due in an open loop, from its sending in a closed one.

    Parameters
    ----------
    count : int
        Replies measured.
    curve : list of (percentile, milliseconds)
        Percentiles from 0 to 100, closer and closer towards 100, as an HDR histogram has them.
    hdr : str
        The whole histogram in microseconds, in the compressed base-64 form that HdrHistogram's tools read.
    """

    count: int = 0
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p99_ms: float = 0.0
    p999_ms: float = 0.0
    max_ms: float = 0.0
    curve: list[tuple[float, float]] = field(default_factory=list)
    hdr: str = ""


class WrongAnswer(Struct, frozen=True):
    """One answer that must not be.

    Parameters
    ----------
    kind : str
        ``double_award``, ``wrong_prize``, ``changed_replay``, ``lost_claim``, ``wrong_code``, ``wrong_status``,
        ``wrong_count``, ``overspent`` or ``not_a_reply``.
    item : int
        Item number of the code; -1 if it has none.
    expected, found : str
        In words, without the code.
    """

    kind: str
    item: int
    expected: str
    found: str


class AuditSummary(Struct, frozen=True):
    """What the ledger held afterwards, and whether it agrees with the answers.

    Parameters
    ----------
    claims, scans, events : int
        Checked in the ledger.
    acknowledged : int
        Claims that were answered as recorded.
    lost, changed, problems : int
        Answered claims that the ledger lacks, or holds with another prize; whatever else does not agree.
    found : list of str
        The first of the problems, in words.
    """

    claims: int
    scans: int
    events: int
    acknowledged: int
    lost: int
    changed: int
    problems: int
    found: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether everything agrees."""
        return not (self.lost or self.changed or self.problems)


class Outcome(Struct, frozen=True):
    """What came of one run.

    Parameters
    ----------
    seconds : float
        From the first request's moment to the last reply.
    sent, answered : int
        Requests sent, and replies to them.
    per_second : float
        Scans answered a second: replies that tell what became of the scan.
    counts : dict of str to int
        Replies by what they say: ``awarded``, ``no_prize``, ``replayed``, ``taken``, ``invalid``, ``limited``,
        ``closed``, ``ineligible``, ``overloaded``, ``rate_limited``, ``pending`` and, should one come, other statuses.
    prizes : dict of str to int
        Awards by prize, replays left out.
    errors : dict of str to int
        What failed: ``connect``, ``lost``, ``timeout`` and HTTP statuses such as ``http_500``.
    settled : int
        Scans without an answer (pending, lost) that were asked again afterwards with the same visit, and answered.
    unsettled : int
        Those that had no answer even then.
    wrong : int
        Wrong answers.
    wrong_answers : list of WrongAnswer
        The first of them.
    lag_max_ms, lag_p99_ms : float
        How far the generator itself was behind.
    is_void : bool
        Whether the generator fell behind, so that the figures say nothing of the server.
    """

    seconds: float
    sent: int
    answered: int
    per_second: float
    counts: dict[str, int]
    prizes: dict[str, int]
    errors: dict[str, int]
    latencies: Latencies
    settled: int = 0
    unsettled: int = 0
    wrong: int = 0
    wrong_answers: list[WrongAnswer] = field(default_factory=list)
    lag_max_ms: float = 0.0
    lag_p99_ms: float = 0.0
    is_void: bool = False
    void_reason: str = ""

    @property
    def per_hour(self) -> float:
        """Scans answered an hour, at this rate."""
        return self.per_second * 3600

    @property
    def failed(self) -> int:
        """Requests that failed, shed load not among them."""
        return sum(self.errors.values())


class Step(Struct, frozen=True):
    """One step of the search for the highest rate.

    Parameters
    ----------
    rate : float or None
        Asked for; None for a closed loop.
    is_good : bool
        Whether p99, errors and lag were within bounds.
    why : str
        What was not, "" if all was.
    """

    connections: int
    rate: float | None
    per_second: float
    p99_ms: float
    errors: int
    lag_ms: float
    is_good: bool
    why: str = ""


class LoadResult(Struct, frozen=True):
    """One load test, whole.

    Parameters
    ----------
    command : str
        The command line that was given, without passwords.
    date : str
        When it began, ISO 8601 in UTC.
    version, commit : str
        Of scanengine; the commit is "" where it is unknown.
    steps : list of Step
        Of the search for the highest rate, in order; empty without one.
    best_rate : float
        The highest rate that was good, arrivals a second; 0 without a search.
    audit : AuditSummary or None
        None if the ledger is not ours to read.
    notes : list of str
        What a reader should know.
    """

    command: str
    date: str
    version: str
    commit: str
    machine: Machine
    profile: Profile
    outcome: Outcome
    windows: list[Window]
    steps: list[Step] = field(default_factory=list)
    best_rate: float = 0.0
    p99_limit_ms: float = 0.0
    audit: AuditSummary | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether no answer was wrong and the ledger, where it was read, agrees with all of them."""
        return self.outcome.wrong == 0 and (self.audit is None or self.audit.is_clean)
