"""``scanengine.toml``: what an operator may set, validated."""

from __future__ import annotations

import secrets
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from scanengine.errors import SettingsError
from scanengine.keys import Keyring

TIMEZONE_DEFAULT: Final = "Asia/Shanghai"
BASE_URL_DEFAULT: Final = "https://example.com"


class ProgramSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Identity of the program; `id` is random and never changes, the ledger carries it."""

    id: Annotated[str, Meta(min_length=8, max_length=64)]
    timezone: str = TIMEZONE_DEFAULT
    base_url: Annotated[str, Meta(pattern="^https?://[^/?# ]+[^?# ]*$")] = BASE_URL_DEFAULT


class AuthenticitySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a genuine code looks copied: more than `suspect_after` counted scans."""

    suspect_after: Annotated[int, Meta(ge=1)] = 10


class LedgerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the ledger is, and what is asked of it.

    Parameters
    ----------
    url : str or None
        Of a Redis or Valkey; None for the SQLite file of the workspace.
    durability : str
        The least that a Redis must promise before it is given a claim.
    outbox : str or None
        What a Redis does with events while no reader is registered; must be chosen before it is used without one.
    timeout_s : float
        How long a caller waits for the ledger, seconds.
    scan_events : bool
        Whether scans without a claim are events too.
    """

    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0
    scan_events: bool = False
    url: Annotated[str, Meta(pattern="^(redis|rediss|unix)://.")] | None = None
    durability: Literal["strict", "everysec", "volatile", "unverified"] = "everysec"
    outbox: Literal["keep", "drop"] | None = None

    def __repr__(self) -> str:
        """Show no URL, as it may hold a password."""
        return f"<LedgerSettings {'redis' if self.url else 'sqlite'} durability={self.durability}>"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of ``scanengine.toml``."""

    program: ProgramSettings
    authenticity: AuthenticitySettings = AuthenticitySettings()
    ledger: LedgerSettings = LedgerSettings()

    @property
    def zone(self) -> ZoneInfo:
        """Time zone of all times that replies show."""
        return ZoneInfo(self.program.timezone)


def override_ledger(settings: Settings, *, url: str | None = None, durability: str | None = None) -> Settings:
    """Return the settings with another ledger, as a command line names it.

    Raises
    ------
    SettingsError
        If the URL or the durability is none that a ledger can have.
    """
    changes = {name: value for name, value in (("url", url), ("durability", durability)) if value is not None}
    try:
        ledger = msgspec.convert(msgspec.to_builtins(settings.ledger) | changes, LedgerSettings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"the ledger's {' and '.join(changes)} cannot be used: {error}") from error
    return msgspec.structs.replace(settings, ledger=ledger)


def ledger_identity(settings: Settings, keyring: Keyring) -> str:
    """Return whose a ledger is: the program's id, and which program secret its claim ids and hashes are made with."""
    return f"{settings.program.id}/{keyring.program_key_id}"


def load_settings(path: Path) -> Settings:
    """Read ``scanengine.toml``.

    Raises
    ------
    SettingsError
        If the file cannot be read, is not TOML, or has a wrong or unknown entry.
    """
    try:
        settings = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Settings)
        ZoneInfo(settings.program.timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        # TOML, text and msgspec's validation errors are all ValueErrors.
        raise SettingsError(f"{path}: {error}") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    return settings


def new_settings_file() -> str:
    """Return the text of a fresh ``scanengine.toml``."""
    return f"""\
# Settings of this program. What is commented out shows its default.

[program]
id = "{secrets.token_hex(8)}"      # random; the ledger carries it, so never change it
timezone = "{TIMEZONE_DEFAULT}"     # of all times in replies
base_url = "{BASE_URL_DEFAULT}"     # printed codes begin with it

[authenticity]
# suspect_after = 10                # more counted scans than this, and a genuine code looks copied

[ledger]
# timeout_s = 5.0                   # after this an unanswered claim is "pending"
# scan_events = false               # write an event for scans that claim nothing, too
# url = "redis://127.0.0.1:6379/0"  # a Redis or Valkey that many servers share, instead of ledger.sqlite
# durability = "everysec"           # the least it must promise: "strict", "everysec", "volatile" or "unverified"
outbox = "keep"                     # what it does with events while no reader is registered: "keep" or "drop"
"""
