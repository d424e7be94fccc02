-- How long to wait after a key before asking: by how fast the user types and how long answers take.

local M = {}

local INTERVALS = 8
local PAUSE = 1000 -- A longer interval is a pause, and says nothing about the user's speed.
local SHARE = 1.25 -- Most keys of a steady typist come within this many usual intervals.
local UNKNOWN, MOST = 60, 250

---@class dlm.Rhythm
---@field intervals number[] milliseconds between the latest keys
---@field latencies number[] milliseconds that the latest answers took
---@field last number? when the last key came

---@return dlm.Rhythm
function M.new()
  return { intervals = {}, latencies = {}, last = nil }
end

local function push(list, value)
  list[#list + 1] = value
  if #list > INTERVALS then
    table.remove(list, 1)
  end
end

local function median(list)
  local sorted = vim.deepcopy(list)
  table.sort(sorted)
  return sorted[math.ceil(#sorted / 2)]
end

---@param rhythm dlm.Rhythm
---@param now number milliseconds of one clock
function M.key(rhythm, now)
  if rhythm.last and now - rhythm.last < PAUSE then
    push(rhythm.intervals, now - rhythm.last)
  end
  rhythm.last = now
end

---@param rhythm dlm.Rhythm
---@param milliseconds number
function M.answered(rhythm, milliseconds)
  push(rhythm.latencies, milliseconds)
end

---Returns how many milliseconds to wait from the last key on. A user who types fast is asked for
---after a short rest, a slow one after a longer one, so that most keys come before the question;
---an engine that takes long begins up to half of the rest earlier, since its answer comes late
---enough.
---@param rhythm dlm.Rhythm
---@param setting 'auto'|integer
---@return number
function M.wait(rhythm, setting)
  if setting ~= 'auto' then
    return setting --[[@as integer]]
  end
  if #rhythm.intervals < 3 then
    return UNKNOWN
  end
  local rest = math.min(MOST, SHARE * median(rhythm.intervals))
  local latency = #rhythm.latencies > 0 and median(rhythm.latencies) or 0
  return math.max(rest / 2, rest - latency)
end

---The usual latency in milliseconds, nil before the first answer.
---@param rhythm dlm.Rhythm
---@return number?
function M.latency(rhythm)
  return #rhythm.latencies > 0 and median(rhythm.latencies) or nil
end

return M
