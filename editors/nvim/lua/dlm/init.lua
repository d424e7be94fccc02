-- What a user's configuration calls. Nothing of it is needed: plugin/dlm.lua sets everything up
-- with the defaults.

local M = {}

---Changes settings. Without a call the defaults hold, with the changes of `vim.g.dlm`.
---@param options table?
function M.setup(options)
  require('dlm.config').set(options)
  if vim.g.loaded_dlm == 'plugin' and vim.v.vim_did_enter == 1 then
    require('dlm.keys').set_defaults()
  end
end

---Accepts what is shown; returns whether anything is.
---@return boolean
function M.accept()
  return require('dlm.keys').act('accept')
end

---@return boolean
function M.accept_word()
  return require('dlm.keys').act('accept_word')
end

---@return boolean
function M.accept_line()
  return require('dlm.keys').act('accept_line')
end

---Accepts up to a character that is typed next.
---@return boolean
function M.accept_until()
  return require('dlm.keys').act('accept_until')
end

---@return boolean
function M.dismiss()
  return require('dlm.keys').act('dismiss')
end

---@return boolean
function M.next()
  return require('dlm.keys').act('next')
end

---@return boolean
function M.previous()
  return require('dlm.keys').act('previous')
end

---Asks for a suggestion now, in silence too.
---@return boolean
function M.trigger()
  return require('dlm.keys').act('trigger')
end

---Shows the next edit, or makes the one that is shown; in normal mode.
---@return boolean
function M.next_edit()
  require('dlm.next_edit').go()
  return true
end

---Whether a suggestion is shown.
---@return boolean
function M.is_visible()
  local suggestion = package.loaded['dlm.suggestion']
  return suggestion ~= nil and suggestion.is_visible()
end

---The text of the statusline component.
---@return string
function M.status()
  return require('dlm.status').component()
end

return M
