#!lua name=scan_v1
-- The ledger's functions, version 1. A published version is never changed: another behaviour is another library.
--
-- A call does everything for a whole batch, in three steps: it reads what the batch needs, decides request by request in
-- memory, and writes. Reading a key of another type fails, and so does anything else that can fail, before the first
-- write; what is written is claims first, then counters, then events. Each call names every key it touches in KEYS, so
-- that a Cluster refuses the whole call and never half of it.
--
-- Items, users and visits are opaque here: they come as fields and keys. Numbers are doubles: the client sends none
-- above 2^53.
--
--   {id}:meta         hash    program, format, epoch, clock, generation, claims, scans, events, trimmed, trimmed_claims;
--                             importing, during an import
--   {id}:campaigns    hash    campaign id -> number, from 1
--   {id}:readers      hash    reader -> newest event acknowledged
--   {id}:adjustments  hash    adjustment id -> "seq nonce json"
--   {id}:outbox       stream  one entry an event, its id the event's number
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

-- Fields of a bucket as text: Redis turns a number into text at some cost.
local FIELDS = {}
for i = 0, 3 * ITEMS - 1 do
    FIELDS[i] = '' .. i
end


local function refuse(text)
    error(redis.error_reply(text))
end

local function integer(text)
    return tonumber(text or 0)
end

-- Lua would write a large number with an exponent.
local function digits(number)
    return string.format('%.0f', number)
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

-- Refuse, before anything is written, an outbox that would not take the next event.
local function check_outbox(key, events)
    local kind = redis.call('TYPE', key).ok
    if kind == 'none' then
        return
    end
    if kind ~= 'stream' then
        refuse('WRONGTYPE the outbox is a ' .. kind .. ', expected a stream')
    end
    local found = redis.call('XINFO', 'STREAM', key)
    for i = 1, #found, 2 do
        if found[i] == 'last-generated-id' and tonumber(string.match(found[i + 1], '^%d+')) > events then
            refuse('LEDGERDAMAGED the outbox holds events that the ledger never wrote')
        end
    end
end

local function load_campaign(key, number)
    local held = redis.call('HMGET', key, 'n', 'date', 'paused', 'closed', 'budget')
    if integer(held[1]) ~= number then
        refuse('LEDGERDAMAGED a campaign has another number than this client knows')
    end
    return {
        key = key, number = number, date = integer(held[2]), is_paused = held[3] == '1', is_closed = held[4] == '1',
        extra_budget = integer(held[5]), counts = {}, dirty = {},
    }
end

local function count_of(campaign, name)
    local value = campaign.counts[name]
    if not value then
        value = integer(redis.call('HGET', campaign.key, name))
        campaign.counts[name] = value
    end
    return value
end

local function add_to(campaign, name, delta)
    local value = count_of(campaign, name) + delta
    campaign.counts[name] = value
    campaign.dirty[name] = true
    return value
end

-- Prizes are {money, amount, stock, stock per day, fallback}, -1 for no limit.
local function can_give(campaign, terms, number, prize, date)
    local money, stock, per_day = prize[1], prize[3], prize[4]
    local awards = 'awards:' .. number
    if stock >= 0 then
        local most = math.min(stock + count_of(campaign, 'stock:' .. number), NUMBER_MAX)
        if count_of(campaign, awards) >= most then
            return false
        end
    end
    if per_day >= 0 and count_of(campaign, awards .. ':' .. date) >= per_day then
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
        if budget_per_day >= 0 and count_of(campaign, 'money:' .. date) + money > budget_per_day then
            return false
        end
    end
    return true
end

-- The prize drawn, or the first of its fallbacks that can be given; a chain visits each prize at most once.
local function choose_prize(campaign, terms, drawn, date)
    local number = drawn
    local prizes = terms[9]
    for _ = 1, terms[8] do
        local prize = prizes[number]
        if not prize then
            return nil
        end
        if can_give(campaign, terms, number, prize, date) then
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
        local held = redis.call('HMGET', bucket, FIELDS[offset], FIELDS[ITEMS + offset], FIELDS[2 * ITEMS + offset])
        item = {bucket = bucket, offset = offset, scans_key = scans_key, count = 0, [0] = held[1], [1] = held[2]}
        if held[3] then
            item.count, item.first = struct.unpack('<I4I6', held[3])
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
        local held = redis.call('HGET', item.scans_key, visit)
        number = held and struct.unpack('<I4', held) or 0
        item.visits[visit] = number
    end
    return number
end

