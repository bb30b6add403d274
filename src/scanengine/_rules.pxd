# Rules of a campaign: their records, the checks made once, and the leaves that evaluate and draw.
# Rule: after rule_set_check nothing touches a Python object: leaves are `noexcept nogil` and allocate nothing.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from scanengine._siphash cimport siphash_key, siphash_u64

cdef extern from *:
    """
    typedef unsigned __int128 scanengine_uint128;
    """
    ctypedef unsigned long long uint128_t "scanengine_uint128"


cdef enum FieldCode:
    # What a predicate looks at.
    FIELD_CODE_TIME = 0      # milliseconds since 1970 UTC
    FIELD_CODE_MINUTE = 1    # minute of the local day
    FIELD_CODE_PRODUCT = 2   # GTIN as an integer, 0 = none
    FIELD_CODE_ITEM = 3
    FIELD_CODE_REGION = 4    # six-digit adcode, 0 = unknown
    FIELD_CODE_ROLE = 5


cdef struct rule_record:
    # One row of RULE_DTYPE, 24 bytes.
    uint32_t predicate_start
    uint32_t predicate_count
    uint32_t column_start
    uint32_t column_count
    uint8_t number
    uint8_t mode
    uint8_t reserved[6]


cdef struct predicate_record:
    # One row of PREDICATE_DTYPE, 16 bytes.
    uint32_t field
    uint32_t range_start
    uint32_t range_count
    uint32_t reserved


cdef struct transition_record:
    # One row of TRANSITION_DTYPE, 16 bytes.
    int64_t at_ms
    int32_t offset_s
    uint32_t reserved


cdef struct rule_set_view:
    # Borrowed from a RuleSet, which checked it.
    siphash_key draw_key
    const rule_record *rules
    const predicate_record *predicates
    const uint64_t *ranges     # pairs [low, high)
    const uint64_t *thresholds
    const uint32_t *aliases
    const int16_t *outcomes
    const transition_record *transitions
    uint32_t rule_count
    uint32_t transition_count


cdef struct scan_facts:
    # What predicates may ask of one scan.
    uint64_t item
    uint64_t gtin
    int64_t now_ms
    uint32_t region
    uint8_t role


cdef inline uint32_t alias_column(uint64_t w0, uint32_t column_count) noexcept nogil:
    # Ensures: result < column_count; the high half of the product stands in for a division.
    return <uint32_t>((<uint128_t>w0 * column_count) >> 64)


cdef inline uint32_t alias_choose(
    const uint64_t *thresholds, const uint32_t *aliases, uint32_t column_count, uint64_t w0, uint64_t w1
) noexcept nogil:
    # Requires: column_count >= 1, every alias < column_count.
    # Ensures:  result < column_count.
    # Source:   alias method, Walker 1977; table built as in Vose 1991.
    cdef uint32_t column = alias_column(w0, column_count)
    if w1 < thresholds[column]:
        return column
    return aliases[column]


cdef inline uint64_t draw_position(const rule_record *rule, uint64_t item) noexcept nogil:
    # Ensures: what the first draw word is the hash of.
    return item + (<uint64_t>rule.number << 56)


cdef inline uint64_t second_position(uint64_t position) noexcept nogil:
    # Ensures: what the second draw word is the hash of.
    return position + (<uint64_t>1 << 55)


cdef inline int16_t rule_outcome(
    const rule_set_view *view, const rule_record *rule, uint64_t w0, uint64_t w1
) noexcept nogil:
    # Ensures: the prize number that two draw words choose, -1 for none.
    cdef uint32_t column = alias_choose(
        view.thresholds + rule.column_start, view.aliases + rule.column_start, rule.column_count, w0, w1
    )
    return view.outcomes[rule.column_start + column]


cdef inline int16_t rule_draw(const rule_set_view *view, const rule_record *rule, uint64_t item) noexcept nogil:
    # Ensures: the prize number the rule draws for the item, -1 for none.
    cdef uint64_t position = draw_position(rule, item)
    return rule_outcome(
        view, rule, siphash_u64(&view.draw_key, position), siphash_u64(&view.draw_key, second_position(position)))


cdef inline int64_t floor_divide(int64_t value, int64_t divisor) noexcept nogil:
    # C divides towards zero; days before 1970 (a zone west of Greenwich at time 0) need the floor.
    cdef int64_t quotient = value // divisor
    if value - quotient * divisor < 0:
        quotient -= 1
    return quotient


cdef inline int64_t local_ms(const rule_set_view *view, int64_t now_ms) noexcept nogil:
    # Ensures: milliseconds since 1970 on the campaign's own wall clock.
    # Cost:    binary search over the zone's changes, the first of which is the beginning of time.
    cdef uint32_t low = 0
    cdef uint32_t high = view.transition_count - 1
    cdef uint32_t middle
    while low < high:
        middle = (low + high + 1) >> 1
        if view.transitions[middle].at_ms <= now_ms:
            low = middle
        else:
            high = middle - 1
    return now_ms + <int64_t>view.transitions[low].offset_s * 1000


