"""What may be asked of a load test, and the small grammar in which it is asked."""

from __future__ import annotations

import re
from typing import Final, Literal

from msgspec import Struct, field

from scanengine.errors import SettingsError
from scanengine.load.results import Mix

KINDS: Final = ("new", "repeat", "taken", "forged")
PROVINCES: Final = (
    11, 12, 13, 14, 15, 21, 22, 23, 31, 32, 33, 34, 35, 36, 37, 41, 42, 43, 44, 45, 46, 50, 51, 52, 53, 54, 61, 62, 63,
    64, 65,
)  # fmt: skip
"""First two digits of the adcodes of the provinces of mainland China."""
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)", re.ASCII)
_RATE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(k?)(?:/s)?", re.ASCII)
_SHARE: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)%", re.ASCII)
_BURST: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)x:([^/]+)/([^/]+)", re.ASCII)
_DAY_S: Final = 86_400.0
_RATE_MAX: Final = 10_000_000.0
_WEIGHT_MAX: Final = 1_000_000


class Burst(Struct, frozen=True):
    """Every `every_s` seconds the rate is `factor` times as high, for `length_s` seconds."""

    factor: float
    length_s: float
    every_s: float
    text: str


class Options(Struct, frozen=True):
    """One load test as it is asked for; the defaults are those of the command.

    Parameters
    ----------
    rate : float or None
        Arrivals a second; None for a closed loop.
    requests : int
        How many instead of a duration; 0 for the duration.
    warmup_s : float
        Closed loop before the clock starts; its answers are checked, too.
    timeout_s : float
        How long one request may take, and how long is waited for the last of them.
    regions : dict of str to int
        Six-digit adcode to weight; empty for scans without a region.
    lag_s : float
        A run whose generator was further behind than this, in the worst hundredth of its time, is void.
    """

    rate: float | None = None
    duration_s: float = 10.0
    requests: int = 0
    connections: int = 64
    processes: int = 1
    mix: Mix = Mix(70, 10, 15, 5)
    people: int = 300_000
    spread: Literal["zipf", "uniform"] = "zipf"
    regions: dict[str, int] = field(default_factory=dict)
    ramp_s: float = 0.0
    burst: Burst | None = None
    warmup_s: float = 1.0
    timeout_s: float = 10.0
    lag_s: float = 0.01
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be run; SettingsError naming the option."""
        if not 1 <= self.processes <= self.connections:
            raise SettingsError(
                f"--processes {self.processes}: each needs a connection of its own, there are {self.connections}: "
                "give more --connections"
            )
        if self.rate is None and (self.ramp_s or self.burst is not None):
            raise SettingsError("--ramp and --burst change the rate of an open loop: give its --rate too")
        if self.ramp_s > self.duration_s and not self.requests:
            raise SettingsError(f"--ramp {self.ramp_s:g}s is longer than --duration {self.duration_s:g}s")
        if self.mix.taken and self.people < 2:
            raise SettingsError("--mix taken=…: another person is needed for it: --people 2 or more")


def duration_of(text: str) -> float:
    """Return seconds of ``10s``, ``500ms``, ``2m`` or ``1h``; SettingsError if it is none, or more than a day."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= _DAY_S:
        raise SettingsError(f"{text!r} is not a duration such as 10s, 500ms or 2m, above 0 and at most a day")
    return seconds


def rate_of(text: str) -> float:
    """Return arrivals a second of ``30000/s``, ``30k/s`` or ``30000``; SettingsError if it is none."""
    match = _RATE.fullmatch(text.strip())
    rate = float(match[1]) * (1000 if match[2] else 1) if match else 0.0
    if not 0 < rate <= _RATE_MAX:
        raise SettingsError(f"{text!r} is not a rate such as 20000/s or 20k/s, above 0 and at most 10 million")
    return rate


def share_of(text: str) -> float:
    """Return the fraction of ``70%``; SettingsError if it is none, or not above 0 and at most 100."""
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        raise SettingsError(f"{text!r} is not a share such as 70%, above 0 and at most 100")
    return share


def burst_of(text: str) -> Burst:
    """Return the bursts of ``3x:2s/10s``: three times the rate, for 2 s of every 10 s; SettingsError if it is none."""
    match = _BURST.fullmatch(text.strip())
    if match is None:
        raise SettingsError(f"{text!r} is not bursts such as 3x:2s/10s: three times the rate for 2 s of every 10 s")
    factor, length_s, every_s = float(match[1]), duration_of(match[2]), duration_of(match[3])
    if not 0 < factor <= 100 or length_s >= every_s:
        raise SettingsError(f"{text!r}: bursts are up to 100 times the rate and shorter than what they are part of")
    return Burst(factor, length_s, every_s, text.strip())


def mix_of(text: str) -> Mix:
    """Return the mix of ``new=70,repeat=10,taken=15,forged=5``; what is left out is 0. SettingsError if it is none."""
    weights = _weights(text, "a mix such as new=70,repeat=10,taken=15,forged=5")
    unknown = [name for name in weights if name not in KINDS]
    if unknown:
        raise SettingsError(f"--mix: {unknown[0]!r} is none of {', '.join(KINDS)}")
    if not weights.get("new"):
        raise SettingsError(f"--mix {text!r}: new must be above 0, as the others follow on codes that were claimed")
    return Mix(**{name: weights.get(name, 0) for name in KINDS})


def regions_of(text: str) -> dict[str, int]:
    """Return six-digit adcode to weight of ``31=40,4403=10``; ``china`` is every province alike, ``none`` no region.

    Raises
    ------
    SettingsError
        If it is none of these.
    """
    if text.strip() in ("china", "none"):
        return {f"{province}0000": 1 for province in PROVINCES} if text.strip() == "china" else {}
    weights = _weights(text, "regions such as 31=40,4403=10, china or none")
    for region in weights:
        if not re.fullmatch(r"[1-9]\d(?:\d\d){0,2}", region, re.ASCII):
            raise SettingsError(f"--regions: {region!r} is not an adcode of 2, 4 or 6 digits")
    if not any(weights.values()):
        raise SettingsError(f"--regions {text!r}: at least one weight is above 0")
    return {region.ljust(6, "0"): weight for region, weight in weights.items()}


def _weights(text: str, example: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in text.split(","):
        name, equals, weight = part.strip().partition("=")
        is_number = weight.isascii() and weight.isdecimal() and len(weight) <= len(str(_WEIGHT_MAX))
        if not equals or not is_number or int(weight) > _WEIGHT_MAX or name in found:
            raise SettingsError(f"{text!r} is not {example}: found {part.strip()!r}")
        found[name] = int(weight)
    return found