-- The scans of an item as this visit sees them: count, time of the first, number of this visit (0 if it is not counted),
-- and whether it is a new one. What a claim's record says of the first scan counts like a scan of its own.
local function look_at(item, visit, time, counts)
    local count, first, number = item.count, item.first, number_of(item, visit)
    for party = 0, 1 do
        local record = item[party]
        if record and string.byte(record, 27) == 1 then
            count = math.max(count, 1)
            first = struct.unpack('<I6', record, 17)
            if string.sub(record, 9, 16) == visit then
                number = 1
            end
        end
    end
    if number > 0 or not counts then
        return count, first, number, false
    end
    return count + 1, first or time, count + 1, true
end

local function add_scan(batch, item, visit, time, count, first)
    if not item.new_scans then
        if item.count == 0 then
            redis.call('HLEN', item.scans_key)  -- Fails if it is no hash, while nothing is written yet.
        end
        item.new_scans = {}
        table.insert(batch.scanned, item)
    end
    item.count, item.first = count, first
    item.visits = item.visits or {}
    item.visits[visit] = count
    batch.meta.scans = batch.meta.scans + 1
    table.insert(item.new_scans, visit)
    table.insert(item.new_scans, struct.pack('<I4I6I4', count, time, batch.meta.scans))
end

-- An event is MessagePack: kind (1 claim, 0 scan), time, number of claims so far, number of the scan (0 of a claim), rule,
-- drawn, prize, amount, unit, and what the client said, which ends with a check value of its own.
local function add_event(batch, blob, kind, time, rule, drawn, prize, amount, unit)
    local meta = batch.meta
    meta.events = meta.events + 1
    table.insert(batch.events, digits(meta.events) .. '-0')
    local scan = kind == 1 and 0 or meta.scans
    table.insert(batch.events,
        cmsgpack.pack(kind, time, meta.claims, scan, rule, drawn, prize, amount, unit) .. blob)
end

