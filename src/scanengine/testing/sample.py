"""The sample program: a batch of codes, a campaign, a ledger in memory, and codes by what becomes of them."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np

from scanengine._core import CodeKeys
from scanengine.campaigns import parse_campaign
from scanengine.keys import load_keyring
from scanengine.ledger import PENDING, MemoryLedger
from scanengine.model import (
    SERIALS_PER_SLOT,
    ClaimRequest,
    Event,
    Product,
    Receipt,
    Role,
    Scene,
    SegmentState,
    Status,
)
from scanengine.program import Program
from scanengine.program.publishing import SceneChange, assign_scenes, create_batch, publish_campaign
from scanengine.program.settings import BASE_URL_DEFAULT, TIMEZONE_DEFAULT, load_settings
from scanengine.tables.snapshot import load_snapshot
from scanengine.tables.workspace import Workspace
from scanengine.testing.campaign import ODDS, PRIZES, campaign_text
from scanengine.testing.clock import Clock, Moment

BATCH: Final = "sample"
CODES: Final = 1_000
NOON: Final = "2026-05-01T12:00:00+08:00"
PRODUCT: Final = Product("6901234567892", "可乐 500 ml", "Cola 500 ml")
_OTHER_GTIN: Final = "6901234500004"
_SLOT: Final = 1
_READER: Final = "scanengine.testing"
_STATES: Final = {state.name.lower(): state for state in SegmentState if state != SegmentState.ACTIVE}
_MEMORY_FOLDER: Final = Path("/dev/shm")
"""Files in memory: syncing them takes no time. Elsewhere the usual folder for temporary files serves as well."""


class SampleLedger(MemoryLedger):
    """A ledger in memory that leaves callers without an answer when told to."""

    def __init__(self) -> None:
        super().__init__()
        self._pending = 0
        self._is_recorded = True
        # From the first claim on, so that every event can be looked at.
        self.register_reader(_READER)

    def leave_pending(self, count: int, *, is_recorded: bool) -> None:
        """Answer the next claims with ``pending``."""
        with self._lock:
            self._pending, self._is_recorded = count, is_recorded

    def claim(self, request: ClaimRequest) -> Receipt:
        """Claim, and keep the answer back if told to."""
        with self._lock:
            if not self._pending:
                return super().claim(request)
            self._pending -= 1
            if self._is_recorded:
                super().claim(request)
            return PENDING


class SampleProgram(Program):
    """A :class:`~scanengine.Program` in memory; made by :func:`sample_program`.

    Attributes
    ----------
    clock : Clock
        Stands still until ``set`` or ``advance``.
    """

    clock: Clock

    def __init__(self, workspace: Workspace, clock: Clock) -> None:
        self._sample_ledger = SampleLedger()
        keyring = load_keyring(workspace.keys_path)
        settings = load_settings(workspace.settings_path)
        super().__init__(workspace, settings, keyring, load_snapshot(workspace), self._sample_ledger, clock=clock)
        self._given: set[int] = set()
        self._others = count(1)
        self._remove = weakref.finalize(self, _remove_folder, workspace.folder, os.getpid())

    def close(self) -> None:
        """Close as every program, and leave no file behind."""
        super().close()
        self._remove()

    @property
    def events(self) -> list[Event]:
        """All events written so far, in order."""
        return self._sample_ledger.events(_READER, 0, self._sample_ledger.totals().events)

    def pending(self, count: int = 1, *, recorded: bool = True) -> None:
        """Leave the next claims without an answer; asked again with the same visit they have one.

        Parameters
        ----------
        count : int
            How many claims; it replaces what was said before, so 0 ends it.
        recorded : bool
            Whether the claims are made and only their answers lost, so that the next answer is ``replayed``; else they
            never reach the ledger.
        """
        if count < 0:
            raise ValueError(f"count is 0 or more claims, found {count}")
        self._sample_ledger.leave_pending(count, is_recorded=recorded)

    def code(
        self,
        *,
        prize: str | None = None,
        status: str = "valid",
        role: str | Role = Role.CONSUMER,
        region: str | int | None = None,
    ) -> str:
        """Return a code that was not returned before.

        Parameters
        ----------
        prize : str, optional
            Id of the prize that the code draws for this role and region at the clock's time, ``none`` for a code that
            wins nothing; any code if not given. Limits, stock and budget may let it take another than it draws.
        status : str
            ``valid``, or what the code shall be: ``malformed``, ``mistyped``, ``unknown_key``, ``forged``,
            ``unknown``, ``wrong_product``, ``inactive``, ``frozen``, ``void``, ``recalled``, ``expired``, or
            ``product_only``, which is always the same text.

        Raises
        ------
        ValueError
            If there is no such prize or status, or no such code is left.
        """
        if status == "valid":
            return self._text(self._draw(prize, role, region))
        if prize is not None:
            raise ValueError(f"a code that is {status} draws nothing: ask for a prize or for a status, not for both")
        if status in _STATES or status == "expired":
            return self._stopped(status)
        if status == "wrong_product":
            return f"{BASE_URL_DEFAULT}/01/{_OTHER_GTIN}/21/{self.code()}"
        return self._not_ours(status)

    def set_state(self, code: str, state: str) -> None:
        """Publish another state of one code: ``active``, ``inactive``, ``frozen``, ``void`` or ``recalled``.

        Raises
        ------
        ValueError
            If there is no such state, or the code is not one of the sample batch.
        """
        names = [member.name.lower() for member in SegmentState]
        if state not in names:
            raise ValueError(f"state is one of {', '.join(names)}, found {state!r}")
        offset = self.decide(code).item - self._codes.item_start
        if not 0 <= offset < self._codes.count:
            raise ValueError("the code is not one of the sample batch")
        self._assign(offset, SceneChange(state=SegmentState[state.upper()]))

    @property
    def _codes(self) -> Any:
        batch = self.snapshot.batch(BATCH)
        assert batch is not None
        return batch.codes

    def _text(self, offset: int) -> str:
        return self.keyring.code_keys.encode(self._codes.slot, self._codes.serial_start + offset)

    def _draw(self, prize: str | None, role: str | Role, region: str | int | None) -> int:
        codes = self._codes
        letters = self.keyring.code_keys.encode_many(codes.slot, codes.serial_start, codes.count)
        decisions = self.decide_many(letters, role=role, region=region)
        fits = decisions.status == Status.VALID
        if prize is not None:
            drawn = np.full(len(decisions), -2, np.int16)
            drawn[np.diff(decisions.offer_start) > 0] = decisions.prize
            fits &= drawn == self._number_of(prize)
        for offset in np.flatnonzero(fits).tolist():
            if offset not in self._given:
                self._given.add(offset)
                return int(offset)
        what = f"that draws {prize!r}" if prize else "that is valid"
        raise ValueError(f"no code {what} is left of {codes.count}: make the program with more codes, or other odds")

    def _number_of(self, prize: str) -> int:
        if prize == "none":
            return -1
        numbers = {entry.id: entry.number for table in self.snapshot.prizes.values() for entry in table.metadata.prizes}
        if prize not in numbers:
            raise ValueError(f"prize is one of {', '.join(numbers)} or none, found {prize!r}")
        return numbers[prize]

    def _stopped(self, status: str) -> str:
        offset = self._draw(None, Role.CONSUMER, None)
        change = (
            SceneChange(active_until_ms=self.clock()) if status == "expired" else SceneChange(state=_STATES[status])
        )
        self._assign(offset, change)
        return self._text(offset)

    def _assign(self, offset: int, change: SceneChange) -> None:
        assign_scenes(self.workspace, BATCH, np.array([[offset, offset + 1]], np.uint64), change)
        self.refresh()

    def _not_ours(self, status: str) -> str:
        number = next(self._others)
        serial = SERIALS_PER_SLOT - number
        stranger = CodeKeys([(slot, bytes(16), bytes(16)) for slot in (_SLOT, _SLOT + 1)])
        genuine = self.keyring.code_keys.encode(_SLOT, serial)
        made = {
            "malformed": f"no-code-{number}",
            "mistyped": genuine[:-1] + ("0" if genuine[-1] != "0" else "1"),
            "unknown_key": stranger.encode(_SLOT + 1, serial),
            "forged": stranger.encode(_SLOT, serial),
            "unknown": genuine,
            "product_only": PRODUCT.gtin,
        }
        if status not in made:
            known = ", ".join(["valid", "expired", "wrong_product", *made, *_STATES])
            raise ValueError(f"status is one of {known}, found {status!r}")
        return made[status]


def sample_program(
    *,
    odds: Mapping[str, int] = ODDS,
    prizes: Sequence[Mapping[str, Any]] = PRIZES,
    limits: Mapping[str, int] | None = None,
    budget: Mapping[str, Any] | None = None,
    campaign: str | None = None,
    codes: int = CODES,
    now: Moment = NOON,
    tokens: Mapping[str, str] | None = None,
    settings: str = "",
) -> SampleProgram:
    """Make a program with one batch of active codes and one campaign, all in memory.

    Parameters
    ----------
    odds : dict of prize id to weight
        With ``none`` for no prize.
    prizes : sequence of dict
        With the keys of ``[[prizes]]`` in a campaign file.
    limits, budget : dict, optional
        With the keys of ``[limits]`` and ``[budget]``.
    campaign : str, optional
        Text of a whole campaign file instead.
    codes : int
        How many codes the batch has.
    now : datetime, int or str
        What the clock shows first.
    tokens : dict of name to bearer token, optional
        Of the back ends that may call :meth:`~scanengine.Program.web_app`.
    settings : str
        More of ``scanengine.toml``.

    Raises
    ------
    CampaignError
        If odds, prizes, limits or budget are not what a campaign can have.
    SettingsError
        If the settings are not.

    Notes
    -----
    Some 10 ms. A claim costs as much as all claims before it: good for hundreds, not for millions. Files are kept in
    memory where the system has a place for that, and removed when the program is closed or no longer used.
    """
    clock = Clock(now)
    text = campaign or campaign_text(clock(), odds, prizes, limits or {}, budget or {})
    campaign_id = parse_campaign(text, "the sample campaign").id
    parent = _MEMORY_FOLDER if os.access(_MEMORY_FOLDER, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="scanengine-testing-", dir=parent))
    try:
        workspace = _make_workspace(folder, tokens or {}, settings)
        keyring = load_keyring(workspace.keys_path)
        create_batch(workspace, keyring, BATCH, codes, product=PRODUCT)
        path = workspace.campaigns_folder / f"{campaign_id}.toml"
        path.write_text(text, "utf-8")
        publish_campaign(workspace, keyring, path)
        scenes = Scene.AUTHENTICITY | Scene.MARKETING
        change = SceneChange(state=SegmentState.ACTIVE, scenes=scenes, campaign=campaign_id)
        assign_scenes(workspace, BATCH, np.array([[0, codes]], np.uint64), change)
        return SampleProgram(workspace, clock)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _make_workspace(folder: Path, tokens: Mapping[str, str], settings: str) -> Workspace:
    Workspace.create_folders(folder)
    places = [
        f'[program]\nid = "sample-program"\ntimezone = "{TIMEZONE_DEFAULT}"\nbase_url = "{BASE_URL_DEFAULT}"',
        settings,
    ]
    (folder / "scanengine.toml").write_text("\n".join(places), "utf-8")
    slot, draw, program = (bytes(range(start, start + 32)).hex() for start in (1, 2, 3))
    entries = [f'[[slots]]\nslot = {_SLOT}\nsecret = "{slot}"\nstate = "active"']
    entries += [f'[draw]\nsecret = "{draw}"', f'[program]\nsecret = "{program}"']
    entries += [f'[[tokens]]\nname = "{name}"\ntoken = "{token}"' for name, token in tokens.items()]
    workspace = Workspace(folder)
    workspace.keys_path.touch(0o600)
    workspace.keys_path.write_text("\n".join(entries), "utf-8")
    return workspace


def _remove_folder(folder: Path, pid: int) -> None:
    # A forked process that ends must not take the files of its parent.
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)
