-- How Neovim starts dlm-lsp; picked up by vim.lsp.enable('dlm_lsp') when this folder's parent is on
-- 'runtimepath'. It attaches to every file: which ones get suggestions is the server's setting.

-- Tells the server where the cursor is outside of insert mode, so that the model has read the text
-- there before the first suggestion is asked for. The server waits until the cursor rests.
---@param client vim.lsp.Client
---@param buffer integer
local function tell_of_cursor(client, buffer)
  local function tell()
    if client:is_stopped() then
      return true -- which removes the autocommand
    end
    if vim.api.nvim_get_current_buf() == buffer then
      client:notify('dlm/warm', vim.lsp.util.make_position_params(0, client.offset_encoding))
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
  cmd = { 'dlm-lsp', '--stdio' },
  root_markers = { 'dlm-lsp.toml', '.git' },
  on_attach = tell_of_cursor,
}
