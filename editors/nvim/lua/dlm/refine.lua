-- `:Dlm refine`: the server rewrites what is improbable in a selection. The change is shown in
-- place, word by word, while it is refined, and waits to be accepted or rejected.

local client_of = require('dlm.client')
local diff = require('dlm.diff')
local ghost = require('dlm.ghost')
local pace = require('dlm.pace')
local silence = require('dlm.silence')
local stale = require('dlm.stale')
local text_of = require('dlm.text')

local M = {}

M.namespace = vim.api.nvim_create_namespace('dlm.refine')

local KEYS = { accept = '<CR>', reject = '<Esc>' }

---@class dlm.Refinement
---@field buffer integer
---@field window integer
---@field client integer
---@field uri string
---@field token string
---@field version integer
---@field tick integer the buffer's changedtick: any change of the text ends the refinement
---@field rows integer[] the first and the last line, from 0
---@field columns integer[] the first byte, and the one after the last
---@field range lsp.Range
---@field old string
---@field text string?
---@field spans dlm.Span[]
---@field sequence integer
---@field request integer?
---@field edit lsp.WorkspaceEdit?
---@field listener integer?
---@field keys table<string, table>

---@type dlm.Refinement?
local current
local drawing ---@type dlm.Pace
local number = 0

local function tell(message)
  vim.notify('dlm: ' .. message, vim.log.levels.INFO)
end

-- Where a byte of the old text stands in the buffer.
local function place(refinement, offset)
  local before = refinement.old:sub(1, offset)
  local row = text_of.count_newlines(before)
  local column = #before:match('[^\n]*$')
  return refinement.rows[1] + row, column + (row == 0 and refinement.columns[1] or 0)
end

-- Cuts an inserted text into lines of {text, group}.
local function inserted_lines(refinement, change)
  local spans = {}
  for _, span in ipairs(refinement.spans) do
    spans[#spans + 1] = {
      start = span.start - change.new_start,
      stop = span.stop - change.new_start,
      confidence = span.confidence,
    }
  end
  return ghost.chunked({ text = change.text, committed = 0, spans = spans }, 'DlmAdd')
end

