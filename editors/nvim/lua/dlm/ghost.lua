-- Draws a suggestion into the screen: one extmark, replaced as a whole, so that no half state
-- shows. Where the text goes on behind a closing bracket that stays, a second one carries the rest.

local text_of = require('dlm.text')

local M = {}

M.namespace = vim.api.nvim_create_namespace('dlm.ghost')

local MARK, TAIL = 1, 2
local SURE = 0.5 -- Parts of a draft that are less probable are shown as undecided.

M.groups = {
  committed = 'DlmCommitted',
  draft = 'DlmDraft',
  undecided = 'DlmUndecided',
  replaced = 'DlmReplaced',
  moved = 'DlmMoved',
  more = 'DlmMore',
}

---@class dlm.Span
---@field start integer first byte in the text, from 0
---@field stop integer the byte after the last
---@field confidence number

---@class dlm.View
---@field buffer integer
---@field window integer
---@field row integer
---@field column integer the cursor's byte column, where the text begins
---@field text string
---@field committed integer how many bytes of the text no longer change
---@field spans dlm.Span[]
---@field after string the text right of the cursor
---@field replaced integer how many bytes of `after` the text replaces
---@field height integer? the number of lines to take, whatever the text has
---@field hint string? shown after the text, such as (2/3)
---@field offset integer? how much of the suggestion's text was typed before

---Defines the highlight groups; a colour scheme or the user may define them first.
function M.highlight()
  local function set(name, value)
    value.default = true
    vim.api.nvim_set_hl(0, name, value)
  end
  local base = vim.fn.hlexists('ComplHint') == 1 and 'ComplHint' or 'Comment'
  local colours = vim.api.nvim_get_hl(0, { name = base, link = false })
  if not colours.fg then
    colours = vim.api.nvim_get_hl(0, { name = 'NonText', link = false })
  end
  set(M.groups.committed, { fg = colours.fg, ctermfg = colours.ctermfg or 8 })
  set(M.groups.draft, { fg = colours.fg, ctermfg = colours.ctermfg or 8, italic = true })
  set(
    M.groups.undecided,
    { fg = colours.fg, ctermfg = colours.ctermfg or 8, italic = true, underdotted = true }
  )
  set(M.groups.replaced, { strikethrough = true })
  set(M.groups.moved, { fg = colours.fg, ctermfg = colours.ctermfg or 8, bold = true })
  local more = vim.api.nvim_get_hl(0, { name = 'MoreMsg', link = false })
  set('DlmAdd', { link = 'DiffAdd' })
  set('DlmDelete', { link = 'DiffDelete' })
  set(M.groups.more, { fg = more.fg, ctermfg = more.ctermfg })
end

