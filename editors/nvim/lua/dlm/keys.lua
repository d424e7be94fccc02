-- The keys: what each does where a suggestion is shown, and what it does otherwise.

local config = require('dlm.config')
local menu = require('dlm.menu')

local M = {}

local ACTIONS = {
  accept = "require('dlm.accept').take('full')",
  accept_word = "require('dlm.accept').take('word')",
  accept_line = "require('dlm.accept').take('line')",
  accept_until = "require('dlm.keys').take_until()",
  dismiss = "require('dlm.suggestion').dismiss()",
  next = "require('dlm.alternatives').cycle(1)",
  previous = "require('dlm.alternatives').cycle(-1)",
  trigger = "require('dlm.suggestion').ask(true)",
}
-- In normal mode, where nothing needs to be shown.
local NORMAL = { next_edit = "require('dlm.next_edit').go()" }
local DESCRIPTIONS = {
  accept = 'Accept the suggestion',
  accept_word = 'Accept the next word of the suggestion',
  accept_line = 'Accept the next line of the suggestion',
  accept_until = 'Accept the suggestion up to a character',
  dismiss = 'Dismiss the suggestion',
  next = 'Next suggestion',
  previous = 'Previous suggestion',
  trigger = 'Ask for a suggestion',
  next_edit = 'Show the next edit, or make the one that is shown',
}

---@return string[]
function M.names()
  local names = vim.list_extend(vim.tbl_keys(ACTIONS), vim.tbl_keys(NORMAL))
  table.sort(names)
  return names
end

---The `<Plug>` map of an action.
---@param name string
---@return string
function M.plug(name)
  return ('<Plug>(dlm-%s)'):format((name:gsub('_', '-')))
end

-- Whether Tab would be typed to indent: the cursor stands left of where the line would begin, or
-- the suggestion itself begins with the indentation.
local function is_indenting(view)
  local before = vim.api.nvim_get_current_line():sub(1, view.column)
  if before:find('%S') then
    return false
  end
  if view.text:find('^[ \t]') then
    return true
  end
  local above = vim.fn.prevnonblank(view.row)
  return above > 0 and vim.fn.strdisplaywidth(before) < vim.fn.indent(above)
end

---Whether an action has something to act on. Tab has other uses, which come first.
---@param name string
---@param is_tab boolean
---@return boolean
function M.applies(name, is_tab)
  local loaded = package.loaded['dlm.suggestion']
  local view = loaded and select(2, loaded.shown())
  if name == 'trigger' or NORMAL[name] then
    return true
  elseif not view then
    return false
  end
  return not is_tab
    or not (menu.is_open() or vim.snippet.active({ direction = 1 }) or is_indenting(view))
end

---Returns the keys that run an action; an accepted text is one step of undo.
---@param name string
---@param is_default boolean? whether a default key runs it, which else does what it did before
---@return string
function M.run(name, is_default)
  local command = ('<Cmd>lua %s<CR>'):format(ACTIONS[name] or NORMAL[name])
  if is_default and vim.startswith(name, 'accept') then
    command = ("<Cmd>lua local _ = %s or require('dlm.keys').otherwise('%s')<CR>"):format(
      ACTIONS[name],
      name
    )
  end
  if not vim.startswith(name, 'accept') then
    return command
  end
  -- Ends the menu without taking or restoring anything.
  local leave = menu.is_native_open() and '<C-x><C-z>' or ''
  if name == 'accept_until' then
    return leave .. '<C-g>u' .. command -- What follows would be the character.
  end
  return leave .. '<C-g>u' .. command .. '<C-g>u'
end

-- What a key did before it was mapped here.
local function earlier(map, key)
  if vim.tbl_isempty(map) then
    -- Such a key would leave insert mode if it were typed, but a mapping's inserts its letter.
    local is_meta = vim.startswith(vim.fn.keytrans(vim.keycode(key)), '<M-')
    return is_meta and '' or key
  end
  local keys = map.rhs or ''
  if map.expr == 1 then
    local ok, made = pcall(map.callback or function()
      return vim.api.nvim_eval(map.rhs)
    end)
    keys = ok and type(made) == 'string' and made or ''
    if map.callback and map.replace_keycodes ~= 1 then
      return keys, true
    end
  elseif map.callback then
    vim.schedule(map.callback)
    return ''
  end
  if map.noremap == 0 and map.expr ~= 1 then
    -- Keys that are to be mapped again cannot be returned from a mapping that is not.
    vim.api.nvim_feedkeys(vim.keycode(keys), 'mi', false)
    return ''
  end
  return keys
end

-- What the default keys do where nothing is shown, by the action.
---@type table<string, fun()>
local others = {}

---Does what an action's default key did before, if nothing is shown. Where keys wait, Neovim asks a
---mapping before the key ahead of it is inserted, so that the mapping could not know.
---@param name string
function M.otherwise(name)
  if not require('dlm.suggestion').is_visible() then
    others[name]()
  end
end

local function set_key(key, name)
  local before = vim.fn.maparg(key, NORMAL[name] and 'n' or 'i', false, true)
  if type(before.desc) == 'string' and vim.startswith(before.desc, 'dlm: ') then
    return
  end
  if NORMAL[name] then
    if vim.tbl_isempty(before) then
      vim.keymap.set('n', key, M.run(name), { desc = 'dlm: ' .. DESCRIPTIONS[name] })
    end
    return
  end
  local is_tab = vim.keycode(key) == vim.keycode('<Tab>')
  others[name] = function()
    local keys, is_ready = earlier(before, key)
    vim.api.nvim_feedkeys(is_ready and keys or vim.keycode(keys), 'ni', false)
  end
  vim.keymap.set('i', key, function()
    if M.applies(name, is_tab) then
      return vim.keycode(M.run(name, true))
    end
    local keys, is_ready = earlier(before, key)
    return is_ready and keys or vim.keycode(keys)
  end, { expr = true, replace_keycodes = false, desc = 'dlm: ' .. DESCRIPTIONS[name] })
end

---Maps the default keys that are switched on; a key that something else has keeps doing that where
---no suggestion is shown, and in normal mode in any case.
function M.set_defaults()
  local keys = config.get().keys
  for _, name in ipairs(M.names()) do
    local key = keys and keys[name]
    if key then
      set_key(key, name)
    end
  end
end

---Maps `<Plug>(dlm-…)`; in insert mode they do nothing where no suggestion is shown.
function M.set_plugs()
  for name in pairs(NORMAL) do
    vim.keymap.set('n', M.plug(name), M.run(name), { desc = 'dlm: ' .. DESCRIPTIONS[name] })
  end
  for name in pairs(ACTIONS) do
    vim.keymap.set('i', M.plug(name), function()
      return M.applies(name, false) and M.run(name) or ''
    end, { expr = true, replace_keycodes = true, desc = 'dlm: ' .. DESCRIPTIONS[name] })
  end
end

---Accepts up to a character that is typed next.
---@return boolean whether anything is shown
function M.take_until()
  local _, view = require('dlm.suggestion').shown()
  if not view then
    return false
  end
  local ok, character = pcall(vim.fn.getcharstr)
  if ok and character ~= '\27' then
    require('dlm.accept').take('partial', character)
    vim.api.nvim_feedkeys(vim.keycode('<C-g>u'), 'ni', false)
  end
  return true
end

---Runs an action as its key would, for mappings of the user's own; returns whether it applies.
---@param name string
---@return boolean
function M.act(name)
  if not M.applies(name, false) then
    return false
  end
  vim.api.nvim_feedkeys(vim.keycode(M.run(name)), 'ni', false)
  return true
end

return M
