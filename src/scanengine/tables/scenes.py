"""The scene table: what the codes of one batch may be used for, set when they are assigned, shipped and activated.

The segments of a batch tile it: segment i covers offsets [starts[i], starts[i + 1]), the last one ends with the batch.
An exception for a single code is a segment of length one, so that there is one look-up for all. Many segments say the
same, so what they say is written once, as a profile.

    metadata    batch, count, generation, profiles (the list of what segments can say)
    section 2   starts, u8 each, strictly increasing from 0
    section 3   profiles, u4 each, index into the list
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from scanengine._core import SegmentMap
from scanengine.errors import AssignmentError, TableFormatError
from scanengine.model import Scene, SegmentState
from scanengine.tables.container import KIND_SCENE, Container, open_container, write_container

_SECTION_STARTS: Final = 2
_SECTION_PROFILES: Final = 3
_KNOWN_SECTIONS: Final = frozenset((_SECTION_STARTS, _SECTION_PROFILES))
ALWAYS_MS: Final = (-(2**62), 2**62)
"""The window of a segment that is active without limits."""
_ALL_SCENES: Final = sum(Scene)
LINK_CHARS_MAX: Final = 2_048
"""Longer addresses do not pass every browser and proxy."""
_CODE: Final = "{code}"


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a segment says of its codes.

    Parameters
    ----------
    product : str or None
        GTIN; the product's line is in ``products.toml``.
    link : str or None
        Landing link, ``{code}`` to be filled in.
    active_from_ms, active_until_ms : int
        Half-open window in which an active segment is valid; before it ``inactive``, after it ``expired``.
    """

    state: SegmentState = SegmentState.INACTIVE
    scenes: Scene = Scene(0)
    product: str | None = None
    lot: str | None = None
    market: str | None = None
    link: str | None = None
    campaign: str | None = None
    active_from_ms: int = ALWAYS_MS[0]
    active_until_ms: int = ALWAYS_MS[1]


class _Metadata(msgspec.Struct, frozen=True):
    batch: str
    count: int
    generation: int
    profiles: list[Profile]


class Segments:
    """The segments of one batch in memory, to be changed and written.

    Parameters
    ----------
    starts : uint64, shape (k,)
        First offset of each segment.
    indices : uint32, shape (k,)
        Index of each segment's profile in `profiles`.
    """

    def __init__(
        self, count: int, starts: NDArray[np.uint64], indices: NDArray[np.uint32], profiles: list[Profile]
    ) -> None:
        self.count = count
        self.starts = starts
        self.indices = indices
        self.profiles = profiles

    @classmethod
    def blank(cls, count: int, profile: Profile) -> Segments:
        """Return one segment over the whole batch."""
        return cls(count, np.zeros(1, np.uint64), np.zeros(1, np.uint32), [profile])

    def assign(self, ranges: NDArray[np.uint64], change: Callable[[Profile], Profile]) -> Segments:
        """Return the segments after `change` was made to every profile inside `ranges`.

        Parameters
        ----------
        ranges : uint64, shape (r, 2)
            Half-open ranges of offsets, in any order; they may touch and overlap.

        Raises
        ------
        AssignmentError
            If a range is empty or leaves the batch; nothing is changed.

        Notes
        -----
        O((k + r) log (k + r)); profiles that say the same become one.
        """
        ranges = merge_ranges(ranges, self.count)
        bounds = np.union1d(self.starts, ranges)
        bounds = bounds[bounds < self.count]
        old = self.indices[np.searchsorted(self.starts, bounds, side="right") - 1]
        place = np.searchsorted(ranges[:, 0], bounds, side="right").astype(np.int64) - 1
        is_inside = (place >= 0) & (bounds < ranges[np.maximum(place, 0), 1])

        profiles: dict[Profile, int] = {}
        kept, changed = (np.zeros(len(self.profiles), np.uint32) for _ in range(2))
        for index in np.unique(old):
            profile = self.profiles[index]
            kept[index] = profiles.setdefault(profile, len(profiles))
            changed[index] = profiles.setdefault(change(profile), len(profiles))
        indices = np.where(is_inside, changed[old], kept[old])
        is_start = np.append(True, indices[1:] != indices[:-1])
        return Segments(self.count, bounds[is_start], indices[is_start], list(profiles))._without_unused()

    def _without_unused(self) -> Segments:
        used, indices = np.unique(self.indices, return_inverse=True)
        return Segments(self.count, self.starts, indices.astype(np.uint32), [self.profiles[index] for index in used])

    def write(self, path: Path, batch: str, generation: int) -> None:
        """Write the segments as a scene table.

        Raises
        ------
        AssignmentError
            If a profile says what a table cannot hold; nothing is written.
        FileExistsError
            If `path` exists.
        """
        try:
            for profile in self.profiles:
                _check_profile(profile)
        except ValueError as error:
            raise AssignmentError(str(error)) from error
        metadata = msgspec.to_builtins(_Metadata(batch, self.count, generation, self.profiles))
        sections: dict[int, NDArray[Any]] = {
            _SECTION_STARTS: self.starts.astype("<u8"),
            _SECTION_PROFILES: self.indices.astype("<u4"),
        }
        write_container(path, KIND_SCENE, metadata, sections)


