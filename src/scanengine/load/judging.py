"""Is every answer right? Judged after the clock, from what was asked and when, and what was told and when.

All requests for one code are looked at together. What must hold of them, whatever the order in which a server took
those that were on their way at the same time:

- one person at most is told of a claim, once as new and ever after as the very same claim, replayed;
- whoever asks after that was told is told the same: the owner the claim, anybody else that it is taken;
- the prize is what the tables draw for the code, or what may come in its place;
- a visit counts one scan, however often it is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from scanengine.load.results import WRONG_SHOWN_MAX, WrongAnswer

RECORDED: Final = frozenset(("awarded", "no_prize"))
REFUSED: Final = frozenset(("limited", "closed", "ineligible"))
OVERLOADED, RATE_LIMITED, PENDING, UNKNOWN = "overloaded", "rate_limited", "pending", "unknown"
NOT_DONE: Final = frozenset((OVERLOADED, RATE_LIMITED))
"""The scan was surely not executed."""


class _Prize(msgspec.Struct):
    id: str


class _Claim(msgspec.Struct):
    id: str
    status: str
    replayed: bool | None = None
    at: str | None = None
    prize: _Prize | None = None


class _Scan(msgspec.Struct):
    count: int
    first_at: str | None


class Reply(msgspec.Struct):
    """What matters of a reply: of an answer, or of a problem."""

    status: str | int
    code: str | None = None
    scan: _Scan | None = None
    claim: _Claim | None = None
    type: str | None = None

    def __repr__(self) -> str:
        """Do not show the code."""
        return f"<Reply {self.status}>"


read_reply: Final = msgspec.json.Decoder(Reply).decode


class Asked(msgspec.Struct):
    """One request and what was said to it.

    Parameters
    ----------
    sent_ns, told_ns : int
        When; `told_ns` is when its answer came, and means nothing where there is none.
    said : str
        Status of the claim, or ``overloaded``, ``rate_limited``, ``pending`` or ``unknown``.
    reply : Reply or None
        None where the outcome is unknown.
    prizes : frozenset of str or None, or None
        Ids of the prizes that it may be told of, None among them for no prize; None for any.
    """

    person: int
    visit: int
    sent_ns: int
    told_ns: int
    said: str
    reply: Reply | None
    prizes: frozenset[str | None] | None = None


class Verdict:
    """What was found wrong so far: all of it counted, the first of it kept in words."""

    def __init__(self) -> None:
        self.count = 0
        self.kinds: Counter[str] = Counter()
        self.answers: list[WrongAnswer] = []

    def add(self, kind: str, item: int, expected: str, found: str) -> None:
        """Take note of one wrong answer."""
        self.count += 1
        self.kinds[kind] += 1
        # Double awards first, whenever they were found.
        if kind in ("double_award", "wrong_prize", "overspent"):
            self.answers.insert(0, WrongAnswer(kind, item, expected, found))
            del self.answers[WRONG_SHOWN_MAX:]
        elif len(self.answers) < WRONG_SHOWN_MAX:
            self.answers.append(WrongAnswer(kind, item, expected, found))


def said_of(http_status: int, reply: Reply | None) -> str:
    """Return what a reply says of the scan; ``unknown`` if it says nothing that can be relied on."""
    if reply is None:
        return UNKNOWN
    if http_status == 503 and reply.claim is not None and reply.claim.status == PENDING:
        return PENDING
    if http_status in (429, 503) and reply.type is not None:
        if http_status == 429:
            return RATE_LIMITED
        return OVERLOADED if reply.type.endswith(":overloaded") else UNKNOWN
    if http_status != 200 or not isinstance(reply.status, str):
        return UNKNOWN
    return reply.claim.status if reply.claim is not None else reply.status


def judge_code(item: int, claim_id: str, asked: Sequence[Asked], verdict: Verdict, *, may_refuse: bool) -> Reply | None:
    """Judge all that was said of one code.

    Parameters
    ----------
    claim_id : str
        The only one that a claim of this code can have.
    may_refuse : bool
        Whether a claim may be ``limited``, ``closed`` or ``ineligible`` here.

    Returns
    -------
    Reply or None
        The one that told first of a recorded claim.
    """
    told = [each for each in asked if each.reply is not None and each.said not in NOT_DONE and each.said != PENDING]
    recorded = [each for each in told if each.said in RECORDED]
    _judge_each(item, claim_id, told, verdict, may_refuse=may_refuse)
    _judge_counts(item, asked, told, verdict)
    is_open = len(told) + sum(each.said in NOT_DONE for each in asked) < len(asked)
    if not recorded:
        if not is_open and any(each.said == "taken" for each in told):
            verdict.add("wrong_status", item, "a claim of whoever asked first", "taken, and nobody was told of a claim")
        return None
    first = min(recorded, key=_told_ns)
    claim = _claim_of(first)
    if any(each.person != first.person for each in recorded):
        verdict.add("double_award", item, "a claim of one person", "claims of two persons")
    for each in recorded:
        if _claim_of(each) != claim:
            verdict.add("changed_replay", item, _in_words(claim), _in_words(_claim_of(each)))
    as_new = sum(not _reply(each).replayed for each in recorded)
    if as_new > 1:
        verdict.add("lost_claim", item, "one claim as new, then the same replayed", f"{as_new} claims as new")
    elif as_new == 0 and not is_open:
        verdict.add("changed_replay", item, "the claim as new, first", "a replay of what nobody was told")
    for each in told:
        if each.sent_ns > first.told_ns:
            wanted = each.said in RECORDED if each.person == first.person else each.said == "taken"
            # Claims of others are double awards, told above.
            if not wanted and each.said not in RECORDED:
                expected = "the same claim" if each.person == first.person else "taken"
                verdict.add("lost_claim", item, f"{expected}, as the claim had been told before", each.said)
        if each.said == "taken" and _reply(each).at != claim[3]:
            verdict.add("wrong_status", item, f"taken at {claim[3]}", f"taken at {_reply(each).at}")
    return first.reply


def _judge_each(item: int, claim_id: str, told: Sequence[Asked], verdict: Verdict, *, may_refuse: bool) -> None:
    for each in told:
        reply = each.reply
        assert reply is not None
        claim = reply.claim
        if reply.status != "valid" or claim is None:
            verdict.add("wrong_status", item, "valid, with a claim", f"{reply.status}, claim {claim and claim.status}")
            continue
        if claim.id != claim_id:
            verdict.add("wrong_claim", item, f"claim {claim_id}", f"claim {claim.id}")
        if each.said in RECORDED:
            prize = claim.prize.id if claim.prize else None
            if (prize is not None) != (each.said == "awarded"):
                verdict.add("wrong_prize", item, "a prize if awarded, else none", f"{each.said}, prize {prize}")
            elif each.prizes is not None and prize not in each.prizes:
                verdict.add("wrong_prize", item, _either(each.prizes), f"prize {prize}")
        elif each.said != "taken" and not (may_refuse and each.said in REFUSED):
            verdict.add("wrong_status", item, "awarded, no_prize or taken", each.said)


def _judge_counts(item: int, asked: Sequence[Asked], told: Sequence[Asked], verdict: Verdict) -> None:
    """Check that the scans that were counted are those that can have been: each visit once."""
    for each in told:
        assert each.reply is not None
        scan = each.reply.scan
        if scan is None:
            continue
        if len(asked) == 1:
            least = most = 1
        else:
            least = len({other.visit for other in told if other.told_ns < each.sent_ns} | {each.visit})
            most = len({other.visit for other in asked if other.sent_ns < each.told_ns and other.said not in NOT_DONE})
        if not least <= scan.count <= most:
            verdict.add("wrong_count", item, f"{least} to {most} scans" if least < most else f"{least} scans",
                        f"{scan.count} scans")  # fmt: skip


def _told_ns(asked: Asked) -> int:
    return asked.told_ns


def _reply(asked: Asked) -> _Claim:
    assert asked.reply is not None
    assert asked.reply.claim is not None
    return asked.reply.claim


def _claim_of(asked: Asked) -> tuple[str, str, str | None, str | None]:
    claim = _reply(asked)
    return claim.id, claim.status, claim.prize.id if claim.prize else None, claim.at


def _in_words(claim: tuple[Any, ...]) -> str:
    return f"claim {claim[0]}, {claim[1]}, prize {claim[2]}, at {claim[3]}"


def _either(prizes: frozenset[str | None]) -> str:
    return "prize " + " or ".join(sorted(map(str, prizes)))
