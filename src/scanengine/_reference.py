"""Codes, draws and decisions in plain Python: the readable twin of the native core.

Read this file as the specification. It has the names, values and error texts of ``_core`` and none of its speed;
the tests hold the two against each other. It is for tests, tools and reading, never a silent stand-in at run time.

Numbers are unsigned 64-bit words unless said otherwise; bytes are little-endian; keys are 16 bytes. Arrays are taken
and given at the door only: inside there are lists and integers. Whatever is out of range is a ValueError that names
what was found; a bad code is a status.

An item number says which code of ours it is; nothing reaches bit 55::

    bit 45              40                       0              bit 45                 32            0
        | key slot (5)  | serial (40)            |                  | 1 | table (22)    | offset (32) |
        a code of format v1                                         an imported code, from 2**45
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from scanengine.model import (
    CODE_SYMBOLS,
    NO_ITEM,
    NO_PRIZE,
    NO_RULE,
    SERIALS_PER_SLOT,
    TEXT_BYTES_MAX,
    Role,
    Scene,
    SegmentState,
    Status,
)

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
Records = npt.NDArray[np.void]

WORD_BITS: Final = 64
WORD_MASK: Final = (1 << WORD_BITS) - 1
BYTE_END: Final = 256  # numbers of rules and prizes fit a byte

# ---- SipHash-2-4 ----


def siphash24(key: bytes, data: bytes) -> int:
    """Compute SipHash-2-4 of any bytes: a keyed function onto 64 bits, made for short inputs.

    Source: Aumasson and Bernstein (2012), "SipHash: a fast short-input PRF", section 2.
    """
    _check_key(key)
    k0, k1 = struct.unpack("<QQ", key)
    # The constants only have to make the four words differ; in ASCII they read "somepseudorandomlygeneratedbytes".
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    # Filled with zeros to whole words; the last byte of the last word is the length.
    filled = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", filled):
        v0, v1, v2, v3 = _sip_rounds(2, v0, v1, v2, v3 ^ word)
        v0 ^= word
    v0, v1, v2, v3 = _sip_rounds(4, v0, v1, v2 ^ 0xFF, v3)
    return v0 ^ v1 ^ v2 ^ v3


def _sip_rounds(count: int, v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    """Mix the four words ``count`` times by additions, rotations and exclusive ors."""
    for _ in range(count):
        v0 = (v0 + v1) & WORD_MASK
        v2 = (v2 + v3) & WORD_MASK
        v1 = _rotate_left(v1, 13) ^ v0
        v3 = _rotate_left(v3, 16) ^ v2
        v0 = _rotate_left(v0, 32)
        v2 = (v2 + v1) & WORD_MASK
        v0 = (v0 + v3) & WORD_MASK
        v1 = _rotate_left(v1, 17) ^ v2
        v3 = _rotate_left(v3, 21) ^ v0
        v2 = _rotate_left(v2, 32)
    return v0, v1, v2, v3


def _rotate_left(word: int, bits: int) -> int:
    return (word << bits | word >> WORD_BITS - bits) & WORD_MASK


def _siphash_word(key: bytes, word: int) -> int:
    """SipHash of one word, written as eight bytes."""
    return siphash24(key, struct.pack("<Q", word))


def _check_key(key: bytes) -> None:
    _require(len(key) == 16, f"a SipHash key has 16 bytes, found {len(key)}")


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise ValueError(fault)


# ---- codes ----

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: I, L, O are read as 1, 1, 0; no U
SYMBOL_BITS: Final = 5
TAG_BITS: Final = 50
MASK_BITS: Final = 40
FIELD_POLYNOMIAL: Final = 0b100101  # x^5 + x^2 + 1: in this GF(32) the powers of x are all 31 non-zero elements

# Spelled out because only these characters count: str.upper() would also turn a long s into S, a dotless i into I.
_SYMBOL_OF: Final = {letter: symbol for symbol, letter in enumerate(ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_SYMBOL_OF.update([(letter.lower(), symbol) for letter, symbol in _SYMBOL_OF.items()])


class CodeKeys:
    """The sub-keys of the slots: writes codes of format v1 and proves them.

    ``slots`` gives (slot 0 to 31, tag key, mask key), each slot once. Twenty symbols of five bits, most significant
    first::

        | slot 5 bits | masked serial 40 bits | tag 50 bits | check symbol 5 bits |

    - tag = top 50 bits of SipHash(tag key, item), where item = slot * 2**40 + serial: it proves the code.
    - masked serial = serial XOR top 40 bits of SipHash(mask key, tag). The tag, different for each item, serves as
      the initial value, so that codes of neighbouring serials have nothing in common.
    - the check symbol finds mistypes before a key is touched: see :func:`check_symbol`.

    Source of the synthetic initial value: Rogaway and Shrimpton (2006), "Deterministic authenticated-encryption".
    """

    def __init__(self, slots: Iterable[tuple[int, bytes, bytes]]) -> None:
        self._keys: dict[int, tuple[bytes, bytes]] = {}
        for slot, tag_key, mask_key in slots:
            _require(0 <= slot < 1 << SYMBOL_BITS, f"a slot is 0 to 31, found {slot}")
            _require(slot not in self._keys, f"slot {slot} is given twice")
            _check_key(tag_key)
            _check_key(mask_key)
            self._keys[slot] = (tag_key, mask_key)

    def __repr__(self) -> str:
        return f"<CodeKeys of slots {sorted(self._keys)}>"  # Keys stay out of logs and tracebacks.

    def encode(self, slot: int, serial: int) -> str:
        """Write the code of a serial, 0 to 2**40 - 1, in a slot whose keys are here."""
        self._check_serials(slot, serial)
        tag = self._tag(slot, serial)
        payload = (_item(slot, serial) ^ self._mask(slot, tag)) << TAG_BITS | tag
        symbols = [payload >> SYMBOL_BITS * place & 31 for place in reversed(range(CODE_SYMBOLS - 1))]
        return _spell([*symbols, check_symbol(bytes(symbols))])

    def encode_many(self, slot: int, serial_start: int, count: int) -> U8:
        """Write the codes of ``count`` serials in a row: ASCII, uint8 of shape (count, 20)."""
        self._check_serials(slot)
        _require(count >= 0, f"a count is not negative, found {count}")
        self._check_serials(slot, serial_start, serial_start + max(count, 1) - 1)
        text = "".join(self.encode(slot, serial_start + row) for row in range(count))
        return np.array(list(text.encode("ascii")), np.uint8).reshape(count, CODE_SYMBOLS)

    def decode(self, text: str) -> tuple[int, int]:
        """Read and prove a code: ``(VALID, item)``, or ``NO_ITEM`` with the first that is wrong.

        That is ``MALFORMED`` (not 20 symbols), ``MISTYPED`` (check symbol), ``UNKNOWN_KEY`` (no keys for the slot) or
        ``FORGED`` (tag). Case does not matter, ``O`` is 0, ``I`` and ``L`` are 1, hyphens and spaces are ignored.
        """
        symbols = _read_symbols(text)
        if symbols is None:
            return int(Status.MALFORMED), NO_ITEM
        if check_symbol(bytes(symbols[:-1])) != symbols[-1]:
            return int(Status.MISTYPED), NO_ITEM
        slot = symbols[0]
        if slot not in self._keys:
            return int(Status.UNKNOWN_KEY), NO_ITEM
        payload = 0
        for symbol in symbols[:-1]:
            payload = payload << SYMBOL_BITS | symbol
        tag = payload % (1 << TAG_BITS)
        serial = (payload >> TAG_BITS) % SERIALS_PER_SLOT ^ self._mask(slot, tag)
        if self._tag(slot, serial) != tag:
            return int(Status.FORGED), NO_ITEM
        return int(Status.VALID), _item(slot, serial)

    def _tag(self, slot: int, serial: int) -> int:
        return _siphash_word(self._keys[slot][0], _item(slot, serial)) >> WORD_BITS - TAG_BITS

    def _mask(self, slot: int, tag: int) -> int:
        return _siphash_word(self._keys[slot][1], tag) >> WORD_BITS - MASK_BITS

    def _check_serials(self, slot: int, *serials: int) -> None:
        _require(slot in self._keys, f"no keys for slot {slot}")
        for serial in serials:
            _require(0 <= serial < SERIALS_PER_SLOT, f"a serial is 0 to {SERIALS_PER_SLOT - 1}, found {serial}")


def _item(slot: int, serial: int) -> int:
    return slot * SERIALS_PER_SLOT + serial


def normalize(text: str) -> str | None:
    """Return the bare spelling of a code, None if it is malformed; the check symbol is not checked."""
    symbols = _read_symbols(text)
    return None if symbols is None else _spell(symbols)


def check_symbol(symbols: bytes) -> int:
    """Compute the check symbol of the 19 symbol values before it.

    Over all 20 symbols the sum of x**(19 - i) * symbol i in GF(32) is 0. The factors are not zero and all different,
    so each single wrong symbol and each swap of two different symbols makes another sum.
    """
    are_symbols = len(symbols) == CODE_SYMBOLS - 1 and max(symbols) < 1 << SYMBOL_BITS
    _require(are_symbols, "19 symbols of 0 to 31 expected")
    total = 0
    for symbol in symbols:
        total = _times_x(total ^ symbol)
    return total  # The check symbol has the factor 1, and in this field each number is its own negative.


def _times_x(element: int) -> int:
    product = element << 1
    return product ^ FIELD_POLYNOMIAL if product >> SYMBOL_BITS else product


def _spell(symbols: Iterable[int]) -> str:
    return "".join(ALPHABET[symbol] for symbol in symbols)


def _read_symbols(text: str) -> list[int] | None:
    if not isinstance(text, str):
        raise TypeError(f"a code is a str, found {type(text).__name__}")
    letters = [letter for letter in text if letter not in "- "]
    if len(letters) != CODE_SYMBOLS or any(letter not in _SYMBOL_OF for letter in letters):
        return None
    return [_SYMBOL_OF[letter] for letter in letters]


# ---- draws ----

ITEM_END: Final = 1 << 55
RULE_SHIFT: Final = 56


def base32_text(digest: bytes) -> str:
    """Spell 16 bytes as 26 symbols: the big-endian number, most significant symbol first."""
    _require(len(digest) == 16, f"16 bytes expected, found {len(digest)}")
    number = int.from_bytes(digest, "big")
    return "".join(ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def draw_words(key: bytes, item: int, rule: int) -> tuple[int, int]:
    """Compute the two uniform words of an item (below 2**55) under a rule (0 to 255) of the draw key's campaign.

    Each is SipHash of one word, and no two of these words are alike::

        bit 64       56                  55                  0
            | rule   | 0 for w0, 1 for w1 | item             |
    """
    _check_draw(key, item, rule)
    first = rule << RULE_SHIFT | item
    return _siphash_word(key, first), _siphash_word(key, first | ITEM_END)


def alias_draw(thresholds: U64, aliases: U32, w0: int, w1: int) -> int:
    """Draw an outcome, below n, from an alias table of n >= 1 columns: w0 picks the column, w1 stays or leaves.

    ``thresholds[c]`` is the chance of staying in column c in units of 2**-64, ``aliases[c]`` the outcome otherwise.
    The high half of ``w0 * n`` stands for ``w0 % n``: it needs no division and is off by less than 2**-64 a column.

    Source: Walker (1977), "An efficient method for generating discrete random variables with general distributions".
    """
    n = len(thresholds)
    _require(0 < n == len(aliases), f"{n} thresholds and {len(aliases)} aliases are no alias table")
    column = w0 * n >> WORD_BITS
    return column if w1 < int(thresholds[column]) else int(aliases[column])


def permute(key: bytes, rule: int, n: int, position: int) -> int:
    """Map the positions [0, n) of a pool, n at most 2**40, one to one onto themselves.

    ``key`` belongs to campaign and rule, so ``rule`` has no further effect; it is only checked. The map is a Feistel
    network over b = max(2, bit length of n - 1) bits, ten rounds in turn::

        | left, b // 2 bits | right, the rest |      even r: left ^= F(r, right)      odd r: right ^= F(r, left)

    with F(r, v) = low bits of SipHash(key, r * 2**56 + v). It permutes up to four times as many numbers as n; an
    image of n or more is mapped again. As no two have the same image, this walk always comes back below n.

    Sources: Luby and Rackoff (1988) for the network; Black and Rogaway (2002), "Ciphers with arbitrary finite domains".
    """
    _check_draw(key, 0, rule)
    _require(1 <= n <= 1 << 40, f"a pool has 1 to 2**40 positions, found {n}")
    _require(0 <= position < n, f"a position is below {n}, found {position}")
    image = _feistel(key, n, position)
    while image >= n:
        image = _feistel(key, n, image)
    return image


def _feistel(key: bytes, n: int, position: int) -> int:
    bits = max(2, (n - 1).bit_length())
    left_bits, right_bits = bits // 2, bits - bits // 2
    left, right = position >> right_bits, position & (1 << right_bits) - 1
    for number in range(10):
        if number % 2 == 0:
            left ^= _siphash_word(key, number << RULE_SHIFT | right) & (1 << left_bits) - 1
        else:
            right ^= _siphash_word(key, number << RULE_SHIFT | left) & (1 << right_bits) - 1
    return left << right_bits | right


def _check_draw(key: bytes, item: int, rule: int) -> None:
    _check_key(key)
    _require(0 <= item < ITEM_END, f"an item is below 2**55, found {item}")
    _require(0 <= rule < BYTE_END, f"a rule is 0 to 255, found {rule}")


# ---- segments ----


class SegmentMap:
    """Segments that tile the ``count`` codes (1 to 2**40) of one batch.

    Segment i begins at offset ``starts[i]``, 0 for the first and ascending, and has profile ``profiles[i]``, below
    ``profile_count``. Both arrays have shape (k,).
    """

    def __init__(self, starts: U64, profiles: U32, count: int, profile_count: int) -> None:
        first_offsets: list[int] = starts.tolist()
        numbers: list[int] = profiles.tolist()
        k = len(first_offsets)
        _require(1 <= count <= SERIALS_PER_SLOT, f"a batch has 1 to 2**40 codes, found {count}")
        _require(k > 0, "a batch needs at least one segment")
        _require(k == len(numbers), f"{k} starts but {len(numbers)} profiles")
        _require(first_offsets[0] == 0, f"the first segment must start at 0, found {first_offsets[0]}")
        for i, (before, start) in enumerate(pairwise(first_offsets), 1):
            _require(start > before, f"segment {i} starts at {start}, not after {before}")
        last = first_offsets[-1]
        _require(last < count, f"segment {k - 1} starts at {last}, outside the batch of {count}")
        for i, number in enumerate(numbers):
            _require(number < profile_count, f"segment {i} has profile {number}, expected below {profile_count}")
        self.count, self.profile_count = count, profile_count
        self._starts, self._profiles = first_offsets, numbers

    def find(self, offset: int) -> int:
        """Return the index of the segment that holds an offset; IndexError if it is outside the batch."""
        if not 0 <= offset < self.count:
            raise IndexError(f"offset {offset} is outside the batch of {self.count}")
        return bisect_right(self._starts, offset) - 1

    def profile_at(self, offset: int) -> int:
        """Return the profile at an offset; IndexError if it is outside the batch."""
        return self._profiles[self.find(offset)]


# ---- imported codes ----

NOT_FOUND: Final = -1
OFFSET_BITS: Final = 25
TEXTS_MAX: Final = (1 << OFFSET_BITS) - 2
TAG_END: Final = 1 << 32 - OFFSET_BITS
FAULTS_SHOWN: Final = 10
PRINTABLE: Final = range(0x21, 0x7F)


class TextIndex:
    """Finds a text among n (1 to TEXTS_MAX) texts of 1 to w (at most 64) bytes, exactly as it is spelled.

    ``texts`` has shape (n, w), each row a text filled up with zeros. ``slots`` has shape (m,), m > n, and is the
    table of a hash with open addressing and linear probing: from slot ``hash * m >> 64`` on, up to an empty one::

        bit 32       25              0
            | tag    | offset + 1    |      tag: low 7 bits of the hash; 0 is an empty slot

    The hash is SipHash under a key that is random for each workspace: nobody can choose texts that collide. Bit i of
    ``lengths`` tells that there are texts of i + 1 bytes.
    """

    def __init__(self, texts: U8, slots: U32, key: bytes, lengths: int) -> None:
        _check_key(key)
        _check_texts(texts)
        _check_slots(slots, texts)
        self.count, self._width = texts.shape
        in_range = 0 < lengths < 1 << self._width
        _require(in_range, f"lengths {lengths:#x} are not those of texts of 1 to {self._width} bytes")
        self._texts, self._key, self._lengths = texts.copy(), key, lengths
        self._slots: list[int] = slots.tolist()
        for slot, entry in enumerate(self._slots):
            offset = entry % (1 << OFFSET_BITS) - 1
            _require(not entry or 0 <= offset < self.count, f"slot {slot} names text {offset} of {self.count}")
        used = sum(entry > 0 for entry in self._slots)
        _require(used == self.count, f"{used} slots are used, expected one for each of {self.count} texts")

    def find(self, text: str) -> int:
        """Return the offset of a text, -1 if it is not here."""
        if not isinstance(text, str):
            raise TypeError(f"a code is a str, found {type(text).__name__}")
        return self._find(text.encode()) if text.isascii() else NOT_FOUND

    def find_many(self, texts: U8) -> npt.NDArray[np.int64]:
        """Return the offset of each row of texts, shape (k,), -1 where there is none."""
        _check_texts(texts)
        return np.array([self._find(row.tobytes().rstrip(b"\0")) for row in texts], np.int64)

    def check(self) -> None:
        """Look every text up: each must be found at its own place."""
        for offset, found in enumerate(self.find_many(self._texts).tolist()):
            _require(found == offset, f"text {offset} is not found at its place")

    def _find(self, text: bytes) -> int:
        if not 1 <= len(text) <= TEXT_BYTES_MAX or not self._lengths >> len(text) - 1 & 1 or b"\0" in text:
            return NOT_FOUND
        first, tag = _slot_of(self._key, text, len(self._slots))
        for entry in [*self._slots[first:], *self._slots[:first]]:
            if not entry:
                break
            offset = entry % (1 << OFFSET_BITS) - 1
            if entry >> OFFSET_BITS == tag and self._texts[offset].tobytes().rstrip(b"\0") == text:
                return int(offset)
        return NOT_FOUND


def fill_slots(texts: U8, slots: U32, key: bytes, start: int, end: int) -> tuple[int, int, list[tuple[int, int]]]:
    """Put texts [start, end) into slots that hold those before them.

    Returns the bits of their lengths, how many stood at an earlier offset, and the first of these with that offset.
    """
    _check_key(key)
    _check_texts(texts)
    _check_slots(slots, texts)
    _require(0 <= start <= end <= len(texts), f"texts {start} to {end} are outside the {len(texts)} given")
    lengths, doubles = 0, list[tuple[int, int]]()
    for offset in range(start, end):
        text = texts[offset].tobytes().rstrip(b"\0")
        lengths |= 1 << len(text) >> 1
        slot, tag = _slot_of(key, text, len(slots))
        for _ in range(len(slots)):
            number = int(slots[slot]) % (1 << OFFSET_BITS)
            if not slots[slot]:
                slots[slot] = tag << OFFSET_BITS | offset + 1
                break
            if 0 < number <= offset and np.array_equal(texts[number - 1], texts[offset]):
                doubles.append((offset, number - 1))
                break
            slot = (slot + 1) % len(slots)
        else:
            _require(False, "every slot is taken")
    return lengths, len(doubles), doubles[:FAULTS_SHOWN]


def _slot_of(key: bytes, text: bytes, slot_count: int) -> tuple[int, int]:
    found = siphash24(key, text)
    return found * slot_count >> WORD_BITS, found % TAG_END


def _check_texts(texts: U8) -> None:
    is_shaped = texts.dtype == np.uint8 and texts.ndim == 2 and 1 <= texts.shape[1] <= TEXT_BYTES_MAX
    _require(is_shaped, "texts must be uint8 of shape (n, 1) to (n, 64)")


def _check_slots(slots: U32, texts: U8) -> None:
    n, m = len(texts), len(slots)
    _require(slots.dtype == np.uint32 and slots.ndim == 1, "slots must be uint32 of shape (m,)")
    _require(1 <= n <= TEXTS_MAX, f"an index has 1 to {TEXTS_MAX} texts, found {n}")
    _require(n < m < 1 << 32, f"{m} slots for {n} texts, expected more slots than texts")


def read_texts(data: bytes, line: int) -> tuple[U8, npt.NDArray[np.int64], int, int, list[tuple[int, str]]]:
    """Read lines, each a text of 1 to 64 printable ASCII characters without spaces, from line number ``line`` on.

    A line ends with LF or CR LF, the last one perhaps without; empty lines are passed over. Returns the texts as rows,
    their lines, the number of the line after the last, how many lines are faulty, and the first of these.
    """
    lines = data.split(b"\n")
    if not lines[-1]:
        del lines[-1]
    good: list[tuple[int, bytes]] = []
    faults: list[tuple[int, str]] = []
    for number, text in enumerate([each.removesuffix(b"\r") for each in lines], line):
        bad = next((place for place, byte in enumerate(text) if byte not in PRINTABLE), None)
        if len(text) > TEXT_BYTES_MAX:
            faults.append((number, f"more than {TEXT_BYTES_MAX} characters"))
        elif bad is not None:
            place = f"byte {text[bad]:#04x} at place {bad + 1}"
            faults.append((number, f"{place}, expected printable ASCII without spaces"))
        elif text:
            good.append((number, text))
    width = max([1, *(len(text) for _, text in good)])
    texts = np.array([list(text.ljust(width, b"\0")) for _, text in good], np.uint8).reshape(len(good), width)
    numbers = np.array([number for number, _ in good], np.int64)
    return texts, numbers, line + len(lines), len(faults), faults[:FAULTS_SHOWN]


def _is_gtin(text: str) -> bool:
    """Tell a product number: its digits, times 1 and 3 from the right, add up to a number that ends in 0."""
    is_number = len(text) in (8, 12, 13, 14) and text.isascii() and text.isdecimal() and int(text) > 0
    return is_number and sum(int(digit) * (1, 3)[place % 2] for place, digit in enumerate(reversed(text))) % 10 == 0


# ---- rules ----

FIELD_TIME: Final = 0  # milliseconds since 1970 UTC
FIELD_MINUTE: Final = 1  # minute of the local day, 0 to 1439
FIELD_PRODUCT: Final = 2  # GTIN as a number, 0 for none
FIELD_ITEM: Final = 3  # item number
FIELD_REGION: Final = 4  # six-digit code of the region, 0 for unknown
FIELD_ROLE: Final = 5  # model.Role

MODE_CERTAIN: Final = 1  # the mode of certain rules; that of weighted ones is 0
BEGINNING_OF_TIME: Final = -(1 << 63)
TIME_MS_END: Final = 1 << 62
DAY_MS: Final = 86_400_000
REGION_END: Final = 1_000_000
GTIN_END: Final = 10**14

# byte  0                 4                 8              12             16       17     18         24
#       | predicate_start | predicate_count | column_start | column_count | number | mode | reserved |
_SLICES = [(f"{rows}_{bound}", "<u4") for rows in ("predicate", "column") for bound in ("start", "count")]
RULE_DTYPE: Final = np.dtype([*_SLICES, ("number", "u1"), ("mode", "u1"), ("reserved", "V6")])
# byte  0       4             8             12         16
#       | field | range_start | range_count | reserved |
PREDICATE_DTYPE: Final = np.dtype([(name, "<u4") for name in ("field", "range_start", "range_count", "reserved")])
# byte  0       8          12         16
#       | at_ms | offset_s | reserved |
TRANSITION_DTYPE: Final = np.dtype([("at_ms", "<i8"), ("offset_s", "<i4"), ("reserved", "<u4")])


class _Rule(NamedTuple):
    number: int
    predicates: list[tuple[int, list[tuple[int, int]]]]
    thresholds: U64
    aliases: U32
    outcomes: list[int]


class RuleSet:
    """The rules of one campaign, in order: the first whose predicates all hold draws.

    A rule has its own slice of ``predicates`` and of the columns; a predicate has its own slice of ``ranges`` and
    holds if the value of its field is in any of these half-open ranges [low, high). A rule draws from its columns by
    :func:`alias_draw`, with the words of its number; one of mode 1 has a single column, so that its draw is certain.

    Shapes: ``ranges`` (m, 2); ``thresholds``, ``aliases`` (relative to the rule's first column) and ``outcomes``
    (prize numbers, -1 for none) all (c,). ``transitions`` say from when on local time is ``offset_s`` ahead of UTC,
    ascending, the first from the beginning of time: no time-zone database is asked.
    """

    def __init__(
        self,
        draw_key: bytes,
        rules: Records,
        predicates: Records,
        ranges: U64,
        thresholds: U64,
        aliases: U32,
        outcomes: I16,
        transitions: Records,
    ) -> None:
        _check_key(draw_key)
        _check_rules(rules, predicates, ranges, (len(thresholds), len(aliases), len(outcomes)))
        _check_columns(rules, aliases, outcomes)
        _check_transitions(transitions)
        self._draw_key = draw_key
        self._transition_ms: list[int] = transitions["at_ms"].tolist()
        self._offset_s: list[int] = transitions["offset_s"].tolist()
        self._rules: list[_Rule] = []
        bounds: list[tuple[int, int]] = [(low, high) for low, high in ranges.tolist()]
        tests = [(field, bounds[start : start + count]) for field, start, count, _ in predicates.tolist()]
        for test_start, test_count, start, count, number, _, _ in rules.tolist():
            own, columns = tests[test_start : test_start + test_count], slice(start, start + count)
            prizes = outcomes[columns].tolist()
            self._rules.append(_Rule(number, own, thresholds[columns], aliases[columns], prizes))

    def decide(self, item: int, now_ms: int, role: int, region: int, gtin: int) -> tuple[int, int]:
        """Return the number of the rule that applies and the prize it draws, -1 for none; (-1, -1) without a rule."""
        _check_scan(now_ms, role, region)
        _require(0 <= item < ITEM_END, f"an item is below 2**55, found {item}")
        # In the order of FIELD_TIME to FIELD_ROLE.
        values = (now_ms, self.local_minute(now_ms), gtin, item, region, role)
        for rule in self._rules:
            if all(any(low <= values[field] < high for low, high in ranges) for field, ranges in rule.predicates):
                w0, w1 = draw_words(self._draw_key, item, rule.number)
                return rule.number, rule.outcomes[alias_draw(rule.thresholds, rule.aliases, w0, w1)]
        return NO_RULE, NO_PRIZE

    def local_date(self, now_ms: int) -> int:
        """Return the local date as days since 1970-01-01; it is -1 for the first hours of 1970 west of Greenwich."""
        return self._local_ms(now_ms) // DAY_MS

    def local_minute(self, now_ms: int) -> int:
        """Return the minute of the local day, 0 to 1439."""
        return self._local_ms(now_ms) % DAY_MS // 60_000

    def _local_ms(self, now_ms: int) -> int:
        _check_scan(now_ms)
        return now_ms + self._offset_s[bisect_right(self._transition_ms, now_ms) - 1] * 1_000


def _check_rules(rules: Records, predicates: Records, ranges: U64, lengths: tuple[int, int, int]) -> None:
    p, m, c, (_, a, o) = len(predicates), len(ranges), lengths[0], lengths
    _require(len(rules) <= BYTE_END, f"more than 256 rules: {len(rules)}")
    _require(c == a == o, f"{c} thresholds, {a} aliases and {o} outcomes do not agree")
    numbers: set[int] = set()
    for i, (start, count, column, columns, number, mode, _) in enumerate(rules.tolist()):
        _require(start + count <= p, f"rule {i}: predicates {start}+{count} are outside the {p} given")
        _require(column + columns <= c, f"rule {i}: columns {column}+{columns} are outside the {c} given")
        _require(columns > 0, f"rule {i}: at least one column is needed")
        _require(mode <= MODE_CERTAIN, f"rule {i}: mode {mode} is not 0 or 1")
        _require(number not in numbers, f"rule {i}: number {number} is given twice")
        numbers.add(number)
    for i, (field, start, count, _) in enumerate(predicates.tolist()):
        _require(field <= FIELD_ROLE, f"predicate {i}: field {field} is not 0 to 5")
        _require(start + count <= m, f"predicate {i}: ranges {start}+{count} are outside the {m} given")
    for i, (low, high) in enumerate(ranges.tolist()):
        _require(low < high, f"range {i}: {low} to {high} is empty")


def _check_columns(rules: Records, aliases: U32, outcomes: I16) -> None:
    for i, (_, _, start, count, _, _, _) in enumerate(rules.tolist()):
        for j, alias in enumerate(aliases[start : start + count].tolist()):
            _require(alias < count, f"rule {i}: alias {alias} of column {j} is outside its {count} columns")
    for i, prize in enumerate(outcomes.tolist()):
        _require(NO_PRIZE <= prize < BYTE_END, f"outcome {i}: prize {prize} is not -1 to 255")


def _check_transitions(transitions: Records) -> None:
    moments = transitions["at_ms"].tolist()
    _require(len(moments) > 0, "at least one transition is needed")
    _require(moments[0] == BEGINNING_OF_TIME, "the first transition must be the beginning of time")
    for i, offset_s in enumerate(transitions["offset_s"].tolist()):
        _require(i == 0 or moments[i] > moments[i - 1], f"transition {i} is not after the one before it")
        _require(abs(offset_s) * 1_000 <= DAY_MS, f"transition {i}: offset {offset_s} s is more than a day")


def _check_scan(now_ms: int, role: int = 0, region: int = 0) -> None:
    _require(0 <= now_ms < TIME_MS_END, f"a time is 0 to 2**62 milliseconds since 1970, found {now_ms}")
    _require(0 <= role < len(Role), f"a role is 0 to 4, found {role}")
    _require(0 <= region < REGION_END, f"a region is a six-digit code, found {region}")


# ---- resolving ----

# byte  0                8                 16     24         28      29       30         32
#       | active_from_ms | active_until_ms | gtin | rule_set | state | scenes | reserved |
_PROFILE_WORDS = [("active_from_ms", "<i8"), ("active_until_ms", "<i8"), ("gtin", "<u8"), ("rule_set", "<i4")]
PROFILE_DTYPE: Final = np.dtype([*_PROFILE_WORDS, ("state", "u1"), ("scenes", "u1"), ("reserved", "V2")])

Resolution = tuple[int, int, int, int, int, int, int]
"""Status, item, index of the batch, index of the profile, rule, drawn, local date."""


class _Profile(NamedTuple):
    active_from_ms: int
    active_until_ms: int
    gtin: int
    rule_set: int
    state: int
    scenes: int

    def status(self, now_ms: int) -> int:
        """Status of a proven code: the state set by its owner wins over the half-open window of time."""
        if self.state != SegmentState.ACTIVE:
            return int(Status[SegmentState(self.state).name])  # All others share their names with statuses.
        if now_ms < self.active_from_ms:
            return int(Status.INACTIVE)
        return int(Status.EXPIRED if now_ms >= self.active_until_ms else Status.VALID)


class Resolver:
    """From text to decision: proves the code, finds its batch and segment, applies the rules of its campaign.

    ``batches`` gives (first item, count, segments, profile base), ascending and apart, below item 2**55; the profile
    of a code is at the base plus what the segment map says. A profile's ``rule_set`` is an index of ``rule_sets``, -1
    without a campaign. ``texts`` gives (index of the batch, its texts) of imported batches, ascending.
    """

    def __init__(
        self,
        keys: CodeKeys,
        batches: Sequence[tuple[int, int, SegmentMap, int]],
        profiles: Records,
        rule_sets: Sequence[RuleSet],
        texts: Sequence[tuple[int, TextIndex]] = (),
    ) -> None:
        self._keys, self._batches, self._rule_sets, self._texts = keys, list(batches), list(rule_sets), list(texts)
        self._starts = [start for start, _, _, _ in batches]
        self._profiles = [_Profile(*record[:-1]) for record in profiles.tolist()]
        end, p = 0, len(self._profiles)
        for i, (start, count, segments, base) in enumerate(batches):
            items, codes, profile_end = f"items {start}+{count}", segments.count, base + segments.profile_count
            _require(0 <= start <= start + count <= ITEM_END, f"batch {i}: {items} are outside the item space")
            _require(start >= end, f"batch {i}: {items} overlap the batch before")
            _require(codes == count, f"batch {i}: a segment map of {codes} codes for a batch of {count}")
            _require(0 <= base <= profile_end <= p, f"batch {i}: profiles from {base} are outside the {p} given")
            end = start + count
        batch_end = 0
        for i, (batch, index) in enumerate(texts):
            is_next = batch_end <= batch < len(batches)
            _require(is_next, f"texts {i}: batch {batch} is not {batch_end} to {len(batches) - 1}")
            count = batches[batch][1]
            _require(index.count == count, f"texts {i}: {index.count} texts for a batch of {count}")
            batch_end = batch + 1
        last = len(rule_sets) - 1
        for i, (_, _, _, rule_set, state, scenes) in enumerate(self._profiles):
            _require(state < len(SegmentState), f"profile {i}: state {state} is not 0 to 4")
            _require(scenes < 2 * Scene.LINK, f"profile {i}: scenes {scenes} is not 0 to 31")
            _require(-1 <= rule_set <= last, f"profile {i}: rule set {rule_set} is not -1 to {last}")

    def is_imported(self, text: str) -> bool:
        """Tell whether a text is an imported code, exactly as it is spelled."""
        if not isinstance(text, str):
            raise TypeError(f"a code is a str, found {type(text).__name__}")
        return any(index.find(text) != NOT_FOUND for _, index in self._texts)

    def resolve(self, text: str, now_ms: int, role: int, region: int, gtin: int = 0) -> Resolution:
        """Resolve one text at one moment, for someone of a role (0 to 4) in a region (0 to 999999).

        An imported code comes before one of format v1, and a bare product number last. ``gtin`` is the product that
        was named beside the code, 0 if none was: an item of another product is a wrong one, an item without a product
        contradicts nobody.

        Indices, rule and prize are -1 and the item is ``NO_ITEM`` where there is none. The local date is the one of
        the campaign that a valid code belongs to, whether its marketing scene is on or off; otherwise 0.
        """
        _check_scan(now_ms, role, region)
        _require(0 <= gtin < GTIN_END, f"a GTIN has at most 14 digits, found {gtin}")
        status, item, batch = self._locate(text)
        if status != Status.VALID:
            return status, NO_ITEM, NOT_FOUND, NOT_FOUND, NO_RULE, NO_PRIZE, 0
        start, _, segments, base = self._batches[batch]
        index = base + segments.profile_at(item - start)
        profile = self._profiles[index]
        if gtin and profile.gtin not in (0, gtin):
            return int(Status.WRONG_PRODUCT), item, NOT_FOUND, NOT_FOUND, NO_RULE, NO_PRIZE, 0
        status = profile.status(now_ms)
        if status != Status.VALID or profile.rule_set < 0:
            return status, item, batch, index, NO_RULE, NO_PRIZE, 0
        rules = self._rule_sets[profile.rule_set]
        rule, drawn = NO_RULE, NO_PRIZE
        if profile.scenes & Scene.MARKETING:
            rule, drawn = rules.decide(item, now_ms, role, region, profile.gtin)
        return status, item, batch, index, rule, drawn, rules.local_date(now_ms)

    def _locate(self, text: str) -> tuple[int, int, int]:
        """Return status, item and batch of a text: ``VALID`` says no more than that it is in a batch."""
        for batch, texts in self._texts:
            offset = texts.find(text)
            if offset != NOT_FOUND:
                return int(Status.VALID), self._starts[batch] + offset, batch
        status, item = self._keys.decode(text)
        if status == Status.MALFORMED and _is_gtin(text):
            return int(Status.PRODUCT_ONLY), NO_ITEM, NOT_FOUND
        if status != Status.VALID:
            return status, NO_ITEM, NOT_FOUND
        batch = bisect_right(self._starts, item) - 1
        if batch < 0 or item >= self._starts[batch] + self._batches[batch][1]:
            return int(Status.UNKNOWN), NO_ITEM, NOT_FOUND
        return status, item, batch

    def resolve_many(
        self, codes: U8, now_ms: int, role: int | U8, region: int | U32, gtin: int | U64 = 0
    ) -> tuple[U8, U64, I32, I16, I16]:
        """Resolve n texts of up to w characters (1 to 64), uint8 of shape (n, w) filled up with zeros, at one moment.

        Role, region and gtin are one for all or arrays of shape (n,). Returns status, item, index of the profile, rule
        and drawn of :meth:`resolve`, each of shape (n,).
        """
        _check_scan(now_ms)
        is_shaped = codes.dtype == np.uint8 and codes.ndim == 2 and 1 <= codes.shape[1] <= TEXT_BYTES_MAX
        _require(is_shaped, "codes must be uint8 of shape (n, 20), or of another width from 1 to 64")
        roles = _one_a_row("role", role, len(codes))
        for each in roles:
            _check_scan(now_ms, role=each)
        regions = _one_a_row("region", region, len(codes))
        for each in regions:
            _check_scan(now_ms, region=each)
        gtins = _one_a_row("gtin", gtin, len(codes))
        for each in gtins:
            _require(0 <= each < GTIN_END, f"a GTIN has at most 14 digits, found {each}")
        found = np.zeros(len(codes), "u1, u8, i4, i2, i2")
        for row, code in enumerate(codes):
            # In Latin-1 each byte is one character, so that no byte above 127 is taken for a part of another.
            text = code.tobytes().decode("latin-1").rstrip("\0")
            status, item, _, profile, rule, drawn, _ = self.resolve(text, now_ms, roles[row], regions[row], gtins[row])
            found[row] = (status, item, profile, rule, drawn)
        status_of, item_of, profile_of, rule_of, drawn_of = (found[name].copy() for name in found.dtype.names or ())
        return status_of, item_of, profile_of, rule_of, drawn_of


def _one_a_row(what: str, value: int | U8 | U32 | U64, count: int) -> list[int]:
    """Spread one value over ``count`` rows, once at the least, so that it is checked without rows too."""
    if not isinstance(value, np.ndarray):
        return [value] * max(count, 1)
    is_column = value.shape == (count,) and value.dtype.kind in "iu"
    _require(is_column, f"{what} must be one value or {count} integers, found {value.dtype} {value.shape}")
    return [int(each) for each in value]
