"""The audit of a program: the ledger against itself, the tables that decided, published limits, and a witness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from scanengine.errors import LedgerFormatError, SettingsError
from scanengine.keys import Keyring
from scanengine.ledger import audit
from scanengine.model import NO_PRIZE, ClaimReply, ClaimStatus, Party, PrizeReply, terms_for_tests
from scanengine.program.answers import Answerer
from scanengine.program.ledgers import open_reader
from scanengine.program.replaying import Replayer
from scanengine.program.settings import Settings
from scanengine.tables.snapshot import load_snapshot
from scanengine.tables.workspace import Workspace

_RECORDED = (ClaimStatus.AWARDED.value, ClaimStatus.NO_PRIZE.value)


class _WitnessLine(msgspec.Struct):
    """What matters of any reply: of a single scan, of a batch, or of a problem, which tells of no claim."""

    status: str | int | None = None
    claim: ClaimReply | None = None
    problem: dict[str, Any] | None = None
    results: list[_WitnessLine] | None = None


class ProgramAudit(msgspec.Struct, frozen=True):
    """What an audit looked at and found.

    Parameters
    ----------
    claims, scans, events, counters : int
        Rows checked.
    acknowledged : int
        Different recorded claims that the witness was told of.
    lost, changed : list of str
        Ids of acknowledged claims that the ledger lacks, or holds with another prize.
    problems : list of str
        What does not agree inside the ledger, or with the tables that decided.
    replayed : int
        Claims that were decided again from the tables of their generation.
    replayed_events : int
        Those of them whose events were there, which tell all that a decision depends on.
    notes : list of str
        What could not be decided again, and why.
    """

    claims: int
    scans: int
    events: int
    counters: int
    acknowledged: int
    lost: list[str]
    changed: list[str]
    problems: list[str]
    replayed: int
    replayed_events: int
    notes: list[str]

    @property
    def is_clean(self) -> bool:
        """Whether everything agrees."""
        return not (self.lost or self.changed or self.problems)


def decisions_kept(workspace: Workspace, settings: Settings, keyring: Keyring) -> int:
    """Return how many records and events there are to be replayed, about: they may be more in a moment."""
    reader = open_reader(workspace, settings, keyring)
    if reader is None:
        return 0
    with reader:
        marks = reader.marks()
    return 2 * marks.claims - marks.trimmed_claims


def audit_program(
    workspace: Workspace,
    settings: Settings,
    keyring: Keyring,
    witness_path: Path | None = None,
    on_replayed: Callable[[int], None] = lambda count: None,
) -> ProgramAudit:
    """Audit the ledger of a workspace, also while a server uses it.

    Parameters
    ----------
    witness_path : path, optional
        NDJSON of replies as they were received: of ``POST /v1/scans``, of batches, problems among them.
    on_replayed : callable of int, optional
        Told how many more decisions have been replayed; :func:`decisions_kept` says of how many.

    Raises
    ------
    LedgerFormatError
        If the ledger cannot be read.
    SettingsError
        If a line of the witness file is not a reply.
    """
    # The witness first: what was acknowledged before it was read must be in the ledger that is read after it.
    told = read_witness(witness_path) if witness_path is not None else {}
    snapshot = load_snapshot(workspace)
    reader = open_reader(workspace, settings, keyring)
    if reader is None:
        raise LedgerFormatError(
            f"{workspace.ledger_path}: there is no ledger; it is made when the program is first opened"
        )
    with reader:
        answerer = Answerer(workspace, settings)
        replayer = Replayer(workspace, keyring, answerer, on_replayed)
        terms = [table.terms for table in snapshot.prizes.values()]
        terms += [terms_for_tests(each) for each in terms]
        report = audit(reader, {each.id: each for each in terms}, replayer)
        found: dict[str, str | None] = {}
        campaigns = reader.campaigns()
        for _, records in reader.claims() if told else ():
            for item, party, campaign, generation, number in zip(
                *(records[name].tolist() for name in ("item", "party", "campaign", "generation", "prize")), strict=True
            ):
                claim_id = keyring.claim_id(item, Party(party))
                if claim_id in told:
                    prize = None
                    if number != NO_PRIZE:
                        prize = answerer.prize_table(campaigns[campaign], generation, snapshot).prize(number)
                    found[claim_id] = prize.id if prize else None
    return ProgramAudit(
        claims=report.claims,
        scans=report.scans,
        events=report.events,
        counters=report.counters,
        acknowledged=len(told),
        lost=sorted(told.keys() - found.keys()),
        changed=sorted(claim_id for claim_id, prize in found.items() if told[claim_id] != prize),
        problems=[f"deleted batch {label}: {why}" for label, why in sorted(replayer.damaged.items())] + report.problems,
        replayed=replayer.records,
        replayed_events=replayer.events,
        notes=[f"{reason}: {count} not replayed" for reason, count in sorted(replayer.skipped.items())],
    )


def read_witness(path: Path) -> dict[str, str | None]:
    """Return claim id to prize id (None for no prize) of all recorded claims that a file of replies tells of.

    Raises
    ------
    SettingsError
        Naming the first line that is not a reply.
    """
    told: dict[str, str | None] = {}
    decoder = msgspec.json.Decoder(_WitnessLine)
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                reply = decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise SettingsError(f"{path}: line {number} is not a reply of the server: {error}") from error
            for answer in [reply] if reply.results is None else reply.results:
                if answer.status is None and answer.problem is None:
                    raise SettingsError(f"{path}: line {number} is not a reply of the server: it has no status")
                claim = answer.claim
                if claim is not None and claim.status in _RECORDED:
                    told[claim.id] = prize_id(claim.prize)
    return told


def prize_id(prize: PrizeReply | None) -> str | None:
    """Return the id of a prize that was told, or None."""
    return prize.id if prize else None
