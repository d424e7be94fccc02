-- `:Dlm next`: where the last change asks for another edit. The first call asks the server, takes
-- the cursor there and shows the change in place; the second one makes it.

local proposal_of = require('dlm.proposal')
local text_of = require('dlm.text')

local M = {}

local KIND = 'next edit'
local ASKING = { kind = KIND, hint = '… looking for the next edit' }

local function is_position(position)
  local function is_count(value)
    return type(value) == 'number' and value >= 0 and value % 1 == 0
  end
  return type(position) == 'table' and is_count(position.line) and is_count(position.character)
end

-- Where the range of an answer begins and ends in a buffer; nil if it is none of one line there.
local function place_of(range, buffer, encoding)
  local start, stop = range, range
  if type(range) == 'table' then
    start, stop = range.start, range['end']
  end
  if not is_position(start) or not is_position(stop) or start.line ~= stop.line then
    return nil
  end
  local line = vim.api.nvim_buf_get_lines(buffer, start.line, start.line + 1, false)[1]
  local from = line and text_of.byte_of(line, start.character, encoding)
  local to = line and text_of.byte_of(line, stop.character, encoding)
  if line and from <= to then
    return start.line, from, to
  end
end

-- Takes the cursor to the first word that changes; CTRL-O leads back.
local function go(proposal)
  local change = require('dlm.diff').changes(proposal.old, proposal.text or proposal.old)[1]
  local row = proposal.rows[1]
  local column = proposal.columns[1] + (change and change.start or 0)
  local cursor = vim.api.nvim_win_get_cursor(0)
  if cursor[1] - 1 ~= row then
    vim.cmd.normal({ "m'", bang = true })
  end
  vim.api.nvim_win_set_cursor(0, { row + 1, column })
  vim.cmd.normal({ 'zv', bang = true })
end

local function show(client, edit, range)
  local buffer, encoding = vim.api.nvim_get_current_buf(), client.offset_encoding
  local row, from, to = place_of(range, buffer, encoding)
  if not row then
    proposal_of.finish('There is no next edit: the answer does not fit the text.')
    return
  end
  local proposal = proposal_of.begin(client, { kind = KIND, hint = '' }, { row, row }, { from, to })
  if proposal_of.settle(proposal, edit) then
    go(proposal)
  else
    proposal_of.finish('There is no next edit: the text stays as it is.')
  end
end

-- Whether the user is still where the next edit was asked for.
local function is_there(proposal)
  return vim.api.nvim_get_current_buf() == proposal.buffer
    and vim.api.nvim_get_current_win() == proposal.window
    and vim.api.nvim_get_mode().mode == 'n'
end

local function ask(client)
  local cursor = vim.api.nvim_win_get_cursor(0)
  local row, column = cursor[1] - 1, cursor[2]
  local proposal = proposal_of.begin(client, ASKING, { row, row }, { column, column })
  local argument = {
    textDocument = { uri = proposal.uri },
    position = proposal.range.start,
    token = proposal.token,
  }
  proposal_of.ask(proposal, client, 'dlm.nextEdit', argument, function(edit, reason, result)
    if not edit then
      proposal_of.finish('There is no next edit: ' .. reason)
    elseif not is_there(proposal) then
      proposal_of.finish('The next edit is dropped, since you are elsewhere by now.')
    else
      show(client, edit, result.range)
    end
  end)
end

---Asks for the next edit, or makes the one that is shown.
function M.go()
  local shown = proposal_of.current()
  if shown and shown.kind == KIND and shown.buffer == vim.api.nvim_get_current_buf() then
    proposal_of.accept()
    return
  end
  local client = proposal_of.client_for(vim.api.nvim_get_current_buf())
  if client then
    ask(client)
  end
end

return M
