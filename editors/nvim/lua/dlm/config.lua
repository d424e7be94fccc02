-- The plugin's settings: defaults, what `vim.g.dlm` and `setup` change, and the check of both.

local M = {}

---@alias dlm.Draft 'live'|'first-line'|'final'

---@class dlm.Keys
---@field accept string|false
---@field accept_word string|false
---@field accept_line string|false
---@field accept_until string|false up to a character that is typed next, that character included
---@field dismiss string|false
---@field next string|false
---@field previous string|false
---@field trigger string|false asks at once, in silence too
---@field next_edit string|false in normal mode

---@class dlm.Silence
---@field filetypes string[] filetypes without suggestions
---@field globs string[] paths without suggestions; without a slash about the name
---@field comments boolean nothing while typing in comments (the server decides)
---@field strings boolean nothing while typing in strings (the server decides)
---@field deletion boolean nothing right after text was deleted
---@field macros boolean nothing while a macro is recorded or executed
---@field visual_block boolean nothing while text is typed for a visual block
---@field snippets boolean nothing while a snippet has places left to jump to

---@class dlm.Fill
---@field tokens integer the most tokens of `:Dlm fill`
---@field mode string the decoding mode of `:Dlm fill`

---@class dlm.Config
---@field enabled boolean whether the server is started by itself
---@field cmd string[]|nil the server's command; found by itself if nil
---@field trusted string[] folders of projects in which a server may be found
---@field draft dlm.Draft what is shown before a suggestion is final
---@field delay 'auto'|integer milliseconds of rest before asking
---@field menu 'show'|'hide' whether suggestions are shown beside an open popup menu
---@field scroll boolean whether the window scrolls where a suggestion would end below it
---@field keys dlm.Keys|false the default keys
---@field silence dlm.Silence
---@field fill dlm.Fill
---@field server table the server's own settings, as in dlm-lsp.toml

---@type dlm.Config
M.defaults = {
  enabled = true,
  cmd = nil,
  trusted = {},
  draft = 'live',
  delay = 'auto',
  menu = 'show',
  scroll = true,
  keys = {
    accept = '<Tab>',
    accept_word = '<M-w>',
    accept_line = '<M-l>',
    accept_until = '<M-f>',
    dismiss = '<C-]>',
    next = '<M-]>',
    previous = '<M-[>',
    trigger = '<M-\\>',
    next_edit = '<M-n>',
  },
  silence = {
    filetypes = { 'gitcommit', 'gitrebase' },
    globs = {},
    comments = false,
    strings = false,
    deletion = true,
    macros = true,
    visual_block = true,
    snippets = true,
  },
  fill = { tokens = 512, mode = 'auto' },
  server = {},
}

local function one_of(...)
  local names = { ... }
  return function(value)
    return vim.list_contains(names, value), 'one of ' .. table.concat(names, ', ')
  end
end

local function list_of_strings(value)
  local is_list = type(value) == 'table'
    and vim.iter(pairs(value)):all(function(key, one)
      return type(key) == 'number' and type(one) == 'string'
    end)
  return is_list, 'a list of strings'
end

-- Checks by the setting's full name; a setting without one must have its default's type.
local checks = {
  cmd = function(value)
    return list_of_strings(value) and #value > 0, 'a list of strings, the program first'
  end,
  trusted = list_of_strings,
  draft = one_of('live', 'first-line', 'final'),
  delay = function(value)
    return value == 'auto' or (type(value) == 'number' and value >= 0), "'auto' or milliseconds"
  end,
  menu = one_of('show', 'hide'),
  keys = function(value)
    return value == false or type(value) == 'table', 'a table, or false for no keys'
  end,
  ['silence.filetypes'] = list_of_strings,
  ['silence.globs'] = list_of_strings,
  ['fill.tokens'] = function(value)
    return type(value) == 'number' and value >= 1 and value <= 4096, 'a number from 1 to 4096'
  end,
}
for name in
  pairs(M.defaults.keys --[[@as table]])
do
  checks['keys.' .. name] = function(value)
    return value == false or type(value) == 'string', 'a key, or false for none'
  end
end

local function check(name, value, default)
  if checks[name] then
    return checks[name](value)
  end
  return type(value) == type(default), 'a ' .. type(default)
end

-- Puts the valid ones of the given values into `into`; the others become problems.
local function merge(into, defaults, values, above, problems)
  for name, value in pairs(values) do
    local full = above .. tostring(name)
    local known = defaults[name] ~= nil or checks[full] ~= nil
    local is_valid, wanted = true, nil
    if known then
      is_valid, wanted = check(full, value, defaults[name])
    end
    if not known then
      problems[#problems + 1] = ('%s is not a setting of dlm'):format(full)
    elseif not is_valid then
      problems[#problems + 1] = ('%s must be %s'):format(full, wanted)
    elseif full ~= 'server' and type(value) == 'table' and not vim.islist(defaults[name] or {}) then
      into[name] = type(into[name]) == 'table' and into[name] or {}
      merge(into[name], defaults[name], value, full .. '.', problems)
    else
      into[name] = vim.deepcopy(value)
    end
  end
end

---@type dlm.Config?
local current
local given = {}

---Returns the settings with these changes, and the problems of the changes as sentences.
---@param ... table?
---@return dlm.Config
---@return string[]
function M.resolve(...)
  local config, problems = vim.deepcopy(M.defaults), {}
  for index = 1, select('#', ...) do
    local values = select(index, ...)
    if type(values) == 'table' then
      merge(config, M.defaults, values, '', problems)
    elseif values ~= nil then
      problems[#problems + 1] = 'the settings must be a table'
    end
  end
  return config, problems
end

---Changes settings; what is wrong with them is told, and ignored.
---@param options table?
function M.set(options)
  given = options or {}
  current = nil
  M.get()
end

---@return dlm.Config
function M.get()
  if not current then
    local problems
    current, problems = M.resolve(vim.g.dlm, given)
    for _, problem in ipairs(problems) do
      vim.schedule(function()
        require('dlm.tell').tell(problem .. '. It is ignored.', vim.log.levels.WARN)
      end)
    end
  end
  return current
end

---Returns what the server is sent as its settings.
---@return table
function M.for_server()
  local config = M.get()
  local settings = vim.deepcopy(config.server)
  settings.drafts = config.draft ~= 'final'
  settings.statusNotifications = true
  -- The plugin waits itself; a server that waited again would add its delay.
  settings.delay = settings.delay or 0
  if config.silence.comments or config.silence.strings then
    settings.silence = settings.silence or {}
    settings.silence.comments = config.silence.comments or settings.silence.comments
    settings.silence.strings = config.silence.strings or settings.silence.strings
  end
  return settings
end

return M
