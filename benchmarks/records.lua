-- Sends requests of a file, each once, from a given one on:
--
--     wrk -t1 -c64 -d4s -s records.lua http://127.0.0.1:8000 -- FILE SIZE FIRST
--
-- All requests of the file are of SIZE bytes and whole, heads included. At the end prints one line of JSON.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  size = tonumber(args[2])
  file = assert(io.open(args[1], "rb"))
  left = file:seek("end") / size - tonumber(args[3])
  file:seek("set", tonumber(args[3]) * size)
  sent = 0
  ranout = 0
end

-- wrk asks for one request before it begins, to look at it, which it does not send.
function request()
  if left == 0 then
    ranout = 1
    wrk.thread:stop()
    return "GET /ran-out HTTP/1.1\r\nHost: localhost\r\n\r\n"
  end
  left = left - 1
  sent = sent + 1
  return file:read(size)
end

function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    '{"replies": %d, "seconds": %.6f, "sent": %d, "refused": %d, "errors": %d, "ran_out": %d, '
      .. '"p50_ms": %.3f, "p99_ms": %.3f}',
    summary.requests, summary.duration / 1e6, threads[1]:get("sent"), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, threads[1]:get("ranout"),
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
