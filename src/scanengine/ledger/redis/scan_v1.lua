#!lua name=scan_v1
-- The ledger's functions, version 1. A published version is never changed: another behaviour is another library.
--
-- A call does everything for a whole batch, in three steps: it reads what the batch needs, decides request by request in
-- memory, and writes. Reading a key of another type fails, and so does anything else that can fail, before anything is
-- written. Each call names every key it touches in KEYS, so that a Cluster refuses the whole call and never half of it.
--
-- Items, users and visits are opaque here: they come as fields and keys. Numbers are doubles: the client sends none
-- above 2^53.
--
--   {id}:meta         hash    program, format, epoch, clock, generation, claims, scans, events, trimmed, trimmed_claims;
--                             importing, during an import
--   {id}:campaigns    hash    campaign id -> number, from 1
--   {id}:readers      hash    reader -> newest event acknowledged
--   {id}:adjustments  hash    adjustment id -> "seq nonce json"
--   {id}:outbox       stream  one entry a call, its id the number of its last event: heads of events -> what the clients said
--   {id}:k:CAMPAIGN   hash    n, date, paused, closed, budget, stock:P; claims, money, awards:P, and each with :DATE
--   {id}:c:B          hash    128 neighbouring items: offset -> consumer's claim, 128 + offset -> channel's claim,
--                             256 + offset -> | scans 4 | first at, ms 6 |
--   {id}:s:ITEM       hash    visit -> | number 4 | at, ms 6 | seq 4 |
--   {id}:u:N:USER     string  MessagePack: claims of a person in campaign N in all, newest date, claims on that date
--
-- A scan that is part of a claim's record, the first of its item, is in neither of the two places for scans.
--
-- A claim's record:
--
--   | user 8 | visit 8 | at, ms 6 | seq 4 | then MessagePack: first scan, campaign, generation, date - day of at, unit,
--   rule, drawn, prize, money |
--
-- The head of an event, of a claim or of a scan that is no part of one; what its client said ends with a check value:
--
--   | kind 1 (0 scan, 1 claim) | at, ms 6 | claims so far 4 | number of the scan 4, 0 of a claim | rule 2 | drawn 2 |
--   prize 2 | unit 4 | amount 8 | size of what the client said 4 |

local FORMAT = '1'
local NUMBER_MAX = 9007199254740991
local DAY_MS = 86400000
local FRESH, REPLAYED, TAKEN, STALE, INELIGIBLE = 1, 2, 3, 4, 5
local NOT_STARTED, ENDED, PAUSED, PER_USER, PER_USER_PER_DAY = 6, 7, 8, 9, 10
local SEEN = 11
local NO_PRIZE = -1
local ITEMS = 128
local REQUESTS_MAX = 512
local SEQ_END = 4294967296
local REQUEST_SIZE, EVENT_HEAD_SIZE = 48, 37

-- Formats. What there is one of for each request is packed for all at once: each string costs more to make than to fill.
local REQUEST, RECORD = '<BBBBI2I2I4I4I8i2i2c16I4', '<c16I6I4c0c0c0c0c0c0c0c0c0'
local ANSWER, EVENT_HEAD = 'BI8I8I4I4Bc0', 'BI6I4I4i2i2i2I4I8I4'
local ANSWER_VALUES, EVENT_VALUES = 7, 10

-- Values that are packed at the end of a call, overwritten by the next one: a new table grows step by step.
local answer_values, event_values = {}, {}

-- Fields of a bucket and counters as text, and small numbers as MessagePack: each costs more to make than to keep.
local FIELDS, AWARDS, SMALL = {}, {}, {}
for i = 0, 3 * ITEMS - 1 do
    FIELDS[i] = '' .. i
end
for i = 0, 255 do
    AWARDS[i] = 'awards:' .. i
end

-- What a claim uses again and again: a local name costs less than one that is looked up in two tables. While a library is
-- loaded none of it is there yet.
local byte, call, concat, from_msgpack, pack, sub, to_msgpack, unpack_packed

