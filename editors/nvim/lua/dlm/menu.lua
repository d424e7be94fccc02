-- The popup menus that may be open beside a suggestion: Neovim's own, nvim-cmp's and blink.cmp's.

local M = {}

local function ask(module, name)
  local loaded = package.loaded[module]
  if type(loaded) ~= 'table' or type(loaded[name]) ~= 'function' then
    return false
  end
  local ok, answer = pcall(loaded[name])
  return ok and answer == true
end

---@return boolean
function M.is_open()
  return vim.fn.pumvisible() == 1 or ask('cmp', 'visible') or ask('blink.cmp', 'is_menu_visible')
end

---@return boolean
function M.is_native_open()
  return vim.fn.pumvisible() == 1
end

return M
