-- How Neovim starts dlm-lsp; picked up by vim.lsp.enable('dlm_lsp') when this folder's parent is on
-- 'runtimepath'. It attaches to every file: which ones get suggestions is a setting. Neovim's own
-- inline completion works with it, and so does the plugin, which asks for drafts besides.

local client = require('dlm.client')

-- Tells the server where the cursor is outside of insert mode, so that the model has read the text
-- there before the first suggestion is asked for. The server waits until the cursor rests.
---@param attached vim.lsp.Client
---@param buffer integer
local function tell_of_cursor(attached, buffer)
  local function tell()
    if attached:is_stopped() then
      return true -- which removes the autocommand
    end
    if client.is_plugin() and require('dlm.silence').reason(buffer, false) then
      return
    end
    if vim.api.nvim_get_current_buf() == buffer then
      attached:notify('dlm/warm', vim.lsp.util.make_position_params(0, attached.offset_encoding))
    end
  end
  vim.api.nvim_create_autocmd({ 'BufEnter', 'CursorMoved' }, {
    group = vim.api.nvim_create_augroup('dlm_lsp_cursor_' .. buffer, {}),
    buffer = buffer,
    callback = tell,
    desc = 'dlm-lsp: tell where the cursor is',
  })
  tell()
end

---@type vim.lsp.Config
return {
  cmd = client.start,
  root_dir = client.root,
  before_init = client.before_init,
  on_attach = tell_of_cursor,
  on_exit = client.on_exit,
  handlers = client.handlers,
  commands = client.commands,
}
