"""All answers of a load test, read and judged run by run, and what they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from scanengine.engine import Engine
from scanengine.keys import Keyring
from scanengine.load import judging
from scanengine.load.codes import QUOTED
from scanengine.load.judging import NOT_DONE, PENDING, RECORDED, UNKNOWN, Asked, Reply, Verdict
from scanengine.load.plan import FORGED, Plan
from scanengine.load.playing import Played
from scanengine.load.tape import BROKEN, LOST, TIMED_OUT
from scanengine.model import NO_PRIZE, TEST_SUFFIX, Party, PrizeTerms
from scanengine.tables.prizes import PrizeTable

_FAILED: Final = {LOST: "lost", TIMED_OUT: "timeout", BROKEN: "not_a_reply"}
_NO_OFFER: Final = -2
_OPEN: Final = frozenset((UNKNOWN, PENDING))


@dataclass
class Part:
    """What one client process sent in one run, and what came of it.

    Parameters
    ----------
    items : uint64, shape (codes,)
    letters : uint8, shape (codes, width)
        Codes as JSON.
    again : list of (rows of the plan, what came of them)
        Asked again after the clock, as their outcome was unknown.
    """

    plan: Plan
    items: NDArray[np.uint64]
    letters: NDArray[np.uint8]
    played: Played
    again: list[tuple[NDArray[np.int64], Played]]


@dataclass
class Tally:
    """What the replies of one run say, within its time."""

    counts: Counter[str]
    prizes: Counter[str]
    errors: Counter[str]
    settled: int = 0
    unsettled: int = 0


class Prizes:
    """Which prizes a scan may be told of: what its code draws, and what may come in its place.

    Parameters
    ----------
    engine : Engine
        Of the tables that the server has.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[tuple[int, int], frozenset[str | None]] = {}

    def of(self, codes: list[str] | NDArray[np.uint8], region: NDArray[np.int64], now_ms: int) -> NDArray[np.int64]:
        """Return a number for each scan that :meth:`ids` explains; -1 where no claim can be recorded."""
        decisions = self._engine.decide_many(codes, now_ms, region=region)
        has_offer = np.diff(decisions.offer_start) > 0
        drawn = np.full(len(decisions), _NO_OFFER, np.int64)
        drawn[has_offer] = decisions.prize
        campaign = decisions.campaign.astype(np.int64)
        return np.where(has_offer, campaign * 512 + drawn + 1, -1)

    def ids(self, number: int) -> frozenset[str | None]:
        """Return the ids of the prizes that may be told, None among them for no prize."""
        place = divmod(number, 512)
        found = self._known.get(place)
        if found is None:
            campaign = self._engine.campaigns[place[0]]
            table = self._engine.snapshot.prizes[campaign.removesuffix(TEST_SUFFIX)]
            found = self._known[place] = frozenset(_chain(table, place[1] - 1, campaign.endswith(TEST_SUFFIX)))
        return found


def _chain(table: PrizeTable, number: int, is_test: bool) -> Iterator[str | None]:
    """Yield the ids of a drawn prize and of all that may come in its place."""
    seen: set[int] = set()
    while number != NO_PRIZE and number not in seen:
        seen.add(number)
        terms, entry = table.terms.prizes[number], table.prize(number)
        if terms is None or entry is None:
            break
        yield entry.id
        if not _can_run_out(table, terms, is_test):
            return
        number = terms.fallback
    yield None


def _can_run_out(table: PrizeTable, terms: PrizeTerms, is_test: bool) -> bool:
    budget = table.metadata.budget
    is_paid = terms.money > 0 and not is_test and (budget.total is not None or budget.per_day is not None)
    return terms.stock is not None or terms.stock_per_day is not None or is_paid


