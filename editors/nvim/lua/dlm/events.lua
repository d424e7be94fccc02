-- Which of Neovim's events the plugin listens to, and only in buffers that the server is attached
-- to.

local client_of = require('dlm.client')
local silence = require('dlm.silence')
local suggestion = require('dlm.suggestion')

local M = {}

local GROUP = 'dlm.buffers'

---Whether the last command line was begun in visual mode, and so with the range of the selection.
M.is_from_visual = false

local function on(events, buffer, callback)
  vim.api.nvim_create_autocmd(events, {
    group = GROUP,
    buffer = buffer,
    callback = callback,
    desc = 'dlm: suggestions',
  })
end

local function listen()
  client_of.listen('dlm/draft', function(params)
    suggestion.draft(params)
  end)
  client_of.listen('dlm/refinement', function(params)
    require('dlm.refine').told(params)
  end)
  client_of.listen('dlm/status', function(params)
    require('dlm.status').told(params)
  end)
end

local is_set_up = false

---Defines what is needed once.
function M.set_up()
  if is_set_up then
    return
  end
  is_set_up = true
  vim.api.nvim_create_augroup(GROUP, {})
  listen()
  local ghost = require('dlm.ghost')
  ghost.highlight()
  vim.api.nvim_create_autocmd('ColorScheme', { group = GROUP, callback = ghost.highlight })
  vim.api.nvim_create_autocmd('ModeChanged', {
    group = GROUP,
    callback = function()
      local before, after = vim.v.event.old_mode, vim.v.event.new_mode
      silence.mode_changed(before, after)
      if after:sub(1, 1) == 'c' then
        M.is_from_visual = before:find('^[vV\22]') ~= nil
      end
      -- CTRL-C leaves insert mode without InsertLeave.
      if before:sub(1, 1) == 'i' and not after:find('^[ic]') then
        suggestion.clear('the place was left')
      end
    end,
  })
end

---Begins to suggest in a buffer.
---@param buffer integer
---@param client integer
function M.attach(buffer, client)
  M.set_up()
  if vim.lsp.inline_completion then
    -- Else Neovim would draw the same text a second time.
    pcall(vim.lsp.inline_completion.enable, false, { client_id = client })
  end
  vim.api.nvim_clear_autocmds({ group = GROUP, buffer = buffer })
  on('InsertEnter', buffer, suggestion.entered)
  on({ 'CursorMovedI', 'TextChangedI', 'TextChangedP' }, buffer, suggestion.moved)
  on('CompleteChanged', buffer, function()
    local reason = silence.reason(buffer, false)
    if reason then
      suggestion.clear(reason)
    end
  end)
  on({ 'InsertLeave', 'BufLeave', 'WinLeave' }, buffer, function()
    suggestion.clear('the place was left')
  end)
  if vim.api.nvim_get_current_buf() == buffer and vim.api.nvim_get_mode().mode:sub(1, 1) == 'i' then
    suggestion.entered()
  end
end

---Ends suggesting in a buffer.
---@param buffer integer
---@param client integer
function M.detach(buffer, client)
  suggestion.lost(client, buffer)
  require('dlm.proposal').lost(client, buffer)
  if is_set_up and vim.api.nvim_buf_is_valid(buffer) then
    vim.api.nvim_clear_autocmds({ group = GROUP, buffer = buffer })
  end
end

return M