def link_fault(link: str) -> str | None:
    """Return what is wrong with a landing link, or None.

    A browser is sent there at once, so it must be a whole address on the web that cannot be read as anything else.
    """
    shown = f"{link[:80]!r}" + ("…" if len(link) > 80 else "")
    expected = f"link {shown}: expected http:// or https:// with a host"
    if len(link) > LINK_CHARS_MAX:
        return f"link {shown}: expected at most {LINK_CHARS_MAX:,} characters, found {len(link):,}"
    # What does not print holds control characters and all spaces but one; browsers read a backslash as a slash.
    wrong = next((sign for sign in link if sign in " \\" or not sign.isprintable()), None)
    if wrong is not None:
        return f"{expected}, without spaces, control characters and backslashes, found {wrong!r}"
    try:
        parts = urlsplit(link)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"{expected}, found {error}"
    if parts.scheme not in ("http", "https"):
        return f"{expected}, found " + (f"{parts.scheme + ':'!r}" if parts.scheme else "no scheme")
    if not (host or "").strip("."):
        return f"{expected}, found no host"
    if "@" in parts.netloc:
        return f"{expected}, found a user name before it"
    if set("{}") & set(link.replace(_CODE, "")) or _CODE in parts.netloc:
        return f"link {shown}: expected no other braces than {_CODE}, and none in the host"
    return None


def merge_ranges(ranges: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """Return ranges of offsets of a batch of `count` codes sorted and disjoint.

    Raises
    ------
    AssignmentError
        If there is none, or one is empty or leaves the batch.
    """
    if len(ranges) == 0:
        raise AssignmentError("no code was named: give a range or a file of codes")
    is_wrong = (ranges[:, 0] >= ranges[:, 1]) | (ranges[:, 1] > np.uint64(count))
    if is_wrong.any():
        start, end = ranges[int(is_wrong.argmax())]
        raise AssignmentError(f"range {start}:{end} is empty or outside the batch, which has offsets 0:{count}")
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    ends = np.maximum.accumulate(ranges[:, 1])
    is_first = np.append(True, ranges[1:, 0] > ends[:-1])
    is_last = np.append(is_first[1:], True)
    return np.column_stack((ranges[is_first, 0], ends[is_last]))


class SceneTable:
    """One generation of one batch's scenes, mapped read-only and checked once.

    Raises
    ------
    TableFormatError
        If the file is not a sound scene table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container: Container = open_container(path, KIND_SCENE, _KNOWN_SECTIONS)
        try:
            metadata = msgspec.convert(self._container.metadata, _Metadata)
            for profile in metadata.profiles:
                _check_profile(profile)
            self._starts = self._container.section(_SECTION_STARTS, "<u8")
            self._indices = self._container.section(_SECTION_PROFILES, "<u4")
            self.segment_map = SegmentMap(self._starts, self._indices, metadata.count, len(metadata.profiles))
        except (ValueError, OverflowError) as error:  # msgspec's validation errors are ValueErrors.
            raise TableFormatError(f"{path}: {error}") from error
        self.batch = metadata.batch
        self.count = metadata.count
        self.generation = metadata.generation
        self.profiles = metadata.profiles

    def segments(self) -> Segments:
        """Return the segments to be changed; the table itself never changes."""
        return Segments(self.count, self._starts.astype(np.uint64), self._indices.astype(np.uint32), self.profiles)

    def verify(self) -> int:
        """Check every digest; return the number of bytes read."""
        return self._container.verify()

    def close(self) -> None:
        """Let go of the mapping."""
        self._container.close()


def _check_profile(profile: Profile) -> None:
    """Check what the type of a profile does not say; ValueError naming what is wrong."""
    first_ms, last_ms = ALWAYS_MS
    if not (first_ms <= profile.active_from_ms <= last_ms and first_ms <= profile.active_until_ms <= last_ms):
        raise ValueError(
            f"a profile is active from {profile.active_from_ms} to {profile.active_until_ms} ms, out of range"
        )
    if profile.active_from_ms >= profile.active_until_ms:
        raise ValueError("the window of a profile is empty: active-until must be after active-from")
    if not 0 <= profile.scenes <= _ALL_SCENES:
        raise ValueError(f"a profile has scenes {int(profile.scenes):#x}, expected bits of {_ALL_SCENES:#x}")
    gtin = profile.product
    if gtin is not None and not (gtin.isascii() and gtin.isdecimal() and len(gtin) <= 14):
        raise ValueError(f"product {gtin!r} is no GTIN")
