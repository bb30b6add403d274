-- Sends each prepared scan once, whatever the number of threads:
--
--     wrk -t2 -c64 -d30s --latency -s scans.lua http://127.0.0.1:8000 -- 2
--
-- The number at the end is that of the threads (-t): each takes a part of the file of its own.
-- All lines of requests.ndjson have one length, so a part is found by counting, and one head fits every body.

local folder = debug.getinfo(1, "S").source:match("^@(.*)/") or "."
local path = folder .. "/requests.ndjson"
local mark = folder .. "/used"
local threads = {}

-- wrk would go on after an error in a script, or end with a trace of itself.
local function refuse(text)
  io.stderr:write("scans.lua: " .. text .. "\n")
  os.exit(2)
end

-- In wrk's own state, once for each thread, before that one starts.
function setup(thread)
  if #threads == 0 then
    local used = io.open(mark, "r")
    if used then
      refuse("these codes were sent before, so they would be answered again as they were: export anew")
    end
    used = io.open(mark, "w") or refuse("cannot write " .. mark)
    used:close()
  end
  thread:set("number", #threads)
  table.insert(threads, thread)
end

-- In the thread's state.
function init(args)
  local parts = tonumber(args[1])
  if not parts or parts < 1 or parts % 1 ~= 0 then
    os.remove(mark)
    refuse("say how many threads there are, at the end: wrk -t2 ... URL -- 2")
  end
  if number >= parts then
    refuse("wrk has more threads than the " .. parts .. " that were said after --")
  end
  file = io.open(path, "rb") or refuse("cannot read " .. path)
  length = #file:read("*l") + 1
  local count = file:seek("end") / length
  if count % 1 ~= 0 then
    refuse(path .. " is damaged: its lines differ in length")
  end
  sent = 0
  left = math.floor(count * (number + 1) / parts) - math.floor(count * number / parts)
  file:seek("set", math.floor(count * number / parts) * length)
  local token = os.getenv("SCANENGINE_TOKEN")
  head = table.concat({
    "POST /v1/scans HTTP/1.1",
    "Host: " .. wrk.headers["Host"],
    token and "Authorization: Bearer " .. token or "Accept: */*",
    "Content-Type: application/json",
    "Content-Length: " .. length - 1,
    "\r\n",
  }, "\r\n")
  idle = "GET /healthz HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n\r\n"
  ranout = 0
end

function request()
  if left == 0 then
    -- wrk asks for one more on each connection that is open, and a code must not be sent twice.
    ranout = 1
    wrk.thread:stop()
    return idle
  end
  left = left - 1
  sent = sent + 1
  return head .. file:read(length):sub(1, -2)
end

function done(summary, latency, requests)
  local sent_total, is_void = 0, false
  for _, thread in ipairs(threads) do
    sent_total = sent_total + thread:get("sent")
    is_void = is_void or thread:get("ranout") == 1
  end
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  print(string.format("scanengine: %d scans were handed to wrk, each with a code of its own", sent_total))
  print(string.format("scanengine: %d replies, %d of them no 200, %d errors", summary.requests, errors.status, lost))
  if is_void then
    print("scanengine: VOID, a thread ran out of codes, so the rates above are wrong: export more, or run shorter")
  end
end
