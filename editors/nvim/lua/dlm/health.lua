-- `:checkhealth dlm`: whether the server is found and runs, what it computes with, and how long a
-- completion takes.

local client_of = require('dlm.client')
local server = require('dlm.server')
local silence = require('dlm.silence')

local M = {}

local health = vim.health
local START_MS, ANSWER_MS, DOCTOR_MS = 15000, 120000, 60000

local EXAMPLE = 'def area(width, height):\n    """The area of a rectangle."""\n    return '

local function check_neovim()
  if vim.fn.has('nvim-0.11') == 0 then
    health.error('Neovim is older than 0.11.')
  elseif vim.fn.has('nvim-0.12') == 0 then
    health.ok('Neovim 0.11: the plugin draws the suggestions itself.')
  else
    health.ok(('Neovim %s'):format(tostring(vim.version())))
  end
  if not client_of.is_plugin() then
    health.info('The plugin is switched off (loaded_dlm); the built-in completion draws.')
  end
end

local function check_settings()
  local _, problems = require('dlm.config').resolve(vim.g.dlm)
  for _, problem in ipairs(problems) do
    health.warn(problem .. '.')
  end
  local reason = silence.of_buffer(vim.fn.bufnr('#') > 0 and vim.fn.bufnr('#') or 0)
  if reason then
    health.info('The buffer that you come from gets nothing: ' .. reason)
  end
end

local function check_program()
  local command, why = client_of.command(vim.uv.cwd())
  if not command then
    health.error(why or '', { server.advice() })
    return nil
  end
  local ok, done = pcall(function()
    return vim.system({ command[1], '--version' }, { text = true }):wait(START_MS)
  end)
  if not ok or done.code ~= 0 then
    health.error(('%s cannot be run.'):format(command[1]))
    return nil
  end
  health.ok(('%s: %s'):format(command[1], vim.trim(done.stdout)))
  return command[1]
end

local function value_of(sections, section, name)
  local row = (sections[section] or {})[name]
  if type(row) ~= 'table' or row.value == nil or row.value == vim.NIL then
    return nil
  end
  local why = type(row.why) == 'string' and (' (%s)'):format(row.why) or ''
  return tostring(row.value) .. why
end

local function check_doctor(program)
  local ok, done = pcall(function()
    return vim.system({ program, 'doctor', '--json' }, { text = true }):wait(DOCTOR_MS)
  end)
  local read, told = pcall(vim.json.decode, ok and done.stdout or '')
  if not read or type(told) ~= 'table' then
    health.warn(('`%s doctor` did not answer.'):format(program))
    return
  end
  local rows = {
    { 'engine host', 'state', 'engine host' },
    { 'model', 'model', 'model' },
    { 'engine', 'checkpoint', 'checkpoint' },
    { 'engine', 'device', 'device' },
    { 'engine', 'backend', 'backend' },
    { 'engine', 'auto', 'the mode "auto"' },
  }
  for _, row in ipairs(rows) do
    local value = value_of(told.sections or {}, row[1], row[2])
    if value then
      health.info(('%s: %s'):format(row[3], value))
    end
  end
  for _, problem in ipairs(told.problems or {}) do
    health.warn(type(problem) == 'string' and problem or vim.inspect(problem))
  end
end

-- Returns a running client; starts one for the check if there is none.
local function running()
  local client = client_of.any()
  if client then
    health.ok(('attached to %d buffers'):format(#vim.tbl_keys(client.attached_buffers)))
    return client, false
  end
  local config = vim.deepcopy(vim.lsp.config[client_of.name])
  config.root_dir = nil
  local id = vim.lsp.start(config, { attach = false })
  client = id and vim.lsp.get_client_by_id(id)
  if
    not client
    or not vim.wait(START_MS, function()
      return client.initialized == true
    end, 20)
  then
    health.error('The language server does not start; see :Dlm log.')
    return nil, false
  end
  health.ok('the language server starts')
  return client, true
end

-- Asks for one completion of the example; returns its text, or nil, why there is none, and whether
-- the server has said so itself.
local function complete(client, uri)
  local position = { line = 2, character = 11 }
  if not client_of.is_plugin() then
    local params = {
      textDocument = { uri = uri },
      position = position,
      context = { triggerKind = 2 },
    }
    local answer, why = client:request_sync('textDocument/inlineCompletion', params, ANSWER_MS)
    local item = answer and type(answer.result) == 'table' and answer.result[1]
    return item and tostring(item.insertText), why or (answer and answer.err and answer.err.message)
  end
  local argument = { uri = uri, position = position, limits = { tokensMax = 24 } }
  local params = { command = 'dlm.fill', arguments = { argument } }
  local answer, why = client:request_sync('workspace/executeCommand', params, ANSWER_MS)
  local result = answer and answer.result
  if type(result) ~= 'table' then
    return nil, why or (answer and answer.err and answer.err.message)
  end
  local edit = type(result.edit) == 'table' and result.edit or {}
  local item = require('dlm.fill').items_in(edit, uri)[1]
  return item and tostring(item.insertText),
    type(result.reason) == 'string' and result.reason or nil
end

local function check_completion(client)
  local uri = vim.uri_from_fname(vim.fn.stdpath('cache') .. '/dlm-health/example.py')
  client:notify('textDocument/didOpen', {
    textDocument = { uri = uri, languageId = 'python', version = 1, text = EXAMPLE .. '\n' },
  })
  local began = vim.uv.hrtime()
  local text, why, is_told = complete(client, uri)
  local took = (vim.uv.hrtime() - began) / 1e6
  client:notify('textDocument/didClose', { textDocument = { uri = uri } })
  if text then
    local line = vim.split(text, '\n')[1]
    health.ok(('a completion took %d ms: return %s'):format(took, line))
  else
    local report = is_told and health.warn or health.error
    report(('no completion after %d ms: %s'):format(took, why or 'it was empty'))
  end
end

function M.check()
  health.start('dlm: Neovim')
  check_neovim()
  check_settings()
  health.start('dlm: the program, by the settings in files')
  local program = check_program()
  if program then
    check_doctor(program)
  end
  health.start('dlm: the language server')
  local client, is_mine = running()
  if not client then
    return
  end
  local status = require('dlm.status').get()
  for _, name in ipairs({ 'state', 'message', 'model', 'device', 'mode', 'reason' }) do
    if status.server[name] then
      health.info(('%s: %s'):format(name, status.server[name]))
    end
  end
  check_completion(client)
  health.info('log: ' .. client_of.log_file())
  if is_mine then
    client:stop()
  end
end

return M
