-- What the user is told: messages that never wait for Enter, and texts of several lines.

local M = {}

local GROUPS = { [vim.log.levels.WARN] = 'WarningMsg', [vim.log.levels.ERROR] = 'ErrorMsg' }

-- Whether messages are shown by Neovim itself, in the command line, and not by a plugin.
local function is_in_command_line()
  local source = debug.getinfo(vim.notify, 'S').source
  return source:find('^@vim/') ~= nil or source:find('^=?%?$') ~= nil
end

---Tells a message. One that does not fit into the command line is cut there, since Neovim would
---wait for Enter; `:messages` has all of it.
---@param message string
---@param level integer? of vim.log.levels; INFO by default
function M.tell(message, level)
  message = 'dlm: ' .. message
  local shown = (message:gsub('%s*\n%s*', ' · '))
  if is_in_command_line() and vim.api.nvim_strwidth(shown) > vim.v.echospace then
    local before = vim.o.messagesopt
    vim.o.messagesopt = before:gsub('hit%-enter', 'wait:0')
    vim.api.nvim_echo({ { shown, GROUPS[level] } }, true, {})
    vim.cmd.redraw()
    vim.o.messagesopt = before
    while vim.api.nvim_strwidth(shown) >= vim.v.echospace do
      shown = vim.fn.strcharpart(shown, 0, vim.fn.strchars(shown) - 1)
    end
    vim.api.nvim_echo({ { shown .. '…', GROUPS[level] } }, false, {})
  else
    vim.notify(shown, level or vim.log.levels.INFO)
  end
end

---Shows lines in a window that goes at the next movement of the cursor.
---@param lines string[]
function M.show(lines)
  vim.lsp.util.open_floating_preview(lines, 'text', {
    border = 'rounded',
    title = ' dlm ',
    focus_id = 'dlm',
    wrap = true,
  })
end

return M
