"""What the ledger holds against what was answered: the numbers first, then the audit with every reply as a witness."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from scanengine.load.answers import Answers
from scanengine.load.results import AuditSummary
from scanengine.load.target import Target
from scanengine.model import TEST_SUFFIX
from scanengine.program.auditing import audit_program
from scanengine.program.ledgers import read_ledger

_FOUND_MAX: Final = 20


def count_and_audit(target: Target, answers: Answers, witness: Path) -> AuditSummary:
    """Compare the ledger of an own target with all answers, and audit it.

    Parameters
    ----------
    witness : Path
        All replies, one a line.

    Raises
    ------
    LedgerFormatError, LedgerUnavailableError
        If the ledger cannot be read.
    """
    found = differences(target, answers)
    report = audit_program(target.workspace, target.settings, target.keyring, witness)
    found += report.problems
    found += [f"claim {claim_id} is lost" for claim_id in report.lost[:_FOUND_MAX]]
    found += [f"claim {claim_id} has another prize than was told" for claim_id in report.changed[:_FOUND_MAX]]
    return AuditSummary(
        claims=report.claims,
        scans=report.scans,
        events=report.events,
        acknowledged=report.acknowledged,
        lost=len(report.lost),
        changed=len(report.changed),
        problems=len(found) - min(len(report.lost), _FOUND_MAX) - min(len(report.changed), _FOUND_MAX),
        found=found[:_FOUND_MAX],
    )


def differences(target: Target, answers: Answers) -> list[str]:
    """Return where the ledger's totals are not those of the answers, and what was given beyond its limit."""
    with read_ledger(target.workspace, target.settings, target.keyring) as reader:
        totals, marks = reader.totals(), reader.marks()
    found = []
    if not answers.claims <= totals.claims <= answers.claims + answers.unsure:
        found.append(f"the ledger has {totals.claims:,} claims, {answers.claims:,} were told of")
    # A visit that made the claim is a mark in the claim's record; every other counted one is a row of scans.
    visits = totals.claims + marks.scans
    if not answers.visits <= visits <= answers.visits + answers.unsure_visits:
        found.append(f"the ledger has counted {visits:,} visits, {answers.visits:,} were answered")
    awards: Counter[str] = Counter()
    for held in totals.campaigns:
        table = target.snapshot.prizes[held.id.removesuffix(TEST_SUFFIX)]
        for number, count in held.awards.items():
            entry = table.prize(number)
            awards[entry.id if entry else str(number)] += count
    for prize in sorted(awards | answers.awards):
        if not 0 <= awards[prize] - answers.awards[prize] <= answers.unsure:
            found.append(f"the ledger has given {awards[prize]:,} {prize}, {answers.awards[prize]:,} were told of")
    found += overspent(target, answers)
    return found


def overspent(target: Target, answers: Answers) -> list[str]:
    """Return the prizes and budgets of which more was told than there is, and note them as wrong answers.

    Only for campaigns that nobody has claimed from before.
    """
    found = []
    for table in target.snapshot.prizes.values():
        money = 0
        for entry in table.metadata.prizes:
            given = answers.awards[entry.id]
            money += given * entry.money
            if entry.stock is not None and given > entry.stock:
                found.append(f"{given:,} {entry.id} were told of, there are {entry.stock:,}")
        total = table.metadata.budget.total
        if total is not None and money > total:
            found.append(f"{money:,} of money was told of, the budget is {total:,}")
    for text in found:
        answers.verdict.add("overspent", -1, "no more than there is", text)
    return found
