-- The change that is proposed: shown in place, word by word, until it is accepted or rejected.
-- There is at most one, whoever asks for it: a refinement or a next edit.

local client_of = require('dlm.client')
local diff = require('dlm.diff')
local ghost = require('dlm.ghost')
local pace = require('dlm.pace')
local silence = require('dlm.silence')
local tell = require('dlm.tell').tell
local text_of = require('dlm.text')

local M = {}

M.namespace = vim.api.nvim_create_namespace('dlm.proposal')

local KEYS = { accept = '<CR>', reject = '<Esc>' }

---@class dlm.Proposal
---@field kind string what the user reads of it: 'refinement' or 'next edit'
---@field hint string what is shown beside it while it is worked on
---@field buffer integer
---@field window integer
---@field client integer
---@field uri string
---@field token string
---@field version integer
---@field tick integer the buffer's changedtick: any change of the text ends the proposal
---@field rows integer[] the first and the last line, from 0
---@field columns integer[] the first byte, and the one after the last
---@field range lsp.Range
---@field old string
---@field text string?
---@field spans dlm.Span[]
---@field sequence integer
---@field request integer?
---@field edit lsp.WorkspaceEdit?
---@field keys table<string, table>

---@type dlm.Proposal?
local current
local drawing ---@type dlm.Pace
local number = 0

-- Where a byte of the old text stands in the buffer.
local function place(proposal, offset)
  local before = proposal.old:sub(1, offset)
  local row = text_of.count_newlines(before)
  local column = #before:match('[^\n]*$')
  return proposal.rows[1] + row, column + (row == 0 and proposal.columns[1] or 0)
end

-- Cuts an inserted text into lines of {text, group}.
local function inserted_lines(proposal, change)
  local spans = {}
  for _, span in ipairs(proposal.spans) do
    spans[#spans + 1] = {
      start = span.start - change.new_start,
      stop = span.stop - change.new_start,
      confidence = span.confidence,
    }
  end
  return ghost.chunked({ text = change.text, committed = 0, spans = spans }, 'DlmAdd')
end

local function draw_change(proposal, change, tabstop)
  local buffer, options = proposal.buffer, { strict = false }
  if change.stop > change.start then
    local row, column = place(proposal, change.start)
    local end_row, end_column = place(proposal, change.stop)
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
  local lines = inserted_lines(proposal, change)
  local row, column = place(proposal, change.stop)
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

local function draw(proposal)
  local buffer = proposal.buffer
  vim.api.nvim_buf_clear_namespace(buffer, M.namespace, 0, -1)
  for _, change in ipairs(diff.changes(proposal.old, proposal.text or proposal.old)) do
    draw_change(proposal, change, vim.bo[buffer].tabstop)
  end
  local keys = ('%s accepts, %s rejects'):format(KEYS.accept, KEYS.reject)
  local hint = proposal.edit and keys or proposal.hint
  vim.api.nvim_buf_set_extmark(buffer, M.namespace, proposal.rows[1], 0, {
    virt_text = { { hint, ghost.groups.more } },
    virt_text_pos = 'eol',
  })
  drawing:drawn()
end

local function unmap(proposal)
  for key, before in pairs(proposal.keys) do
    pcall(vim.keymap.del, 'n', key, { buffer = proposal.buffer })
    if not vim.tbl_isempty(before) and before.buffer == 1 then
      vim.api.nvim_buf_call(proposal.buffer, function()
        vim.fn.mapset('n', false, before)
      end)
    end
  end
end

---Ends the proposal without changing the text.
---@param message string?
function M.finish(message)
  local proposal = current
  current = nil
  drawing:stop()
  if not proposal then
    return
  end
  local client = vim.lsp.get_client_by_id(proposal.client)
  if proposal.request and client then
    client:cancel_request(proposal.request)
  end
  if vim.api.nvim_buf_is_valid(proposal.buffer) then
    vim.api.nvim_buf_clear_namespace(proposal.buffer, M.namespace, 0, -1)
    unmap(proposal)
  end
  if message then
    tell(message)
  end
end

local function is_changed(proposal)
  return not vim.api.nvim_buf_is_valid(proposal.buffer)
    or vim.api.nvim_buf_get_changedtick(proposal.buffer) ~= proposal.tick
end

local function refresh()
  if current and is_changed(current) then
    M.finish(('The text has changed; the %s is dropped.'):format(current.kind))
  elseif current then
    draw(current)
  end
end

drawing = pace.new(refresh)

-- The text that an edit leaves in place of the range; nil if the edit is about something else.
local function text_after(edit, proposal)
  local edits = require('dlm.fill').items_in(edit, proposal.uri)
  if #edits ~= 1 or not vim.deep_equal(edits[1].range, proposal.range) then
    return nil
  end
  return type(edits[1].insertText) == 'string' and text_of.plain(edits[1].insertText) or nil
end

---Shows a state of a proposal that is worked on.
---@param proposal dlm.Proposal
---@param text string
---@param spans dlm.Span[]
function M.update(proposal, text, spans)
  if proposal == current then
    proposal.text, proposal.spans = text, spans
    drawing:soon()
  end