-- Cuts the text where its highlighting changes; returns {text, group} in order.
local function pieces(view, plain)
  local text, cuts = view.text, { [0] = true, [#view.text] = true }
  local committed = math.min(view.committed, #text)
  cuts[committed] = true
  for _, span in ipairs(view.spans) do
    cuts[math.max(committed, math.min(span.start, #text))] = true
    cuts[math.max(committed, math.min(span.stop, #text))] = true
  end
  local from, last = text:find(text_of.MASKED, 1, true)
  while from do
    cuts[from - 1], cuts[last] = true, true
    from, last = text:find(text_of.MASKED, last + 1, true)
  end
  local offsets = vim.tbl_keys(cuts)
  table.sort(offsets)
  local found = {}
  for index = 1, #offsets - 1 do
    local start, stop = offsets[index], offsets[index + 1]
    local part, group = text:sub(start + 1, stop), plain
    if part == text_of.MASKED then
      group = M.groups.undecided
    elseif stop <= committed then
      group = M.groups.committed
    else
      for _, span in ipairs(view.spans) do
        if span.start < stop and span.stop > start and span.confidence < SURE then
          group = M.groups.undecided
        end
      end
    end
    found[#found + 1] = { part, group }
  end
  return found
end

---Returns a text's lines, each a list of {text, group}.
---@param view { text: string, committed: integer, spans: dlm.Span[] }
---@param plain string? the group of what is neither committed nor undecided
---@return [string, string][][]
function M.chunked(view, plain)
  local lines = { {} }
  for _, piece in ipairs(pieces(view, plain or M.groups.draft)) do
    for index, part in ipairs(text_of.lines(piece[1])) do
      if index > 1 then
        lines[#lines + 1] = {}
      end
      if part ~= '' then
        table.insert(lines[#lines], { part, piece[2] })
      end
    end
  end
  return lines
end

---Makes a line's chunks fit for the screen, where they begin at a column.
---@param chunks [string, string][]
---@param column integer
---@param tabstop integer
---@return [string, string][]
function M.shown(chunks, column, tabstop)
  local made = {}
  for _, chunk in ipairs(chunks) do
    local part = text_of.shown(chunk[1], column, tabstop)
    column = column + vim.api.nvim_strwidth(part)
    made[#made + 1] = { part, chunk[2] }
  end
  return made
end

-- Splits a line's chunks at a byte.
local function split(chunks, at)
  local left, right = {}, {}
  for _, chunk in ipairs(chunks) do
    local part = chunk[1]
    if at >= #part then
      left[#left + 1] = chunk
    elseif at <= 0 then
      right[#right + 1] = chunk
    else
      left[#left + 1] = { part:sub(1, at), chunk[2] }
      right[#right + 1] = { part:sub(at + 1), chunk[2] }
    end
    at = at - #part
  end
  return left, right
end

local OPENERS = { ['('] = true, ['['] = true, ['{'] = true }
local CLOSERS = { [')'] = true, [']'] = true, ['}'] = true }

-- Where a line closes what is open before it, from 1.
local function closes_at(line)
  local depth = 0
  for at = 1, #line do
    local character = line:sub(at, at)
    if OPENERS[character] then
      depth = depth + 1
    elseif CLOSERS[character] then
      depth = depth - 1
      if depth < 0 then
        return at
      end
    end
  end
end

---Where in the text stands what it replaces; nil if it does not contain it on its first line.
---@param text string
---@param after string
---@param replaced integer
---@return integer? offset
function M.kept_at(text, after, replaced)
  if replaced == 0 then
    return nil
  end
  local kept, line = after:sub(1, replaced), text_of.lines(text)[1]
  local closing = closes_at(line)
  if closing and line:sub(closing, closing + #kept - 1) == kept then
    return closing - 1
  end
  local last, from = nil, 1
  while true do
    local found = line:find(kept, from, true)
    if not found then
      return last
    end
    last, from = found - 1, found + 1
  end
end

-- How many lines fit on the screen below the cursor.
local function room_below(window)
  return vim.api.nvim_win_call(window, function()
    return vim.api.nvim_win_get_height(0) - vim.fn.winline()
  end)
end

---Scrolls the window of a suggestion so that its lines below the cursor's are seen, as far as the
---cursor and 'scrolloff' let it.
---@param view dlm.View
---@return boolean whether it was scrolled
function M.make_room(view)
  local height = view.height or text_of.count_newlines(view.text) + 1
  local missing = height - 1 - room_below(view.window)
  if missing <= 0 then
    return false
  end
  return vim.api.nvim_win_call(view.window, function()
    local margin = math.min(vim.wo.scrolloff, math.floor((vim.api.nvim_win_get_height(0) - 1) / 2))
    local before = vim.fn.winsaveview()
    local topline, row = before.topline, vim.fn.winline()
    while missing > 0 do
      local line = vim.fn.foldclosedend(topline)
      topline = (line > 0 and line or topline) + 1
      vim.fn.winrestview({ topline = topline, topfill = 0, skipcol = 0 })
      local now = vim.fn.winline()
      if now >= row or now <= margin then
        -- It would scroll past the cursor, or past its margin.
        vim.fn.winrestview(before)
        break
      end
      missing, row, before = missing - (row - now), now, vim.fn.winsaveview()
    end
    return true
  end)
end

-- Cuts or fills the lines below the cursor's to what may be shown.
local function limited(lines, view)
  local height = view.height or #lines
  local made = { unpack(lines, 1, math.min(#lines, height)) }
  while #made < height do
    made[#made + 1] = {}
  end
  local room = room_below(view.window)
  if #made - 1 > room then
    local shown = math.max(1, room) -- The last line that fits tells of the others.
    local more = { ('… %d more lines'):format(#made - shown), M.groups.more }
    made = { unpack(made, 1, shown) }
    if room > 0 then
      made[shown + 1] = { more }
    else
      table.insert(made[1], more)
    end
  end
  return made
end

-- The first line and what stands right of it; returns the extmark's options and the tail's.
local function first_line(view, lines, tabstop)
  local column = vim.fn.strdisplaywidth(
    vim.api.nvim_buf_get_text(view.buffer, view.row, 0, view.row, view.column, {})[1]
  )
  local at = M.kept_at(view.text, view.after, view.replaced)
  local options = { virt_text_pos = 'inline' }
  if at then
    local left, right = split(lines[1], at)
    local kept = view.after:sub(1, view.replaced)
    local _, behind = split(right, #kept)
    options.virt_text = M.shown(left, column, tabstop)
    local width = column + vim.fn.strdisplaywidth(view.text:sub(1, at + #kept), column)
    return options, #behind > 0 and M.shown(behind, width, tabstop) or nil
  end
  options.virt_text = M.shown(lines[1], column, tabstop)
  -- What goes, or goes to the end of the suggestion's last line, is struck through.
  local struck = #lines > 1 and #view.after or view.replaced
  if struck > 0 and view.after:find('%S') then
    options.end_row, options.end_col = view.row, view.column + struck
    options.hl_group = M.groups.replaced
  end
  return options, nil
end

-- The chunks as they stand on the cursor's line. They do not take the highlight of what stands
-- there, which may be that of a matching bracket; but the line's own.
local function on_line(chunks, view)
  if not vim.wo[view.window].cursorline then
    return chunks
  end
  return vim.tbl_map(function(chunk)
    return { chunk[1], { 'CursorLine', chunk[2] } }
  end, chunks)
end

---Shows a suggestion in place of the one that was shown.
---@param view dlm.View
function M.draw(view)
  local tabstop = vim.bo[view.buffer].tabstop
  local lines = limited(M.chunked(view), view)
  local options, tail = first_line(view, lines, tabstop)
  if view.hint then
    table.insert(lines[#lines], { ' ' .. view.hint, M.groups.more })
    if #lines == 1 then
      table.insert(tail or options.virt_text, { ' ' .. view.hint, M.groups.more })
    end
  end
  local below = {}
  for index = 2, #lines do
    below[index - 1] = M.shown(lines[index], 0, tabstop)
    if #below[index - 1] == 0 then
      below[index - 1] = { { '', M.groups.draft } }
    end
  end
  local moved = view.after:sub(view.replaced + 1)
  if #below > 0 and moved:find('%S') and not view.hint then
    table.insert(below[#below], { moved, M.groups.moved })
  end
  options.virt_lines = #below > 0 and below or nil
  options.virt_text, options.hl_mode = on_line(options.virt_text, view), 'replace'
  options.id, options.strict = MARK, false
  -- Only in the window that has the cursor, if the buffer is shown in several.
  pcall(vim.api.nvim__ns_set, M.namespace, { wins = { view.window } })
  vim.api.nvim_buf_set_extmark(view.buffer, M.namespace, view.row, view.column, options)
  if tail then
    vim.api.nvim_buf_set_extmark(
      view.buffer,
      M.namespace,
      view.row,
      view.column + view.replaced,
      { id = TAIL, virt_text = on_line(tail, view), virt_text_pos = 'inline', hl_mode = 'replace' }
    )
  else
    vim.api.nvim_buf_del_extmark(view.buffer, M.namespace, TAIL)
  end
end

---Removes what is shown in a buffer.
---@param buffer integer
function M.clear(buffer)
  if vim.api.nvim_buf_is_valid(buffer) then
    vim.api.nvim_buf_clear_namespace(buffer, M.namespace, 0, -1)
  end
end

return M