local function prepare()
    if call then
        return
    end
    byte, concat, sub, pack, unpack_packed = string.byte, table.concat, string.sub, struct.pack, struct.unpack
    from_msgpack, to_msgpack = cmsgpack.unpack, cmsgpack.pack
    for i = -1, 255 do
        SMALL[i] = to_msgpack(i)
    end
    call = redis.call
end

local function refuse(text)
    error(redis.error_reply(text))
end

local function integer(text)
    return tonumber(text or 0)
end

-- Lua would write a large number with an exponent.
local function digits(number)
    return string.format(number < 2147483648 and '%d' or '%.0f', number)
end

local function packed(number)
    return SMALL[number] or to_msgpack(number)
end

local function pack_all(format, count, values, size)
    return pack('<' .. string.rep(format, count), unpack(values, 1, size))
end

local function read_meta(key, epoch)
    local held = redis.call('HMGET', key, 'epoch', 'clock', 'generation', 'claims', 'scans', 'events', 'trimmed', 'importing')
    if held[1] ~= epoch then
        refuse('LEDGERGONE the ledger was begun at another time than this client knows, or is gone')
    end
    if held[8] then
        refuse('LEDGERIMPORT an import into this ledger is not finished')
    end
    return {
        key = key, clock = integer(held[2]), generation = integer(held[3]), claims = integer(held[4]),
        scans = integer(held[5]), events = integer(held[6]), trimmed = integer(held[7]),
    }
end

local function load_campaign(key, number)
    local held = redis.call('HMGET', key, 'n', 'date', 'paused', 'closed', 'budget')
    if integer(held[1]) ~= number then
        refuse('LEDGERDAMAGED a campaign has another number than this client knows')
    end
    return {
        key = key, number = number, date = integer(held[2]), is_paused = held[3] == '1', is_closed = held[4] == '1',
        extra_budget = integer(held[5]), counts = {}, dirty = {}, days = {},
    }
end

local function awards_of(day, number)
    local name = day.awards[number]
    if not name then
        name = AWARDS[number] .. day.suffix
        day.awards[number] = name
    end
    return name
end

-- The names of a day's counters. What most of its claims ask for is read at once; count_of reads what else is asked for.
local function day_of(campaign, terms, date)
    local day = campaign.days[date]
    if day then
        return day
    end
    local suffix = ':' .. date
    day = {suffix = suffix, claims = 'claims' .. suffix, money = 'money' .. suffix, awards = {}}
    local names = {'claims', day.claims, 'money', day.money}
    for number in pairs(terms[9]) do
        table.insert(names, AWARDS[number])
        table.insert(names, awards_of(day, number))
        table.insert(names, 'stock:' .. number)
    end
    local held = call('HMGET', campaign.key, unpack(names))
    for i, name in ipairs(names) do
        campaign.counts[name] = campaign.counts[name] or integer(held[i])
    end
    campaign.days[date] = day
    return day
end

local function count_of(campaign, name)
    local value = campaign.counts[name]
    if not value then
        value = integer(call('HGET', campaign.key, name))
        campaign.counts[name] = value
    end
    return value
end

local function add_to(campaign, name, delta)
    local value = (campaign.counts[name] or count_of(campaign, name)) + delta
    campaign.counts[name] = value
    campaign.dirty[name] = true
    return value
end

-- Prizes are {money, amount, stock, stock per day, fallback}, -1 for no limit.
local function can_give(campaign, terms, number, prize, day)
    local money, stock, per_day = prize[1], prize[3], prize[4]
    if stock >= 0 then
        local most = math.min(stock + count_of(campaign, 'stock:' .. number), NUMBER_MAX)
        if count_of(campaign, AWARDS[number]) >= most then
            return false
        end
    end
    if per_day >= 0 and count_of(campaign, awards_of(day, number)) >= per_day then
        return false
    end
    if money > 0 then
        local budget, budget_per_day = terms[6], terms[7]
        if count_of(campaign, 'money') + money > NUMBER_MAX then
            return false
        end
        if budget >= 0 then
            local most = math.min(budget + campaign.extra_budget, NUMBER_MAX)
            if count_of(campaign, 'money') + money > most then
                return false
            end
        end
        if budget_per_day >= 0 and count_of(campaign, day.money) + money > budget_per_day then
            return false
        end
    end
    return true
