"""Codes to be scanned: fresh ones in random order, and forged ones that look as good.

Generated codes need no bytes each, so a batch of any size is gone through by a permutation of its offsets: nothing is
listed, and no code is taken twice.
"""

from __future__ import annotations

import json
import math
import secrets
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scanengine._core import CodeKeys
from scanengine.errors import SettingsError
from scanengine.keys import Keyring
from scanengine.model import CODE_SYMBOLS, SERIALS_PER_SLOT
from scanengine.tables.codes import CodeTable

QUOTED: Final = CODE_SYMBOLS + 2
"""Bytes of a code of ours as JSON."""
_QUOTE: Final = ord('"')
_SPACE: Final = ord(" ")


class Codes:
    """Fresh codes of some batches, each handed out once.

    Parameters
    ----------
    batches : list of CodeTable
        At least one.
    random : numpy Generator
        Chooses the order.
    """

    def __init__(self, keyring: Keyring, batches: list[CodeTable], random: np.random.Generator) -> None:
        self._keyring = keyring
        self._batches = batches
        self._random = random
        self._starts = np.cumsum([0, *(batch.count for batch in batches)])
        self.count = int(self._starts[-1])
        self._step = self._coprime()
        self._first = int(random.integers(self.count))
        self._taken = 0
        self._spare: list[tuple[NDArray[np.uint64], NDArray[np.uint8]]] = []
        texts = [batch.texts for batch in batches if batch.texts is not None]
        # An imported text of this many bytes may double its length as JSON: \" and \\.
        self.width = max([QUOTED, *(2 * each.rows.shape[1] + 2 for each in texts)])
        slot = next((batch.slot for batch in batches if not batch.is_imported), None)
        self._forging_slot = min(keyring.slot_states) if slot is None else slot
        # Of the right slot and with a right check symbol, by keys that nobody has.
        self._forger = CodeKeys([(self._forging_slot, secrets.token_bytes(16), secrets.token_bytes(16))])

    def __repr__(self) -> str:
        """Show no code."""
        return f"<Codes of {len(self._batches)} batches, {self.left} left>"

    @property
    def left(self) -> int:
        """Codes that were not handed out yet."""
        return self.count - self._taken + sum(len(items) for items, _ in self._spare)

    def give_back(self, items: NDArray[np.uint64], letters: NDArray[np.uint8]) -> None:
        """Take codes back that were never shown to anybody; they are handed out first."""
        if len(items):
            self._spare.append((items, letters))

    def _coprime(self) -> int:
        while True:
            step = int(self._random.integers(1, self.count + 1))
            if math.gcd(step, self.count) == 1:
                return step

    def take(self, count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Return the items (n,) and the codes as JSON (n, width) of codes that were not handed out before.

        Raises
        ------
        SettingsError
            If there are not so many left.
        """
        if count > self.left:
            raise SettingsError(
                f"{count:,} fresh codes are needed and {self.left:,} of the test batches are left: make more with "
                "scanengine batch create LABEL --test --count N, or ask for less"
            )
        parts = []
        while self._spare and count:
            items, letters = self._spare.pop()
            self.give_back(items[count:], letters[count:])
            parts.append((items[:count], letters[:count]))
            count -= len(parts[-1][0])
        parts.append(self._take_new(count))
        return np.concatenate([items for items, _ in parts]), np.concatenate([letters for _, letters in parts])

    def _take_new(self, count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        places = self._places(count)
        # Neighbours in the permutation are one step apart: mixed once more.
        self._random.shuffle(places)
        self._taken += count
        items = np.empty(count, np.uint64)
        letters = np.full((count, self.width), _SPACE, np.uint8)
        owner = np.searchsorted(self._starts, places, side="right") - 1
        for index in np.unique(owner).tolist():
            batch = self._batches[index]
            rows = np.flatnonzero(owner == index)
            offsets = places[rows] - self._starts[index]
            items[rows] = offsets.astype(np.uint64) + np.uint64(batch.item_start)
            letters[rows] = self._letters(batch, offsets)
        return items, letters

    def _places(self, count: int) -> NDArray[np.int64]:
        first = (self._first + self._taken * self._step) % self.count
        if count * self._step < 1 << 62:
            return (first + np.arange(count, dtype=np.int64) * self._step) % self.count
        return np.fromiter(((first + row * self._step) % self.count for row in range(count)), np.int64, count)

    def _letters(self, batch: CodeTable, offsets: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = np.full((len(offsets), self.width), _SPACE, np.uint8)
        if batch.texts is not None:
            rows = batch.texts.rows[offsets]
            width = rows.shape[1]
            texts = np.ascontiguousarray(rows).reshape(-1).view(f"S{width}").tolist()
            for row, text in enumerate(texts):
                quoted = json.dumps(text.decode()).encode()
                found[row, : len(quoted)] = np.frombuffer(quoted, np.uint8)
            return found
        found[:, 0] = found[:, QUOTED - 1] = _QUOTE
        encode = self._keyring.code_keys.encode
        codes = "".join([encode(batch.slot, batch.serial_start + offset) for offset in offsets.tolist()])
        found[:, 1 : QUOTED - 1] = np.frombuffer(codes.encode(), np.uint8).reshape(-1, CODE_SYMBOLS)
        return found

    def texts(self, letters: NDArray[np.uint8]) -> list[str] | NDArray[np.uint8]:
        """Return codes for an engine to decide, of codes as JSON (n, width)."""
        if self.width == QUOTED:
            return np.ascontiguousarray(letters[:, 1 : QUOTED - 1])
        return [json.loads(row.tobytes()) for row in letters]

    def forge(self, count: int) -> NDArray[np.uint8]:
        """Return so many codes as JSON, (n, width), whose tag is wrong and nothing else."""
        found = np.full((count, self.width), _SPACE, np.uint8)
        found[:, 0] = found[:, QUOTED - 1] = _QUOTE
        start = int(self._random.integers(SERIALS_PER_SLOT - count))
        found[:, 1 : QUOTED - 1] = self._forger.encode_many(self._forging_slot, start, count)
        return found
