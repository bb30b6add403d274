"""Claims through the control socket of the server that owns the ledger."""

from __future__ import annotations

import http.client
import socket

import msgspec

from scanengine.errors import LedgerUnavailableError
from scanengine.model import Answer
from scanengine.program.scans import Scan
from scanengine.tables.workspace import Workspace

_TIMEOUT_S = 30.0


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


def claim_through_server(workspace: Workspace, scan: Scan) -> Answer:
    """Let the running server make a claim.

    Raises
    ------
    LedgerUnavailableError
        If it does not answer; ask again with the same visit, as the outcome is unknown.
    """
    body = msgspec.structs.asdict(scan) | {"role": scan.role.name.lower(), "region": scan.region or None}
    connection = _SocketConnection(workspace)
    try:
        connection.request("POST", "/v1/scans", msgspec.json.encode(body), {"Content-Type": "application/json"})
        return msgspec.json.decode(connection.getresponse().read(), type=Answer)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        raise LedgerUnavailableError(
            f"the ledger is owned by another process, which does not answer on {workspace.control_path}: {error}; "
            f"ask again with --visit {scan.visit}"
        ) from error
    finally:
        connection.close()