end

-- The prize drawn, or the first of its fallbacks that can be given; a chain visits each prize at most once.
local function choose_prize(campaign, terms, drawn, day)
    local number = drawn
    local prizes = terms[9]
    for _ = 1, terms[8] do
        local prize = prizes[number]
        if not prize then
            return nil
        end
        if can_give(campaign, terms, number, prize, day) then
            return number, prize
        end
        number = prize[5]
    end
    return nil
end

-- Why nothing can be claimed in this campaign now, by this person. Terms are {number, opens, closes, per user, per user and
-- day, budget, budget per day, number of prizes, prizes by number}: those drawn, and down their fallbacks.
local function refusal_of(campaign, terms, person, at, date)
    if at < terms[2] then
        return NOT_STARTED
    end
    if at >= terms[3] then
        return ENDED
    end
    if campaign.is_paused then
        return PAUSED
    end
    if campaign.is_closed then
        return ENDED
    end
    if terms[4] >= 0 and person.total >= terms[4] then
        return PER_USER
    end
    if terms[5] >= 0 and (person.date == date and person.day or 0) >= terms[5] then
        return PER_USER_PER_DAY
    end
    return nil
end

-- An item as this batch sees it. A later request sees what an earlier one did.
local function item_at(batch, bucket, scans_key, offset)
    local item = batch.items[scans_key]
    if not item then
        local held = call('HMGET', bucket, FIELDS[offset], FIELDS[ITEMS + offset], FIELDS[2 * ITEMS + offset])
        item = {bucket = bucket, offset = offset, scans_key = scans_key, count = 0, [0] = held[1], [1] = held[2]}
        if held[3] then
            item.count, item.first = unpack_packed('<I4I6', held[3])
        end
        batch.items[scans_key] = item
    end
    return item
end

-- The number of a visit among the scans of an item that are no part of a claim, 0 if it is not one of them.
local function number_of(item, visit)
    if item.count == 0 then
        return 0
    end
    item.visits = item.visits or {}
    local number = item.visits[visit]
    if not number then
        local held = call('HGET', item.scans_key, visit)
        number = held and unpack_packed('<I4', held) or 0
        item.visits[visit] = number
    end
    return number
end

-- The scans of an item as this visit sees them: count, time of the first, number of this visit (0 if it is not counted),
-- and whether it is a new one. What a claim's record says of the first scan counts like a scan of its own.
local function look_at(item, mark, time, counts)
    local count, first = item.count, item.first
    if count == 0 and counts and not item[0] and not item[1] then
        return 1, time, 1, true  -- As the rest would find for the first of all, which most claims are.
    end
    local visit = sub(mark, 9, 16)
    local number = number_of(item, visit)
    for party = 0, 1 do
        local record = item[party]
        if record and byte(record, 27) == 1 then
            count = math.max(count, 1)
            first = unpack_packed('<I6', record, 17)
            if sub(record, 9, 16) == visit then
                number = 1
            end
        end
    end
    if number > 0 or not counts then
        return count, first, number, false
    end
    return count + 1, first or time, count + 1, true
end

local function add_scan(batch, item, mark, time, count, first)
    local visit = sub(mark, 9, 16)
    if not item.new_scans then
        if item.count == 0 then
            call('HLEN', item.scans_key)  -- Fails if it is no hash, while nothing is written yet.
        end
        item.new_scans = {}
        table.insert(batch.scanned, item)
    end
    item.count, item.first = count, first
    item.visits = item.visits or {}
    item.visits[visit] = count
    batch.meta.scans = batch.meta.scans + 1
    table.insert(item.new_scans, visit)
    table.insert(item.new_scans, pack('<I4I6I4', count, time, batch.meta.scans))
end