local function draw_change(refinement, change, tabstop)
  local buffer, options = refinement.buffer, { strict = false }
  if change.stop > change.start then
    local row, column = place(refinement, change.start)
    local end_row, end_column = place(refinement, change.stop)
    vim.api.nvim_buf_set_extmark(buffer, M.namespace, row, column, {
      end_row = end_row,
      end_col = end_column,
      hl_group = 'DlmDelete',
      strict = false,
    })
  end
  if change.text == '' then
    return
  end
  local lines = inserted_lines(refinement, change)
  local row, column = place(refinement, change.stop)
  options.virt_text = ghost.shown(lines[1], 0, tabstop)
  options.virt_text_pos = 'inline'
  local below = {}
  for index = 2, #lines do
    below[#below + 1] = #lines[index] > 0 and ghost.shown(lines[index], 0, tabstop)
      or { { '', '' } }
  end
  options.virt_lines = #below > 0 and below or nil
  vim.api.nvim_buf_set_extmark(buffer, M.namespace, row, column, options)
end

local function draw(refinement)
  local buffer = refinement.buffer
  vim.api.nvim_buf_clear_namespace(buffer, M.namespace, 0, -1)
  for _, change in ipairs(diff.changes(refinement.old, refinement.text or refinement.old)) do
    draw_change(refinement, change, vim.bo[buffer].tabstop)
  end
  local keys = ('%s accepts, %s rejects'):format(KEYS.accept, KEYS.reject)
  local hint = refinement.edit and keys or '… refining'
  vim.api.nvim_buf_set_extmark(buffer, M.namespace, refinement.rows[1], 0, {
    virt_text = { { hint, ghost.groups.more } },
    virt_text_pos = 'eol',
  })
  drawing:drawn()
end

local function unmap(refinement)
  for key, before in pairs(refinement.keys) do
    pcall(vim.keymap.del, 'n', key, { buffer = refinement.buffer })
    if not vim.tbl_isempty(before) and before.buffer == 1 then
      vim.api.nvim_buf_call(refinement.buffer, function()
        vim.fn.mapset('n', false, before)
      end)
    end
  end
end

-- Ends the refinement without changing the text.
local function finish(message)
  local refinement = current
  current = nil
  drawing:stop()
  if not refinement then
    return
  end
  local client = vim.lsp.get_client_by_id(refinement.client)
  if refinement.request and client then
    client:cancel_request(refinement.request)
  end
  if vim.api.nvim_buf_is_valid(refinement.buffer) then
    vim.api.nvim_buf_clear_namespace(refinement.buffer, M.namespace, 0, -1)
    unmap(refinement)
  end
  if message then
    tell(message)
  end
end

local function is_changed(refinement)
  return not vim.api.nvim_buf_is_valid(refinement.buffer)
    or vim.api.nvim_buf_get_changedtick(refinement.buffer) ~= refinement.tick
end

local function refresh()
  if current and is_changed(current) then
    finish('The text has changed; the refinement is dropped.')
  elseif current then
    draw(current)
  end
end

drawing = pace.new(refresh)

---Shows a state of the refinement, if it is about the one that runs.
---@param params table the parameters of `dlm/refinement`
function M.told(params)
  local refinement = current
  if not refinement or refinement.edit or type(params.text) ~= 'string' then
    return
  end
  if stale.about(refinement, params) or not vim.deep_equal(params.range, refinement.range) then
    return
  end
  local client = vim.lsp.get_client_by_id(refinement.client)
  if not client then
    return
  end
  refinement.sequence = params.sequence
  refinement.text = text_of.plain(params.text)
  refinement.spans =
    require('dlm.items').spans(params.spans, params.text, 0, client.offset_encoding)
  drawing:soon()
end

-- The text that an edit leaves in place of the range; nil if the edit is about something else.
local function text_after(edit, refinement)
  local edits = require('dlm.fill').items_in(edit, refinement.uri)
  if #edits ~= 1 or not vim.deep_equal(edits[1].range, refinement.range) then
    return nil
  end
  return type(edits[1].insertText) == 'string' and text_of.plain(edits[1].insertText) or nil
end

local function on_answer(refinement, error, result)
  if current ~= refinement then
    return
  end
  refinement.request = nil
  local edit = type(result) == 'table' and result.edit
  if error or type(edit) ~= 'table' then
    local reason = error and error.message or type(result) == 'table' and result.reason
    finish('Nothing is refined: ' .. (type(reason) == 'string' and reason or 'no answer came.'))
    return
  end
  -- An edit of other form than a replacement of the range is applied just as well, only not shown.
  refinement.text = text_after(edit, refinement) or refinement.text
  if refinement.text == refinement.old then
    finish('Nothing is refined: the text stays as it is.')
    return
  end
  refinement.edit, refinement.spans = edit, {}
  refresh()
end

local function map(refinement)
  for name, key in pairs(KEYS) do
    refinement.keys[key] = vim.fn.maparg(key, 'n', false, true)
    vim.keymap.set('n', key, function()
      M[name]()
    end, {
      buffer = refinement.buffer,
      nowait = true,
      desc = 'dlm: ' .. name .. ' the refinement',
    })
  end
end

-- The selection of a command: what was selected, if the command was given for it, or whole lines.
local function selection(command)
  local first, last = command.line1 - 1, command.line2 - 1
  local is_selected = false
  if command.range == 0 and vim.fn.mode():find('^[vV\22]') then
    -- A mapping may give the command without leaving visual mode, where no key would accept.
    vim.cmd.normal({ '\27', bang = true })
    first, last = vim.fn.line("'<") - 1, vim.fn.line("'>") - 1
    is_selected = true
  end
  local lines = vim.api.nvim_buf_get_lines(0, first, last + 1, false)
  local start, stop = vim.fn.getpos("'<"), vim.fn.getpos("'>")
  is_selected = is_selected or command.range == 2 and start[2] - 1 == first and stop[2] - 1 == last
  if is_selected and vim.fn.visualmode() == 'v' then
    local last_line = lines[#lines]
    local from = math.min(start[3] - 1, #lines[1])
    -- The selection's end is the first byte of its last character, or of the one after that.
    local to = math.min(stop[3] - 1, #last_line)
    if vim.o.selection ~= 'exclusive' and to < #last_line then
      to = to + 1 + vim.str_utf_end(last_line, to + 1)
    end
    return first, last, from, to
  end
  return first, last, 0, #lines[#lines]
end

-- Returns the client to refine with, or tells why nothing is refined.
local function client_for(buffer)
  local reason, client = silence.of_buffer(buffer), client_of.of(buffer)
  if reason or not client then
    tell(reason or 'The language server is not attached to this buffer; see :checkhealth dlm.')
    return nil
  end
  return client
end

-- Begins with the text from a byte of a line to a byte of another.
local function begin(client, rows, columns)
  finish()
  require('dlm.suggestion').clear('a refinement begins')
  local buffer, encoding = vim.api.nvim_get_current_buf(), client.offset_encoding
  local lines = vim.api.nvim_buf_get_lines(buffer, rows[1], rows[2] + 1, false)
  -- A \r that Neovim shows as text is a part of the line's end to the server.
  columns[2] = math.min(columns[2], #lines[#lines] - #lines[#lines]:match('\r?$'))
  columns[1] = rows[1] == rows[2] and math.min(columns[1], columns[2]) or columns[1]
  local range = {
    start = { line = rows[1], character = vim.str_utfindex(lines[1], encoding, columns[1]) },
    ['end'] = { line = rows[2], character = vim.str_utfindex(lines[#lines], encoding, columns[2]) },
  }
  lines[#lines] = lines[#lines]:sub(1, columns[2])
  lines[1] = lines[1]:sub(columns[1] + 1)
  number = number + 1
  local refinement = {
    buffer = buffer,
    window = vim.api.nvim_get_current_win(),
    client = client.id,
    uri = vim.uri_from_bufnr(buffer),
    token = ('dlm-refine-%d-%d'):format(vim.fn.getpid(), number),
    tick = vim.api.nvim_buf_get_changedtick(buffer),
    rows = rows,
    columns = columns,
    range = range,
    old = text_of.plain(table.concat(lines, '\n')),
    spans = {},
    sequence = 0,
    keys = {},
  }
  current = refinement
  map(refinement)
  draw(refinement)
  M.send(refinement, client)
end

---Refines a selection, or lines.
---@param command { line1: integer, line2: integer, range: integer }
function M.start(command)
  local client = client_for(vim.api.nvim_get_current_buf())
  if client then
    local first, last, from, to = selection(command)
    begin(client, { first, last }, { from, to })
  end
end

---Refines a range of the current buffer, as a code action does.
---@param range lsp.Range
function M.start_at(range)
  local buffer = vim.api.nvim_get_current_buf()
  local client = client_for(buffer)
  if not client or type(range) ~= 'table' then
    return
  end
  local function byte_of(position)
    local row = position.line
    local line = vim.api.nvim_buf_get_lines(buffer, row, row + 1, false)[1]
    return line and text_of.byte_of(line, position.character, client.offset_encoding)
  end
  local from, to = byte_of(range.start), byte_of(range['end'])
  local last = range['end'].line
  if not to and range['end'].character == 0 and last > range.start.line then
    -- The range ends where a line after the last would begin.
    last = last - 1
    to = #vim.api.nvim_buf_get_lines(buffer, last, last + 1, false)[1]
  end
  if from and to then
    begin(client, { range.start.line, last }, { from, to })
  end
end

---@param refinement dlm.Refinement
---@param client vim.lsp.Client
function M.send(refinement, client)
  local uri, token = refinement.uri, refinement.token
  vim.api.nvim_buf_attach(refinement.buffer, false, {
    on_lines = function()
      if current ~= refinement then
        return true
      end
      vim.schedule(function()
        if current == refinement then
          refresh()
        end
      end)
    end,
  })
  local argument = { textDocument = { uri = uri }, range = refinement.range, token = token }
  refinement.request = client_of.execute(client, 'dlm.refine', argument, function(error, result)
    on_answer(refinement, error, result)
  end, token)
  refinement.version = vim.lsp.util.buf_versions[refinement.buffer]
end

---Makes the change that is shown; one step of undo.
function M.accept()
  local refinement = current
  if not refinement then
    tell('There is no refinement to accept.')
    return
  end
  if not refinement.edit then
    tell('The selection is still being refined.')
    return
  end
  if is_changed(refinement) then
    refresh()
    return
  end
  local client = vim.lsp.get_client_by_id(refinement.client)
  local edit = refinement.edit
  finish()
  local text = text_after(edit, refinement)
  if text then
    local first, last = unpack(refinement.rows)
    local from, to = unpack(refinement.columns)
    local lines = text_of.lines_for(refinement.buffer, first, text)
    vim.api.nvim_buf_set_text(refinement.buffer, first, from, last, to, lines)
  else
    vim.lsp.util.apply_workspace_edit(edit, client and client.offset_encoding or 'utf-8')
  end
end

---Leaves the text as it is.
function M.reject()
  if current then
    finish()
  else
    tell('There is no refinement to reject.')
  end
end

---Whether a refinement is shown.
---@return boolean
function M.is_shown()
  return current ~= nil
end

---Drops the refinement of a server that has ended, or no longer follows a buffer.
---@param client integer
---@param buffer integer? every buffer by default
function M.lost(client, buffer)
  if not current or current.client ~= client then
    return
  end
  if not buffer then
    current.request = nil
    finish('The language server has gone; the refinement is dropped.')
  elseif buffer == current.buffer then
    finish('The language server no longer follows the text; the refinement is dropped.')
  end
end

return M
