-- The words that differ between two texts.

local M = {}

---@class dlm.Change
---@field start integer the first byte of the old text that goes, from 0
---@field stop integer the byte after the last
---@field text string what comes instead
---@field new_start integer where that begins in the new text

local NEWLINE = '\\n'

-- Cuts a text into words, line ends, runs of blanks and single other characters; also returns where
-- each begins.
local function words(text)
  local found, offsets = {}, {}
  local pattern = vim.regex([[^\%(\k\+\|[ \t]\+\|.\)]])
  local line_start = 0
  for index, line in ipairs(vim.split(text, '\n', { plain = true })) do
    if index > 1 then
      found[#found + 1], offsets[#offsets + 1] = NEWLINE, line_start - 1
    end
    local at = 0
    while at < #line do
      local _, last = pattern:match_str(line:sub(at + 1))
      last = last and last > 0 and last or 1
      found[#found + 1] = (line:sub(at + 1, at + last):gsub('\\', '\\\\'))
      offsets[#offsets + 1] = line_start + at
      at = at + last
    end
    line_start = line_start + #line + 1
  end
  offsets[#offsets + 1] = #text
  return found, offsets
end

---Returns what to change in `old` to get `new`, in order.
---@param old string
---@param new string
---@return dlm.Change[]
function M.changes(old, new)
  if old == new then
    return {} -- Also of a text that is too long to be compared while the user waits.
  end
  local old_words, old_offsets = words(old)
  local new_words, new_offsets = words(new)
  local function joined(list)
    return #list > 0 and table.concat(list, '\n') .. '\n' or ''
  end
  local compare = vim.text.diff or vim.diff
  local hunks = compare(joined(old_words), joined(new_words), { result_type = 'indices' })
  local changes = {}
  for _, hunk in
    ipairs(hunks --[[@as integer[][] ]])
  do
    local old_first, old_count, new_first, new_count = unpack(hunk)
    -- A hunk without words on one side names the word before it.
    local from = old_count > 0 and old_first or old_first + 1
    local new_from = new_count > 0 and new_first or new_first + 1
    local start, new_start = old_offsets[from], new_offsets[new_from]
    changes[#changes + 1] = {
      start = start,
      stop = old_offsets[from + old_count],
      text = new:sub(new_start + 1, new_offsets[new_from + new_count]),
      new_start = new_start,
    }
  end
  return changes
end

---Returns the old text with the changes made, which is the new one.
---@param old string
---@param changes dlm.Change[]
---@return string
function M.apply(old, changes)
  local parts, at = {}, 0
  for _, change in ipairs(changes) do
    parts[#parts + 1] = old:sub(at + 1, change.start)
    parts[#parts + 1] = change.text
    at = change.stop
  end
  parts[#parts + 1] = old:sub(at + 1)
  return table.concat(parts)
end

return M