local function answer(status, time, first, count, number, record)
    record = record or ''
    if #record > 255 then
        refuse('LEDGERDAMAGED a claim of ' .. #record .. ' bytes')
    end
    return struct.pack('<BI8I8I4I4B', status, time, first and first + 1 or 0, count, number, #record) .. record
end

-- Count a claim and return its record and unit.
local function add_claim(batch, campaign, person, item, party, at, date, claim)
    local meta = batch.meta
    local today = ':' .. date
    campaign.date = math.max(campaign.date, date)
    add_to(campaign, 'claims', 1)
    add_to(campaign, 'claims' .. today, 1)
    local unit = 0
    if claim.prize >= 0 then
        local awards = 'awards:' .. claim.prize
        unit = add_to(campaign, awards, 1)
        add_to(campaign, awards .. today, 1)
        if claim.money > 0 then
            add_to(campaign, 'money', claim.money)
            add_to(campaign, 'money' .. today, claim.money)
        end
    end
    person.total = person.total + 1
    person.day = (person.date == date and person.day or 0) + 1
    person.date = date
    person.is_new = true
    meta.claims = meta.claims + 1
    local record = claim.user .. claim.visit .. struct.pack('<I6I4', at, meta.claims) .. cmsgpack.pack(
        claim.is_first_scan and 1 or 0, campaign.number, claim.generation, date - math.floor(at / DAY_MS), unit,
        claim.rule, claim.drawn, claim.prize, claim.money)
    item[party] = record
    table.insert(batch.claimed, item)
    table.insert(batch.claimed, FIELDS[party * ITEMS + item.offset])
    table.insert(batch.claimed, record)
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
        local person = {key = keys[first + i - 1], total = 0, date = 0, day = 0}
        if held[i] then
            person.total, person.date, person.day = cmsgpack.unpack(held[i])
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

local function write(batch, outbox_key, is_kept)
    local meta = batch.meta
    local claimed, events = batch.claimed, batch.events
    for i = 1, #claimed, 3 do
        redis.call('HSET', claimed[i].bucket, claimed[i + 1], claimed[i + 2])
    end
    local counts = {}
    for _, person in ipairs(batch.people) do
        if person.is_new then
            table.insert(counts, person.key)
            table.insert(counts, cmsgpack.pack(person.total, person.date, person.day))
        end
    end
    if #counts > 0 then
        redis.call('MSET', unpack(counts))
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
    if is_kept then
        for i = 1, #events, 2 do
            redis.call('XADD', outbox_key, events[i], 'e', events[i + 1])
        end
    end
    local marks = {'clock', digits(meta.clock), 'generation', digits(meta.generation), 'claims', digits(meta.claims),
        'scans', digits(meta.scans), 'events', digits(meta.events)}
    if #events > 0 and not is_kept then
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
-- ARGV: epoch, "keep" or "drop", "1" for events of scans, terms and number of persons as MessagePack, the requests.
-- A request: | kind 1 (0 looks, 1 claims) | offset 1 | party 1 | counts 1 | terms 2 | person 2 | generation 4 | date 4 |
-- now, ms 8 | rule 2 | drawn 2 | user 8 | visit 8 | what an event says of it |
-- Returns | newest generation 4 | and the answers, each | status 1 | at, ms 8 | first scan at + 1, ms 8 | scans 4 |
-- number of this scan 4 | length 1 | record |
local function claim(keys, args)
    if #args - 4 > REQUESTS_MAX then
        refuse('LEDGERRANGE a batch has ' .. #args - 4 .. ' requests, expected at most ' .. REQUESTS_MAX)
    end
    local epoch, outbox_choice, has_scan_events = args[1], args[2], args[3] == '1'
    local all_terms, people_count = cmsgpack.unpack(args[4])
    local meta = read_meta(keys[1], epoch)
    if math.max(meta.claims, meta.scans) + REQUESTS_MAX >= SEQ_END then
        refuse('LEDGERRANGE claims and scans are numbered up to 2^32')
    end
    -- What was kept once is not dropped behind a reader's back: scan_v1_drop is asked to, before.
    local is_kept = outbox_choice == 'keep' or redis.call('HLEN', keys[2]) > 0 or meta.trimmed < meta.events
    local old_clock, old_generation = meta.clock, meta.generation
    local batch = {meta = meta, items = {}, campaigns = {}, claimed = {}, scanned = {}, events = {}}
    for i, terms in ipairs(all_terms) do
        local key = keys[3 + i]
        batch.campaigns[key] = batch.campaigns[key] or load_campaign(key, terms[1])
    end
    local at_key = 4 + #all_terms
    batch.people = load_people(keys, at_key, at_key + people_count - 1)
    at_key = at_key + people_count
    local answers = {''}
    for i = 5, #args do
        local kind, offset, party, counts, terms_index, person_index, generation, local_date, now, rule, drawn, user,
            visit, rest = struct.unpack('<BBBBI2I2I4I4I8i2i2c8c8', args[i])
        local item = item_at(batch, keys[at_key], keys[at_key + 1], offset)
        at_key = at_key + 2
        local time = meta.clock
        local status, campaign, date, person, told = SEEN, nil, nil, nil, nil
        if kind == 1 or counts == 1 then
            -- A look leaves no trace, so its time does not count either.
            time = math.max(time, now)
            meta.clock = time
        end
        if kind == 1 then
            meta.generation = math.max(meta.generation, generation)
            local terms = all_terms[terms_index]
            told = item[party]
            if told then
                status = string.sub(told, 1, 8) == user and REPLAYED or TAKEN
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
        local count, first, number, is_new = look_at(item, visit, time, counts == 1 and status ~= STALE)
        local is_first_scan = status == FRESH and is_new and number == 1
        if is_new and not is_first_scan then
            add_scan(batch, item, visit, time, count, first)
        end
        if status == FRESH then
            local prize_number, prize = choose_prize(campaign, all_terms[terms_index], drawn, date)
            local given, unit = prize and prize_number or NO_PRIZE, nil
            told, unit = add_claim(batch, campaign, person, item, party, time, date, {
                user = user, visit = visit, generation = generation, rule = rule, drawn = drawn, prize = given,
                money = prize and prize[1] or 0, is_first_scan = is_first_scan,
            })
            add_event(batch, string.sub(args[i], rest), 1, time, rule, drawn, given, prize and prize[2] or 0, unit)
        elseif is_new and has_scan_events then
            add_event(batch, string.sub(args[i], rest), 0, time, -1, NO_PRIZE, NO_PRIZE, 0, 0)
        end
        answers[i - 3] = answer(status, time, first, count, number, told)
    end
    local event_count = #batch.events / 2
    if event_count > 0 and is_kept then
        check_outbox(keys[3], meta.events - event_count)
    end
    if #batch.claimed > 0 or #batch.scanned > 0 or meta.clock > old_clock or meta.generation > old_generation then
        write(batch, keys[3], is_kept)
    end
    answers[1] = struct.pack('<I4', meta.generation)
    return table.concat(answers)
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

-- How far some of the events up to a number reach, and how many of those and the ones before were of claims.
local function plan_trim(meta, outbox, up_to, most)
    local trimmed = math.min(up_to, meta.trimmed + most)
    if trimmed <= meta.trimmed then
        return meta.trimmed
    end
    -- A damaged event says nothing, and must not keep those before it for ever: the one before it does.
    for _, entry in ipairs(redis.call('XREVRANGE', outbox, digits(trimmed), '-', 'COUNT', 8)) do
        local is_read, _, _, claims = pcall(cmsgpack.unpack, entry[2][2])
        if is_read and type(claims) == 'number' then
            return trimmed, claims
        end
    end
    return trimmed
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
