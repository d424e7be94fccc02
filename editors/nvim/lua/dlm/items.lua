-- Reads the server's answers and drafts: what would be inserted at the place that was asked about.

local text_of = require('dlm.text')

local M = {}

---@class dlm.Item
---@field text string the text from the place that was asked about
---@field committed integer how many bytes of it no longer change
---@field spans dlm.Span[]
---@field replaced integer how many bytes right of the cursor it replaces
---@field command lsp.Command? what to tell the server after accepting it
---@field lead integer how many bytes of `text` the server's own text lacks; negative: has before it

local function is_position(value)
  return type(value) == 'table'
    and type(value.line) == 'number'
    and type(value.character) == 'number'
    and value.line >= 0
    and value.character >= 0
end

-- Returns a range as bytes {row, column, last column}; nil if it is none on one line of the buffer.
local function range_in(range, buffer, encoding)
  if type(range) ~= 'table' or not is_position(range.start) or not is_position(range['end']) then
    return nil
  end
  local row = range.start.line
  if range['end'].line ~= row or row >= vim.api.nvim_buf_line_count(buffer) then
    return nil
  end
  local line = vim.api.nvim_buf_get_lines(buffer, row, row + 1, false)[1]
  local first = text_of.byte_of(line, range.start.character, encoding)
  local last = text_of.byte_of(line, range['end'].character, encoding)
  if last < first then
    return nil
  end
  return { row = row, first = first, last = last }
end

-- The text between the place that was asked about and a later one.
local function between(origin, row, column)
  local lines = vim.api.nvim_buf_get_lines(origin.buffer, origin.row, row + 1, false)
  lines[#lines] = lines[#lines]:sub(1, column)
  lines[1] = lines[1]:sub(origin.column + 1)
  return table.concat(lines, '\n')
end

local function text_in(item)
  local text = item.insertText
  if type(text) == 'table' then
    text = text.value -- A snippet's syntax is not expected of this server.
  end
  return type(text) == 'string' and text_of.plain(text) or nil
end

-- Reads one item of an answer; nil if it does not fit. The server may have known some of what was
-- typed since, so that its range begins later than the place that was asked about.
local function read_item(item, origin, encoding)
  local text = type(item) == 'table' and text_in(item)
  if not text then
    return nil
  end
  local range = { row = origin.row, first = origin.column, last = origin.column }
  if item.range ~= nil and item.range ~= vim.NIL then
    local found = range_in(item.range, origin.buffer, encoding)
    if not found or found.row < origin.row then
      return nil
    end
    range = found
  end
  local made = { committed = 0, spans = {}, command = nil, lead = 0 }
  if range.row == origin.row and range.first < origin.column then
    -- It begins before the cursor, with what stands there.
    local before = origin.before:sub(range.first + 1)
    if not vim.startswith(text, before) or range.last < origin.column then
      return nil
    end
    made.text, made.lead = text:sub(#before + 1), -#before
    made.replaced = range.last - origin.column
  else
    local typed = between(origin, range.row, range.first)
    made.text, made.lead = typed .. text, #typed
    made.replaced = range.last - range.first
  end
  if made.replaced > #origin.after or made.text == '' then
    return nil
  end
  made.committed = #made.text
  made.command = type(item.command) == 'table' and item.command or nil
  return made
end

---Reads the answer of `textDocument/inlineCompletion`; leaves out what does not fit.
---@param result table
---@param origin dlm.Origin
---@param encoding string
---@return dlm.Item[]
function M.read(result, origin, encoding)
  local list = type(result) == 'table' and (result.items or result)
  if type(list) ~= 'table' then
    return {}
  end
  local found, seen = {}, {}
  for _, item in ipairs(list) do
    local made = read_item(item, origin, encoding)
    if made and not seen[made.text] then
      seen[made.text] = true
      found[#found + 1] = made
    end
  end
  return found
end

---Reads the spans of a draft.
---@param given any
---@param text string what the spans count in
---@param committed integer the bytes before that text
---@param encoding string
---@return dlm.Span[]
function M.spans(given, text, committed, encoding)
  local spans = {}
  for _, span in ipairs(type(given) == 'table' and given or {}) do
    if type(span) == 'table' and type(span.start) == 'number' and type(span['end']) == 'number' then
      spans[#spans + 1] = {
        start = committed + text_of.byte_of(text, span.start, encoding),
        stop = committed + text_of.byte_of(text, span['end'], encoding),
        confidence = tonumber(span.confidence) or 0,
      }
    end
  end
  return spans
end

---Reads a `dlm/draft`; nil if it cannot be one for this place.
---@param params table
---@param origin dlm.Origin
---@param encoding string
---@return dlm.Item?
function M.of_draft(params, origin, encoding)
  local committed, draft = params.committed, params.draft
  if type(committed) ~= 'string' or type(draft) ~= 'string' then
    return nil
  end
  local range = params.range
  if type(range) ~= 'table' or not is_position(range.start) or not is_position(range['end']) then
    return nil
  end
  local line = origin.before .. origin.after
  local first = text_of.byte_of(line, range.start.character, encoding)
  local last = text_of.byte_of(line, range['end'].character, encoding)
  if range.start.line ~= origin.row or range['end'].line ~= origin.row then
    return nil
  end
  if first > origin.column or last < origin.column then
    return nil
  end
  local before = origin.before:sub(first + 1)
  if not vim.startswith(committed, before) then
    return nil
  end
  committed = text_of.plain(committed:sub(#before + 1))
  local text = committed .. text_of.plain(draft)
  return {
    text = text,
    committed = #committed,
    spans = M.spans(params.spans, draft, #committed, encoding),
    replaced = last - origin.column,
    lead = -#before,
  }
end

---Returns alternatives that begin with the text that is shown, so that cycling comes back to it.
---@param items dlm.Item[]
---@param shown string
---@return dlm.Item[]
function M.with(items, shown)
  local same
  local found = vim.tbl_filter(function(item)
    same = same or (item.text == shown and item or nil)
    return item.text ~= shown
  end, items)
  local first = same or { text = shown, committed = #shown, spans = {}, replaced = 0, lead = 0 }
  table.insert(found, 1, first)
  return found
end

return M
