-- `:Dlm` and its subcommands.

local client_of = require('dlm.client')
local silence = require('dlm.silence')

local M = {}

local MODES = {
  'auto',
  'ar',
  'block',
  'linear_spec',
  'quadratic_spec',
  'pruned_spec',
  'copy_spec',
}

local tell = require('dlm.tell').tell

-- Runs a command of the server and tells how it ended.
local function execute(command, argument, said)
  local client = client_of.any()
  if not client then
    tell('The language server does not run; see :checkhealth dlm.', vim.log.levels.WARN)
    return
  end
  client_of.execute(client, command, argument, function(error)
    if error then
      tell(error.message, vim.log.levels.ERROR)
    elseif said then
      tell(said)
    end
  end)
end

local function drop_suggestion(reason)
  if package.loaded['dlm.suggestion'] then
    require('dlm.suggestion').clear(reason)
  end
end

-- Switches the current buffer's suggestions, or all of them, here and in the server, which then
-- computes nothing ahead for it either.
local function switch(arguments, on)
  if arguments[1] ~= nil and arguments[1] ~= 'buffer' then
    tell("Only 'buffer' can follow.", vim.log.levels.ERROR)
    return
  end
  local buffer = vim.api.nvim_get_current_buf()
  local is_on
  if arguments[1] == 'buffer' then
    is_on = silence.toggle_buffer(buffer, on)
    local client = client_of.of(buffer)
    if client then
      client_of.execute(client, 'dlm.toggle', { uri = vim.uri_from_bufnr(buffer), on = is_on })
    end
    tell(is_on and 'Suggestions are on in this buffer.' or 'Suggestions are off in this buffer.')
  else
    is_on = silence.toggle(on)
    if is_on and not (vim.lsp.is_enabled and vim.lsp.is_enabled(client_of.name)) then
      vim.lsp.enable(client_of.name)
    end
    tell(is_on and 'Suggestions are on.' or 'Suggestions are off.')
  end
  if not is_on then
    drop_suggestion('it was switched off')
  end
  require('dlm.status').changed()
end

local function snooze(arguments)
  local minutes = tonumber(arguments[1] or 10)
  if not minutes or minutes < 0 then
    tell('How many minutes? 0 ends a snooze.', vim.log.levels.ERROR)
    return
  end
  silence.snooze(minutes)
  drop_suggestion('it was snoozed')
  if client_of.any() then
    execute('dlm.snooze', { minutes = minutes })
  end
  tell(minutes > 0 and ('Snoozed for %g minutes.'):format(minutes) or 'The snooze has ended.')
  require('dlm.status').changed()
end

local function restart()
  client_of.forgive()
  if client_of.any() then
    execute('dlm.restart', nil, 'The engine was restarted.')
  else
    client_of.attach_all()
    tell('The language server is started.')
  end
end

local function mode(arguments)
  if not arguments[1] then
    local now = require('dlm.status').get().server.mode
    tell(('The mode is %s; there are %s.'):format(now or 'not known', table.concat(MODES, ', ')))
    return
  end
  execute('dlm.setMode', { mode = arguments[1] }, ('The mode is %s.'):format(arguments[1]))
end

local function list_models()
  local command, why = client_of.command(vim.uv.cwd())
  if not command then
    tell(why, vim.log.levels.WARN)
    return
  end
  vim.system({ command[1], 'model', 'list' }, { text = true }, function(done)
    vim.schedule(function()
      local text = vim.trim(done.code == 0 and done.stdout or done.stderr)
      require('dlm.tell').show(vim.split(text, '\n', { plain = true }))
    end)
  end)
end

local function model(arguments)
  local client, name = client_of.any(), arguments[1]
  if not name then
    list_models()
    return
  end
  if not client then
    tell('The language server does not run; see :checkhealth dlm.', vim.log.levels.WARN)
    return
  end
  client.settings = vim.tbl_deep_extend('force', client.settings or {}, {
    dlm = { engine = { checkpoint = name } },
  })
  client:notify('workspace/didChangeConfiguration', { settings = client.settings })
  tell(('The model is to be %s.'):format(name))
end

local function show_status()
  local status = require('dlm.status')
  local line = status.component()
  local got = status.get()
  local parts = { line ~= '' and line or 'The language server is not attached to this buffer.' }
  for _, name in ipairs({ 'model', 'device', 'mode', 'message' }) do
    if got.server[name] then
      parts[#parts + 1] = ('%s: %s'):format(name, got.server[name])
    end
  end
  require('dlm.tell').show(parts)
end

local function open_log()
  vim.cmd.tabedit(vim.fn.fnameescape(client_of.log_file()))
  vim.bo.autoread, vim.bo.modifiable = true, false
  vim.cmd('normal! G')
end

local function cancel()
  if require('dlm.proposal').current() then
    require('dlm.proposal').reject()
  elseif not require('dlm.pull').cancel() then
    drop_suggestion('it was cancelled')
  end
end

---@type table<string, { run: fun(arguments: string[], command: table), complete: string[]? }>
M.commands = {
  accept = {
    run = function()
      require('dlm.proposal').accept()
    end,
  },
  cancel = { run = cancel },
  disable = {
    run = function(arguments)
      switch(arguments, false)
    end,
    complete = { 'buffer' },
  },
  enable = {
    run = function(arguments)
      switch(arguments, true)
    end,
    complete = { 'buffer' },
  },
  fill = {
    run = function()
      require('dlm.fill').start()
    end,
  },
  log = { run = open_log },
  mode = { run = mode, complete = MODES },
  model = { run = model },
  next = {
    run = function()
      require('dlm.next_edit').go()
    end,
  },
  pull = {
    run = function(arguments)
      require('dlm.pull').start(arguments[1])
    end,
  },
  refine = {
    run = function(_, command)
      require('dlm.refine').start(command)
    end,
  },
  reject = {
    run = function()
      require('dlm.proposal').reject()
    end,
  },
  restart = { run = restart },
  snooze = { run = snooze, complete = { '10', '30', '60', '0' } },
  status = { run = show_status },
  toggle = {
    run = function(arguments)
      switch(arguments, nil)
    end,
    complete = { 'buffer' },
  },
}

---@return string[]
function M.names()
  local names = vim.tbl_keys(M.commands)
  table.sort(names)
  return names
end

---Runs `:Dlm …`.
---@param command table what nvim_create_user_command hands over
function M.run(command)
  local arguments = vim.deepcopy(command.fargs)
  local name = table.remove(arguments, 1) or 'status'
  local found = M.commands[name]
  if not found then
    local known = table.concat(M.names(), ', ')
    tell(('There is no %q; there are %s.'):format(name, known), vim.log.levels.ERROR)
    return
  end
  found.run(arguments, command)
end

---@param lead string
---@param line string
---@return string[]
function M.complete(lead, line)
  local words = vim.split(vim.trim(line:gsub('^.-Dlm', '', 1)), '%s+', { trimempty = true })
  local is_first = #words == 0 or (#words == 1 and lead ~= '')
  local offered = is_first and M.names() or (M.commands[words[1]] or {}).complete or {}
  return vim.tbl_filter(function(name)
    return vim.startswith(name, lead)
  end, offered)
end

return M