class Answers:
    """Everything that was answered so far, over all runs of a load test.

    Parameters
    ----------
    witness : binary file or None
        Gets every reply that tells of a scan, one a line.
    may_refuse : bool
        Whether campaigns may have limits that scans run into.

    Attributes
    ----------
    claims, unsure : int
        Codes that somebody was told a recorded claim of, and codes that may have one that nobody was told of.
    visits, unsure_visits : int
        Visits that were counted, and those that may have been.
    awards : Counter of prize id
    """

    def __init__(self, keyring: Keyring, prizes: Prizes, witness: IO[bytes] | None, *, may_refuse: bool) -> None:
        self._keyring = keyring
        self._prizes = prizes
        self._witness = witness
        self._may_refuse = may_refuse
        self.verdict = Verdict()
        self.claims = self.unsure = self.visits = self.unsure_visits = 0
        self.awards: Counter[str] = Counter()

    def unknown_rows(self, part: Part) -> NDArray[np.int64]:
        """Return the requests whose outcome is unknown: they are to be asked again, with the same visit."""
        status, sent = part.played.status, part.played.sent
        rows = np.flatnonzero((sent > 0) & (status != 200) & (status != 429) & (part.plan.kind != FORGED))
        left = {row for row in rows.tolist() if _hear(part.played, row)[1] in _OPEN}
        for asked_again, played in part.again:
            left -= {row for place, row in enumerate(asked_again.tolist()) if _hear(played, place)[1] not in _OPEN}
        return np.array(sorted(left), np.int64)

    def judge(self, part: Part, now_ms: tuple[int, int]) -> Tally:
        """Judge all answers of one process in one run.

        Parameters
        ----------
        now_ms : (int, int)
            When the run began and ended, as what a code draws may depend on the time.
        """
        tally = Tally(Counter(), Counter(), Counter())
        plan, played = part.plan, part.played
        tally.errors.update({"timeout": int(np.count_nonzero(played.never_sent))})
        for row in np.flatnonzero((plan.kind == FORGED) & (played.sent > 0)).tolist():
            self._judge_forged(*self._hear(part, row, tally), tally)
        self._judge_codes(part, now_ms, tally)
        return tally

    def _judge_forged(self, reply: Reply | None, said: str, tally: Tally) -> None:
        if said != UNKNOWN:
            tally.counts[said] += 1
        if reply is not None and said not in NOT_DONE and (reply.status != "invalid" or reply.claim is not None):
            claim = reply.claim.status if reply.claim else "no claim"
            self.verdict.add("wrong_status", -1, "invalid, as the tag is wrong", f"{reply.status}, {claim}")

    def _judge_codes(self, part: Part, now_ms: tuple[int, int], tally: Tally) -> None:
        plan, played = part.plan, part.played
        rows = np.flatnonzero((plan.kind != FORGED) & (played.sent > 0))
        if not len(rows):
            return
        rows = rows[np.argsort(plan.code[rows], kind="stable")]
        codes = plan.code[rows]
        texts = _Texts(part.letters)
        asked_of = part.letters[codes]
        for_engine = (
            np.ascontiguousarray(asked_of[:, 1 : QUOTED - 1])
            if asked_of.shape[1] == QUOTED
            else [texts(code) for code in codes.tolist()]
        )
        at_first, at_last = (self._prizes.of(for_engine, plan.region[rows], each).tolist() for each in now_ms)
        again = _again(part)
        bounds = [*np.flatnonzero(np.diff(codes, prepend=-1)).tolist(), len(rows)]
        columns = [column[rows].tolist() for column in (plan.person, plan.visit, played.sent, played.answered)]
        row_list, code_list, items = rows.tolist(), codes.tolist(), part.items.tolist()
        for start, end in pairwise(bounds):
            code = code_list[start]
            text = texts(code)
            asked = []
            for place in range(start, end):
                row = row_list[place]
                person, visit, sent, answered = (column[place] for column in columns)
                first, last = at_first[place], at_last[place]
                allowed = self._prizes.ids(first) if first >= 0 else frozenset()
                if first != last:
                    allowed = allowed | (self._prizes.ids(last) if last >= 0 else frozenset())
                base = played.start_ns
                reply, said = self._hear(part, row, tally)
                self._count(reply, said, tally)
                asked.append(Asked(person, visit, base + sent, base + answered, said, reply, allowed))
                for other, place_again in again.get(row, ()):
                    reply, said = self._hear_again(other, place_again)
                    begun, told = other.start_ns + other.sent[place_again], other.start_ns + other.answered[place_again]
                    asked.append(Asked(person, visit, int(begun), int(told), said, reply, allowed))
                is_settled = asked[-1].said not in _OPEN
                tally.settled += is_settled and row in again
                tally.unsettled += not is_settled
            self._judge_code(items[code], text, asked)

    def _judge_code(self, item: int, text: str, asked: list[Asked]) -> None:
        for each in asked:
            if each.reply is not None and each.said not in NOT_DONE and each.reply.code != text:
                # Whatever else it says is of another code.
                self.verdict.add("wrong_code", item, "an answer of this code", "an answer of another one")
                each.reply, each.said = None, UNKNOWN
        claim_id = self._keyring.claim_id(item, Party.CONSUMER)
        told = judging.judge_code(item, claim_id, asked, self.verdict, may_refuse=self._may_refuse)
        known = {each.visit for each in asked if each.said not in _OPEN | NOT_DONE}
        maybe = {each.visit for each in asked if each.said not in NOT_DONE} - known
        self.visits += len(known)
        self.unsure_visits += len(maybe)
        if told is None:
            self.unsure += bool(maybe)
            return
        self.claims += 1
        assert told.claim is not None
        if told.claim.prize is not None:
            self.awards[told.claim.prize.id] += 1

    def _hear(self, part: Part, row: int, tally: Tally) -> tuple[Reply | None, str]:
        """Return what was said to a request within the time of the run, and count what failed."""
        reply, said, status, body = _hear(part.played, row)
        if status == 200 and said == UNKNOWN:
            self.verdict.add("not_a_reply", -1, "an answer", "200 with something else")
        if status == BROKEN:
            self.verdict.add("not_a_reply", -1, "one whole HTTP reply", "something else")
        if said == UNKNOWN:
            tally.errors[_FAILED.get(status) or (f"http_{status}" if status else "lost")] += 1
        self._testify(status, body)
        return reply, said

    def _hear_again(self, played: Played, row: int) -> tuple[Reply | None, str]:
        reply, said, status, body = _hear(played, row)
        self._testify(status, body)
        return reply, said

    def _testify(self, status: int, body: bytes) -> None:
        if self._witness is not None and status == 200:
            self._witness.write(body.replace(b"\n", b" ") + b"\n")

    def _count(self, reply: Reply | None, said: str, tally: Tally) -> None:
        if said == UNKNOWN:
            return
        claim = reply.claim if reply is not None else None
        if said in RECORDED and claim is not None:
            if claim.replayed:
                tally.counts["replayed"] += 1
                return
            if claim.prize is not None:
                tally.prizes[claim.prize.id] += 1
        tally.counts[said] += 1


def _hear(played: Played, row: int) -> tuple[Reply | None, str, int, bytes]:
    """Return the reply to a request, what it says, its status and its body."""
    status, body = played.reply(row)
    if status <= 0:
        return None, UNKNOWN, status, b""
    try:
        reply = judging.read_reply(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None, UNKNOWN, status, body
    said = judging.said_of(status, reply)
    return None if said == UNKNOWN else reply, said, status, body


def _again(part: Part) -> Mapping[int, list[tuple[Played, int]]]:
    found: dict[int, list[tuple[Played, int]]] = {}
    for rows, played in part.again:
        for place, row in enumerate(rows.tolist()):
            if played.sent[place] > 0:
                found.setdefault(row, []).append((played, place))
    return found


class _Texts:
    """The text of each code, taken out of one long string when it is needed."""

    def __init__(self, letters: NDArray[np.uint8]) -> None:
        self._width = letters.shape[1]
        self._letters = letters.tobytes()

    def __call__(self, row: int) -> str:
        text: str = msgspec.json.decode(self._letters[row * self._width : (row + 1) * self._width])
        return text
