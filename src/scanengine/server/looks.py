"""What many codes are, written at once: the bytes of ``Answer``, put together natively from what was encoded once.

All codes of one segment and status have the same answer but for their own 20 letters. So the first of them is answered
as a single one is, and its encoding, cut at the code, serves for all others: nothing here knows how an answer looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scanengine.engine import Engine
from scanengine.errors import ScanError
from scanengine.model import CODE_SYMBOLS, IMPORTED_START, NO_ITEM, Answer, Status
from scanengine.program.answers import Answerer
from scanengine.program.scans import check_code
from scanengine.server._batches import read_letters, write_rows

_PIECES_MAX: Final = 10_000
"""Encodings to keep, some 300 bytes each; there are few in most programs, one for each segment and status."""
_STATUS_BITS: Final = 4
_STATUS_NAMES: Final = {int(status): status.name.lower() for status in Status}

Piece = tuple[bytes, bytes]


class Frame(NamedTuple):
    """How results become a reply in one format.

    Parameters
    ----------
    encode
        Encodes one result.
    head : callable
        Returns what stands before so many results.
    separator, tail : bytes
        What stands between two, and after the last.
    """

    encode: Callable[[Any], bytes]
    head: Callable[[int], bytes]
    separator: bytes
    tail: bytes


class Looks:
    """Writes replies to looks in one format; safe for any number of threads.

    Parameters
    ----------
    is_trusted : bool
        Whether statuses that outsiders must not tell apart are shown as they are.
    problem : callable
        Returns what is shown in the place of a text that is wrong.
    """

    def __init__(self, frame: Frame, *, is_trusted: bool, problem: Callable[[Exception], Any]) -> None:
        self._frame = frame
        self._is_trusted = is_trusted
        self._problem = problem
        self._kept: tuple[Engine | None, dict[int, Piece]] = (None, {})

    def write(self, engine: Engine, answerer: Answerer, texts: list[Any], now_ms: int) -> tuple[bytes, Counter[str]]:
        """Return the reply to texts, and how often each status came out.

        Parameters
        ----------
        texts : list
            What is no text, or too long, has a problem in its place; an error is shown as one.

        Notes
        -----
        Bare codes are decided and written without the GIL; whatever has to be unwrapped first, and
        imported codes of other lengths, are answered one by one.
        """
        letters, is_plain = read_letters(texts)
        decisions = engine.decide_many(letters, now_ms)
        status, item = decisions.status, decisions.item
        # As in Engine.decide: what is no code as it stands may hold one, and all others are as they are.
        is_bare = (is_plain != 0) & (status != Status.MALFORMED)
        bare = np.flatnonzero(is_bare)
        which = np.empty(len(texts), np.int32)
        keys = (decisions.place[bare].astype(np.int64) << _STATUS_BITS) | status[bare]
        found, firsts, inverse = np.unique(keys, return_index=True, return_inverse=True)
        examples = [texts[row] for row in bare[firsts].tolist()]
        pieces = self._pieces(engine, answerer, found.tolist(), examples, now_ms)
        which[bare] = inverse
        counts = Counter(_counted(status[bare]))
        others = np.flatnonzero(~is_bare)
        which[others] = np.arange(len(pieces), len(pieces) + len(others))
        with_code = len(pieces)
        for row in others.tolist():
            pieces.append((self._look(engine, answerer, texts[row], now_ms, counts), b""))
        folds = (item < IMPORTED_START) | (item == NO_ITEM)
        frame = self._frame
        body = write_rows(
            frame.head(len(texts)), frame.separator, frame.tail, tuple(pieces), with_code, which, letters,
            folds.view(np.uint8),
        )  # fmt: skip
        return body, counts

    def _pieces(
        self, engine: Engine, answerer: Answerer, keys: Sequence[int], examples: Sequence[str], now_ms: int
    ) -> list[Piece]:
        """Return what stands before and after the code in the answers of each key."""
        kept_for, kept = self._kept
        if kept_for is not engine or len(kept) > _PIECES_MAX:
            kept = {}
            self._kept = engine, kept
        pieces = []
        for key, text in zip(keys, examples, strict=True):
            piece = kept.get(key)
            if piece is None:
                # A thread beside this one may do the same; both find the same.
                answer = answerer.verified(engine.decide(text, now_ms), None)
                piece = kept[key] = self._cut(answer)
            pieces.append(piece)
        return pieces

    def _cut(self, answer: Answer) -> Piece:
        encoded = self._encode(answer)
        code = self._frame.encode(answer.code)
        # Before the code there is only the status, which no code of 20 letters can be part of.
        start = encoded.index(code) + len(code.partition((answer.code or "").encode())[0])
        return encoded[:start], encoded[start + CODE_SYMBOLS :]

    def _encode(self, answer: Answer) -> bytes:
        return self._frame.encode(answer if self._is_trusted else answer.public())

    def _look(self, engine: Engine, answerer: Answerer, text: Any, now_ms: int, counts: Counter[str]) -> bytes:
        """Answer one text as a single look is, but without asking the ledger."""
        fault = text if isinstance(text, Exception) else _fault(text)
        if fault is not None:
            return self._frame.encode({"problem": self._problem(fault)})
        answer = answerer.verified(engine.decide(text, now_ms), None)
        counts[answer.status] += 1
        return self._encode(answer)


def _fault(text: Any) -> ScanError | None:
    """Return what is wrong with a text, or None."""
    try:
        check_code(text).encode()
    except ScanError as error:
        return error
    except UnicodeEncodeError:
        return ScanError("code", "expected a text, found half of a character in it")
    return None


def _counted(status: NDArray[np.uint8]) -> dict[str, int]:
    totals = np.bincount(status)
    return {_STATUS_NAMES[number]: int(totals[number]) for number in np.flatnonzero(totals).tolist()}
