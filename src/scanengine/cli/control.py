"""Writing to a ledger that a running server owns: through its control socket."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import msgspec

from scanengine.errors import LedgerBusyError, LedgerUnavailableError, OverloadedError, ScanEngineError
from scanengine.keys import Keyring
from scanengine.ledger import Ledger
from scanengine.ledger.checks import check_reader_name
from scanengine.model import Adjustment, Answer
from scanengine.program.ledgers import open_ledger
from scanengine.program.scans import Scan
from scanengine.program.settings import Settings
from scanengine.tables.workspace import Workspace

_TIMEOUT_S: Final = 30.0


class LedgerWriter(Protocol):
    """What commands write to a ledger; a :class:`scanengine.ledger.Ledger` does all of it."""

    def adjust(self, adjustment: Adjustment) -> bool:
        """Apply an adjustment; False if its id was applied before."""

    def register_reader(self, name: str) -> None:
        """Make sure that no event is trimmed before this reader has acknowledged it."""

    def remove_reader(self, name: str) -> None:
        """Keep no event for this reader any longer."""

    def ack(self, reader: str, up_to: int) -> None:
        """Acknowledge all events up to one."""


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over the control socket of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._workspace = workspace

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        with self._workspace.control_address() as address:
            self.sock.connect(address)


class ServedLedger:
    """The ledger of a workspace behind the server that owns it; a :class:`LedgerWriter`.

    Notes
    -----
    Every method raises ``LedgerUnavailableError`` if the server does not answer, and ``ScanEngineError`` with the
    server's own words if it refuses.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def adjust(self, adjustment: Adjustment) -> bool:
        """Apply an adjustment; False if its id was applied before."""
        body: dict[str, Any] = {"id": adjustment.id, "campaign": adjustment.campaign, "action": adjustment.action}
        if adjustment.action == "stock":
            body["prize"] = adjustment.prize
        if adjustment.action in ("stock", "budget"):
            body["amount"] = adjustment.amount
        return bool(self._ask("POST", "/v1/ledger/adjust", body)["applied"])

    def register_reader(self, name: str) -> None:
        """Make sure that no event is trimmed before this reader has acknowledged it."""
        check_reader_name(name)
        self._ask("PUT", f"/v1/events/readers/{name}")

    def remove_reader(self, name: str) -> None:
        """Keep no event for this reader any longer."""
        check_reader_name(name)
        self._ask("DELETE", f"/v1/events/readers/{name}")

    def ack(self, reader: str, up_to: int) -> None:
        """Acknowledge all events up to one."""
        self._ask("POST", "/v1/events/ack", {"reader": reader, "up_to": up_to})

    def claim(self, scan: Scan) -> Answer:
        """Make a claim.

        Raises
        ------
        OverloadedError
            If more is asked of the server than it can answer in time; nothing was done.
        LedgerUnavailableError
            If the server does not answer; ask again with the same visit, as the outcome is unknown.
        """
        body = msgspec.structs.asdict(scan) | {"role": scan.role.name.lower(), "region": scan.region or None}
        try:
            status, data = self._exchange("POST", "/v1/scans", body)
            if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
                said = msgspec.json.decode(data, type=dict[str, Any])
                if str(said.get("type", "")).endswith(":overloaded"):
                    raise OverloadedError(f"the server that owns the ledger is overloaded: {said.get('detail')}")
            # Also one that is pending is an answer, whatever its HTTP status.
            return msgspec.json.decode(data, type=Answer)
        except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
            raise self._silent(error, f"ask again with --visit {scan.visit}") from error

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            status, data = self._exchange(method, path, body)
            reply = msgspec.json.decode(data, type=dict[str, Any])
        except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
            raise self._silent(error, "ask again: what was done is not done twice") from error
        if status == http.HTTPStatus.OK:
            return reply
        said = reply.get("detail", f"HTTP status {status}")
        if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            raise LedgerUnavailableError(f"the server that owns the ledger could not write to it: {said}")
        raise ScanEngineError(f"the server that owns the ledger refuses: {said}")

    def _exchange(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        connection = _SocketConnection(self._workspace)
        try:
            data = None if body is None else msgspec.json.encode(body)
            connection.request(method, path, data, {} if data is None else {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _silent(self, error: Exception, advice: str) -> LedgerUnavailableError:
        return LedgerUnavailableError(
            f"the ledger is owned by another process, which does not answer on {self._workspace.control_path}: "
            f"{error}; {advice}"
        )


@contextmanager
def ledger_to_write(workspace: Workspace, settings: Settings, keyring: Keyring) -> Iterator[LedgerWriter]:
    """Yield the ledger of a workspace: itself, or behind the server that owns it.

    Raises
    ------
    LedgerFormatError, LedgerUnavailableError, SettingsError
        If it cannot be opened.
    """
    ledger: Ledger | None
    try:
        ledger = open_ledger(workspace, settings, keyring)
    except LedgerBusyError:
        ledger = None
    if ledger is None:
        yield ServedLedger(workspace)
        return
    try:
        yield ledger
    finally:
        ledger.close()
