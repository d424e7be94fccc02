-- How Neovim starts dlm-lsp; picked up by vim.lsp.enable('dlm_lsp') when this folder's parent is on
-- 'runtimepath'. It attaches to every file: which ones get suggestions is the server's setting.

---@type vim.lsp.Config
return {
  cmd = { 'dlm-lsp', '--stdio' },
  root_markers = { 'dlm-lsp.toml', '.git' },
}
