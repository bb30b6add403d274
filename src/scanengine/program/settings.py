"""``scanengine.toml``: what an operator may set, validated."""

from __future__ import annotations

import secrets
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from scanengine.errors import SettingsError
from scanengine.keys import Keyring

TIMEZONE_DEFAULT: Final = "Asia/Shanghai"
BASE_URL_DEFAULT: Final = "https://example.com"
OWN_FOLDERS: Final = frozenset(("codes", "scenes", "campaigns", "prizes", "imports"))


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


class PageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a consumer's browser is given.

    Parameters
    ----------
    guests : bool
        Whether a browser outside WeChat may claim, its owner known by a cookie alone: for trying out, as a person can
        be any number of guests.
    session_s, visit_s : int
        How long a login holds, and how long after a page or claim what follows is the same visit, seconds.
    """

    guests: bool = False
    session_s: Annotated[int, Meta(ge=60, le=30 * 86_400)] = 7_200
    visit_s: Annotated[int, Meta(ge=60, le=86_400)] = 1_800


class WechatSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The official account whose visitors log in; its secret is in ``keys.toml``.

    Parameters
    ----------
    app_id : str or None
        None for no login.
    timeout_s : float
        What one call of WeChat may take, seconds.
    concurrency : int
        Most calls of WeChat on their way at a time.
    api_url, authorize_url : str
        Where WeChat answers; others for tests and for a relay inside the own network.
    """

    app_id: Annotated[str, Meta(pattern="^wx[0-9a-zA-Z]{8,30}$")] | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0
    concurrency: Annotated[int, Meta(ge=1, le=1_000)] = 64
    api_url: Annotated[str, Meta(pattern="^https?://[^/?# ]+[^?# ]*$")] = "https://api.weixin.qq.com"
    authorize_url: Annotated[str, Meta(pattern="^https?://[^/?# ]+[^?# ]*$")] = (
        "https://open.weixin.qq.com/connect/oauth2/authorize"
    )


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the server meets the network.

    Parameters
    ----------
    trusted_proxies : tuple of str
        Networks whose ``X-Forwarded-For`` is believed, as ``10.0.0.0/8``.
    bad_codes_per_minute : int
        Bad codes that one source may show before it has to wait; 0 for no limit.
    root_files : str
        Folder in the workspace whose files are served at the root, for proofs of ownership such as ``MP_verify_*.txt``.
    log : str
        ``text`` for people, ``json`` for programs.
    hot_path : bool
        Whether the commonest requests are read and answered natively; all others go through aiohttp either way.
    """

    trusted_proxies: tuple[str, ...] = ()
    bad_codes_per_minute: Annotated[int, Meta(ge=0)] = 60
    root_files: Annotated[str, Meta(pattern="^[A-Za-z0-9_-][A-Za-z0-9._-]*$")] = "root"
    log: Literal["text", "json"] = "text"
    hot_path: bool = True

    def __post_init__(self) -> None:
        for network in self.trusted_proxies:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(
                    f"trusted_proxies: expected networks such as 10.0.0.0/8 or fd00::/8, found {network!r}: {error}"
                ) from None
        if self.root_files in OWN_FOLDERS:
            raise ValueError(f"root_files: {self.root_files!r} is a folder of the workspace's own, not to be served")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of ``scanengine.toml``."""

    program: ProgramSettings
    authenticity: AuthenticitySettings = AuthenticitySettings()
    ledger: LedgerSettings = LedgerSettings()
    page: PageSettings = PageSettings()
    wechat: WechatSettings = WechatSettings()
    server: ServerSettings = ServerSettings()

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

[page]
# guests = false                    # may browsers outside WeChat claim? For trying out only
# session_s = 7200                  # how long a login holds
# visit_s = 1800                    # how long after a page its reloads are the same visit

[wechat]
# app_id = "wx0123456789abcdef"     # the official account; its secret goes into keys.toml
# timeout_s = 5.0                   # what one call of WeChat may take
# concurrency = 64                  # calls of WeChat on their way at a time

[server]
# trusted_proxies = ["10.0.0.0/8"]  # whose X-Forwarded-For is believed
# bad_codes_per_minute = 60         # of one source; 0 for no limit
# root_files = "root"               # folder whose files are served at the root, such as MP_verify_*.txt
# log = "text"                      # or "json"
# hot_path = true                   # false: every request goes through aiohttp

[ledger]
# timeout_s = 5.0                   # after this an unanswered claim is "pending"
# scan_events = false               # write an event for scans that claim nothing, too
# url = "redis://127.0.0.1:6379/0"  # a Redis or Valkey that many servers share, instead of ledger.sqlite
# durability = "everysec"           # the least it must promise: "strict", "everysec", "volatile" or "unverified"
outbox = "keep"                     # what it does with events while no reader is registered: "keep" or "drop"
"""