local function add_event(batch, request, kind, time, rule, drawn, prize, unit, amount, said_size)
    local meta, values, kept = batch.meta, event_values, batch.kept
    meta.events = meta.events + 1
    if batch.is_kept then
        local at = #kept * EVENT_VALUES
        kept[#kept + 1] = request
        values[at + 1], values[at + 2], values[at + 3], values[at + 4] = kind, time, meta.claims, kind == 1 and 0 or meta.scans
        values[at + 5], values[at + 6], values[at + 7], values[at + 8] = rule, drawn, prize, unit
        values[at + 9], values[at + 10] = amount, said_size
    end
end

-- What the clients said of the events that are kept. Mostly that is what all have said, which need not be taken apart.
local function said_of(kept, requests, request_count, said)
    if #kept == request_count then
        return said
    end
    local ends, parts = {[0] = 0}, {}
    for i = 1, request_count do
        ends[i] = ends[i - 1] + unpack_packed('<I4', requests, i * REQUEST_SIZE - 3)
    end
    for i, request in ipairs(kept) do
        parts[i] = sub(said, ends[request - 1] + 1, ends[request])
    end
    return concat(parts)
end

-- Count a claim and return its record and unit. A record begins with the user and the visit, as its request does.
local function add_claim(batch, campaign, person, item, party, mark, at, date, day, is_first_scan, generation, rule,
        drawn, prize, money)
    local meta, claimed = batch.meta, batch.claimed
    if date > campaign.date then
        campaign.date = date
    end
    add_to(campaign, 'claims', 1)
    add_to(campaign, day.claims, 1)
    local unit = 0
    if prize >= 0 then
        unit = add_to(campaign, AWARDS[prize], 1)
        add_to(campaign, awards_of(day, prize), 1)
        if money > 0 then
            add_to(campaign, 'money', money)
            add_to(campaign, day.money, money)
        end
    end
    person.total = person.total + 1
    person.day = (person.date == date and person.day or 0) + 1
    person.date = date
    person.is_new = true
    meta.claims = meta.claims + 1
    local record = pack(RECORD, mark, at, meta.claims, SMALL[is_first_scan and 1 or 0], packed(campaign.number),
        packed(generation), packed(date - math.floor(at / DAY_MS)), packed(unit), packed(rule), packed(drawn),
        packed(prize), packed(money))
    item[party] = record
    local count = #claimed
    claimed[count + 1], claimed[count + 2], claimed[count + 3] = item.bucket, FIELDS[party * ITEMS + item.offset], record
    return record, unit
end

local function load_people(keys, first, last)
    local people = {}
    if first > last then
        return people
    end
    local held = redis.call('MGET', unpack(keys, first, last))
    local missing = {}
    for i = 1, #held do
        local person = {key = keys[first + i - 1], total = 0, date = 0, day = 0, is_new = false}
        if held[i] then
            person.total, person.date, person.day = from_msgpack(held[i])
        else
            table.insert(missing, person.key)
        end
        people[i] = person
    end
    -- MGET says nothing of a key of another type, and MSET would overwrite it.
    if #missing > 0 and redis.call('EXISTS', unpack(missing)) > 0 then
        refuse('WRONGTYPE a person is kept in a key of another type')
    end
    return people
end

-- Nothing but this write can be refused, where the outbox holds what the ledger never wrote, so it comes before all others.
local function put_events(key, batch, said)
    local kept = #batch.kept
    local heads = pack_all(EVENT_HEAD, kept, event_values, kept * EVENT_VALUES)
    local added = redis.pcall('XADD', key, digits(batch.meta.events) .. '-0', heads, said)
    if type(added) == 'table' then
        local kind = call('TYPE', key).ok
        if kind == 'stream' then
            refuse('LEDGERDAMAGED the outbox holds events that the ledger never wrote')
        end
        refuse('WRONGTYPE the outbox is a ' .. kind .. ', expected a stream')
    end
end

local function write(batch, outbox_key, said, old_events)
    local meta, claimed = batch.meta, batch.claimed
    if #batch.kept > 0 then
        put_events(outbox_key, batch, said)
    end
    for i = 1, #claimed, 3 do
        call('HSET', claimed[i], claimed[i + 1], claimed[i + 2])
    end
    local counts, size = {}, 0
    for _, person in ipairs(batch.people) do
        if person.is_new then
            counts[size + 1] = person.key
            counts[size + 2] = packed(person.total) .. packed(person.date) .. packed(person.day)
            size = size + 2
        end
    end
    if size > 0 then
        call('MSET', unpack(counts))
    end
    for _, campaign in pairs(batch.campaigns) do
        local fields = {}
        for name in pairs(campaign.dirty) do
            table.insert(fields, name)
            table.insert(fields, digits(campaign.counts[name]))
        end
        if #fields > 0 then
            redis.call('HSET', campaign.key, 'date', digits(campaign.date), unpack(fields))
        end
    end
    for _, item in ipairs(batch.scanned) do
        redis.call('HSET', item.scans_key, unpack(item.new_scans))
        redis.call('HSET', item.bucket, FIELDS[2 * ITEMS + item.offset], struct.pack('<I4I6', item.count, item.first))
    end
    local marks = {'clock', digits(meta.clock), 'generation', digits(meta.generation), 'claims', digits(meta.claims),
        'scans', digits(meta.scans), 'events', digits(meta.events)}
    if meta.events > old_events and not batch.is_kept then
        -- With nobody to read them, events are counted and gone.
        table.insert(marks, 'trimmed')
        table.insert(marks, digits(meta.events))
        table.insert(marks, 'trimmed_claims')
        table.insert(marks, digits(meta.claims))
    end
    redis.call('HSET', meta.key, unpack(marks))
end

-- KEYS: meta, readers, outbox; one campaign for each of the terms; persons; then for each request the bucket and the
-- scans of its item.
-- ARGV: epoch, "keep" or "drop", "1" for events of scans, terms and number of persons and of requests as MessagePack, the
-- requests, and what events say of each of them, one after the other.
-- A request: | kind 1 (0 looks, 1 claims) | offset 1 | party 1 | counts 1 | terms 2 | person 2 | generation 4 | date 4 |
-- now, ms 8 | rule 2 | drawn 2 | user 8 | visit 8 | size of what an event says of it 4 |
-- Returns | newest generation 4 | and the answers, each | status 1 | at, ms 8 | first scan at + 1, ms 8 | scans 4 |
-- number of this scan 4 | length 1 | record |
local function claim(keys, args)
    prepare()
    local epoch, outbox_choice, has_scan_events, requests, said = args[1], args[2], args[3] == '1', args[5], args[6]
    local all_terms, people_count, request_count = from_msgpack(args[4])
    if request_count > REQUESTS_MAX then
        refuse('LEDGERRANGE a batch has ' .. request_count .. ' requests, expected at most ' .. REQUESTS_MAX)
    end
    local meta = read_meta(keys[1], epoch)
    if math.max(meta.claims, meta.scans) + REQUESTS_MAX >= SEQ_END then
        refuse('LEDGERRANGE claims and scans are numbered up to 2^32')
    end
    -- What was kept once is not dropped behind a reader's back: scan_v1_drop is asked to, before.
    local is_kept = outbox_choice == 'keep' or call('HLEN', keys[2]) > 0 or meta.trimmed < meta.events
    local old_clock, old_generation, old_events = meta.clock, meta.generation, meta.events
    local batch = {meta = meta, is_kept = is_kept, items = {}, campaigns = {}, claimed = {}, scanned = {}, kept = {}}
    for i, terms in ipairs(all_terms) do
        local key = keys[3 + i]
        batch.campaigns[key] = batch.campaigns[key] or load_campaign(key, terms[1])
    end
    local at_key = 4 + #all_terms
    batch.people = load_people(keys, at_key, at_key + people_count - 1)
    at_key = at_key + people_count
    if #requests ~= request_count * REQUEST_SIZE then
        refuse('LEDGERRANGE ' .. #requests .. ' bytes of requests, expected ' .. request_count * REQUEST_SIZE)
    end
    local answers, size, said_end = answer_values, 0, 0
    for request = 1, request_count do
        local kind, offset, party, counts, terms_index, person_index, generation, local_date, now, rule, drawn, mark,
            said_size = unpack_packed(REQUEST, requests, (request - 1) * REQUEST_SIZE + 1)
        said_end = said_end + said_size
        -- Both are parts of field numbers, which nothing else would miss before the claims are written.
        if offset >= ITEMS or party > 1 then
            refuse('LEDGERRANGE offset ' .. offset .. ' and party ' .. party .. ', expected below ' .. ITEMS .. ' and 2')
        end
        local item = item_at(batch, keys[at_key], keys[at_key + 1], offset)
        at_key = at_key + 2
        local time = meta.clock
        local status, campaign, date, person, told = SEEN, nil, nil, nil, nil
        if (kind == 1 or counts == 1) and now > time then
            -- A look leaves no trace, so its time does not count either.
            time = now
            meta.clock = now
        end
        local terms = nil
        if kind == 1 then
            if generation > meta.generation then
                meta.generation = generation
            end
            terms = all_terms[terms_index]
            told = item[party]
            if told then
                status = sub(told, 1, 8) == sub(mark, 1, 8) and REPLAYED or TAKEN
            elseif generation < meta.generation then
                status = STALE
            elseif not terms then
                status = INELIGIBLE
            else
                campaign = batch.campaigns[keys[3 + terms_index]]
                date = math.max(local_date, campaign.date)
                person = batch.people[person_index]
                status = refusal_of(campaign, terms, person, time, date) or (rule < 0 and INELIGIBLE) or FRESH
            end
        end
        local count, first, number, is_new = look_at(item, mark, time, counts == 1 and status ~= STALE)
        local is_first_scan = status == FRESH and is_new and number == 1
        if is_new and not is_first_scan then
            add_scan(batch, item, mark, time, count, first)
        end
        if status == FRESH then
            local day = day_of(campaign, terms, date)
            local prize_number, prize = choose_prize(campaign, terms, drawn, day)
            local given, unit, money, amount = NO_PRIZE, nil, 0, 0
            if prize then
                given, money, amount = prize_number, prize[1], prize[2]
            end
            told, unit = add_claim(batch, campaign, person, item, party, mark, time, date, day, is_first_scan, generation,
                rule, drawn, given, money)
            add_event(batch, request, 1, time, rule, drawn, given, unit, amount, said_size)
        elseif is_new and has_scan_events then
            add_event(batch, request, 0, time, -1, NO_PRIZE, NO_PRIZE, 0, 0, said_size)
        end
        local length = told and #told or 0
        if length > 255 then
            refuse('LEDGERDAMAGED a claim of ' .. length .. ' bytes')
        end
        answers[size + 1], answers[size + 2], answers[size + 3] = status, time, first and first + 1 or 0
        answers[size + 4], answers[size + 5], answers[size + 6], answers[size + 7] = count, number, length, told or ''
        size = size + ANSWER_VALUES
    end
    if said_end ~= #said then
        refuse('LEDGERRANGE ' .. #said .. ' bytes are said of requests, expected ' .. said_end)
    end
    if #batch.claimed > 0 or #batch.scanned > 0 or meta.clock > old_clock or meta.generation > old_generation then
        write(batch, keys[3], said_of(batch.kept, requests, request_count, said), old_events)
    end
    return pack('<I4', meta.generation) .. pack_all(ANSWER, request_count, answers, size)
end

-- KEYS: meta, campaigns, campaign. ARGV: epoch, campaign id. Returns the number of a campaign, given to it if need be.
local function number(keys, args)
    read_meta(keys[1], args[1])
    local held = redis.call('HGET', keys[3], 'n')
    if held then
        return tonumber(held)
    end
    local fresh = redis.call('HGET', keys[2], args[2]) or redis.call('HLEN', keys[2]) + 1
    redis.call('HSET', keys[2], args[2], fresh)
    redis.call('HSET', keys[3], 'n', fresh)
    return tonumber(fresh)
end

-- KEYS: meta. ARGV: program, epoch to begin with, epoch expected or "". Returns the epoch that the ledger has, and the
-- newest generation it has seen.
local function open(keys, args)
    local program, new_epoch, expected = args[1], args[2], args[3]
    local held = redis.call('HMGET', keys[1], 'program', 'format', 'epoch', 'importing', 'generation')
    if held[4] then
        refuse('LEDGERIMPORT an import into this ledger is not finished')
    end
    if not held[3] then
        if expected ~= '' then
            refuse('LEDGERGONE the ledger is gone')
        end
        redis.call('HSET', keys[1], 'program', program, 'format', FORMAT, 'epoch', new_epoch)
        return {new_epoch, 0}
    end
    if held[1] ~= program then
        refuse('LEDGERFORMAT the ledger of program ' .. tostring(held[1]) .. ', expected ' .. program)
    end
    if held[2] ~= FORMAT then
        refuse('LEDGERFORMAT a ledger of format ' .. tostring(held[2]) .. ', expected ' .. FORMAT)
    end
    if expected ~= '' and held[3] ~= expected then
        refuse('LEDGERGONE the ledger was replaced by another one')
    end
    return {held[3], integer(held[5])}
end

-- KEYS: meta. ARGV: epoch, generation. Returns the newest generation.
local function announce(keys, args)
    local meta = read_meta(keys[1], args[1])
    local generation = tonumber(args[2])
    if generation > meta.generation then
        redis.call('HSET', keys[1], 'generation', digits(generation))
        return generation
    end
    return meta.generation
end

-- KEYS: meta, adjustments, campaign. ARGV: epoch, adjustment id, nonce of this call, action, prize, amount, the
-- adjustment as JSON. Returns 1 if it is applied by this call, also if the call is repeated; else 0.
local function adjust(keys, args)
    read_meta(keys[1], args[1])
    local id, nonce, action, prize, amount, body = unpack(args, 2, 7)
    local held = redis.call('HGET', keys[2], id)
    if held then
        return string.match(held, '^%d+ (%S+) ') == nonce and 1 or 0
    end
    local seq = redis.call('HLEN', keys[2]) + 1
    local field = action == 'stock' and 'stock:' .. prize or action
    local before = redis.call('HGET', keys[3], field) or '0'
    local is_amount = action == 'stock' or action == 'budget'
    if not string.match(before, '^%d+$') then
        refuse('LEDGERDAMAGED ' .. field .. ' of a campaign is no number')
    end
    if is_amount and tonumber(before) + tonumber(amount) > NUMBER_MAX then
        refuse('LEDGERRANGE the adjustments of ' .. field .. ' would exceed 2^53 - 1')
    end
    redis.call('HSET', keys[2], id, seq .. ' ' .. nonce .. ' ' .. body)
    if is_amount then
        redis.call('HINCRBY', keys[3], field, amount)
    elseif action == 'close' then
        redis.call('HSET', keys[3], 'closed', 1)
    else
        redis.call('HSET', keys[3], 'paused', action == 'pause' and 1 or 0)
    end
    return 1
end

-- KEYS: meta, readers. ARGV: epoch, reader.
local function register_reader(keys, args)
    local meta = read_meta(keys[1], args[1])
    return redis.call('HSETNX', keys[2], args[2], digits(meta.trimmed))
end

-- The claims up to the newest of an entry's events up to a number, nil if none of those can be read.
local function claims_of(entry, up_to)
    if not entry then
        return nil
    end
    local heads, last = entry[2][1], tonumber(string.match(entry[1], '^%d+'))
    local at = #heads - (math.max(last - up_to, 0) + 1) * EVENT_HEAD_SIZE
    return #heads % EVENT_HEAD_SIZE == 0 and at >= 0 and struct.unpack('<I4', heads, at + 8) or nil
end

-- How far some of the events up to a number reach, and how many of those and the ones before were of claims.
local function plan_trim(meta, outbox, up_to, most)
    local trimmed = math.min(up_to, meta.trimmed + most)
    if trimmed <= meta.trimmed then
        return meta.trimmed
    end
    local claims = claims_of(redis.call('XRANGE', outbox, digits(trimmed), '+', 'COUNT', 1)[1], trimmed)
    if not claims then
        -- A damaged entry says nothing, and must not keep those before it for ever: the one before it does.
        for _, entry in ipairs(redis.call('XREVRANGE', outbox, digits(trimmed), '-', 'COUNT', 8)) do
            claims = claims or claims_of(entry, trimmed)
        end
    end
    return trimmed, claims
end

local function trim(meta, outbox, trimmed, claims)
    if trimmed > meta.trimmed then
        redis.call('XTRIM', outbox, 'MINID', digits(trimmed + 1))
        redis.call('HSET', meta.key, 'trimmed', digits(trimmed))
        if claims then
            redis.call('HSET', meta.key, 'trimmed_claims', digits(claims))
        end
    end
end

-- KEYS: meta, readers, outbox. ARGV: epoch, most events to trim. Deletes events while no reader is registered. Returns how
-- far events are trimmed, and how far they may be.
local function drop(keys, args)
    local meta = read_meta(keys[1], args[1])
    local up_to = redis.call('HLEN', keys[2]) > 0 and meta.trimmed or meta.events
    local trimmed, claims = plan_trim(meta, keys[3], up_to, tonumber(args[2]))
    trim(meta, keys[3], trimmed, claims)
    return {trimmed, up_to}
end

-- The oldest of the marks of all readers but one, starting from another mark.
local function lowest_mark(readers_key, but, mark)
    local readers = redis.call('HGETALL', readers_key)
    for i = 1, #readers, 2 do
        if readers[i] ~= but then
            mark = math.min(mark, tonumber(readers[i + 1]))
        end
    end
    return mark
end

-- KEYS: meta, readers, outbox. ARGV: epoch, reader, most events to trim. Forgets a reader, and trims what was kept for it
-- alone. Returns how far events are trimmed, and how far they may be.
local function remove_reader(keys, args)
    local meta = read_meta(keys[1], args[1])
    local others = redis.call('HLEN', keys[2]) - redis.call('HEXISTS', keys[2], args[2])
    -- Nobody is left who has read them: what becomes of events then is not for this call to say.
    local lowest = others > 0 and lowest_mark(keys[2], args[2], meta.events) or meta.trimmed
    local trimmed, claims = plan_trim(meta, keys[3], lowest, tonumber(args[3]))
    redis.call('HDEL', keys[2], args[2])
    trim(meta, keys[3], trimmed, claims)
    return {trimmed, lowest}
end

-- KEYS: meta, readers, outbox. ARGV: epoch, reader, up to, most events to trim. Returns how far events are trimmed, and
-- how far they may be.
local function acknowledge(keys, args)
    local meta = read_meta(keys[1], args[1])
    local reader, up_to, most = args[2], tonumber(args[3]), tonumber(args[4])
    local acked = redis.call('HGET', keys[2], reader)
    if not acked then
        refuse('LEDGERREADER no such reader')
    end
    if up_to < 0 or up_to > meta.events then
        refuse('LEDGERAHEAD ' .. digits(meta.events))
    end
    local lowest = lowest_mark(keys[2], reader, math.max(tonumber(acked), up_to))
    local trimmed, claims = plan_trim(meta, keys[3], lowest, most)
    if up_to > tonumber(acked) then
        redis.call('HSET', keys[2], reader, digits(up_to))
    end
    trim(meta, keys[3], trimmed, claims)
    return {trimmed, lowest}
end

-- KEYS: meta, readers, campaigns, and any campaigns. Returns all of them as they are at one moment.
local function totals(keys)
    local found = {}
    for i, key in ipairs(keys) do
        found[i] = redis.call('HGETALL', key)
    end
    return found
end

redis.register_function('scan_v1_claim', claim)
redis.register_function('scan_v1_number', number)
redis.register_function('scan_v1_open', open)
redis.register_function('scan_v1_announce', announce)
redis.register_function('scan_v1_adjust', adjust)
redis.register_function('scan_v1_reader', register_reader)
redis.register_function('scan_v1_unreader', remove_reader)
redis.register_function('scan_v1_ack', acknowledge)
redis.register_function('scan_v1_drop', drop)
redis.register_function{function_name = 'scan_v1_totals', callback = totals, flags = {'no-writes'}}
