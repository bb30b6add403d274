"""The rules of a campaign as one object: its records checked once, then predicates and draws. Part of the core."""

cimport numpy as cnp
from libc.stdint cimport int16_t, int64_t, uint32_t, uint64_t

from scanengine._draws cimport key_read

import numpy as np

cnp.import_array()

RULE_DTYPE = np.dtype([
    ("predicate_start", "<u4"), ("predicate_count", "<u4"), ("column_start", "<u4"), ("column_count", "<u4"),
    ("number", "u1"), ("mode", "u1"), ("reserved", "V6"),
])
PREDICATE_DTYPE = np.dtype([("field", "<u4"), ("range_start", "<u4"), ("range_count", "<u4"), ("reserved", "<u4")])
TRANSITION_DTYPE = np.dtype([("at_ms", "<i8"), ("offset_s", "<i4"), ("reserved", "<u4")])
FIELD_TIME = FIELD_CODE_TIME
FIELD_MINUTE = FIELD_CODE_MINUTE
FIELD_PRODUCT = FIELD_CODE_PRODUCT
FIELD_ITEM = FIELD_CODE_ITEM
FIELD_REGION = FIELD_CODE_REGION
FIELD_ROLE = FIELD_CODE_ROLE


cdef uint64_t ITEM_SPACE = <uint64_t>1 << 55
cdef int64_t TIME_END_MS = <int64_t>1 << 62


cdef object array_checked(object array, object dtype, str what):
    # Ensures: a contiguous array of exactly this type; a copy only if the caller's was not contiguous.
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise TypeError(f"{what} must be an array of {dtype}")
    return np.ascontiguousarray(array)


cdef class RuleSet:
    """The rules of one campaign, ready to be drawn from: predicates, alias tables and the zone's wall clock.

    Parameters
    ----------
    draw_key : bytes
        16 bytes.
    rules, predicates, transitions : structured arrays
        ``RULE_DTYPE``, ``PREDICATE_DTYPE``, ``TRANSITION_DTYPE``.
    ranges : uint64, shape (m, 2)
        Half-open ranges [low, high) of the predicates.
    thresholds, aliases, outcomes : uint64, uint32, int16, shape (c,)
        Alias tables of all rules, one after the other; an alias counts from its rule's first column. An outcome is a
        prize number or -1.

    Raises
    ------
    ValueError
        Naming the first row that is wrong. After that nothing is checked again.
    """

    def __cinit__(self, draw_key, rules, predicates, ranges, thresholds, aliases, outcomes, transitions):
        key_read(draw_key, &self.view.draw_key)
        rules = array_checked(rules, RULE_DTYPE, "rules")
        predicates = array_checked(predicates, PREDICATE_DTYPE, "predicates")
        ranges = array_checked(ranges, np.dtype(np.uint64), "ranges").reshape(-1, 2)
        thresholds = array_checked(thresholds, np.dtype(np.uint64), "thresholds")
        aliases = array_checked(aliases, np.dtype(np.uint32), "aliases")
        outcomes = array_checked(outcomes, np.dtype(np.int16), "outcomes")
        transitions = array_checked(transitions, TRANSITION_DTYPE, "transitions")
        self._arrays = (rules, predicates, ranges, thresholds, aliases, outcomes, transitions)
        self.view.rules = <const rule_record *>cnp.PyArray_DATA(<cnp.ndarray>rules)
        self.view.predicates = <const predicate_record *>cnp.PyArray_DATA(<cnp.ndarray>predicates)
        self.view.ranges = <const uint64_t *>cnp.PyArray_DATA(<cnp.ndarray>ranges)
        self.view.thresholds = <const uint64_t *>cnp.PyArray_DATA(<cnp.ndarray>thresholds)
        self.view.aliases = <const uint32_t *>cnp.PyArray_DATA(<cnp.ndarray>aliases)
        self.view.outcomes = <const int16_t *>cnp.PyArray_DATA(<cnp.ndarray>outcomes)
        self.view.transitions = <const transition_record *>cnp.PyArray_DATA(<cnp.ndarray>transitions)
        rule_set_check(
            &self.view, len(rules), len(predicates), len(ranges), len(thresholds), len(aliases), len(outcomes),
            len(transitions))
        self.view.rule_count = len(rules)
        self.view.transition_count = len(transitions)

    def decide(self, item, now_ms, role, region, gtin):
        """Return (rule number, prize number or -1) of the first rule that holds; (-1, -1) if none does."""
        cdef scan_facts scan
        cdef const rule_record *rule
        time_checked(now_ms)
        if not 0 <= item < ITEM_SPACE:
            raise ValueError(f"an item is below 2**55, found {item}")
        scan.item = item
        scan.now_ms = now_ms
        scan.role = role_checked(role)
        scan.region = region_checked(region)
        scan.gtin = gtin
        rule = rule_find(&self.view, &scan)
        if rule == NULL:
            return -1, -1
        return rule.number, rule_draw(&self.view, rule, scan.item)

    def local_date(self, now_ms):
        """Return the local day, days since 1970-01-01."""
        time_checked(now_ms)
        return floor_divide(local_ms(&self.view, now_ms), 86_400_000)

    def local_minute(self, now_ms):
        """Return the minute of the local day, 0 to 1439."""
        cdef scan_facts scan
        time_checked(now_ms)
        scan.now_ms = now_ms
        return field_value(&self.view, &scan, FIELD_CODE_MINUTE)


cdef int64_t time_checked(object now_ms) except -1:
    if not 0 <= now_ms < TIME_END_MS:
        raise ValueError(f"a time is 0 to 2**62 milliseconds since 1970, found {now_ms}")
    return now_ms


cdef int role_checked(object role) except -1:
    if not 0 <= role <= 4:
        raise ValueError(f"a role is 0 to 4, found {role}")
    return role


cdef int region_checked(object region) except -1:
    if not 0 <= region <= 999_999:
        raise ValueError(f"a region is a six-digit code, found {region}")
    return region
