-- Inserts what is shown, whole or in part, and tells the server what was taken.

local client_of = require('dlm.client')
local ghost = require('dlm.ghost')
local suggestion_of = require('dlm.suggestion')
local text_of = require('dlm.text')

local M = {}

---@alias dlm.Part 'full'|'word'|'line'|'partial'

-- How many bytes right of the cursor a part of the shown text takes the place of.
local function replaced_by(view, part)
  if #part == #view.text then
    return view.replaced
  end
  local at = ghost.kept_at(view.text, view.after, view.replaced)
  return at and math.max(0, math.min(#part - at, view.replaced)) or 0
end

local function insert(view, part)
  local replaced = replaced_by(view, part)
  local lines = text_of.lines_for(view.buffer, view.row, part)
  vim.api.nvim_buf_set_text(
    view.buffer,
    view.row,
    view.column,
    view.row,
    view.column + replaced,
    lines
  )
  local column = (#lines == 1 and view.column or 0) + #lines[#lines]
  vim.api.nvim_win_set_cursor(view.window, { view.row + #lines, column })
end

-- Tells the server how much of an offer was taken.
local function report(suggestion, item, kind, taken)
  local client = vim.lsp.get_client_by_id(suggestion.client)
  local command = item.command
  if not client or not command then
    return
  end
  if kind == 'full' then
    local context = { bufnr = suggestion.buffer }
    client:exec_cmd(command, context, function() end)
    return
  end
  local argument = type(command.arguments) == 'table' and command.arguments[1]
  if type(argument) ~= 'table' or argument.id == nil then
    return
  end
  client_of.execute(client, 'dlm.accepted', { id = argument.id, kind = kind, length = taken })
end

---Returns the part of the shown text that a key takes, empty if none.
---@param view dlm.View
---@param kind dlm.Part
---@param character string? for 'partial'
---@return string
function M.part(view, kind, character)
  local text = text_of.decided(view.text)
  if kind == 'word' then
    return text_of.word(text)
  elseif kind == 'line' then
    return text_of.line(text)
  elseif kind == 'partial' then
    return text_of.up_to(text, character or '')
  end
  return text
end

---Inserts the shown text or a part of it. What is undecided is not inserted.
---@param kind dlm.Part
---@param character string? for 'partial'
---@return boolean whether anything was inserted
function M.take(kind, character)
  local suggestion, view = suggestion_of.shown()
  if not suggestion or not view then
    return false
  end
  if not vim.bo[view.buffer].modifiable then
    suggestion_of.clear('the buffer cannot be changed')
    return false
  end
  local part = M.part(view, kind, character)
  if part == '' then
    return false
  end
  local item = suggestion.items[suggestion.index]
  local is_all = part == view.text and suggestion.is_final
  if is_all then
    suggestion_of.clear('it was accepted')
  end
  insert(view, part)
  local taken = item.text:sub(1, view.offset + #part)
  local known = item.text:sub(1, math.max(0, item.lead))
  report(
    suggestion,
    item,
    is_all and 'full' or kind,
    vim.fn.strchars(taken) - vim.fn.strchars(known)
  )
  if not is_all then
    suggestion_of.refresh()
  end
  return true
end

return M
