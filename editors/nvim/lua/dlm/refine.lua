-- `:Dlm refine`: the server rewrites what is improbable in a selection. The change is shown in
-- place, word by word, while it is refined, and waits to be accepted or rejected.

local items_of = require('dlm.items')
local proposal_of = require('dlm.proposal')
local stale = require('dlm.stale')
local text_of = require('dlm.text')

local M = {}

local WORDS = { kind = 'refinement', hint = '… refining' }

---Shows a state of the refinement, if it is about the one that runs.
---@param params table the parameters of `dlm/refinement`
function M.told(params)
  local proposal = proposal_of.current()
  if not proposal or proposal.edit or type(params.text) ~= 'string' then
    return
  end
  if stale.about(proposal, params) or not vim.deep_equal(params.range, proposal.range) then
    return
  end
  local client = vim.lsp.get_client_by_id(proposal.client)
  if client then
    proposal.sequence = params.sequence
    local spans = items_of.spans(params.spans, params.text, 0, client.offset_encoding)
    proposal_of.update(proposal, text_of.plain(params.text), spans)
  end
end

-- Refines the text from a byte of a line to a byte of another.
local function begin(client, rows, columns)
  local proposal = proposal_of.begin(client, WORDS, rows, columns)
  local argument = {
    textDocument = { uri = proposal.uri },
    range = proposal.range,
    token = proposal.token,
  }
  proposal_of.ask(proposal, client, 'dlm.refine', argument, function(edit, reason)
    if not edit then
      proposal_of.finish('Nothing is refined: ' .. reason)
    elseif not proposal_of.settle(proposal, edit) then
      proposal_of.finish('Nothing is refined: the text stays as it is.')
    end
  end)
end

-- Whether the range of a command is that of the selection, and not numbers for the same lines.
local function is_of_selection()
  return require('dlm.events').is_from_visual
    or vim.fn.histget('cmd', -1):find("^[%s:]*'<%s*,%s*'>") ~= nil
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
  if command.range == 2 and start[2] - 1 == first and stop[2] - 1 == last then
    is_selected = is_selected or is_of_selection()
  end
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

---Refines a selection, or lines.
---@param command { line1: integer, line2: integer, range: integer }
function M.start(command)
  local client = proposal_of.client_for(vim.api.nvim_get_current_buf())
  if client then
    local first, last, from, to = selection(command)
    begin(client, { first, last }, { from, to })
  end
end

---Refines a range of the current buffer, as a code action does.
---@param range lsp.Range
function M.start_at(range)
  local buffer = vim.api.nvim_get_current_buf()
  local client = proposal_of.client_for(buffer)
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

return M
