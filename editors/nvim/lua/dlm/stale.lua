-- Whether a suggestion, or a message about one, still fits the buffer: one function decides.

local text_of = require('dlm.text')

local M = {}

---What a suggestion was made for.
---@class dlm.Origin
---@field buffer integer
---@field window integer
---@field client integer
---@field uri string
---@field token string
---@field version integer the document's version that the server was asked about
---@field row integer the cursor's line, from 0
---@field column integer the cursor's byte column
---@field before string the line's text before the cursor
---@field after string the line's text after the cursor
---@field line_count integer
---@field is_broken boolean whether the buffer was changed outside the suggestion's lines
---@field sequence integer of the newest draft

---What is there now.
---@class dlm.Now
---@field buffer integer
---@field window integer
---@field is_inserting boolean
---@field row integer
---@field column integer
---@field line_count integer
---@field lines string[] from the suggestion's line to the cursor's

---@param origin dlm.Origin
---@return dlm.Now
function M.now(origin)
  local window = vim.api.nvim_get_current_win()
  local buffer = vim.api.nvim_win_get_buf(window)
  local cursor = vim.api.nvim_win_get_cursor(window)
  local row = cursor[1] - 1
  return {
    buffer = buffer,
    window = window,
    is_inserting = vim.api.nvim_get_mode().mode:sub(1, 1) == 'i',
    row = row,
    column = cursor[2],
    line_count = vim.api.nvim_buf_line_count(buffer),
    lines = buffer == origin.buffer
        and row >= origin.row
        and vim.api.nvim_buf_get_lines(buffer, origin.row, row + 1, false)
      or {},
  }
end

-- Brackets and quotes that a plugin may have put behind the cursor while an opening one was typed.
local PAIRED = '^[%)%]}>\'"`]+$'

-- How many bytes of the text after the cursor were passed over since; negative for what was put
-- there. Nil if it is another text.
local function passed_over(after, rest)
  local passed = #after - #rest
  if passed >= 0 then
    return after:sub(passed + 1) == rest and passed or nil
  end
  local added = rest:sub(1, -passed)
  return rest:sub(-passed + 1) == after and added:find(PAIRED) and passed or nil
end

-- Why the text around the suggestion is not what it was made for; else what was typed since, and
-- how many bytes of the text after the cursor were passed over.
local function typed_since(origin, now)
  local is_above = now.row < origin.row
  if is_above or (now.row == origin.row and now.column < origin.column) then
    return nil, 'the cursor has left the place'
  end
  if now.line_count ~= origin.line_count + now.row - origin.row then
    return nil, 'lines were added or removed'
  end
  if now.lines[1]:sub(1, origin.column) ~= origin.before then
    return nil, 'the text before the cursor has changed'
  end
  local last = now.lines[#now.lines]
  local rest = last:sub(now.column + 1)
  local passed = passed_over(origin.after, rest)
  if not passed then
    return nil, 'the text after the cursor has changed'
  end
  local typed = vim.deepcopy(now.lines)
  typed[#typed] = last:sub(1, now.column)
  typed[1] = typed[1]:sub(origin.column + 1)
  return table.concat(typed, '\n'), nil, passed
end

---Why a message is not about a request, or older than what is known of it.
---@param origin { token: string, uri: string, version: integer, sequence: integer }
---@param message table
---@return string?
function M.about(origin, message)
  local document = message.textDocument
  if message.token ~= origin.token then
    return 'it is about another request'
  end
  if type(document) ~= 'table' or document.uri ~= origin.uri then
    return 'it is about another document'
  end
  if document.version ~= origin.version then
    return 'it is about another version'
  end
  if type(message.sequence) ~= 'number' or message.sequence <= origin.sequence then
    return 'it comes late'
  end
end

---Decides whether a suggestion, or a draft of it, may be shown.
---@param origin dlm.Origin
---@param now dlm.Now
---@param message table? the parameters of a `dlm/draft`
---@return string? reason why it is stale
---@return string? typed what was typed at its place since, if it is not
---@return integer? passed how many bytes of the text after the cursor the typing passed over;
---negative for closing brackets that it put there
function M.why(origin, now, message)
  local reason = message and M.about(origin, message)
  if reason then
    return reason
  end
  if now.buffer ~= origin.buffer or now.window ~= origin.window then
    return 'another window is current'
  end
  if not now.is_inserting then
    return 'nothing is being inserted'
  end
  if origin.is_broken then
    return 'the text was changed elsewhere'
  end
  local typed, why, passed = typed_since(origin, now)
  if not typed then
    return why
  end
  return nil, typed, passed
end

---What of a suggestion's text is left after something was typed.
---@param text string
---@param typed string
---@return string? rest nil if the text does not begin with what was typed
function M.rest(text, typed)
  if vim.startswith(text, typed) then
    return text:sub(#typed + 1)
  end
end

---Whether the typed text can still become the beginning of a text of which only a part is decided.
---@param committed string
---@param typed string
---@return boolean
function M.may_continue(committed, typed)
  return vim.startswith(committed, typed) or vim.startswith(typed, committed)
end

M.count_newlines = text_of.count_newlines

return M