cdef inline uint64_t field_value(const rule_set_view *view, const scan_facts *scan, uint32_t field) noexcept nogil:
    cdef int64_t local
    if field == FIELD_CODE_TIME:
        return <uint64_t>scan.now_ms
    if field == FIELD_CODE_MINUTE:
        local = local_ms(view, scan.now_ms)
        return <uint64_t>((local - floor_divide(local, 86_400_000) * 86_400_000) // 60_000)
    if field == FIELD_CODE_PRODUCT:
        return scan.gtin
    if field == FIELD_CODE_ITEM:
        return scan.item
    if field == FIELD_CODE_REGION:
        return scan.region
    return scan.role


cdef inline bint predicate_holds(
    const rule_set_view *view, const predicate_record *predicate, const scan_facts *scan
) noexcept nogil:
    cdef uint64_t value = field_value(view, scan, predicate.field)
    cdef const uint64_t *pair = view.ranges + 2 * <uint64_t>predicate.range_start
    cdef uint32_t index
    for index in range(predicate.range_count):
        if pair[2 * index] <= value < pair[2 * index + 1]:
            return True
    return False


cdef inline const rule_record *rule_find(const rule_set_view *view, const scan_facts *scan) noexcept nogil:
    # Ensures: the first rule whose predicates all hold, or NULL.
    cdef uint32_t rule_index, predicate_index
    cdef const rule_record *rule
    cdef bint holds
    for rule_index in range(view.rule_count):
        rule = &view.rules[rule_index]
        holds = True
        for predicate_index in range(rule.predicate_count):
            if not predicate_holds(view, &view.predicates[rule.predicate_start + predicate_index], scan):
                holds = False
                break
        if holds:
            return rule
    return NULL


cdef inline object outside_error(str what, index, str part, start, count, total):
    return ValueError(f"{what} {index}: {part} {start}+{count} are outside the {total} given")


cdef inline int rule_set_check(
    const rule_set_view *view, uint64_t rule_count, uint64_t predicate_count, uint64_t range_count,
    uint64_t column_count, uint64_t alias_count, uint64_t outcome_count, uint64_t transition_count,
) except -1:
    # Requires: the arrays of `view` have these lengths.
    # Ensures:  every index that the leaves will follow is inside its array, or a ValueError that names the row.
    cdef uint64_t index, column
    cdef const rule_record *rule
    cdef const predicate_record *predicate
    cdef const transition_record *transition
    cdef bint is_used[256]
    memset(is_used, 0, sizeof(is_used))
    if rule_count > 256:
        raise ValueError(f"more than 256 rules: {rule_count}")
    if column_count != alias_count or column_count != outcome_count:
        raise ValueError(f"{column_count} thresholds, {alias_count} aliases and {outcome_count} outcomes do not agree")
    for index in range(rule_count):
        rule = &view.rules[index]
        if <uint64_t>rule.predicate_start + rule.predicate_count > predicate_count:
            raise outside_error(
                "rule", index, "predicates", rule.predicate_start, rule.predicate_count, predicate_count)
        if <uint64_t>rule.column_start + rule.column_count > column_count:
            raise outside_error("rule", index, "columns", rule.column_start, rule.column_count, column_count)
        if rule.column_count == 0:
            raise ValueError(f"rule {index}: at least one column is needed")
        if rule.mode > 1:
            raise ValueError(f"rule {index}: mode {rule.mode} is not 0 or 1")
        if is_used[rule.number]:
            raise ValueError(f"rule {index}: number {rule.number} is given twice")
        is_used[rule.number] = True
    for index in range(predicate_count):
        predicate = &view.predicates[index]
        if predicate.field > FIELD_CODE_ROLE:
            raise ValueError(f"predicate {index}: field {predicate.field} is not 0 to 5")
        if <uint64_t>predicate.range_start + predicate.range_count > range_count:
            raise outside_error("predicate", index, "ranges", predicate.range_start, predicate.range_count, range_count)
    for index in range(range_count):
        if view.ranges[2 * index] >= view.ranges[2 * index + 1]:
            raise ValueError(f"range {index}: {view.ranges[2 * index]} to {view.ranges[2 * index + 1]} is empty")
    for index in range(rule_count):
        rule = &view.rules[index]
        for column in range(rule.column_count):
            if view.aliases[rule.column_start + column] >= rule.column_count:
                raise ValueError(
                    f"rule {index}: alias {view.aliases[rule.column_start + column]} of column {column} "
                    f"is outside its {rule.column_count} columns")
    for index in range(column_count):
        if not -1 <= view.outcomes[index] <= 255:
            raise ValueError(f"outcome {index}: prize {view.outcomes[index]} is not -1 to 255")
    if transition_count == 0:
        raise ValueError("at least one transition is needed")
    for index in range(transition_count):
        transition = &view.transitions[index]
        if index == 0 and transition.at_ms != -0x7fffffffffffffff - 1:
            raise ValueError("the first transition must be the beginning of time")
        if index and transition.at_ms <= view.transitions[index - 1].at_ms:
            raise ValueError(f"transition {index} is not after the one before it")
        if not -86_400 <= transition.offset_s <= 86_400:
            raise ValueError(f"transition {index}: offset {transition.offset_s} s is more than a day")
    return 0


cdef class RuleSet:
    cdef rule_set_view view
    cdef tuple _arrays                    # Holds the buffers that `view` points into.


# Ensures: the value, or a ValueError that names it.
cdef int64_t time_checked(object now_ms) except -1
cdef int role_checked(object role) except -1
cdef int region_checked(object region) except -1

# Ensures: a contiguous array of exactly this type; a copy only if the caller's was not contiguous.
cdef object array_checked(object array, object dtype, str what)