end

---Takes the edit that a proposal has come to, and waits for the user; false where it changes
---nothing.
---@param proposal dlm.Proposal
---@param edit lsp.WorkspaceEdit
---@return boolean
function M.settle(proposal, edit)
  if proposal ~= current then
    return true
  end
  -- An edit of other form than a replacement of the range is applied just as well, only not shown.
  proposal.text = text_after(edit, proposal) or proposal.text
  if proposal.text == proposal.old then
    return false
  end
  proposal.edit, proposal.spans = edit, {}
  refresh()
  return true
end

local function map(proposal)
  for name, key in pairs(KEYS) do
    proposal.keys[key] = vim.fn.maparg(key, 'n', false, true)
    vim.keymap.set('n', key, function()
      M[name]()
    end, {
      buffer = proposal.buffer,
      nowait = true,
      desc = ('dlm: %s the %s'):format(name, proposal.kind),
    })
  end
end

---Returns the client to ask about a buffer, or tells why nothing is asked.
---@param buffer integer
---@return vim.lsp.Client?
function M.client_for(buffer)
  local reason, client = silence.of_buffer(buffer), client_of.of(buffer)
  if reason or not client then
    tell(reason or 'The language server is not attached to this buffer; see :checkhealth dlm.')
    return nil
  end
  return client
end

-- Ends the proposal at any change of its buffer.
local function watch(proposal)
  vim.api.nvim_buf_attach(proposal.buffer, false, {
    on_lines = function()
      if current ~= proposal then
        return true
      end
      vim.schedule(function()
        if current == proposal then
          refresh()
        end
      end)
    end,
  })
end

---Begins a proposal for the text from a byte of a line to a byte of another, in the current window.
---@param client vim.lsp.Client
---@param words { kind: string, hint: string }
---@param rows integer[]
---@param columns integer[]
---@return dlm.Proposal
function M.begin(client, words, rows, columns)
  M.finish()
  require('dlm.suggestion').clear('a ' .. words.kind .. ' begins')
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
  local proposal = {
    kind = words.kind,
    hint = words.hint,
    buffer = buffer,
    window = vim.api.nvim_get_current_win(),
    client = client.id,
    uri = vim.uri_from_bufnr(buffer),
    token = ('dlm-proposal-%d-%d'):format(vim.fn.getpid(), number),
    tick = vim.api.nvim_buf_get_changedtick(buffer),
    rows = rows,
    columns = columns,
    range = range,
    old = text_of.plain(table.concat(lines, '\n')),
    spans = {},
    sequence = 0,
    keys = {},
  }
  current = proposal
  map(proposal)
  draw(proposal)
  watch(proposal)
  return proposal
end

---Asks the server about a proposal, which goes if no answer is wanted any more.
---@param proposal dlm.Proposal
---@param client vim.lsp.Client
---@param command string
---@param argument table
---@param on_answer fun(edit: lsp.WorkspaceEdit?, reason: string, result: table)
function M.ask(proposal, client, command, argument, on_answer)
  local function answered(error, result)
    if current ~= proposal then
      return
    end
    proposal.request = nil
    result = type(result) == 'table' and result or {}
    local reason = error and error.message or result.reason
    reason = type(reason) == 'string' and reason or 'no answer came.'
    on_answer(not error and type(result.edit) == 'table' and result.edit or nil, reason, result)
  end
  proposal.request = client_of.execute(client, command, argument, answered, proposal.token)
  proposal.version = vim.lsp.util.buf_versions[proposal.buffer]
end

---Makes the change that is shown; one step of undo.
function M.accept()
  local proposal = current
  if not proposal then
    tell('There is nothing to accept.')
    return
  end
  if not proposal.edit then
    tell(('The %s is still being worked on.'):format(proposal.kind))
    return
  end
  if is_changed(proposal) then
    refresh()
    return
  end
  local client = vim.lsp.get_client_by_id(proposal.client)
  local edit = proposal.edit
  M.finish()
  local text = text_after(edit, proposal)
  if text then
    local first, last = unpack(proposal.rows)
    local from, to = unpack(proposal.columns)
    local lines = text_of.lines_for(proposal.buffer, first, text)
    vim.api.nvim_buf_set_text(proposal.buffer, first, from, last, to, lines)
  else
    vim.lsp.util.apply_workspace_edit(edit, client and client.offset_encoding or 'utf-8')
  end
end

---Leaves the text as it is.
function M.reject()
  if current then
    M.finish()
  else
    tell('There is nothing to reject.')
  end
end

---The proposal that is shown.
---@return dlm.Proposal?
function M.current()
  return current
end

---Drops the proposal of a server that has ended, or no longer follows a buffer.
---@param client integer
---@param buffer integer? every buffer by default
function M.lost(client, buffer)
  if not current or current.client ~= client then
    return
  end
  if not buffer then
    current.request = nil
    M.finish(('The language server has gone; the %s is dropped.'):format(current.kind))
  elseif buffer == current.buffer then
    M.finish(
      ('The language server no longer follows the text; the %s is dropped.'):format(current.kind)
    )
  end
end

return M
