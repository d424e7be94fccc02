-- `:Dlm fill`: a long completion at the cursor, which streams in as an uncommitted draft. It is a
-- suggestion like any other once it has been asked for: it is typed on, accepted or dismissed.

local client_of = require('dlm.client')
local config = require('dlm.config')
local items_of = require('dlm.items')
local silence = require('dlm.silence')
local suggestion_of = require('dlm.suggestion')

local M = {}

local tell = require('dlm.tell').tell

---The edits of an answer to a document, as items of an inline completion have them.
---@param edit lsp.WorkspaceEdit
---@param uri string
---@return table[]
function M.items_in(edit, uri)
  local edits = {}
  for _, change in ipairs(type(edit.documentChanges) == 'table' and edit.documentChanges or {}) do
    if type(change.textDocument) == 'table' and change.textDocument.uri == uri then
      vim.list_extend(edits, change.edits or {})
    end
  end
  if type(edit.changes) == 'table' then
    vim.list_extend(edits, edit.changes[uri] or {})
  end
  return vim.tbl_map(function(one)
    return { insertText = one.newText, range = one.range }
  end, edits)
end

local function on_answer(suggestion, client, error, result)
  local edit = type(result) == 'table' and result.edit
  if error or type(edit) ~= 'table' then
    local reason = error and error.message or type(result) == 'table' and result.reason
    reason = type(reason) == 'string' and reason or 'the server gave no answer'
    if suggestion_of.shown() == suggestion then
      tell('Nothing to fill here: ' .. reason)
    end
    suggestion_of.settle(suggestion, {}, reason)
    return
  end
  local items = M.items_in(edit, suggestion.uri)
  suggestion_of.settle(suggestion, items_of.read(items, suggestion, client.offset_encoding))
end

local function begin()
  local window = vim.api.nvim_get_current_win()
  local client = client_of.of(vim.api.nvim_win_get_buf(window))
  if not client or vim.api.nvim_get_mode().mode:sub(1, 1) ~= 'i' then
    return
  end
  local settings = config.get().fill
  local params = vim.lsp.util.make_position_params(window, client.offset_encoding)
  local suggestion = suggestion_of.origin_at(client, window)
  suggestion.is_invoked, suggestion.is_growing = true, true
  suggestion_of.begin(suggestion)
  local argument = {
    uri = suggestion.uri,
    position = params.position,
    limits = { tokensMax = settings.tokens },
    mode = settings.mode,
  }
  suggestion.request = client_of.execute(client, 'dlm.fill', argument, function(error, result)
    on_answer(suggestion, client, error, result)
  end, suggestion.token)
  suggestion.version = vim.lsp.util.buf_versions[suggestion.buffer]
end

---Fills at the cursor, in insert mode, which it enters if necessary.
function M.start()
  local buffer = vim.api.nvim_get_current_buf()
  local reason = silence.of_buffer(buffer)
  if reason or not client_of.of(buffer) then
    tell(reason or 'The language server is not attached to this buffer; see :checkhealth dlm.')
    return
  end
  if vim.api.nvim_get_mode().mode:sub(1, 1) == 'i' then
    begin()
    return
  end
  local column = vim.api.nvim_win_get_cursor(0)[2]
  local is_at_end = column >= #vim.api.nvim_get_current_line() - 1
  vim.api.nvim_create_autocmd('InsertEnter', {
    buffer = buffer,
    once = true,
    callback = function()
      vim.schedule(begin)
    end,
  })
  vim.cmd.startinsert({ bang = is_at_end })
end

return M
