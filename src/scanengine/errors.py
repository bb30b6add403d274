"""What can be wrong with the caller, a file or the world.

A rejected code is a normal day and therefore a :class:`~scanengine.model.Status`, never an exception.
Each message says what was found, what was expected, and what to change; none holds a secret or a whole code.
"""


class ScanEngineError(Exception):
    """Base of every error that scanengine raises on purpose."""


class WorkspaceError(ScanEngineError):
    """A workspace is missing, incomplete, damaged, or used by someone else."""


class SettingsError(ScanEngineError):
    """``scanengine.toml`` or an argument has a value that cannot be used."""


class KeyringError(ScanEngineError):
    """``keys.toml`` is missing, readable by others, damaged, or lacks what was asked for."""


class TableFormatError(ScanEngineError):
    """A table file or the manifest is not what it says it is."""


class TableClosedError(ScanEngineError):
    """A table was used after its owner closed it."""


class AssignmentError(ScanEngineError):
    """A range, a file of codes or a scene attribute cannot be assigned to a batch."""


class PrintError(ScanEngineError):
    """Codes cannot be printed as asked, or what would be printed does not read back."""


class CampaignError(ScanEngineError):
    """A campaign file is wrong; ``faults`` lists each fault with its place.

    Parameters
    ----------
    source : str
        Where the campaign was read from, for the message.
    faults : list of str
        One line a fault: ``place: what is wrong``.
    """

    def __init__(self, source: str, faults: list[str]) -> None:
        self.source = source
        self.faults = faults
        super().__init__(f"{source}: " + "; ".join(faults))


class ScanError(ScanEngineError, ValueError):
    """A scan's own fields are wrong; a bad code is not among them, it is a status.

    Parameters
    ----------
    field : str
        Name of the field: ``code``, ``user``, ``visit``, ``role``, ``region`` or ``now``.
    """

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(f"{field}: {message}")


class AdjustmentError(ScanEngineError, ValueError):
    """An adjustment names no campaign, prize or amount that can be adjusted."""


class OutboxError(ScanEngineError, ValueError):
    """A reader of events has a name that cannot be, or asks for events that cannot be."""


class UnknownReaderError(OutboxError):
    """No reader of this name is registered."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no reader {name!r} is registered: register it before its first event")


class LedgerUnavailableError(ScanEngineError):
    """The ledger did not answer in time, or cannot write; the outcome of a call may be unknown."""


class OverloadedError(LedgerUnavailableError):
    """More was asked of the ledger than it can answer in time; nothing of the call was done: it may be sent again."""


class LedgerBusyError(LedgerUnavailableError):
    """Another process owns the ledger of this workspace."""


class LedgerFormatError(ScanEngineError):
    """The ledger file is of another program or version, or damaged."""
